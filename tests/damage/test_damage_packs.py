"""Damaged, missing and exchanged packs: what they held is lost and named; nothing else is, and
wrong bytes never appear.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage_store import (
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

FLIPS = 3
HEADER, TRAILER, BLOCK_HEADER = 96, 32, 24


def _sections(pack: Path) -> dict[str, tuple[int, int]]:
    """(start, end) of a pack's parts."""
    size = pack.stat().st_size
    with pack.open("rb") as file:
        file.seek(size - TRAILER)
        footer = int.from_bytes(file.read(4), "little")
        file.seek(HEADER + 12)
        body = int.from_bytes(file.read(4), "little")
    block_end = HEADER + BLOCK_HEADER + body + 8
    return {
        "header": (0, HEADER),
        "block header": (HEADER, HEADER + BLOCK_HEADER),
        "block": (HEADER + BLOCK_HEADER, block_end - 8),
        "block checksum": (block_end - 8, block_end),
        "footer header": (footer, footer + BLOCK_HEADER),
        "footer": (footer + BLOCK_HEADER, size - TRAILER - 8),
        "footer checksum": (size - TRAILER - 8, size - TRAILER),
        "trailer": (size - TRAILER, size),
    }


SEEN_BY_STRUCTURE = {"header", "footer header", "footer", "footer checksum", "trailer"}
SECTIONS = ("header", "block header", "block", "block checksum", *sorted(SEEN_BY_STRUCTURE))


def _judge(sound: Sound, examiner: Examiner, store: Path, *, by_structure: bool = True) -> None:
    answer = examiner.look(store, "read", "check")
    lost = lost_files(sound, answer)
    assert_found(sound, answer, lost, "data")
    if by_structure:
        assert_found(sound, answer, {}, "structure")
    assert_as_good_as_rescue(sound, store, lost)


@pytest.mark.parametrize("section", dict.fromkeys(SECTIONS))
@pytest.mark.parametrize("kind", ["data", "meta"])
def test_flipped_bits(
    sound: Sound, examiner: Examiner, quick_path: Path, kind: str, section: str
) -> None:
    chance = random.Random(f"{kind} {section}")
    for number in range(FLIPS):
        store = sound.copy(quick_path / f"store{number}")
        pack = objects(store, kind)[number]
        offset, bit = chance.randrange(*_sections(pack)[section]), chance.randrange(8)
        print(f"pack {number}, byte {offset}, bit {bit}")
        flip(pack, offset, bit)
        if number % 2:
            drop_index(store)
        _judge(sound, examiner, store, by_structure=section in SEEN_BY_STRUCTURE)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_byte_of_a_tree_pack(
    sound: Sound, examiner: Examiner, quick_path: Path, part: int
) -> None:
    chance = random.Random(part)
    size = objects(sound.path, "meta")[0].stat().st_size
    store = sound.copy(quick_path / "store")
    pack = objects(store, "meta")[0]
    for offset in range(part, size, 8):
        bit = chance.randrange(8)
        print(f"byte {offset}, bit {bit}")
        flip(pack, offset, bit)
        _judge(sound, examiner, store, by_structure=False)
        flip(pack, offset, bit)


@pytest.mark.parametrize("kind", ["data", "meta"])
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not indexed"])
def test_truncated(
    sound: Sound, examiner: Examiner, quick_path: Path, kind: str, indexed: bool
) -> None:
    size = objects(sound.path, kind)[1].stat().st_size
    for length in (0, 1, HEADER - 1, HEADER, size // 2, size - TRAILER, size - 1):
        store = sound.copy(quick_path / f"store{length}")
        cut(objects(store, kind)[1], length)
        if not indexed:
            drop_index(store)
        _judge(sound, examiner, store)


def _append(packs: list[Path]) -> None:
    overwrite(packs[0], packs[0].read_bytes() + b"\0")


def _exchange(packs: list[Path]) -> None:
    first, second = packs[0].read_bytes(), packs[1].read_bytes()
    overwrite(packs[0], second)
    overwrite(packs[1], first)


def _repeat(packs: list[Path]) -> None:
    overwrite(packs[0], packs[1].read_bytes())


def _zero(packs: list[Path]) -> None:
    overwrite(packs[0], bytes(packs[0].stat().st_size))


def _empty_middle(packs: list[Path]) -> None:
    """A page of zeros, as a torn write leaves it."""
    data = bytearray(packs[0].read_bytes())
    start = len(data) // 2 // 4096 * 4096
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    overwrite(packs[0], bytes(data))


def _remove(packs: list[Path]) -> None:
    packs[0].unlink()


def _directory(packs: list[Path]) -> None:
    packs[0].unlink()
    packs[0].mkdir()


def _fifo(packs: list[Path]) -> None:
    packs[0].unlink()
    os.mkfifo(packs[0])


@pytest.mark.parametrize("kind", ["data", "meta"])
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not indexed"])
@pytest.mark.parametrize(
    "damage", [_append, _repeat, _zero, _empty_middle, _remove, _directory, _fifo]
)
def test_wrong_or_missing(
    sound: Sound,
    examiner: Examiner,
    quick_path: Path,
    kind: str,
    indexed: bool,
    damage: Callable[[list[Path]], None],
) -> None:
    store = sound.copy(quick_path / "store")
    damage(objects(store, kind))
    if not indexed:
        drop_index(store)
    _judge(sound, examiner, store, by_structure=damage is not _empty_middle)


@pytest.mark.parametrize("kind", ["data", "meta"])
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not indexed"])
def test_exchanged(
    sound: Sound, examiner: Examiner, quick_path: Path, kind: str, indexed: bool
) -> None:
    """Two packs under each other's names: sound in themselves, so that only their bytes tell. With
    an index that goes by the packs as they are, all is there.
    """
    store = sound.copy(quick_path / "store")
    _exchange(objects(store, kind)[:2])
    if not indexed:
        drop_index(store)
    answer = examiner.look(store, "read", "check")
    lost = lost_files(sound, answer)
    assert_found(sound, answer, lost, "data")
    assert indexed or not any(lost.values())
    again = examiner.look(store, "reindex", "read")
    assert not any(lost_files(sound, again).values())


def test_tree_pack_under_a_data_name_and_back(
    sound: Sound, examiner: Examiner, quick_path: Path
) -> None:
    store = sound.copy(quick_path / "store")
    _exchange([objects(store, "data")[0], objects(store, "meta")[0]])
    _judge(sound, examiner, store)


def test_pack_of_another_store(sound: Sound, examiner: Examiner, quick_path: Path) -> None:
    """Under its own name it is a foreign object without effect; under another's, that one is
    lost.
    """
    other = quick_path / "other"
    (quick_path / "file").write_bytes(random.Random(5).randbytes(100_000))
    with snapstore.init(other) as made:
        made.create(quick_path / "file")
    pack = objects(other, "data")[0]

    store = sound.copy(quick_path / "beside")
    beside = store / "data" / pack.name[:2] / pack.name
    beside.parent.mkdir(exist_ok=True)
    shutil.copy(pack, beside)
    drop_index(store)
    answer = examiner.look(store, "read", f"create:{sound.source}")
    assert not any(lost_files(sound, answer).values())
    assert "value" in answer["value"]["create"]

    store = sound.copy(quick_path / "instead")
    overwrite(objects(store, "data")[0], pack.read_bytes())
    _judge(sound, examiner, store)


@pytest.mark.parametrize("kind", ["data", "meta"])
def test_next_create_heals(sound: Sound, examiner: Examiner, quick_path: Path, kind: str) -> None:
    """With a pack gone, a create of the same source brings back what it held, also for the
    snapshots that were there.
    """
    store = sound.copy(quick_path / "store")
    for pack in objects(store, kind):
        pack.unlink()
    answer = examiner.look(store, f"create:{sound.source}", "read", "check")
    lost = lost_files(sound, answer)
    assert not lost[sound.names["three"]]
    made = answer["value"]["read"]["value"][answer["value"]["create"]["value"]]
    assert {path: item["value"] for path, item in made["files"].items()} == sound.files[
        sound.names["three"]
    ]
