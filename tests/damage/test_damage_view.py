"""A view of a damaged store: right bytes, or an error with a type; never wrong ones."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import fsspec
import pytest
from damage_store import Sound, cut, flip, objects

import snapstore
from snapstore import DamagedObject, Store

FLIPS = 12


def look(store: Store, sound: Sound) -> Counter[str]:
    """Reads all files of all snapshots, in several ways; fails when anything was read wrong."""
    counts: Counter[str] = Counter()
    for id, files in sound.files.items():
        try:
            view = store.view(id)
        except DamagedObject:
            counts["damaged"] += len(files)
            continue
        with view:
            for path, digest in files.items():
                counts[read(view, path, digest)] += 1
    return counts


def read(view: snapstore.SnapshotView, path: str, digest: str) -> str:
    try:
        size = view.stat(path).size
        with view.open(path) as file:
            whole = file.read()
        pieces = b"".join(view.read_at(path, at, 50_000) for at in range(0, size, 50_000))
        tail = view.read_at(path, max(size - 100, 0), 100)
    except DamagedObject:
        return "damaged"
    found = {hashlib.blake2b(data, digest_size=16).hexdigest() for data in (whole, pieces)}
    assert found == {digest}, f"{path} was read wrong"
    assert tail == whole[-100:]
    return "whole"


def test_a_sound_store(sound: Sound) -> None:
    with snapstore.open(sound.path) as store:
        counts = look(store, sound)
    assert counts == {"whole": sum(len(files) for files in sound.files.values())}


@pytest.mark.parametrize("kind", ["data", "meta"])
def test_flipped_bits(sound: Sound, quick_path: Path, kind: str) -> None:
    total: Counter[str] = Counter()
    path = sound.copy(quick_path / "store")
    for pack in objects(path, kind):
        kept, size = pack.read_bytes(), pack.stat().st_size
        for number in range(FLIPS):
            flip(pack, size * number // FLIPS, number % 8)
            with snapstore.open(path) as store:
                total += look(store, sound)
            os.chmod(pack, 0o600)
            pack.write_bytes(kept)
    assert total["damaged"] and total["whole"]


def test_damage_in_the_middle_of_a_file(sound: Sound, quick_path: Path) -> None:
    """What comes before the damage is right, and the damage is an error each time."""
    path = sound.copy(quick_path / "store")
    name, content = f"{sound.source}/data/large", (sound.source / "data" / "large").read_bytes()
    pack = max(objects(path, "data"), key=lambda found: found.stat().st_size)
    flip(pack, pack.stat().st_size * 2 // 3, 3)
    with snapstore.open(path) as store, store.view("one") as view, view.open(name) as file:
        read_bytes = 0
        with pytest.raises(DamagedObject):
            while data := file.read(10_000):
                assert data == content[read_bytes : read_bytes + len(data)]
                read_bytes += len(data)
        with pytest.raises(DamagedObject):
            file.seek(0)
            file.read()
        with pytest.raises(DamagedObject):
            view.read_at(name, 0, len(content))


def test_a_directory_that_is_damaged_is_not_shorter(sound: Sound, quick_path: Path) -> None:
    path = sound.copy(quick_path / "store")
    for pack in objects(path, "meta"):
        cut(pack, pack.stat().st_size // 3)
    with snapstore.open(path) as store:
        with pytest.raises(DamagedObject), store.view("one") as view:
            list(view.walk(sound.source))
        fs = fsspec.filesystem("snap", store=store, skip_instance_cache=True)
        for call in (fs.find, fs.exists, fs.isfile, fs.ls, fs.cat_file):
            with pytest.raises(DamagedObject):
                call(f"one{sound.source}/data")
