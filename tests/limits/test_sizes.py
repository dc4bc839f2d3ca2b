"""Very large directories and files: memory stays bounded, and holes cost nothing."""

import os
import random
import time
from pathlib import Path

import pytest
from limits_tools import MEMORY_KB, assert_sound, measured, remove

import snapstore
from tree_scan import file_holes

TIB = 1 << 40
ENTRY_BYTES = 400  # of memory; a directory is held whole


def _fill(directory: Path, count: int) -> None:
    directory.mkdir()
    handle = os.open(directory, os.O_RDONLY)
    for number in range(count):
        name = f"entry-{number:07d}"
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=handle))
    os.close(handle)


def _directory_there_and_back(place: Path, count: int) -> None:
    source, store, back = place / "source", place / "store", place / "back"
    try:
        _fill(source, count)
        snapstore.init(store).close()
        peaks = {
            "create": measured("create", source, "--store", store),
            "again": measured("create", source, "--store", store),
            "ls": measured("ls", "latest", "-R", "--store", store),
            "restore": measured("restore", "latest", "--target", back, "--store", store),
            "check": measured("check", "--store", store),
        }
        print({name: f"{peak // 1000} MB" for name, peak in peaks.items()})
        assert max(peaks.values()) <= max(MEMORY_KB, count * ENTRY_BYTES // 1000), peaks
        assert len(os.listdir(back)) == count
        assert_sound(store)
    finally:
        remove(source)
        remove(back)


def test_directory_of_a_hundred_thousand_entries(quick_path: Path) -> None:
    _directory_there_and_back(quick_path, 100_000)


@pytest.mark.slow
def test_directory_of_a_million_entries(quick_path: Path) -> None:
    _directory_there_and_back(quick_path, 1_000_000)


@pytest.mark.needs("4 TiB files")
def test_sparse_file_of_four_tebibytes(tmp_path: Path) -> None:
    source, store, back = tmp_path / "source", tmp_path / "store", tmp_path / "back"
    source.mkdir()
    chance = random.Random(1)
    offsets = [0, 4096, 3 * (1 << 30), TIB, 3 * TIB + 12_288, 4 * TIB - 8_192]
    with (source / "sparse").open("wb") as file:
        file.truncate(4 * TIB)
        for offset in offsets:
            file.seek(offset)
            file.write(chance.randbytes(4_096))
    start = time.monotonic()
    snapstore.init(store).close()
    peak = measured("create", source, "--store", store)
    peak = max(peak, measured("restore", "latest", "--target", back, "--verify", "--store", store))
    elapsed_s = time.monotonic() - start
    print(f"{elapsed_s:.1f} s, {peak // 1000} MB")
    assert elapsed_s < 20
    assert peak <= MEMORY_KB
    with (source / "sparse").open("rb") as was, (back / "sparse").open("rb") as now:
        holes = file_holes(was.fileno(), 4 * TIB)
        assert file_holes(now.fileno(), 4 * TIB) == holes
        for offset in offsets:
            was.seek(offset)
            now.seek(offset)
            assert was.read(4_096) == now.read(4_096)
    assert (back / "sparse").stat().st_blocks <= (source / "sparse").stat().st_blocks + 64
    assert_sound(store)
