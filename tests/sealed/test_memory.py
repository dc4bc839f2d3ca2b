"""Keys and passwords in memory: not in core dumps, and gone when a store was closed."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attacks import mw, type_of
from sealed_world import CHEAP, objects_of, unlocked

import snapstore

CHILD = Path(__file__).with_name("memory_child.py")
PASSWORD = os.urandom(12).hex().encode()
"""It stands in no file."""
PIECE = 1 << 22
LONGEST = 200

Needles = dict[str, bytes]


def secrets(keys: Any, password: bytes) -> Needles:
    """What is never to be found, by what it is."""
    found = {"the password": password}
    for what, key in (("the family secret", keys.secret), ("a master key", keys.masters[1])):
        found |= {what: key, f"{what} in hex": key.hex().encode()}
    return found


def derived(store: Path, keys: Any) -> Needles:
    """AES keys of all that is sealed in a store: the first bytes of their schedules in memory."""
    family = mw.Family(keys.family, bytes(32), keys.masters)
    found = {}
    for name, data in objects_of(store).items():
        if type_of(name) in ("data", "meta"):
            found[f"the key of {name}"] = family.sealing("pack", 1, data[32:64])[0]
        elif data[7]:
            found[f"the key of {name}"] = family.sealing("frame", 1, data[36:68])[0]
    return found


def found_in(pieces: Iterator[bytes], needles: Needles) -> list[str]:
    """Which of them occur."""
    found, before = set(), b""
    for piece in pieces:
        both = before + piece
        found |= {what for what, needle in needles.items() if needle in both}
        before = piece[-LONGEST:]
    return sorted(found)


def memory_of(pid: int) -> Iterator[bytes]:
    """All memory of a process that it can write to."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            first, last = (int(number, 16) for number in place.split("-"))
            if not rights.startswith("rw"):
                continue
            for at in range(first, last, PIECE):
                memory.seek(at)
                try:
                    yield memory.read(min(PIECE, last - at))
                except OSError:  # of a device, for one
                    break


def file_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


@contextmanager
def child(store: Path, mode: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that has the store open, or had it."""
    command = [sys.executable, CHILD, store, CHILD.parent, mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(PASSWORD)
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    snapstore.init(path, password=PASSWORD, kdf=CHEAP).close()
    return path


@pytest.mark.needs("memory of children")
def test_an_open_store_has_its_keys_in_one_place(place: Path) -> None:
    """So that what looks for them finds them where they are."""
    keys = unlocked(place, PASSWORD)
    with child(place, "open") as process:
        found = found_in(memory_of(process.pid), secrets(keys, PASSWORD))
    assert found == ["a master key", "the family secret"]


@pytest.mark.needs("memory of children")
def test_a_closed_store_leaves_no_key_behind(place: Path) -> None:
    """Of the store. The AES keys of single packs may stay where threads had them on their stacks:
    no promise is made of them.
    """
    keys = unlocked(place, PASSWORD)
    with child(place, "closed") as process:
        assert not found_in(memory_of(process.pid), secrets(keys, PASSWORD))
        print("still there:", found_in(memory_of(process.pid), derived(place, keys)))


@pytest.mark.slow
@pytest.mark.needs("core dumps")
def test_a_core_dump_has_no_key(place: Path, tmp_path: Path) -> None:
    """Of a process that uses the library; the command leaves none at all."""
    keys, dumps = unlocked(place, PASSWORD), tmp_path / "dumps"
    dumps.mkdir()

    def unlimited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    done = subprocess.run(
        [sys.executable, CHILD, place, CHILD.parent, "abort"],
        input=PASSWORD,
        cwd=dumps,
        preexec_fn=unlimited,
        check=False,
    )
    assert done.returncode == -6
    _assert_clean(list(dumps.iterdir()), keys, place)


def _assert_clean(dumps: list[Path], keys: Any, store: Path) -> None:
    """There is a dump, of a process that was at work, and none of the secrets in it."""
    (dump,) = dumps
    needles = secrets(keys, PASSWORD)
    found = found_in(file_of(dump), {**needles, "its work": b"snapstore.repository"})
    assert found == ["its work"]
    print("also in it:", found_in(file_of(dump), derived(store, keys)))
