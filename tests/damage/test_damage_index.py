"""The index deleted, cut off, filled with junk, or another store's: it is derived, so nothing is
lost, no signal ends the process, and it comes back by itself or with reindex.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage_store import Ended, Examiner, Sound, flip, lost_files, rescued_files

import snapstore

FLIPS, MANY_FLIPS = 40, 500


def _data(store: Path) -> Path:
    return max(store.glob("local/index-*/data.mdb"))


def _judge(sound: Sound, examiner: Examiner, store: Path) -> None:
    """Everything is read right, a create is right, and after a reindex all is well."""
    answer = examiner.look(store, "read", f"create:{sound.source}", "reindex", "check")
    assert not any(lost_files(sound, answer).values())
    made = answer["value"]["create"]["value"]
    assert rescued_files(store, made, sound.source) == sound.files[sound.names["three"]]
    assert answer["value"]["data"]["value"]["ok"], answer["value"]["data"]


@pytest.mark.parametrize("share", [0, 1, 50, 4095, 4096, 8192, 0.3, 0.5, 0.9, -4096, -1])
def test_truncated(sound: Sound, examiner: Examiner, quick_path: Path, share: int | float) -> None:
    store = sound.copy(quick_path / "store")
    size = _data(store).stat().st_size
    length = int(size * share) if isinstance(share, float) else share % size
    os.truncate(_data(store), length)
    _judge(sound, examiner, store)


def _gone(store: Path, other: Path) -> None:
    shutil.rmtree(store / "local")


def _file_gone(store: Path, other: Path) -> None:
    _data(store).unlink()


def _junk(store: Path, other: Path) -> None:
    _data(store).write_bytes(random.Random(1).randbytes(_data(store).stat().st_size))


def _zeros(store: Path, other: Path) -> None:
    _data(store).write_bytes(bytes(_data(store).stat().st_size))


def _junk_below_the_head(store: Path, other: Path) -> None:
    data = _data(store).read_bytes()
    _data(store).write_bytes(data[:8192] + random.Random(2).randbytes(len(data) - 8192))


def _of_another_store(store: Path, other: Path) -> None:
    shutil.copy(_data(other), _data(store))


def _local_of_another_store(store: Path, other: Path) -> None:
    shutil.rmtree(store / "local")
    shutil.copytree(other / "local", store / "local")


def _older(store: Path, other: Path) -> None:
    """As it was when the store was new: it lags behind."""
    with snapstore.open(store) as opened:
        config = opened.config
    shutil.rmtree(store / "local")
    fresh = store.with_name("fresh")
    snapstore.init(fresh).close()
    shutil.copy(store / "config", fresh / "config")
    with snapstore.open(fresh) as opened:
        assert opened.config == config
        opened.stats()
    shutil.copytree(fresh / "local", store / "local")


def _unfit(store: Path, other: Path) -> None:
    data = _data(store)
    data.unlink()
    data.mkdir()


def _writable_by_all(store: Path, other: Path) -> None:
    os.chmod(_data(store), 0o666)


def _of_another_boot(store: Path, other: Path) -> None:
    (_data(store).parent / "mark-0123456789abcdef").write_text("another boot")


@pytest.mark.parametrize(
    "damage",
    [
        _gone,
        _file_gone,
        _junk,
        _zeros,
        _junk_below_the_head,
        _of_another_store,
        _local_of_another_store,
        _older,
        _unfit,
        _writable_by_all,
        _of_another_boot,
    ],
)
def test_unusable(
    sound: Sound, examiner: Examiner, quick_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    other = quick_path / "other"
    with snapstore.init(other) as made:
        made.create(sound.source / "docs")
    store = sound.copy(quick_path / "store")
    damage(store, other)
    _judge(sound, examiner, store)


def _flip_often(sound: Sound, examiner: Examiner, place: Path, seed: int, flips: int) -> None:
    """Bits of pages in use, one at a time. A record may be lost by that, and with it what it is
    about, until a reindex; a restore does not rely on records.
    """
    chance = random.Random(seed)
    signals: list[str] = []
    lost_count = 0
    store = place / "store"
    pages = list(range(0, _data(sound.path).stat().st_size, 4096))
    data = _data(sound.path).read_bytes()
    used = [at for page in pages for at in range(page, page + 4096, 16) if any(data[at : at + 16])]
    for number in range(flips):
        sound.copy(store)
        offset, bit = chance.choice(used) + chance.randrange(16), chance.randrange(8)
        print(f"seed {seed}, flip {number}: byte {offset}, bit {bit}")
        flip(_data(store), offset, bit)
        try:
            answer = examiner.look(store, "read")
            if any(lost_files(sound, answer).values()):
                lost_count += 1
                again = examiner.look(store, "check", "read")
                healed = not any(lost_files(sound, again).values())
                assert healed or not again["value"]["structure"]["value"]["ok"]
                rebuilt = examiner.look(store, "reindex", "read")
                assert not any(lost_files(sound, rebuilt).values()), (again, rebuilt)
        except Ended as error:
            signals.append(f"byte {offset}, bit {bit}: {error}")
        shutil.rmtree(store)
    print(f"{flips} flips, {lost_count} with something lost until a reindex, signals: {signals}")
    assert not signals


def test_flipped_bits(sound: Sound, examiner: Examiner, quick_path: Path) -> None:
    _flip_often(sound, examiner, quick_path, 1, FLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_many_flipped_bits(sound: Sound, examiner: Examiner, quick_path: Path, seed: int) -> None:
    _flip_often(sound, examiner, quick_path, seed, MANY_FLIPS)


@pytest.mark.parametrize("seed", range(5))
def test_create_after_flipped_bits(
    sound: Sound, examiner: Examiner, quick_path: Path, seed: int
) -> None:
    """What an index with damaged records makes a create believe to be there, is there."""
    chance = random.Random(seed)
    store = sound.copy(quick_path / "store")
    size = _data(store).stat().st_size
    for _ in range(3):
        flip(_data(store), chance.randrange(2 * 4096, size), chance.randrange(8))
    answer = examiner.look(store, f"create:{sound.source}")
    if "value" in answer["value"]["create"]:
        made = answer["value"]["create"]["value"]
        assert rescued_files(store, made, sound.source) == sound.files[sound.names["three"]]
    again = examiner.look(store, "reindex", "read", f"create:{sound.source}", "check")
    assert not any(lost_files(sound, again).values())
    assert "value" in again["value"]["create"]
    assert again["value"]["data"]["value"]["ok"]
