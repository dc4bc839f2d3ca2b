"""docs/what-is-kept.md, line by line: one test for each row of its table, in its order."""

import os
import re
import resource
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_trees import (
    USER,
    Kept,
    Require,
    as_user,
    assert_kept,
    copy,
    file_system,
    keep,
    public_place,
    require_python_for_all,
    run,
)

import snapstore
from tree_plans import Part, noise, write_file
from tree_scan import assert_same, scan

PAGE = 4_096


@pytest.fixture
def place() -> Iterator[Path]:
    with public_place() as path:
        yield path


@pytest.fixture
def top(place: Path) -> Path:
    """An empty directory to fill."""
    path = place / "top"
    path.mkdir()
    return path


def test_content(top: Path, place: Path) -> None:
    for size in (0, 1, 256, 257, PAGE - 1, PAGE, PAGE + 1, 1 << 20, (9 << 20) + 1):
        (top / str(size)).write_bytes(noise(size, size))
    kept = assert_kept(top, place)
    assert kept.restored.verified_files == 9


@pytest.mark.needs("holes")
@pytest.mark.parametrize(
    "layout",
    [
        [Part("hole", 1 << 20)],
        [Part("hole", PAGE), Part("noise", PAGE)],
        [Part("noise", PAGE), Part("hole", 1 << 30), Part("noise", 100), Part("hole", PAGE)],
        [Part("zeros", 2 * PAGE), Part("hole", 2 * PAGE), Part("zeros", 2 * PAGE)],
        [Part("noise", PAGE, 3), Part("hole", PAGE)] * 2_000,
        [Part("noise", 100), Part("hole", 50), Part("noise", 7)],
    ],
    ids=["all", "first", "large", "between zeros", "many", "smaller than a block"],
)
def test_holes_of_sparse_files(top: Path, place: Path, layout: list[Part]) -> None:
    write_file(os.fsencode(top / "sparse"), layout)
    kept = assert_kept(top, place)
    allocated = [(path / "sparse").stat().st_blocks for path in (top, kept.out)]
    assert allocated[1] <= allocated[0] + 8 * len(layout)


@pytest.mark.needs("preallocation")
def test_preallocated_space(top: Path, place: Path) -> None:
    path = top / "preallocated"
    path.write_bytes(b"data" * 1_024)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    kept = keep(top, place)
    assert kept.restored.problems == []
    assert (kept.out / "preallocated").read_bytes() == b"data" * 1_024 + bytes((1 << 20) - PAGE)
    assert_same(kept.before, kept.after, ignore=["holes"])


def test_name(top: Path, place: Path) -> None:
    names = [bytes([code]) for code in range(1, 256) if code not in b"./"]
    names += [b"n" * 255, b"\xff" * 255, b"...", b"a\nb", "ä".encode(), b"a\xc3", b"%2F"]
    for name in names:
        (top / os.fsdecode(name)).write_bytes(name)
    kept = assert_kept(top, place)
    assert len(kept.after) == len(names) + 1


def test_order_of_names_is_not_kept(place: Path) -> None:
    for top, order in (("one", 1), ("two", -1)):
        (place / top).mkdir()
        for name in ["b", "a", "ä", "C"][::order]:
            (place / top / name).touch()
            os.utime(place / top / name, ns=(0, 0))
        os.utime(place / top, ns=(0, 0))
    with snapstore.init(place / "store") as store:
        made = store.create(place / "one", place / "two").snapshot
        assert made is not None
        assert len({root.id for root in made.roots}) == 1
        names = [one.entry.name for one in store.ls("latest", place / "two")]
    assert names == [b"C", b"a", b"b", "ä".encode()]


def test_path_longer_than_path_max(top: Path, place: Path) -> None:
    descend(top, [b"%03d-" % number + b"x" * 200 for number in range(30)])
    kept = assert_kept(top, place)
    assert max(map(len, kept.after)) > 6_000


@pytest.fixture
def memory() -> Iterator[Path]:
    """A place in memory, as far as there is one: disks take long to remove thousands of levels."""
    with public_place("/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        (path / "top").mkdir()
        yield path


def test_path_as_deep_as_the_format_allows(memory: Path) -> None:
    place, top = memory, memory / "top"
    descend(top, [b"d"] * 4_096)
    with snapstore.init(place / "store") as store:
        created = store.create(top)
        assert created.unreadable == []
        assert created.directories == 4_097
        restored = store.restore("latest", target=place / "out")
    assert (restored.problems, restored.directories, restored.files) == ([], 4_097, 1)
    assert ascend(place / "out") == ascend(top) == 4_096


def test_path_deeper_than_the_format_allows(memory: Path) -> None:
    place, top = memory, memory / "top"
    descend(top, [b"d"] * 4_097)
    with snapstore.init(place / "store") as store:
        created = store.create(top)
        assert created.partial and created.snapshot is not None
        assert [path for path, _ in created.unreadable] == [os.fsencode(top) + b"/d" * 4_097]
        assert store.restore(created.snapshot.id, target=place / "out").problems == []
    assert (ascend(place / "out"), ascend(top)) == (4_096, 4_097)


def descend(top: Path, names: list[bytes]) -> None:
    """Makes directories within each other, and a file in the innermost."""
    handle = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)


def ascend(top: Path) -> int:
    """Removes directories `d` within each other below `top`, and says how many they were. (What
    removes trees otherwise takes quadratic time for this.)
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    handles = [os.open(top, os.O_RDONLY)]
    while "d" in os.listdir(handles[-1]):
        handles.append(os.open("d", os.O_RDONLY, dir_fd=handles[-1]))
    count = len(handles) - 1
    if os.listdir(handles[-1]):
        os.unlink("file", dir_fd=handles[-1])
    while len(handles) > 1:
        os.close(handles.pop())
        os.rmdir("d", dir_fd=handles[-1])
    os.close(handles.pop())
    return count


def test_types(top: Path, place: Path) -> None:
    (top / "file").touch()
    (top / "directory").mkdir()
    (top / "link").symlink_to("file")
    os.mkfifo(top / "fifo")
    assert_kept(top, place)


@pytest.mark.needs("mknod")
def test_types_device_nodes(top: Path, place: Path) -> None:
    for name, kind in (("null", stat.S_IFCHR), ("disk", stat.S_IFBLK)):
        os.mknod(top / name, kind | 0o640, os.makedev(1, 3))
    assert_kept(top, place)


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo"])
def test_types_as_a_root(top: Path, place: Path, kind: str) -> None:
    """A root need not be a directory; it is restored under its name."""
    if kind == "file":
        (top / "root").write_bytes(noise(10_000, 1))
    elif kind == "symlink":
        (top / "root").symlink_to("nowhere")
    else:
        os.mkfifo(top / "root")
    with snapstore.init(place / "store") as store:
        created = store.create(top / "root")
        (place / "out").mkdir()
        assert store.restore("latest", target=place / "out").problems == []
        again = store.create(place / "out/root")
    assert_same(scan(top / "root"), scan(place / "out/root"))
    assert created.snapshot is not None and again.snapshot is not None
    assert created.snapshot.roots[0].id == again.snapshot.roots[0].id


def test_sockets_are_skipped_counted_and_reported(top: Path, place: Path) -> None:
    (top / "file").touch()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(top / "socket"))
        kept = keep(top, place)
    assert set(kept.after) == {b"", b"file"}
    assert (kept.created.sockets, kept.created.partial) == (1, False)
    assert kept.snapshot.skipped["sockets"] == 1


def test_permissions(top: Path, place: Path) -> None:
    always = 0 if os.geteuid() == 0 else 0o400
    for mode in (*range(0, 0o1000, 0o37), 0o777, *range(0o1000, 0o10000, 0o777), 0o7777):
        (top / f"file{mode:o}").touch()
        (top / f"file{mode:o}").chmod(mode | always)
        (top / f"directory{mode:o}").mkdir()
        (top / f"directory{mode:o}").chmod(mode | always)
    assert_kept(top, place)


@pytest.mark.needs("root")
def test_owner_and_group(top: Path, place: Path) -> None:
    for number, (uid, gid) in enumerate([(0, 0), (1, 2), (65_534, 0), (123_456, 2**32 - 2)]):
        (top / f"file{number}").touch()
        (top / f"directory{number}").mkdir()
        (top / f"link{number}").symlink_to("file")
        for kind in ("file", "directory", "link"):
            os.chown(top / f"{kind}{number}", uid, gid, follow_symlinks=False)
    (top / "file1").chmod(0o6755)  # a change of owner would clear these
    kept = assert_kept(top, place)
    assert kept.snapshot.owners["users"]["0"] == "root"
    assert "123456" not in kept.snapshot.owners["users"]


TIMES = [0, 1, -1, -1_500_000_001, 999_999_999, 1_700_000_000_123_456_789, 2**33 * 10**9 + 1]


def test_time_of_modification(top: Path, place: Path) -> None:
    for time_ns in TIMES:
        (top / f"file{time_ns}").touch()
        (top / f"directory{time_ns}").mkdir()
        (top / f"directory{time_ns}/inside").touch()
        (top / f"link{time_ns}").symlink_to("x")
        os.mkfifo(top / f"fifo{time_ns}")
        for kind in ("file", "directory", "link", "fifo"):
            os.utime(top / f"{kind}{time_ns}", ns=(0, time_ns), follow_symlinks=False)
    os.utime(top, ns=(0, -5))
    kept = assert_kept(top, place)
    assert {fact.mtime_ns for fact in kept.after.values()} > {*TIMES, -5}


def test_time_of_access_is_not_kept(top: Path, place: Path) -> None:
    (top / "file").write_bytes(b"1")
    os.utime(top / "file", ns=(10**18, 10**18))
    with snapstore.init(place / "store") as store:
        first = store.create(top).snapshot
        os.utime(top / "file", ns=(2 * 10**18, 10**18))
        second = store.create(top).snapshot
        store.restore("latest", target=place / "out")
    assert first is not None and second is not None
    assert first.roots == second.roots
    assert (place / "out/file").stat().st_atime_ns not in (10**18, 2 * 10**18)


def test_times_of_change_and_birth_are_not_kept(top: Path, place: Path) -> None:
    (top / "file").write_bytes(b"1")
    os.utime(top / "file", ns=(0, 10**18))
    kept = assert_kept(top, place)
    assert (kept.out / "file").stat().st_ctime_ns > (top / "file").stat().st_ctime_ns


def test_inode_and_device_numbers_are_not_kept(top: Path, place: Path, require: Require) -> None:
    (top / "directory").mkdir()
    (top / "directory/file").write_bytes(b"1")
    with file_system(require, place, "ext4") as other, snapstore.init(place / "store") as store:
        copy(top, other / "copy")
        assert (other / "copy").stat().st_dev != top.stat().st_dev
        snapshots = [store.create(path).snapshot for path in (top, other / "copy")]
    assert len({snapshot.roots[0].id for snapshot in snapshots if snapshot}) == 1


def test_hard_links(top: Path, place: Path) -> None:
    (top / "a/b").mkdir(parents=True)
    (top / "c").mkdir()
    (top / "c/first").write_bytes(noise(100_000, 1))
    for name in ("a/b/second", "a/third", "zz"):
        os.link(top / "c/first", top / name)
    (top / "symlink").symlink_to("c")
    os.link(top / "symlink", top / "a/symlink", follow_symlinks=False)
    os.mkfifo(top / "fifo")
    os.link(top / "fifo", top / "c/fifo")
    kept = assert_kept(top, place)
    assert kept.after[b"zz"].group == b"a/b/second"
    assert (kept.out / "zz").stat().st_nlink == 4


def test_hard_links_into_what_is_not_taken(top: Path, place: Path) -> None:
    (top / "file").write_bytes(noise(1_000, 1))
    os.link(top / "file", place / "outside")
    kept = assert_kept(top, place)
    assert (kept.out / "file").stat().st_nlink == 1


def test_hard_links_between_two_roots_become_two_files(place: Path) -> None:
    for name in ("one", "two"):
        (place / name).mkdir()
    (place / "one/file").write_bytes(b"1" * 1_000)
    os.link(place / "one/file", place / "two/file")
    with snapstore.init(place / "store") as store:
        store.create(place / "one", place / "two")
        assert store.restore("latest", target=place / "out").success
    restored = [Path(f"{place}/out{place}/{name}/file") for name in ("one", "two")]
    assert [path.read_bytes() for path in restored] == [b"1" * 1_000] * 2
    assert [path.stat().st_nlink for path in restored] == [1, 1]


def test_target_of_a_symbolic_link(top: Path, place: Path) -> None:
    targets = [b"x", b"/", b"..", b"../../../etc/passwd", b"t" * 4_095, b"\xff\n ", b"a//b/./"]
    for number, target in enumerate(targets):
        os.symlink(target, os.fsencode(top / str(number)))
    (top / "directory").mkdir()
    (top / "directory/file").touch()
    (top / "to directory").symlink_to("directory")
    kept = assert_kept(top, place)
    assert [kept.after[b"%d" % number].target for number in range(len(targets))] == targets
    assert b"to directory/file" not in kept.after


@pytest.mark.needs("mknod")
def test_numbers_of_a_device_node(top: Path, place: Path) -> None:
    numbers = [(0, 0), (1, 3), (8, 17), (259, 2**20 - 1), (2**12 - 1, 2**20 - 1)]
    for major, minor in numbers:
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            os.mknod(top / f"{kind}-{major}-{minor}", kind, os.makedev(major, minor))
    kept = assert_kept(top, place)
    assert {fact.device for fact in kept.after.values()} == {None, *numbers}


@pytest.mark.needs("xattr")
def test_user_attributes(top: Path, place: Path) -> None:
    (top / "file").touch()
    (top / "directory").mkdir()
    for name in ("file", "directory"):
        os.setxattr(top / name, "user.empty", b"")
        os.setxattr(top / name, b"user.\xff" + b"n" * 200, b"\0\xff")
        os.setxattr(top / name, "user.long", noise(2_500, 1))
    assert_kept(top, place)


def test_user_attributes_as_large_as_linux_has_them(
    top: Path, place: Path, require: Require
) -> None:
    with file_system(require, place, "xfs") as mounted:
        (mounted / "top").mkdir()
        for name in ("file", "directory"):
            path = mounted / "top" / name
            path.mkdir() if name == "directory" else path.touch()
            for number in range(10):
                os.setxattr(path, f"user.{number}", noise(65_536 - number, number))
        assert_kept(mounted / "top", mounted)


@pytest.mark.needs("root", "xattr")
def test_trusted_and_security_attributes(top: Path, place: Path) -> None:
    (top / "file").touch()
    (top / "directory").mkdir()
    (top / "link").symlink_to("x")
    os.mkfifo(top / "fifo")
    for name in ("file", "directory", "link", "fifo"):
        for attribute in ("trusted.a", "security.a"):
            os.setxattr(top / name, attribute, b"\0value", follow_symlinks=False)
    kept = assert_kept(top, place)
    assert kept.after[b"link"].xattrs[b"trusted.a"] == b"\0value"


def test_attributes_of_other_kinds_are_not_kept(place: Path, require: Require) -> None:
    with file_system(require, place, "btrfs") as mounted:
        (mounted / "top").mkdir()
        (mounted / "top/file").touch()
        os.setxattr(mounted / "top/file", "btrfs.compression", b"zstd")
        assert "btrfs.compression" in os.listxattr(mounted / "top/file")
        kept = assert_kept_but_for(mounted / "top", mounted, ["xattrs"])
        assert os.listxattr(kept.out / "file") == []


def assert_kept_but_for(top: Path, place: Path, ignore: list[str]) -> Kept:
    """That all comes back but these attributes, and nothing is complained of."""
    kept = keep(top, place)
    assert (kept.created.unreadable, kept.restored.problems) == ([], [])
    assert_same(kept.before, kept.after, ignore=ignore)
    return kept


@pytest.mark.needs("setfacl", "getfacl")
def test_posix_acls(top: Path, place: Path) -> None:
    (top / "file").touch()
    (top / "directory/inside").mkdir(parents=True)
    (top / "directory/file").touch()
    run("setfacl", "-m", "u:1000:rwx,g:65534:r,m::rx", top / "file")
    run("setfacl", "-m", "u:1000:rwx,d:u:1000:rx,d:o::-", top / "directory")
    kept = assert_kept(top, place)
    listed = [run("getfacl", "-npR", path).replace(str(path), "") for path in (top, kept.out)]
    shown = [sorted(text.split("\n\n")) for text in listed]  # -R goes in the directory's own order
    assert shown[0] == shown[1]
    assert "default:user:1000:r-x" in listed[0]


@pytest.mark.needs("root", "setcap", "getcap")
def test_file_capabilities(top: Path, place: Path) -> None:
    (top / "tool").write_bytes(b"#!")
    os.chown(top / "tool", 1, 1)  # a change of owner would clear them
    run("setcap", "cap_net_raw,cap_net_admin+ep", top / "tool")
    kept = assert_kept(top, place)
    assert "cap_net_raw" in run("getcap", kept.out / "tool")
    assert b"security.capability" in kept.after[b"tool"].xattrs


@pytest.mark.needs("root", "chattr", "lsattr")
def test_inode_flags_are_not_kept(place: Path, require: Require) -> None:
    with file_system(require, place, "ext4") as mounted:
        (mounted / "top").mkdir()
        for name, flag in (("immutable", "+i"), ("append", "+a"), ("nodump", "+d")):
            (mounted / "top" / name).write_bytes(b"1")
            run("chattr", flag, mounted / "top" / name)
        kept = assert_kept(mounted / "top", mounted)
        for line in run("lsattr", kept.out).splitlines():
            assert not set(line.split()[0]) & set("iad"), line


@pytest.mark.needs("root", "chattr", "lsattr")
def test_project_id_is_not_kept(place: Path, require: Require) -> None:
    with file_system(require, place, "xfs") as mounted:
        (mounted / "top").mkdir()
        (mounted / "top/file").touch()
        run("chattr", "-p", "42", mounted / "top/file")
        kept = assert_kept(mounted / "top", mounted)
        assert run("lsattr", "-p", mounted / "top").split()[0] == "42"
        assert run("lsattr", "-p", kept.out).split()[0] == "0"


def test_compression_of_the_file_system_is_not_kept(place: Path, require: Require) -> None:
    compressed = "loop,compress-force=zstd"
    with file_system(require, place, "btrfs", options=compressed) as mounted:
        (mounted / "file").write_bytes(b"text" * 100_000)
        os.sync()
        with snapstore.init(place / "store") as store:
            store.create(mounted)
            assert store.restore("latest", target=place / "out").success
        assert_same(scan(mounted), scan(place / "out"))


def test_shared_extents_are_not_kept(place: Path, require: Require) -> None:
    with file_system(require, place, "btrfs") as mounted:
        (mounted / "top").mkdir()
        (mounted / "top/one").write_bytes(noise(4 << 20, 1))
        run("cp", "--reflink=always", mounted / "top/one", mounted / "top/two")
        kept = assert_kept(mounted / "top", mounted)
        assert kept.created.new_bytes < 5 << 20
        os.sync()
        shown = run("filefrag", "-v", kept.out / "one", kept.out / "two")
        assert "shared" not in shown


def test_subvolumes(place: Path, require: Require) -> None:
    require("btrfs")
    with file_system(require, place, "btrfs") as mounted:
        (mounted / "top").mkdir()
        run("btrfs", "subvolume", "create", mounted / "top/inner")
        (mounted / "top/inner/file").write_bytes(b"1")
        with snapstore.init(place / "store") as store:
            whole = store.create(mounted / "top")
            own = store.create(mounted / "top", one_file_system=True)
            store.restore("latest~1", target=place / "whole")
            store.restore("latest", target=place / "own")
        assert_same(scan(mounted / "top"), scan(place / "whole"))
        assert (whole.mounts, own.mounts) == (0, 1)
        assert set(scan(place / "own")) == {b"", b"inner"}


@pytest.mark.needs("mount")
def test_mount_points(top: Path, place: Path) -> None:
    (top / "mounted").mkdir()
    (top / "file").touch()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "none", top / "mounted")
    try:
        (top / "mounted/inside").write_bytes(b"1")
        with snapstore.init(place / "store") as store:
            whole, own = store.create(top), store.create(top, one_file_system=True)
            store.restore("latest~1", target=place / "whole")
            store.restore("latest", target=place / "own")
        assert_same(scan(top), scan(place / "whole"))
        assert (whole.mounts, own.mounts) == (0, 1)
        assert set(scan(place / "own")) == {b"", b"file", b"mounted"}
        with snapstore.open(place / "store") as store:  # what is named is taken wherever it is
            inside = {"listed": [top / "mounted/inside", top / "file"], "one_file_system": True}
            assert store.create(**inside).files == 2
            assert store.explain(top / "mounted/inside", **inside).reason == "named"
            said = store.explain(top / "mounted/inside", top, one_file_system=True)
            assert (said.reason, said.decided_at) == ("mount", bytes(top / "mounted"))
    finally:
        run("umount", top / "mounted")


@pytest.mark.needs("loop")
def test_block_device_given_as_an_image(place: Path) -> None:
    image = place / "disk.image"
    image.write_bytes(noise(3 << 20, 1) + bytes(1 << 20) + noise(PAGE, 2))
    device = Path(run("losetup", "--find", "--show", image).strip())
    try:
        with snapstore.init(place / "store") as store:
            first = store.create(images=[device])
            second = store.create(image)
            assert b"".join(store.read(str(first.snapshot and first.snapshot.id), bytes(device)))
            (place / "out").mkdir()
            assert store.restore("latest~1", target=place / "out").success
    finally:
        run("losetup", "--detach", device)
    assert (place / "out" / device.name).read_bytes() == image.read_bytes()
    assert first.snapshot is not None and first.snapshot.roots[0].kind == "image"
    assert first.new_bytes > 3 << 20
    assert second.new_bytes < 10_000  # the image is what the device was


def test_a_device_node_in_a_tree_is_a_node(top: Path, place: Path, require: Require) -> None:
    require("mknod")
    os.mknod(top / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # reading it would never end
    kept = assert_kept(top, place)
    assert kept.created.read_bytes == 0


# Below the table


def test_what_cannot_be_read_is_listed_and_the_snapshot_is_partial(
    place: Path, require: Require
) -> None:
    require_python_for_all(require)
    top = place / "top"
    top.mkdir()
    for name in ("readable", "unreadable"):
        (top / name).write_bytes(b"1")
        (top / f"{name} directory").mkdir()
        (top / f"{name} directory/inside").touch()
    (top / "unreadable").chmod(0)
    (top / "unreadable directory").chmod(0)
    if os.geteuid() == 0:
        os.chown(place, USER, USER)
        run("chown", "-R", f"{USER}:{USER}", top)
    script = (
        "import sys, snapstore\n"
        "with snapstore.init(sys.argv[1]) as store:\n"
        "    result = store.create(sys.argv[2])\n"
        "    store.restore(result.snapshot.id, target=sys.argv[3])\n"
        "    print(sorted(path for path, why in result.snapshot.unreadable), result.partial)\n"
        "    print(sorted({why for path, why in result.snapshot.unreadable}))\n"
    )
    arguments = [str(place / name) for name in ("store", "top", "out")]
    said = as_user(sys.executable, "-c", script, *arguments)
    assert said.returncode == 0, said.stderr
    listed = [os.fsencode(top / name) for name in ("unreadable", "unreadable directory")]
    first, second = said.stdout.splitlines()
    assert first == f"{listed} True"
    assert "denied" in second
    assert set(scan(place / "out")) >= {b"readable", b"readable directory/inside"}


# The table as a whole

TESTS = {
    "content": test_content,
    "holes of sparse files": test_holes_of_sparse_files,
    "preallocated, unwritten space": test_preallocated_space,
    "name": test_name,
    "order of the names in a directory": test_order_of_names_is_not_kept,
    "path": test_path_as_deep_as_the_format_allows,
    "type: regular file, directory, symbolic link, FIFO, character and block device": test_types,
    "type: socket": test_sockets_are_skipped_counted_and_reported,
    "permissions": test_permissions,
    "owner and group": test_owner_and_group,
    "time of modification": test_time_of_modification,
    "time of access": test_time_of_access_is_not_kept,
    "time of change (ctime), of birth": test_times_of_change_and_birth_are_not_kept,
    "inode number, device number of the file system": test_inode_and_device_numbers_are_not_kept,
    "hard links": test_hard_links,
    "target of a symbolic link": test_target_of_a_symbolic_link,
    "numbers of a device node": test_numbers_of_a_device_node,
    "extended attributes, `user.*`": test_user_attributes,
    "extended attributes, `trusted.*`, `security.*` (SELinux, IMA)": (
        test_trusted_and_security_attributes
    ),
    "extended attributes of other kinds (`btrfs.*`, `system.nfs4_acl`)": (
        test_attributes_of_other_kinds_are_not_kept
    ),
    "POSIX ACLs, default ACLs": test_posix_acls,
    "file capabilities": test_file_capabilities,
    "inode flags (`chattr`: immutable, append-only, no-dump, …)": test_inode_flags_are_not_kept,
    "project id, quotas": test_project_id_is_not_kept,
    "compression, encryption, verity of the file system": (
        test_compression_of_the_file_system_is_not_kept
    ),
    "shared extents (reflinks)": test_shared_extents_are_not_kept,
    "subvolumes (Btrfs)": test_subvolumes,
    "mount points": test_mount_points,
    "block device, given with `--image`": test_block_device_given_as_an_image,
}


def test_every_line_of_the_page_has_a_test() -> None:
    page = Path(__file__).parents[2] / "docs" / "what-is-kept.md"
    lines = re.findall(r"^\| (.+?) \|", page.read_text(), re.MULTILINE)
    assert lines == ["attribute", *TESTS]
