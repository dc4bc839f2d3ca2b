"""Reading and comparing at the edges: depth, sparse files, several hosts, what cannot be read."""

import os
import subprocess
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


def grow(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("x" * 10)


def added(store: Store, ref: str, directory: Path, **options: object) -> list[str]:
    """Names of what is different from a snapshot, all of it being new."""
    found = list(store.diff_directory(ref, directory, ignore=["mtime"], **options))
    assert {one.kind for one in found} <= {"added"}, found
    return [os.path.relpath(os.fsdecode(one.path), directory) for one in found]


TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"
RULES = {
    "patterns": {"exclude": ["*.o", "/cache/*", "!/cache/keep", "sub/deep/"]},
    "ignore files": {"ignore_files": True},
    "caches": {"exclude_caches": True},
    "markers": {"exclude_if_present": [".nobackup"]},
    "sizes": {"exclude_larger_than": 9},
}


@pytest.mark.parametrize("rules", RULES)
def test_what_rules_left_out_is_not_new(store: Store, tmp_path: Path, rules: str) -> None:
    top = tmp_path / "top"
    grow(top, "a.o", "b", "cache/keep", "cache/x/y", "sub/deep/z", "sub/c.o", "sub/mark/d")
    (top / "cache" / "CACHEDIR.TAG").write_text(TAG)
    (top / "sub" / "mark" / ".nobackup").write_text("")
    (top / "sub" / ".snapignore").write_text("*.o\n/deep/z\n[broken\n")
    ref = taken(store, top, **RULES[rules])
    assert added(store, ref, top) == added(store, ref, top / "sub") == []
    assert added(store, ref, top, all=True) != []
    (top / "new").write_text("new")
    (top / "new.o").write_text("x" * 10)
    assert added(store, ref, top)[0] == "new"
    assert store.restore(ref, target=tmp_path / "out").success
    grow(tmp_path / "out", "sub/c.o", "cache/x/y", "sub/mark/e")
    assert len(added(store, ref, tmp_path / "out")) < 3


def test_ignore_files_above_hold_for_a_part(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    grow(top, "sub/a.o", "sub/deep/b.o", "sub/deep/c")
    (top / ".snapignore").write_text("/sub/deep/*.o\n")
    ref = taken(store, top, exclude=["/sub/a.o"])
    assert added(store, ref, top / "sub" / "deep") == []
    assert added(store, f"{ref}:sub", top / "sub") == []
    assert added(store, ref, top / "sub" / "deep", all=True) == ["b.o"]
    grow(tmp_path / "other", "a.o", "deep/b.o", "deep/c")
    assert added(store, f"{ref}:sub", tmp_path / "other") == [
        os.path.relpath(top / "sub" / "deep" / "b.o", tmp_path / "other")
    ]


def test_what_the_snapshot_has_is_compared_whatever_the_rules_say(
    store: Store, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    grow(top, "cache/keep", "cache/x", "a.o", "b")
    ref = taken(store, top, listed=[top / "cache" / "keep"], exclude=["cache"])
    assert added(store, ref, top) == []
    (top / "cache" / "keep").write_text("other")
    (top / ".snapignore").write_text("a.o\n")
    (top / "a.o").unlink()
    found = [(one.kind, one.path) for one in store.diff_directory(ref, top, ignore=["mtime"])]
    names = [("added", ".snapignore"), ("removed", "a.o"), ("content", "cache/keep")]
    assert found == [(kind, os.fsencode(top / name)) for kind, name in names]


def test_beside_what_was_listed_alone_nothing_is_new(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    grow(top, "a", "sub/b", "sub/c")
    ref = taken(store, listed=[top / "a", top / "sub" / "b"])
    assert store.get(ref).rules == {"listed": 2, "only_listed": os.fspath(top)}
    assert added(store, ref, top) == []
    assert added(store, ref, top, all=True) == ["sub/c"]
    (top / "a").write_text("other")
    (only,) = store.diff_directory(ref, top, ignore=["mtime"])
    assert (only.kind, only.path) == ("content", os.fsencode(top / "a"))


def test_the_store_itself_is_not_new(tmp_path: Path) -> None:
    grow(tmp_path / "top", "a")
    with snapstore.init(tmp_path / "top" / "store") as store:
        ref = taken(store, tmp_path / "top")
        assert added(store, ref, tmp_path / "top") == []
        assert added(store, ref, tmp_path / "top", all=True) == []


@pytest.mark.needs("mount")
def test_what_is_mounted_below_is_not_new(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", top / "mounted"], check=True)
    try:
        grow(top, "mounted/a", "b")
        ref = taken(store, top, one_file_system=True)
        assert added(store, ref, top) == []
        assert added(store, ref, top, all=True) == ["mounted/a"]
        listed = taken(store, top, one_file_system=True, listed=[top / "mounted" / "a"])
        grow(top, "mounted/c")
        assert added(store, listed, top) == []
    finally:
        subprocess.run(["umount", top / "mounted"], check=True)


def test_ignore_files_said_nothing_in_an_archive(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    grow(top, "a.o")
    (top / ".snapignore").write_text("*.o\n")
    subprocess.run(["tar", "-C", top, "-cf", tmp_path / "x.tar", "."], check=True)
    imported = store.import_tar(tmp_path / "x.tar", root=top).snapshot
    assert imported is not None
    grow(top, "b.o")
    assert added(store, imported.id, top) == ["b.o"]


def test_rules_without_meaning_are_said_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(tmp_path / "top", "a")
    snapshot = store.get(taken(store, tmp_path / "top"))
    monkeypatch.setattr(store._repository.catalog, "snapshots", lambda: [snapshot])
    for rules in ({"exclude": ["[a"]}, {"exclude": 1}, {"exclude": ["%zz"]}):
        object.__setattr__(snapshot, "rules", rules)
        with pytest.raises(snapstore.InvalidArgument, match="have no meaning"):
            store.diff_directory(snapshot.id, tmp_path / "top")
        assert added(store, snapshot.id, tmp_path / "top", all=True) == []
    object.__setattr__(snapshot, "rules", {"later": {"x": 1}})
    assert added(store, snapshot.id, tmp_path / "top") == []


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


def changes(store: Store, old: str, new: str, top: Path, *paths: str) -> list[tuple[str, str]]:
    """Kind and path, below `top`, of each difference."""
    chosen = [top / path if path.startswith("./") else path for path in paths]
    found = store.diff(old, new, paths=chosen, ignore=["mtime"], renames=False)
    return [(one.kind, os.path.relpath(os.fsdecode(one.path), top)) for one in found]


def test_paths_that_overlap_are_compared_once_and_in_order(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    grow(top, "a/sub/x", "a-b/y", "z")
    old = taken(store, top)
    for name in ("a/sub/x", "a-b/y", "z"):
        (top / name).write_text("other")
    new = taken(store, top)
    everything = [("content", "a/sub/x"), ("content", "a-b/y"), ("content", "z")]
    assert changes(store, old, new, top) == everything
    for paths in (
        ["./z", "./a-b", "./a/sub", "./a"],
        ["./z", "z/", "a-b", "./a/./sub", "a//sub/", "./a"],
        ["./.", "./a", "a/sub/x"],
    ):
        assert changes(store, old, new, top, *paths) == everything, paths
    with pytest.raises(snapstore.PathNotFound):
        changes(store, old, new, top, "./a", "./a/nowhere")


def test_roots_in_roots_are_compared_once(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "top"
    grow(top, "a/x", "a/sub/y", "a-b/z")
    roots = (top / "a-b", top / "a" / "sub", top / "a")
    one, several = taken(store, top / "a"), taken(store, *roots)
    (top / "a" / "sub" / "y").write_text("other")
    (top / "a-b" / "z").write_text("other")
    later_one, later = taken(store, top / "a"), taken(store, *roots)
    assert changes(store, several, later, top) == [("content", "a/sub/y"), ("content", "a-b/z")]
    # What is a root of its own in one of them alone, is in another root of the other.
    added = [("added", "a-b"), ("added", "a-b/z")]
    assert changes(store, one, later, top) == [("content", "a/sub/y"), *added]
    removed = [("removed", "a-b"), ("removed", "a-b/z")]
    assert changes(store, several, later_one, top) == [("content", "a/sub/y"), *removed]


def test_roots_in_roots_that_hold_something_else_are_compared_by_themselves(
    store: Store, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    grow(top, "sub/y", "x")
    rules = {"exclude": ["/sub/y"]}  # counts from each root
    old = taken(store, top, top / "sub", **rules)
    for name in ("sub/y", "x"):
        (top / name).write_text("other")
    new = taken(store, top, top / "sub", **rules)
    assert changes(store, old, new, top) == [("content", "x"), ("content", "sub/y")]


def test_unknown_names_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ref = taken(store, tmp_path / "file")
    with pytest.raises(snapstore.InvalidArgument):
        store.diff(ref, ref, ignore=["colour"])
    with pytest.raises(snapstore.InvalidArgument):
        store.find("*", types=["socket"])
    with pytest.raises(snapstore.SourceNotFound):
        store.diff_directory(ref, tmp_path / "nowhere")
