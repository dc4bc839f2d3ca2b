"""No nonce is used for different bytes under one key: over very many chunks, in processes that were
forked, and on machines whose random bytes repeat.
"""

import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nonce_log import NonceLog, log_of
from sealed_world import CHEAP, PASSWORD, objects_of, unlocked

import snapstore
from snapstore import _native
from snapstore.model import names

CHILD = Path(__file__).with_name("nonce_child.py")


def _make(path: Path) -> snapstore.Store:
    return snapstore.init(path, password=PASSWORD, kdf=CHEAP, chunk_bytes=8192, block_bytes=65_536)


def _write_members(descriptor: int, first: int, count: int) -> None:
    """An archive of small files, each a chunk that there is once."""
    chance = random.Random(first)
    with open(descriptor, "wb", buffering=1 << 20) as out:
        for number in range(first, first + count):
            member = tarfile.TarInfo(f"{number % 1000}/{number}")
            member.size = 257 + number % 200
            out.write(member.tobuf(tarfile.USTAR_FORMAT))
            out.write(chance.randbytes(member.size).ljust(512, b"\0"))
        out.write(bytes(1024))


def _fill(path: Path, chunks: int, sessions: int) -> int:
    """So many small files, by several sessions; how many chunks the store has then."""
    with _make(path) as store:
        for session in range(sessions):
            reading, writing = os.pipe()
            arguments = writing, session * chunks, chunks // sessions
            writer = threading.Thread(target=_write_members, args=arguments)
            writer.start()
            store.import_tar(reading, root="/small", name=f"n{session}")
            writer.join()
            os.close(reading)
        keys = store._repository.keys
        found = 0
        for kind, id in store._repository.objects.packs():
            name = os.fsencode(path / names.pack(kind, id))
            found += _native.read_pack_table(keys, name, id, kind).chunks
        return found


def _chunks(quick_path: Path, chunks: int, sessions: int) -> NonceLog:
    found = _fill(quick_path / "store", chunks, sessions)
    assert found >= chunks
    log = log_of([quick_path / "store"])
    print(f"{found} chunks, {log.pieces} sealed pieces under {len(log.salts)} keys")
    assert not log.reused and not log.repeated
    assert all(count == 1 for count in log.salts.values()), "two objects have one salt"
    return log


def test_over_many_chunks(quick_path: Path) -> None:
    _chunks(quick_path, 20_000, 4)


@pytest.mark.slow
def test_over_a_million_chunks(quick_path: Path) -> None:
    log = _chunks(quick_path, 1_000_000, 10)
    assert log.pieces > 4_000


# Processes and machines that begin alike


def _sources(place: Path, seed: int, count: int = 4) -> Path:
    """Directories that differ from seed to seed in what they hold, not in its size."""
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        directory = place / f"{seed}" / f"s{number}"
        directory.mkdir(parents=True)
        for file in range(20):
            (directory / f"f{file}").write_bytes(chance.randbytes(5_000))
        (directory / "same").write_bytes(b"the same everywhere\n" * 100)
    return place / f"{seed}"


def _take(jobs: list[tuple[Path, Path]], environment: dict[str, str] | None = None) -> int:
    """Takes sources into stores, in processes forked from one. How often the shim was asked."""
    arguments = [str(path) for job in jobs for path in job]
    done = subprocess.run(
        [sys.executable, CHILD, PASSWORD.decode(), *arguments],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return sum(map(int, done.stdout.split()))


def test_of_processes_forked_from_one(quick_path: Path) -> None:
    store = quick_path / "store"
    _make(store).close()
    sources = [_sources(quick_path, seed) for seed in (1, 2)]
    _take([(store, source) for source in sources])
    log = log_of([store])
    assert not log.reused and not log.repeated
    assert all(count == 1 for count in log.salts.values()), "two objects have one salt"
    with snapstore.open(store, password=PASSWORD) as opened:
        assert len(opened.snapshots()) == 8 and opened.check(read_data=True).ok


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("shim")
    source, library = Path(__file__).with_name("repeat_random.c"), place / "repeat_random.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source], check=True)
    yield str(library)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("stream", ["a copied machine", "constant"])
def test_of_machines_whose_random_bytes_repeat(quick_path: Path, shim: str, stream: str) -> None:
    """A machine was copied, and both copies go on with a copy of the store: their salts are the
    same, what they take is not.
    """
    stores = [quick_path / "one", quick_path / "two"]
    _make(stores[0]).close()
    shutil.copytree(stores[0], stores[1])
    environment = {"LD_PRELOAD": shim, "SNAP_RANDOM": stream}
    for seed, store in enumerate(stores):
        assert _take([(store, _sources(quick_path, seed))], environment) > 20
    log = log_of(stores)
    twice = [use for (use, _, _), count in log.salts.items() if count >= 2]
    assert twice.count("pack") >= (1 if stream == "constant" else 8), "salts do not repeat"
    assert twice.count("frame") >= (1 if stream == "constant" else 8), "salts do not repeat"
    print(f"{log.pieces} sealed pieces under {len(log.salts)} keys, {len(twice)} of them shared")
    assert not log.reused
    for store in stores:
        with snapstore.open(store, password=PASSWORD) as opened:
            assert len(opened.snapshots()) == 4 and opened.check(read_data=True).ok


@pytest.mark.needs("gcc")
def test_packs_of_one_key_do_not_lend_each_other_blocks(quick_path: Path, shim: str) -> None:
    """Where salts repeat, a block of one pack opens in the place of another one's: its id tells."""
    from attacks import blocks, pack_name, rebuilt, type_of

    stores = [quick_path / "one", quick_path / "two"]
    _make(stores[0]).close()
    shutil.copytree(stores[0], stores[1])
    environment = {"LD_PRELOAD": shim, "SNAP_RANDOM": "x"}
    for seed, store in enumerate(stores):
        _take([(store, _sources(quick_path, seed, 1))], environment)
    mine, theirs = (
        {n: d for n, d in objects_of(s).items() if type_of(n) == "data"} for s in stores
    )
    exchanged = 0
    for name, data in mine.items():
        for other in (other for other in theirs.values() if other[32:64] == data[32:64]):
            parts = [data[at:end] for at, end in blocks(data)]
            foreign = [other[at:end] for at, end in blocks(other)]
            keys = unlocked(stores[0]).masters[1]
            assert keys
            for at in range(min(len(parts), len(foreign)) - 1):
                if len(parts[at]) != len(foreign[at]) or parts[at] == foreign[at]:
                    continue
                exchanged += 1
                new = rebuilt(data, [*parts[:at], foreign[at], *parts[at + 1 :]])
                copy = quick_path / f"copy{exchanged}"
                shutil.copytree(stores[0], copy)
                (copy / name).unlink()
                path = copy / pack_name("data", new)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(new)
                with snapstore.open(copy, password=PASSWORD) as opened:
                    snapshot = opened.snapshots()[0]
                    result = opened.restore(snapshot.id, target=quick_path / f"out{exchanged}")
                assert result.problems
                top = quick_path / "0" / "s0"
                for file in (quick_path / f"out{exchanged}").rglob("*"):
                    if file.is_file():
                        assert file.read_bytes() == (top / file.name).read_bytes()
    assert exchanged
