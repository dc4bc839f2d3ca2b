"""Sources that change, block, or hold the store itself; and names as odd as they can be."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from limits_tools import assert_sound, make_chain, read_chain, remove, snap

import snapstore
from snapstore.base.errors import InvalidArgument
from tree_scan import assert_same, scan
from tree_store import rescue

ODD_NAME = bytes(byte for byte in range(1, 256) if byte != ord("/")) + b"\xff"
ROUNDS = 6


@contextmanager
def _meanwhile(work: Callable[[int], None]) -> Iterator[None]:
    """Runs `work` again and again beside the block."""
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            work(number)
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _wait(count: int) -> bytes:
    return b"%09d\n" % count


def test_file_that_grows(quick_path: Path) -> None:
    """What is kept of it is what it held at some moment: its beginning."""
    source = quick_path / "source"
    source.mkdir()
    expected = b"".join(map(_wait, range(400_000)))
    small, large = source / "small", source / "large"
    large.write_bytes(expected[: 9 << 20])
    position = {small: 0, large: 9 << 20}

    def grow(_: int) -> None:
        for path, length in ((small, 70), (large, 30_000)):
            start = position[path]
            if start + length < len(expected):
                with path.open("ab", buffering=0) as file:
                    file.write(expected[start : start + length])
                position[path] = start + length

    with snapstore.init(quick_path / "store") as store, _meanwhile(grow):
        ids = [store.create(source).snapshot.id for _ in range(ROUNDS)]
        for id in ids:
            for path in (small, large):
                content = b"".join(store.read(id, path))
                assert expected.startswith(content)
    assert_sound(quick_path / "store")


def test_file_that_shrinks(quick_path: Path) -> None:
    source = quick_path / "source"
    source.mkdir()
    content = random.Random(1).randbytes(12 << 20)

    def cut(number: int) -> None:
        (source / "file").write_bytes(content)
        os.truncate(source / "file", len(content) // (1 + number % 5))

    with snapstore.init(quick_path / "store") as store, _meanwhile(cut):
        for _ in range(ROUNDS):
            id = store.create(source).snapshot.id
            for entry in store.ls(id, source):
                assert content.startswith(b"".join(store.read(id, entry.path)))
    assert_sound(quick_path / "store")


def test_files_and_directories_that_vanish(quick_path: Path) -> None:
    """Of a directory that comes and goes, there is what was there, and never anything else."""
    source = quick_path / "source"
    (source / "stays").mkdir(parents=True)
    for number in range(300):
        (source / "stays" / str(number)).write_bytes(b"%d" % number * 200)

    def come_and_go(number: int) -> None:
        top = source / f"comes{number % 3}"
        top.mkdir(exist_ok=True)
        for name in range(20):
            (top / str(name)).write_bytes(b"%d" % name * 500)
        for name in range(20):
            (top / str(name)).unlink()
        top.rmdir()

    with snapstore.init(quick_path / "store") as store, _meanwhile(come_and_go):
        for _ in range(2 * ROUNDS):
            result = store.create(source)
            assert result.unreadable_count == 0, result.unreadable
            for item in store.ls(result.snapshot.id, recursive=True):
                if item.entry.type == "file" and b"/comes" in item.path:
                    content = b"".join(store.read(result.snapshot.id, item.path))
                    assert (os.path.basename(item.path) * 500).startswith(content)
            listed = store.ls(result.snapshot.id, source / "stays")
            assert sum(1 for _ in listed) == 300
    assert_sound(quick_path / "store")


def test_source_that_vanishes(quick_path: Path) -> None:
    """The whole of it, while it is taken: an error of the source, or a snapshot of the rest."""
    source = quick_path / "source"
    with snapstore.init(quick_path / "store") as store:
        for number in range(ROUNDS):
            source.mkdir()
            for name in range(200):
                (source / str(name)).write_bytes(os.urandom(3_000))
            timer = threading.Timer(0.002 * number, remove, (source,))
            timer.start()
            with suppress(snapstore.SourceNotFound, snapstore.SourceUnreadable):
                store.create(source)
            timer.join()
        assert store.check(read_data=True).ok


def test_pipes_do_not_block(quick_path: Path) -> None:
    source = quick_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "file").write_bytes(b"x")
    start = time.monotonic()
    with snapstore.init(quick_path / "store") as store:
        store.create(source, name="tree")
        store.create(source / "pipe", name="alone")
        store.restore("tree", target=quick_path / "back")
        store.restore("alone", target=quick_path / "alone")
    assert time.monotonic() - start < 10
    assert_same(scan(source), scan(quick_path / "back"))
    assert_same(scan(source / "pipe"), scan(quick_path / "alone" / "pipe"))


def test_store_in_its_own_source(quick_path: Path) -> None:
    source = quick_path / "source"
    (source / "files").mkdir(parents=True)
    (source / "files" / "a").write_bytes(os.urandom(50_000))
    store = source / "deep" / "store"
    (source / "deep").mkdir()
    with snapstore.init(store) as opened:
        first = opened.create(source)
        second = opened.create(source)
        assert second.new_bytes == 0
        names = {item.path for item in opened.ls(first.snapshot.id, recursive=True)}
        inside = [name for name in names if name.startswith(os.fsencode(store) + b"/")]
        assert not inside, inside
        assert os.fsencode(source / "files" / "a") in names
        for named in (store, store / "data"):
            with pytest.raises(InvalidArgument):
                opened.create(source / "files", named)


def test_longest_and_oddest_name(quick_path: Path) -> None:
    assert len(ODD_NAME) == 255
    source = os.fsencode(quick_path / "source")
    os.makedirs(source + b"/" + ODD_NAME)
    for path in (b"/plain", b"/" + ODD_NAME + b"/" + ODD_NAME):
        with open(source + path, "wb") as file:
            file.write(b"content")
    store = quick_path / "store"
    snapstore.init(store).close()
    assert snap("create", source, "--name", "odd", "--store", store).status == 0
    assert snap("ls", "odd", "-R", "--store", store).status == 0
    target = quick_path / "back"
    assert snap("restore", "odd", "--target", target, "--verify", "--store", store).status == 0
    assert_same(scan(source), scan(target))
    inner = b"odd:" + source + b"/" + ODD_NAME
    one = quick_path / "one"
    ended = snap("restore", inner, "--target", one, "--store", store)
    assert ended.status == 0, ended
    assert os.listdir(os.fsencode(one)) == [ODD_NAME]
    with snapstore.open(store) as opened:
        found = opened.read("odd", source + b"/" + ODD_NAME + b"/" + ODD_NAME)
        assert b"".join(found) == b"content"
    assert_sound(store)


def _there_and_back(place: Path, names: list[bytes]) -> None:
    """Takes a chain of directories, and brings it back with the command and with the independent
    reader.
    """
    source, store = place / "source", place / "store"
    source.mkdir()
    try:
        make_chain(source, names)
        snapstore.init(store).close()
        assert snap("create", source, "--name", "chain", "--store", store).status == 0
        again = snap("create", source, "--store", store)
        assert again.status == 0, again
        listed = snap("ls", "chain", "-R", "--store", store)
        assert listed.status == 0, listed
        ended = snap("restore", "chain", "--target", place / "back", "--verify", "--store", store)
        assert ended.status == 0, ended
        assert read_chain(place / "back", names) == b"the end\n"
        assert snap("check", "--read-data", "--store", store).status == 0
        with snapstore.open(store) as opened:
            id = opened.get("chain").id
            path = os.fsencode(source) + b"/" + b"/".join(names) + b"/end"
            assert b"".join(opened.read("chain", path)) == b"the end\n"
        assert rescue().main([str(store), id, str(place / "rescued")]) == 0
        assert read_chain(place / "rescued", names) == b"the end\n"
    finally:
        for tree in ("source", "back", "rescued"):
            remove(place / tree)


def test_path_longer_than_path_max(quick_path: Path) -> None:
    _there_and_back(quick_path, [b"x" * 250] * 40)


def test_depth_of_two_thousand(quick_path: Path) -> None:
    _there_and_back(quick_path, [b"d"] * 2_000)


def test_depth_beyond_the_format(quick_path: Path) -> None:
    """Deeper than the format allows: what is below is listed as unreadable, the rest is there."""
    source, store = quick_path / "source", quick_path / "store"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    try:
        make_chain(source, [b"d"] * 4_200)
        snapstore.init(store).close()
        ended = snap("create", source, "--name", "deep", "--store", store)
        assert ended.status == 3, ended
        with snapstore.open(store) as opened:
            assert opened.get("deep").unreadable_count >= 1
            assert b"".join(opened.read("deep", source / "file")) == b"x"
        assert snap("check", "--read-data", "--store", store).status == 0
    finally:
        remove(source)
