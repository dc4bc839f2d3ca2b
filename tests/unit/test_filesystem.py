"""Snapshots through fsspec."""

import csv
import errno
import os
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

import snapstore
from snapstore import InvalidArgument, Store, StoreFailed
from tree_plans import noise

LARGE = noise(2_000_000, 3)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "data"
    (top / "deep").mkdir(parents=True)
    (top / "x.csv").write_text("name,size\none,1\ntwo,2\n")
    (top / "deep" / "y.csv").write_text("name,size\nthree,3\n")
    (top / "large").write_bytes(LARGE)
    (top / "link").symlink_to("x.csv")
    (top / "folder").symlink_to("deep")
    (top / "dangling").symlink_to("nowhere")
    (top / "self").symlink_to("self")
    os.mkfifo(top / "fifo")
    (top / "odd\udcff").write_bytes(b"odd")
    return top


@pytest.fixture
def store(tmp_path: Path, top: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        store.create(top, name="first")
        yield store


@pytest.fixture
def fs(store: Store) -> Iterator[Any]:
    fs = fsspec.filesystem("snap", store=str(store.path))
    yield fs
    fs.close()


def test_reads_a_table(store: Store, top: Path) -> None:
    url = f"snap://latest{top}/x.csv"
    with fsspec.open(url, "r", store=str(store.path)) as file:
        assert list(csv.DictReader(file))[1] == {"name": "two", "size": "2"}
    with fsspec.open(url, "rb", store=store.path) as file:
        assert file.read() == (top / "x.csv").read_bytes()


def test_the_top_lists_snapshots(fs: Any, store: Store) -> None:
    store.create(store.path.parent / "data" / "deep", name="second")
    ids = {snapshot.id for snapshot in store.snapshots()}
    assert set(fs.ls("", detail=False)) == ids == set(fs.ls("snap://", detail=False))
    assert {info["snapshot"] for info in fs.ls("")} == {"first", "second"}
    assert all(info["type"] == "directory" and fs.isdir(info["name"]) for info in fs.ls(""))
    assert fs.info("")["type"] == "directory"


def test_a_reference_may_move_on(fs: Any, store: Store, top: Path) -> None:
    path = f"latest{top}/x.csv"
    before, id = fs.cat_file(path), store.get("latest").id
    (top / "x.csv").write_text("changed")
    store.create(top)
    assert fs.cat_file(path) == b"changed"
    assert fs.cat_file(f"latest~1{top}/x.csv") == fs.cat_file(f"{id}{top}/x.csv") == before


def test_information(fs: Any, top: Path) -> None:
    info, source = fs.info(f"first{top}/x.csv"), os.stat(top / "x.csv")
    assert info["name"] == f"first{top}/x.csv"
    assert (info["type"], info["size"], info["mode"]) == ("file", source.st_size, source.st_mode)
    assert info["mtime_ns"] == source.st_mtime_ns
    assert abs(fs.modified(info["name"]).timestamp() - source.st_mtime) < 1e-5
    assert fs.info(f"first{top}/fifo")["type"] == "other"
    assert fs.info(f"first{top}/")["type"] == "directory"
    assert fs.du(f"first{top}/deep") == (top / "deep" / "y.csv").stat().st_size


def test_lists_agree_with_the_disk(fs: Any, top: Path) -> None:
    expected = {f"first{path}" for path in top.iterdir()}
    assert set(fs.ls(f"first{top}", detail=False)) == expected
    (one,) = fs.ls(f"first{top}/x.csv")
    assert one == fs.info(f"first{top}/x.csv")
    assert set(fs.find(f"first{top}")) == {
        f"first{path}" for path in top.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    walked = {above: (set(inside), set(files)) for above, inside, files in fs.walk(f"first{top}")}
    assert walked[f"first{top}"][0] == {"deep"}
    assert walked[f"first{top}/deep"] == (set(), {"y.csv"})


def test_globs(fs: Any, store: Store, top: Path) -> None:
    assert fs.glob(f"first{top}/*.csv") == [f"first{top}/x.csv"]
    assert fs.glob(f"snap://first{top}/**/*.csv") == [
        f"first{top}/deep/y.csv",
        f"first{top}/x.csv",
    ]
    id = store.get("first").id
    assert fs.glob(f"*{top}/x.csv") == [f"{id}{top}/x.csv"]
    files = fsspec.open_files(f"snap://first{top}/**/*.csv", "r", store=str(store.path))
    lines = []
    for opened in files:
        with opened as file:
            lines += file.read().splitlines()
    assert len(lines) == 5


def test_links(fs: Any, top: Path) -> None:
    listed = {info["name"].rsplit("/", 1)[1]: info for info in fs.ls(f"first{top}")}
    assert (listed["link"]["type"], listed["link"]["destination"]) == ("file", "x.csv")
    assert listed["link"]["size"] == (top / "x.csv").stat().st_size and listed["link"]["islink"]
    for name in ("folder", "dangling", "self"):
        assert listed[name]["type"] == "link"
    assert fs.isfile(f"first{top}/link")
    assert fs.isdir(f"first{top}/folder")
    assert fs.isfile(f"first{top}/folder/y.csv")
    assert fs.cat_file(f"first{top}/folder/y.csv") == (top / "deep" / "y.csv").read_bytes()
    assert fs.ls(f"first{top}/folder", detail=False) == [f"first{top}/folder/y.csv"]
    with pytest.raises(FileNotFoundError):
        fs.open(f"first{top}/dangling")


def test_ranges(fs: Any, top: Path) -> None:
    path = f"first{top}/large"
    for start, end in (
        (None, None),
        (0, 10),
        (1_000_000, 1_100_000),
        (-10, None),
        (-10, -5),
        (None, -1_999_990),
        (5, 5),
        (9, 3),
        (3_000_000, 4_000_000),
    ):
        assert fs.cat_file(path, start, end) == LARGE[start:end]
    assert fs.cat_ranges([path] * 2, [0, 70_000], [9, 80_000]) == [LARGE[:9], LARGE[70_000:80_000]]
    assert fs.head(path, 5) == LARGE[:5] and fs.tail(path, 5) == LARGE[-5:]
    assert fs.cat(f"first{top}/*.csv") == {f"first{top}/x.csv": (top / "x.csv").read_bytes()}
    assert fs.read_block(path, 100, 50) == LARGE[100:150]


def test_random_reads(fs: Any, top: Path) -> None:
    chance = random.Random(5)
    with fs.open(f"first{top}/large") as file:
        assert file.size == len(LARGE)
        for _ in range(200):
            offset, size = chance.randrange(len(LARGE)), chance.choice([1, 4_096, 300_000])
            file.seek(offset)
            assert file.read(size) == LARGE[offset : offset + size]


def test_copies_to_disk(fs: Any, top: Path, tmp_path: Path) -> None:
    fs.get(f"first{top}/deep", str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out" / "y.csv").read_bytes() == (top / "deep" / "y.csv").read_bytes()
    fs.get_file(f"first{top}/large", str(tmp_path / "large"))
    assert (tmp_path / "large").read_bytes() == LARGE


def test_names_that_are_not_utf8(fs: Any, top: Path) -> None:
    assert fs.cat_file(f"first{top}/odd\udcff") == b"odd"
    assert f"first{top}/odd\udcff" in fs.ls(f"first{top}", detail=False)


def test_what_is_not_there(fs: Any, top: Path) -> None:
    for path in (f"first{top}/no", "first/no", "no-such-snapshot", "no-such/x", "deadbeef/x"):
        assert not fs.exists(path) and not fs.isfile(path) and not fs.isdir(path)
        for call in (fs.info, fs.open, fs.ls, fs.cat_file):
            with pytest.raises(FileNotFoundError):
                call(path)
    with pytest.raises(IsADirectoryError):
        fs.open(f"first{top}")
    assert not fs.isfile(f"first{top}")
    with pytest.raises(FileNotFoundError):
        fs.cat_file("")


def test_nothing_is_written(fs: Any, top: Path) -> None:
    path = f"first{top}/x.csv"
    for call in (
        lambda: fs.open(path, "wb"),
        lambda: fs.open(path, "a"),
        lambda: fs.pipe_file(path, b""),
        lambda: fs.write_text(path, "x"),
        lambda: fs.rm(path),
        lambda: fs.rm_file(path),
        lambda: fs.mkdir("first/new"),
        lambda: fs.makedirs("first/new"),
        lambda: fs.rmdir(f"first{top}/deep"),
        lambda: fs.touch(path),
        lambda: fs.mv(path, path + "2"),
        lambda: fs.cp_file(path, path + "2"),
        lambda: fs.copy(path, path + "2"),
        lambda: fs.put_file(os.devnull, path),
        lambda: fs.put(os.devnull, path),
        lambda: fs.pipe({path: b""}),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EROFS


def test_threads(fs: Any, top: Path) -> None:
    def read(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            offset = chance.randrange(len(LARGE))
            data = fs.cat_file(f"first{top}/large", offset, offset + 10_000)
            assert data == LARGE[offset : offset + 10_000]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read, range(8)))


def test_more_snapshots_than_are_kept(fs: Any, store: Store, top: Path) -> None:
    files = []
    for number in range(8):
        (top / "x.csv").write_text(f"{number}" * 100_000)
        id = store.create(top).snapshot.id  # type: ignore[union-attr]
        files.append(fs.open(f"{id}{top}/x.csv"))
    for number, file in enumerate(files):
        assert file.read() == str(number).encode() * 100_000


def test_closed_and_used_again(store: Store, top: Path) -> None:
    fs = fsspec.filesystem("snap", store=str(store.path), skip_instance_cache=True)
    file = fs.open(f"first{top}/large")
    fs.close()
    with pytest.raises(StoreFailed):
        file.read()
    assert fs.cat_file(f"first{top}/large", 0, 5) == LARGE[:5]
    fs.close()


def test_a_store_that_is_open_stays_open(store: Store, top: Path) -> None:
    fs = fsspec.filesystem("snap", store=store, skip_instance_cache=True)
    assert fs.cat_file(f"first{top}/large", 0, 5) == LARGE[:5]
    fs.close()
    assert store.get("first").name == "first"


def test_pickled(fs: Any, top: Path) -> None:
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(f"first{top}/large", 0, 5) == LARGE[:5]


def test_a_fork_reads_on(fs: Any, top: Path) -> None:
    path = f"first{top}/large"
    assert fs.cat_file(path, 0, 5) == LARGE[:5]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(fs.cat_file(path, 5, 9) != LARGE[5:9])
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert fs.cat_file(path, 5, 9) == LARGE[5:9]


def test_which_store() -> None:
    with pytest.raises(InvalidArgument, match="store"):
        fsspec.filesystem("snap")
