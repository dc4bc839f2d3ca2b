"""Damaged small objects, objects with wrong names, and things in a store that are none of its."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage_store import (
    Answer,
    Examiner,
    Sound,
    assert_as_good_as_rescue,
    assert_found,
    cut,
    drop_index,
    flip,
    lost_files,
    objects,
    overwrite,
)

import snapstore

FRAME_HEADER, FRAME_END = 32, 8
STEP = 30
"""Every so many bytes of a small object are damaged in CI."""


def _offsets(path: Path, step: int) -> list[int]:
    """All of the frame's header and checksum, and a part of its body."""
    size = path.stat().st_size
    body = range(FRAME_HEADER, size - FRAME_END, step)
    return [*range(0, FRAME_HEADER, max(1, step // 3)), *body, size - FRAME_END, size - 1]


def _judge(sound: Sound, answer: Answer, kind: str, damaged: str) -> None:
    """What a damaged object of a kind may cost, and that a check names it."""
    if kind == "config":
        assert answer.get("error") in ("store-invalid", "store-too-new"), answer
        return
    lost = lost_files(sound, answer)
    for id, paths in lost.items():
        if kind != "snap" or id != damaged:
            assert not paths, f"{id[:8]} lost {paths}"
    if kind == "snap":
        assert lost[damaged] == sound.files[damaged].keys()
        found = answer["value"]["read"]["value"][damaged]
        assert found["status"] in ("damaged", "too-new")
    assert_found(sound, answer, lost, "structure")
    problems = answer["value"]["structure"]["value"]["problems"]
    assert any(damaged in problem["name"] for problem in problems), problems


def _flip_all(sound: Sound, examiner: Examiner, place: Path, kind: str, step: int) -> None:
    chance = random.Random(kind)
    store = sound.copy(place / "store")
    path = objects(store, kind)[1] if kind != "config" else store / "config"
    damaged = path.name[:64]
    for offset in _offsets(path, step):
        bit = chance.randrange(8)
        print(f"{kind}, byte {offset}, bit {bit}")
        flip(path, offset, bit)
        _judge(sound, examiner.look(store, "read", "check"), kind, damaged)
        flip(path, offset, bit)


@pytest.mark.parametrize("kind", ["config", "snap", "label", "refs"])
def test_flipped_bits(sound: Sound, examiner: Examiner, quick_path: Path, kind: str) -> None:
    _flip_all(sound, examiner, quick_path, kind, STEP)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["config", "snap", "label", "refs"])
def test_every_byte(sound: Sound, examiner: Examiner, quick_path: Path, kind: str) -> None:
    _flip_all(sound, examiner, quick_path, kind, 1)


@pytest.mark.parametrize("kind", ["config", "snap", "label", "refs"])
def test_truncated(sound: Sound, examiner: Examiner, quick_path: Path, kind: str) -> None:
    for length in (0, 1, FRAME_HEADER - 1, FRAME_HEADER, -FRAME_END, -1):
        store = sound.copy(quick_path / f"store{length}")
        path = objects(store, kind)[1] if kind != "config" else store / "config"
        cut(path, length % path.stat().st_size)
        _judge(sound, examiner.look(store, "read", "check"), kind, path.name[:64])


@pytest.mark.parametrize("kind", ["snap", "label", "refs"])
def test_exchanged(sound: Sound, examiner: Examiner, quick_path: Path, kind: str) -> None:
    """An object under the name of another one of its kind is not that one."""
    store = sound.copy(quick_path / "store")
    first, second = objects(store, kind)[1:3]
    overwrite(first, second.read_bytes())
    _judge(sound, examiner.look(store, "read", "check"), kind, first.name[:64])


@pytest.mark.parametrize("kind", ["label", "refs"])
def test_missing(sound: Sound, examiner: Examiner, quick_path: Path, kind: str) -> None:
    """Without refs everything is found by looking at all packs; without a label a snapshot has no
    name.
    """
    store = sound.copy(quick_path / "store")
    for path in objects(store, kind):
        path.unlink()
    answer = examiner.look(store, "read", "check")
    assert not any(lost_files(sound, answer).values())


def test_missing_snapshot(sound: Sound, examiner: Examiner, quick_path: Path) -> None:
    store = sound.copy(quick_path / "store")
    gone = sound.names["two"]
    (store / "snap" / gone).unlink()
    answer = examiner.look(store, "read", "check", f"create:{sound.source}")
    lost = lost_files(sound, answer)
    assert lost.pop(gone) == sound.files[gone].keys()
    assert not any(lost.values())
    assert "value" in answer["value"]["create"]


def _junk_lease(store: Path) -> None:
    (store / "sess" / "01aaaaaaaaaaaaaaaaaaaaaaaa-0000").write_bytes(b"no lease")


def _old_lease(store: Path) -> None:
    """A lease that was damaged after its owner died."""
    with snapstore.open(store) as opened:
        session = opened._repository.session("create")
        session.__enter__()
        lease = objects(store, "sess")[0]
        shutil.copy(lease, lease.with_name(lease.name[:-1] + "7"))
        session.__exit__(None, None, None)
    flip(objects(store, "sess")[0], 40, 3)


def _strange_names(store: Path) -> None:
    for number, name in enumerate(["README", ".hidden", "x" * 255, "ä", "lost+found/inside"]):
        for kind in ("", "snap", "label", "refs", "sess", "gc", "data", "meta", "data/00", "tmp"):
            path = store / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"?" * number)
    (store / "snap" / os.fsdecode(b"\xff\xfe")).write_bytes(b"")


def _unknown_prefixes(store: Path) -> None:
    for name in ("sig/0a", "index/segment/0b", "parity/0c", "extra/some/thing", "ref/tag/junk"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"\0" * 100)


def _links_and_pipes(store: Path) -> None:
    os.symlink("/etc/passwd", store / "snap" / "passwd")
    os.symlink("nowhere", store / "data" / "nowhere")
    # Where packs may be; not a directory of packs that the store has.
    free = next(
        name for byte in range(256) if not (store / "meta" / (name := f"{byte:02x}")).exists()
    )
    os.symlink("..", store / "meta" / free)
    for kind in ("snap", "data", "sess", "gc", "tmp"):
        os.mkfifo(store / kind / "pipe")


@pytest.mark.parametrize(
    "add", [_junk_lease, _old_lease, _strange_names, _unknown_prefixes, _links_and_pipes]
)
def test_foreign_files(
    sound: Sound, examiner: Examiner, quick_path: Path, add: Callable[[Path], None]
) -> None:
    """Nothing of it has an effect; a check mentions some of it, but not as damage."""
    store = sound.copy(quick_path / "store")
    add(store)
    drop_index(store)
    answer = examiner.look(store, f"create:{sound.source}", "read", "check")
    assert not any(lost_files(sound, answer).values())
    assert "value" in answer["value"]["create"]
    for which in ("structure", "data"):
        assert answer["value"][which]["value"]["ok"], answer["value"][which]


@pytest.mark.parametrize("kind", ["snap", "label", "refs", "gc", "sess", "data", "meta"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_not_a_file_under_a_right_name(
    sound: Sound,
    examiner: Examiner,
    quick_path: Path,
    kind: str,
    make: Callable[[Path], None],
) -> None:
    """It is an object that cannot be read, and costs no more than itself."""
    store = sound.copy(quick_path / "store")
    id = "ab" * 32
    names = {
        "snap": id,
        "label": f"{id}-00000001-abababab",
        "refs": f"{id}-00000001-abababab",
        "gc": "00000001-" + "ab" * 16,
        "sess": "01" + "a" * 24 + "-0000",
        "data": f"ab/{id}",
        "meta": f"ab/{id}",
    }
    path = store / kind / names[kind]
    path.parent.mkdir(exist_ok=True)
    make(path)
    answer = examiner.look(store, "read", "check")
    assert not any(lost_files(sound, answer).values())


def test_damaged_generation(sound: Sound, examiner: Examiner, quick_path: Path) -> None:
    """A collector's record that cannot be read stops creates, which must know it; not reading."""
    store = sound.copy(quick_path / "store")
    (store / "gc" / ("00000001-" + "ab" * 16)).write_bytes(b"no record")
    answer = examiner.look(store, "read", f"create:{sound.source}")
    assert not any(lost_files(sound, answer).values())
    assert answer["value"]["create"]["error"] == "damaged"
    assert "gc/00000001" in answer["value"]["create"]["message"]


def test_everything_at_once(sound: Sound, examiner: Examiner, quick_path: Path) -> None:
    """Many bits all over the store: still no wrong byte, and as much as the independent reader
    gets.
    """
    for seed in range(6):
        chance = random.Random(seed)
        store = sound.copy(quick_path / f"store{seed}")
        for _ in range(12):
            kind = chance.choice(["data", "data", "meta", "label", "refs", "local"])
            path = chance.choice(objects(store, kind))
            if path.stat().st_size:
                flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))
        print(f"seed {seed}")
        answer = examiner.look(store, "reindex", "read", "check")
        assert_as_good_as_rescue(sound, store, lost_files(sound, answer))
