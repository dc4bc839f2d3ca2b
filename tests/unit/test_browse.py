"""Reading and comparing at the edges: depth, sparse files, several hosts, what cannot be read."""

import os
from pathlib import Path

import pytest

import snapstore
from snapstore import DiffStat, InvalidArgument, Store
from snapstore.model import snapshot as snapshots
from snapstore.model.snapshot import Label

DAY = 86_400 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with snapstore.init(tmp_path / "store") as store:
        yield store


def taken(store: Store, *paths: Path, **options: object) -> str:
    made = store.create(*paths, rehash=True, **options).snapshot
    assert made is not None
    return made.id


def make_deep(top: Path, depth: int) -> None:
    """Directories called `d` within each other, deeper than a path may be long, and a file."""
    top.mkdir()
    handle = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 20, dir_fd=handle)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)


def test_a_deep_directory_is_compared(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    make_deep(top, 450)
    ref = taken(store, top)
    assert list(store.diff_directory(ref, top)) == []
    (top / "new").write_text("x")
    found = store.diff_directory(ref, top, ignore=["mtime"])
    assert [(one.kind, one.path) for one in found] == [("added", os.fsencode(top / "new"))]
    (deepest,) = store.find("file", ref)
    assert deepest.path.count(b"/") > 450


def test_holes_are_not_read_when_contents_are_compared(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"x" * 10_000)
    ref = taken(store, top)
    os.utime(top / "sparse", ns=(0, DAY))
    (only,) = store.diff_directory(ref, top, content=True)
    assert (only.kind, only.fields) == ("metadata", ("mtime",))
    with open(top / "sparse", "r+b") as file:
        file.seek(1 << 38)
        file.write(b"y")
    os.utime(top / "sparse", ns=(0, DAY))
    (only,) = store.diff_directory(ref, top)
    assert (only.kind, only.fields) == ("content", ("content", "mtime"))


def test_a_link_in_the_directory_is_not_followed(store: Store, tmp_path: Path) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    for place in (top, other):
        (place / "inside").mkdir(parents=True)
        (place / "inside" / "file").write_text("same")
    ref = taken(store, top)
    (top / "inside" / "file").unlink()
    (top / "inside").rmdir()
    (top / "inside").symlink_to(other / "inside")
    found = [(one.kind, one.path) for one in store.diff_directory(ref, top, ignore=["mtime"])]
    inside = os.fsencode(top / "inside")
    assert found == [("type", inside), ("removed", inside + b"/file")]
    (tmp_path / "named").symlink_to(top)
    paths = [one.path for one in store.diff_directory(ref, tmp_path / "named", ignore=["mtime"])]
    assert paths == [inside, inside + b"/file"]


def test_log_follows_each_host_by_itself(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for number, host in enumerate(["one", "two", "one", "two"]):
        path.write_text(host)
        os.utime(path, ns=(0, DAY))
        taken(store, path, host=host, time=number * DAY)
    versions = store.log(path)
    assert [(one.host, one.change, len(one.snapshots)) for one in versions] == [
        ("two", "added", 2),
        ("one", "added", 2),
    ]
    assert [one.host for one in store.log(path, host="one")] == ["one"]
    with pytest.raises(snapstore.PathNotFound):
        store.log(path, host="three")


def test_what_could_not_be_read_was_not_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "file").write_text("x")
    first = taken(store, top)
    snapshot = store.get(first)
    blind = (os.fsencode(top / "file"), "Permission denied")
    (top / "file").unlink()
    second = store.get(taken(store, top))
    assert [one.change for one in store.log(top / "file")] == ["removed", "added"]
    monkeypatch.setattr(store._repository.catalog, "snapshots", lambda: [snapshot, second])
    for unread in (blind, (os.fsencode(top), "Permission denied")):
        object.__setattr__(second, "unreadable", (unread,))
        assert [one.change for one in store.log(top / "file")] == ["added"]
        assert [one.change for one in store.log("file")] == ["added"]


def test_a_relative_path_to_log_is_that_of_one_root(store: Store, tmp_path: Path) -> None:
    """Not of every root in turn, of which some do not have it and others have another file."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "file").write_text(name)
    for number, name in enumerate(["a", "b", "c", "a", "b", "c"]):
        taken(store, tmp_path / name, time=number * DAY)
    (version,) = store.log("file")
    assert version.path == os.fsencode(tmp_path / "b" / "file")
    assert (version.change, len(version.snapshots)) == ("added", 2)


def test_snapshots_that_cannot_be_read_are_left_out(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    good = taken(store, path)
    path.write_text("y")
    bad = store.path / "snap" / taken(store, path)
    bad.chmod(0o600)
    bad.write_bytes(b"nonsense")
    assert [one.snapshot.id for one in store.find("file")] == [good]
    assert [one.snapshot.id for one in store.du()] == [good]
    assert [one.snapshots[0].id for one in store.log(path)] == [good]
    (left_out,) = store.unreadable_snapshots()
    assert (left_out.id, left_out.status) == (bad.name, "damaged")
    assert left_out.error


def test_snapshots_of_later_versions_are_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    good = store.get(taken(store, path))
    later = snapshots.decode("ab" * 32, {**good.record, "needs": ["delta"]}, Label())
    monkeypatch.setattr(store._repository.catalog, "snapshots", lambda: [good, later])
    assert [one.snapshot.id for one in store.find("file")] == [good.id]
    assert [one.id for one in store.unreadable_snapshots()] == [later.id]


def test_sizes_to_find_are_those_of_the_list(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2048))
    taken(store, path)
    for size in (1024, "1k", "1 KiB"):
        assert [one.path for one in store.find("file", larger_than=size)] == [os.fsencode(path)]
        assert not list(store.find("file", smaller_than=size))
    with pytest.raises(InvalidArgument, match="not a size"):
        store.find("file", larger_than="big")


def test_missing_roots_of_several_are_removed(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name * 10)
    both = taken(store, tmp_path / "a", tmp_path / "b")
    one = taken(store, tmp_path / "b")
    stat = DiffStat.of(store.diff(both, one, ignore=["mtime"]))
    assert (stat.removed, stat.removed_bytes, stat.changes) == (2, 10, 2)
    stat = DiffStat.of(store.diff(one, both, paths=[tmp_path], ignore=["mtime"]))
    assert (stat.added, stat.added_bytes, stat.changes) == (2, 10, 2)


def test_unknown_names_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ref = taken(store, tmp_path / "file")
    with pytest.raises(snapstore.InvalidArgument):
        store.diff(ref, ref, ignore=["colour"])
    with pytest.raises(snapstore.InvalidArgument):
        store.find("*", types=["socket"])
    with pytest.raises(snapstore.SourceNotFound):
        store.diff_directory(ref, tmp_path / "nowhere")
