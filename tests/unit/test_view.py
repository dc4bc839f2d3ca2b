"""Views of snapshots: paths, links, directories, files, and what becomes of them in the end."""

import io
import itertools
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import snapstore
from snapstore import (
    FileStatus,
    InvalidArgument,
    PathNotFound,
    SnapshotView,
    Store,
    StoreFailed,
    StoreForked,
)
from tree_plans import Part, noise, write_file

LARGE = noise(3_000_000, 7)
TEXT = "erste Zeile, größer\nzweite\r\ndritte"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "srv" / "app"
    (top / "releases" / "5").mkdir(parents=True)
    (top / "large").write_bytes(LARGE)
    (top / "text").write_bytes(TEXT.encode())
    (top / "releases" / "5" / "x.csv").write_text("a,b\n1,2\n")
    (top / "current").symlink_to("releases/5")
    (top / "absolute").symlink_to(top / "releases" / "5" / "x.csv")
    (top / "up").symlink_to("releases/../../../../../../../../../.." + str(top / "text"))
    (top / "dangling").symlink_to("nowhere")
    (top / "round").symlink_to("round")
    (top / b"\xff\xfe".decode(errors="surrogateescape")).write_bytes(b"odd")
    return top


@pytest.fixture
def store(tmp_path: Path, top: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        store.create(top, name="one")
        yield store


@pytest.fixture
def view(store: Store) -> Iterator[SnapshotView]:
    with store.view("one") as view:
        yield view


# Paths


def test_paths_are_text_bytes_or_path_objects(view: SnapshotView, top: Path) -> None:
    for path in (top / "text", str(top / "text"), os.fsencode(top / "text"), f"/{top}//./text/"):
        assert view.stat(path).size == len(TEXT.encode())
    assert view.read_at(os.fsencode(top) + b"/\xff\xfe", 0, 10) == b"odd"
    assert view.read_at(os.path.join(top, "\udcff\udcfe"), 0, 10) == b"odd"


def test_directories_above_roots(view: SnapshotView, top: Path) -> None:
    assert view.stat("/").type == view.stat(b"").type == view.stat(top.parent).type == "directory"
    assert list(view.list("/")) == [os.fsencode(top.parts[1])]
    assert list(view.list(top.parent)) == [b"app"]
    assert [entry.path for entry in view.scan(top.parent)] == [os.fsencode(top)]


def test_a_root_is_only_where_it_was(view: SnapshotView) -> None:
    assert not view.exists("/app")
    assert not view.exists("app", follow=True)


def test_a_path_that_is_not_there(view: SnapshotView, top: Path) -> None:
    for path in (top / "no", top / "text" / "below", "/nowhere"):
        assert not view.exists(path)
        with pytest.raises(PathNotFound):
            view.stat(path)
    with pytest.raises(PathNotFound) as caught:
        view.stat(top / "current" / "x.csv")
    assert "follow=True" in str(caught.value.hint)
    with pytest.raises(PathNotFound):
        view.stat(top / ".." / "app" / "text")


def test_a_part_of_a_snapshot(store: Store, top: Path) -> None:
    for ref in (f"one:{top}/releases", "one:releases", f"one:{top}/releases/"):
        with store.view(ref) as part:
            assert [entry.path for entry in part.walk()] == [b"/5", b"/5/x.csv"]
            assert part.read_at("5/x.csv", 2, 100) == b"b\n1,2\n"
            assert not part.exists(top / "releases")
    with store.view(f"one:{top}/text") as file:
        assert file.stat("").type == "file"
        assert file.open("/").read() == TEXT.encode()
    with store.view(f"one:{top}/current") as link:
        assert link.stat("").target == b"releases/5"
        assert list(link.list("", follow=True)) == [b"x.csv"]
    with store.view("one:/") as whole:
        assert whole.exists(top)
    with pytest.raises(PathNotFound):
        store.view("one:no/such")


def test_several_roots_and_streams(tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text(name)
    with snapstore.init(tmp_path / "store") as store:
        streams = [snapstore.Stream("app.sql", command="printf dump")]
        store.create(tmp_path / "a", tmp_path / "b" / "c", streams=streams)
        with store.view("latest") as view:
            assert sorted(view.list(tmp_path)) == [b"a", b"b"]
            assert view.read_at(tmp_path / "b" / "c" / "x", 0, 9) == b"b/c"
            assert view.read_at("app.sql", 0, 9) == b"dump"
        with store.view("latest:app.sql") as view:
            assert view.read_at("", 0, 9) == b"dump"
        with store.view("latest:x") as view:
            assert view.read_at("", 0, 9) in (b"a", b"b/c")


# Links


def test_no_link_is_followed_unless_asked(view: SnapshotView, top: Path) -> None:
    link = view.stat(top / "current")
    assert (link.type, link.target, link.size) == ("symlink", b"releases/5", 10)
    with pytest.raises(InvalidArgument, match="not a directory"):
        view.scan(top / "current")
    with pytest.raises(InvalidArgument, match="not a file but a symlink") as caught:
        view.open(top / "absolute")
    assert "follow=True" in str(caught.value.hint)


@pytest.mark.parametrize("path", ["current/x.csv", "absolute", "current/../5/x.csv"])
def test_links_are_followed_inside_the_snapshot(view: SnapshotView, top: Path, path: str) -> None:
    (top / "releases" / "5" / "x.csv").unlink()  # what is on disk does not matter
    assert view.open(top / path, follow=True).read() == b"a,b\n1,2\n"
    assert view.read_at(top / path, 0, 3, follow=True) == b"a,b"
    assert view.stat(top / path, follow=True).type == "file"


def test_a_link_leads_no_higher_than_the_snapshot(view: SnapshotView, top: Path) -> None:
    assert view.open(top / "up", follow=True).read() == TEXT.encode()


def test_absolute_links_of_a_part_are_those_of_the_snapshot(store: Store, top: Path) -> None:
    with store.view(f"one:{top}") as part:
        assert part.open("absolute", follow=True).read() == b"a,b\n1,2\n"


def test_links_that_lead_nowhere(view: SnapshotView, top: Path) -> None:
    assert view.exists(top / "dangling")
    assert not view.exists(top / "dangling", follow=True)
    assert not view.exists(top / "absolute" / "below", follow=True)
    assert not view.exists(top / "text" / ".." / "text", follow=True)
    with pytest.raises(InvalidArgument, match="too many links"):
        view.open(top / "round", follow=True)


def test_as_many_links_as_are_allowed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "0").write_text("end")
    for number in range(1, 42):
        (top / str(number)).symlink_to(str(number - 1))
    with snapstore.init(tmp_path / "store") as store, store:
        store.create(top)
        with store.view(f"latest:{top}") as view:
            assert view.read_at("40", 0, 9, follow=True) == b"end"
            with pytest.raises(InvalidArgument, match="too many links"):
                view.read_at("41", 0, 9, follow=True)


# Directories


def test_large_directories_come_as_they_are_read(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(5_000):
        (top / f"{number:05}").touch()
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        with store.view(f"latest:{top}") as view:
            assert list(view.list()) == [b"%05d" % number for number in range(5_000)]
            entries = view.scan()
            first = list(itertools.islice(entries, 10))
            assert [entry.name for entry in first] == [b"%05d" % number for number in range(10)]
            assert first[3].stat() == view.stat("00003")
    with pytest.raises(StoreFailed):  # what is not there yet cannot come any more
        list(entries)


def test_walk_has_each_directory_before_what_is_in_it(view: SnapshotView, top: Path) -> None:
    found = [entry.path for entry in view.walk(top)]
    expected = {os.fsencode(path) for path in top.rglob("*")}
    assert set(found) == expected and len(found) == len(expected)
    for path in found:
        above = os.path.dirname(path)
        assert above == os.fsencode(top) or found.index(above) < found.index(path)
    with pytest.raises(InvalidArgument):
        view.walk(top / "text")


# Files


def test_a_file_is_pythons_own(view: SnapshotView, top: Path) -> None:
    with view.open(top / "large") as file:
        assert isinstance(file, io.BufferedReader)
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.read() == LARGE
        assert file.tell() == len(LARGE)
        assert file.read() == b""
        assert file.seek(-5, os.SEEK_END) == len(LARGE) - 5
        assert file.read(100) == LARGE[-5:]
        assert file.seek(len(LARGE) + 10) == len(LARGE) + 10
        assert file.read(1) == b""
        assert file.seek(1000) == 1000 and file.seek(24, os.SEEK_CUR) == 1024
        buffer = bytearray(200_000)
        assert file.readinto(buffer) == 200_000
        assert buffer == LARGE[1024:201_024] and file.tell() == 201_024
        with pytest.raises(OSError):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")  # type: ignore[attr-defined]
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
    with pytest.raises(ValueError):
        file.read()
    with pytest.raises(ValueError):
        file.raw.read(1)


def test_text(view: SnapshotView, top: Path) -> None:
    with view.open(top / "text", "r") as file:
        assert list(file) == ["erste Zeile, größer\n", "zweite\n", "dritte"]
    with view.open(top / "text", "rt", newline="") as file:
        assert file.read() == TEXT
    with view.open(top / "text", "r", encoding="latin-1") as file:
        assert "grÃ" in file.readline()


def test_random_reads(view: SnapshotView, top: Path) -> None:
    chance = random.Random(1)
    with view.open(top / "large") as file:
        for _ in range(300):
            offset, size = chance.randrange(len(LARGE) + 9), chance.choice([0, 1, 4096, 150_000])
            assert view.read_at(top / "large", offset, size) == LARGE[offset : offset + size]
            file.seek(offset)
            assert file.read(size) == LARGE[offset : offset + size]


@pytest.mark.needs("holes")
def test_holes(tmp_path: Path) -> None:
    layout = [Part("hole", 1 << 20), Part("noise", 8_192), Part("hole", 1 << 20), Part("noise", 9)]
    write_file(os.fsencode(tmp_path / "sparse"), [*layout, Part("hole", 1 << 20)])
    with snapstore.init(tmp_path / "store") as store, open(tmp_path / "sparse", "rb") as source:
        store.create(tmp_path / "sparse")
        view = store.view(f"latest:{tmp_path}/sparse")
        size = view.stat("").size
        file = view.open("")
        for offset in [*range(0, size, 100_003), 1 << 20, (1 << 20) + 8_192, size - 1]:
            assert view.seek_hole("", offset) == os.lseek(source.fileno(), offset, os.SEEK_HOLE)
            assert file.seek(offset, os.SEEK_HOLE) == view.seek_hole("", offset)
            try:
                data: int | None = os.lseek(source.fileno(), offset, os.SEEK_DATA)
                assert file.seek(offset, os.SEEK_DATA) == data
            except OSError:
                data = None
                with pytest.raises(OSError):
                    file.seek(offset, os.SEEK_DATA)
            assert view.seek_data("", offset) == data
        assert view.seek_data("", size) is None and view.seek_hole("", size) is None


def test_what_has_no_meaning(view: SnapshotView, store: Store, top: Path) -> None:
    for mode in ("w", "wb", "a", "r+", "x", "rw", ""):
        with pytest.raises(InvalidArgument, match="mode"):
            view.open(top / "text", mode)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="not a file but a directory"):
        view.open(top)
    for offset, size in ((-1, 1), (0, -1), (1 << 70, 1)):
        with pytest.raises(InvalidArgument):
            view.read_at(top / "text", offset, size)
    with pytest.raises(InvalidArgument):
        view.seek_data(top, 0)
    with pytest.raises(InvalidArgument, match="too small"):
        store.view("one", cache_bytes="1M")


def test_threads_share_a_view(view: SnapshotView, top: Path) -> None:
    file = view.open(top / "large")

    def read(seed: int) -> None:
        chance = random.Random(seed)
        own = view.open(top / "large")
        for _ in range(100):
            offset = chance.randrange(len(LARGE))
            size = chance.choice([10, 4_096, 200_000])
            assert view.read_at(top / "large", offset, size) == LARGE[offset : offset + size]
            own.seek(offset)
            assert own.read(size) == LARGE[offset : offset + size]
            assert file.read(100) in LARGE
            assert len(list(view.walk(top))) == 11

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read, range(8)))


# The end


def leases(store: Store) -> int:
    return sum(1 for path in (store.path / "sess").iterdir() if path.is_file())


def assert_closed(view: SnapshotView, file: io.BufferedReader, top: Path) -> None:
    for call in (
        lambda: view.stat(top),
        lambda: view.exists(top),
        lambda: view.open(top / "text"),
        lambda: view.list(top),
        lambda: view.xattrs(top),
        lambda: view.read_at(top / "text", 0, 1),
        lambda: file.raw.read(1),
        lambda: file.read(),
    ):
        with pytest.raises(StoreFailed, match="closed"):
            call()


def test_a_closed_view(store: Store, top: Path) -> None:
    view = store.view("one")
    file, entry = view.open(top / "large"), next(view.scan(top))
    file.read(10)
    view.close()
    view.close()
    assert_closed(view, file, top)
    with pytest.raises(StoreFailed):
        entry.stat()
    assert store.get("one")


def test_a_closed_store(tmp_path: Path, store: Store, top: Path) -> None:
    view = store.view("one")
    file = view.open(top / "large")
    assert leases(store) == 1
    store.close()
    assert leases(store) == 0
    assert_closed(view, file, top)
    view.close()


def test_a_view_holds_a_lease(store: Store) -> None:
    before = leases(store)
    view, lost = store.view("one"), store.view("one")
    assert leases(store) == before + 2
    view.close()
    assert leases(store) == before + 1
    del lost
    assert leases(store) == before
    with pytest.raises(PathNotFound):
        store.view("one:no/such")
    assert leases(store) == before
    store.view("one")
    with snapstore.open(store.path, mode="r") as other, other.view("one"):
        assert leases(store) == before


def test_a_fork_cannot_use_a_view_nor_end_its_lease(store: Store, top: Path) -> None:
    with store.view("one") as view:
        held = leases(store)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                view.stat(top)
            except StoreForked:
                view.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert leases(store) == held
        assert view.exists(top)


def test_a_status_has_everything(view: SnapshotView, top: Path) -> None:
    source, found = os.lstat(top / "large"), view.stat(top / "large")
    assert isinstance(found, FileStatus)
    assert found.st_mode == source.st_mode
    assert (found.type, found.nlink, found.size) == ("file", 1, source.st_size)
    assert (found.uid, found.gid, found.mtime_ns) == (
        source.st_uid,
        source.st_gid,
        source.st_mtime_ns,
    )
    assert abs(found.blocks - source.st_blocks) < 16
    with pytest.raises(AttributeError):
        found.size = 1  # type: ignore[misc]
