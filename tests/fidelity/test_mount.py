"""What a mount shows is what was taken: every attribute, every byte; and how it comes and goes."""

import errno
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from kept_trees import Require, as_user, file_system, public_place, run

import snapstore
from snapstore import MountRefused, Store
from tree_plans import Part, Plan, build, noise, plans, write_file
from tree_scan import assert_same, scan

pytestmark = pytest.mark.needs("fuse", "fusermount3")
PAGE = 4096
PATIENCE_S = 10.0


class Place:
    """A store, and all its snapshots mounted."""

    def __init__(self, store: Store, path: Path, mounted: Path) -> None:
        self.store, self.path, self.mounted = store, path, mounted

    def take(self, top: Path, **options: object) -> Path:
        """Takes a tree; where it is in the mount."""
        snapshot = self.store.create(top, **options).snapshot  # type: ignore[arg-type]
        assert snapshot is not None
        return self.inside(snapshot.id, top)

    def inside(self, id: str, top: Path) -> Path:
        return self.mounted / "by-id" / id / str(top).lstrip("/")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with public_place() as path:
        (path / "mnt").mkdir()
        with (
            snapstore.init(path / "store") as store,
            store.mounted(path / "mnt", allow_other=True) as mounted,
        ):
            yield Place(store, path, mounted)


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


# Exact


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(plans())
def test_any_tree(place: Place, tree: list[Plan]) -> None:
    with public_place() as path:
        top = path / "top"
        build(os.fsencode(top), tree)
        before = scan(top)
        inside = place.take(top)
        assert_same(before, scan(inside))
        check_numbers(top, inside)


def check_numbers(top: Path, inside: Path) -> None:
    """Links, blocks and inode numbers of all that is in a tree."""
    numbers: dict[int, tuple[int, int]] = {}
    for live in [top, *top.rglob("*")]:
        was = live.lstat()
        now = (inside / live.relative_to(top)).lstat()
        if not stat.S_ISDIR(was.st_mode):
            assert now.st_nlink == links_within(top, was), live
        else:
            inner = [one for one in live.iterdir() if stat.S_ISDIR(one.lstat().st_mode)]
            assert now.st_nlink == 2 + len(inner), live
        assert numbers.setdefault(now.st_ino, (was.st_dev, was.st_ino)) == (was.st_dev, was.st_ino)
        assert now.st_ctime_ns == now.st_mtime_ns == was.st_mtime_ns
    assert len(set(numbers.values())) == len(numbers)


def links_within(top: Path, was: os.stat_result) -> int:
    """Names of a file in the tree: those outside it were not taken."""
    if was.st_nlink == 1:
        return 1
    return sum(os.path.samestat(other.lstat(), was) for other in top.rglob("*"))


def test_numbers_stay_when_it_is_mounted_again(place: Place, tmp_path: Path) -> None:
    (tmp_path / "top/d").mkdir(parents=True)
    (tmp_path / "top/d/f").write_text("f")
    os.link(tmp_path / "top/d/f", tmp_path / "top/a")
    inside = place.take(tmp_path / "top")
    (tmp_path / "mnt").mkdir()
    with place.store.mounted(tmp_path / "mnt") as again:
        other = again / inside.relative_to(place.mounted)
        for name in ("", "d", "d/f", "a"):
            assert (inside / name).lstat().st_ino == (other / name).lstat().st_ino
    assert (inside / "a").lstat().st_ino == (inside / "d/f").lstat().st_ino
    second = place.take(tmp_path / "top", name="same again")
    assert (second / "a").lstat().st_ino != (inside / "a").lstat().st_ino


@pytest.mark.needs("holes")
def test_sparse_files_take_what_they_hold(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
        for offset in (0, 1 << 30, (1 << 40) - PAGE):
            os.pwrite(file.fileno(), b"x" * PAGE, offset)
    inside = place.take(path)
    assert inside.stat().st_size == 1 << 40
    assert inside.stat().st_blocks == 3 * PAGE // 512
    with open(inside, "rb") as file:
        assert os.pread(file.fileno(), 3, (1 << 30) - 1) == b"\0xx"
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
        assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == PAGE
        assert os.lseek(file.fileno(), PAGE, os.SEEK_DATA) == 1 << 30
        with pytest.raises(OSError) as caught:
            os.lseek(file.fileno(), 1 << 40, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO


def test_a_large_directory(place: Place, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    names = {f"name-{number:07}" for number in range(12_000)}
    for name in names:
        (top / name).touch()
    (top / "inner").mkdir()
    inside = place.take(top)
    assert set(os.listdir(inside)) == names | {"inner"}
    assert inside.stat().st_nlink == 1  # not counted
    assert (inside / "name-0011999").stat().st_size == 0
    with pytest.raises(FileNotFoundError):
        (inside / "name-0012000").stat()
    with os.scandir(inside) as entries:
        assert sum(1 for _ in entries) == len(names) + 1


def test_programs_see_the_same(require: Require, place: Place) -> None:
    require("tar", "cp", "find", "grep")
    with public_place() as path:
        top = path / "top"
        (top / "a/b").mkdir(parents=True)
        for number in range(30):
            (top / f"a/b/f{number}").write_bytes(noise(number * 5_000, number))
        (top / "text").write_text("one\nneedle\n")
        (top / "link").symlink_to("a/b")
        inside = place.take(top)
        run("cp", "--archive", inside, path / "copy")
        assert_same(scan(top), scan(path / "copy"))
        done = subprocess.run(["grep", "-rl", "needle", inside], capture_output=True, text=True)
        assert done.stdout.split() == [str(inside / "text")]
        find = ["-type", "f,l", "-printf", "%P %s %m %n %l\n"]
        assert sorted(run("find", top, *find).split("\n")) == sorted(
            run("find", inside, *find).split("\n")
        )
        archive = subprocess.run(["tar", "c", "-C", inside, "."], capture_output=True, check=True)
        (path / "untarred").mkdir()
        subprocess.run(["tar", "x", "-C", path / "untarred"], input=archive.stdout, check=True)
        assert (path / "untarred/text").read_text() == "one\nneedle\n"
        with open(inside / "a/b/f29", "rb") as file, open(path / "sent", "wb") as sent:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            assert mapped[:] == noise(29 * 5_000, 29)
            mapped.close()
            assert os.sendfile(sent.fileno(), file.fileno(), 0, 1 << 20) == 29 * 5_000


def test_reads_at_any_place_by_many_at_once(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "large"
    parts = [Part("noise", 3 << 20, 1), Part("hole", 1 << 20), Part("text", 5 << 20, 2)]
    write_file(os.fsencode(path), parts)
    content = path.read_bytes()
    inside = place.take(path)
    failed: list[tuple[int, int]] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        with open(inside, "rb", buffering=0) as file:
            for _ in range(150):
                offset = chance.randrange(len(content) + PAGE)
                length = chance.choice([1, 100, PAGE, 70_000, 1 << 20])
                if os.pread(file.fileno(), length, offset) != content[offset : offset + length]:
                    failed.append((offset, length))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_nothing_can_be_changed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    inside = place.take(tmp_path / "f")
    tries: list[Callable[[], object]] = [
        lambda: inside.write_text("g"),
        inside.unlink,
        lambda: inside.chmod(0o777),
        lambda: os.utime(inside),
        lambda: os.truncate(inside, 0),
        lambda: os.setxattr(inside, "user.a", b"b"),
        lambda: inside.rename(inside.with_name("g")),
        lambda: inside.with_name("d").mkdir(),
        lambda: os.symlink("a", inside.with_name("l")),
        lambda: os.link(inside, inside.with_name("h")),
        lambda: (place.mounted / "new").mkdir(),
    ]
    for attempt in tries:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


def test_what_the_mount_tells_of_itself(place: Place, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(noise(300_000, 3))
    inside = place.take(tmp_path / "f")
    snapshot = place.store.get("latest")
    assert os.getxattr(inside, "user.snap.snapshot").decode() == snapshot.id
    assert os.getxattr(inside, "user.snap.root").decode() == snapshot.roots[0].id
    lines = os.getxattr(inside, "user.snap.chunks").decode().splitlines()
    assert sum(int(line.split()[1]) for line in lines) == 300_000
    assert os.listxattr(inside) == []
    status = os.statvfs(place.mounted)
    assert (status.f_namemax, status.f_bavail) == (255, 0)
    assert status.f_flag & os.ST_RDONLY and status.f_flag & os.ST_NOSUID


# Names


def test_the_names_of_snapshots(place: Place, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_text("1")
    at = "2020-02-03T04:05:06"
    first = place.take(top, name="n/1", tags=["t1", "t2"], host="some", time=f"{at}Z", source="s/x")
    id = first.relative_to(place.mounted).parts[1]
    local = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(1580702706))
    eventually(lambda: (place.mounted / "by-name/n%2F1").exists())
    for path in (
        "by-name/n%2F1",
        f"by-time/{local}",
        f"by-tag/t1/{local}",
        f"by-tag/t2/{local}",
        f"by-host/some/{local}",
        "by-host/some/latest",
        f"by-source/s/x/{local}",
        f"by-id/{id[:12]}",
    ):
        link = place.mounted / path
        assert link.is_symlink() and (link / str(top).lstrip("/") / "f").read_text() == "1", path
        assert link.resolve().name == id
    place.take(top, host="some", time=f"{at}Z", source="s/x")
    names = [local, f"{local}-1", "latest"]
    eventually(lambda: sorted(os.listdir(place.mounted / "by-host/some")) == names)
    third = place.take(top, name="n/1", host="some", time="2020-02-04T00:00:00Z")
    third_id = third.relative_to(place.mounted).parts[1]
    eventually(lambda: (place.mounted / "by-name/n%2F1").resolve().name == third_id)
    assert (place.mounted / "by-host/some/latest").resolve().name == third_id
    assert {id, third_id} <= set(os.listdir(place.mounted / "by-id"))


def test_latest_and_a_root_by_its_own_name(place: Place, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"image")
    place.take(tmp_path / "disk.img")
    latest = place.mounted / "latest"
    eventually(lambda: (latest / "disk.img").exists())
    assert (latest / "disk.img").read_bytes() == b"image"
    assert "disk.img" not in os.listdir(latest)
    place.take(tmp_path, name="newer")
    eventually(lambda: not (latest / "disk.img").exists())


def test_versions_of_a_directory_that_never_held_anything(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    place.take(tmp_path)
    versions = place.mounted / f"versions{tmp_path}"
    eventually(versions.is_dir)
    assert os.listdir(versions) == ["empty"]
    assert os.listdir(versions / "empty") == []


def test_versions(place: Place, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    path = top / "d/f"
    versions = place.mounted / f"versions{path}"
    for number, text in enumerate(["one", "two", "two", "one"]):
        path.write_text(text)
        os.utime(path, ns=(0, len(text) + ord(text[0])))
        place.take(top, time=f"2021-01-0{number + 1}T00:00:00Z")
    (top / "d/other").touch()
    place.take(top, time="2021-01-06T00:00:00Z")
    eventually(lambda: "other" in os.listdir(versions.parent))
    assert sorted(os.listdir(versions.parent)) == ["f", "other"]
    assert [(versions / name).read_text() for name in sorted(os.listdir(versions))] == [
        "one",
        "two",
    ]
    path.unlink()
    path.mkdir()
    (path / "inner").write_text("inner")
    place.take(top, time="2021-01-07T00:00:00Z")
    eventually(lambda: "inner" in os.listdir(versions))
    assert len(os.listdir(versions)) == 3


def test_snapshots_come_and_go(place: Place, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    inside = place.take(tmp_path / "f", name="passing")
    id = inside.relative_to(place.mounted).parts[1]
    assert inside.read_text() == "f"
    eventually(lambda: (place.mounted / "by-name/passing").exists())
    (place.path / "store/snap" / id).unlink()
    eventually(lambda: not os.path.lexists(place.mounted / "by-name/passing"))
    assert id not in os.listdir(place.mounted / "by-id")
    eventually(lambda: not os.path.lexists(place.mounted / "by-id" / id))


def test_one_snapshot_and_a_path_in_it(place: Place, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_text("f")
    place.take(top, name="single")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with place.store.mounted(mnt, "single"):
        assert_same(scan(top), scan(mnt / str(top).lstrip("/")))
    with place.store.mounted(mnt, f"single:{top}/d"):
        assert_same(scan(top / "d"), scan(mnt))
        assert mnt.stat().st_ino == mnt.lstat().st_ino
    assert os.listdir(mnt) == []
    with pytest.raises(snapstore.PathNotFound):
        place.store.mounted(mnt, f"single:{top}/none").__enter__()
    with pytest.raises(snapstore.InvalidArgument):
        place.store.mounted(mnt, f"single:{top}/d/f").__enter__()


def test_only_some_paths_and_another_owner(place: Place, tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in ("in/deep", "out", "in2"):
        (top / name).mkdir(parents=True)
        (top / name / "f").write_text(name)
    place.take(top, name="partly")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    only = [top / "in/deep", top / "in2/f"]
    with place.store.mounted(mnt, f"partly:{top}", only=only, uid=12, gid=34):
        found = sorted(str(path.relative_to(mnt)) for path in mnt.rglob("*"))
        assert found == ["in", "in/deep", "in/deep/f", "in2", "in2/f"]
        assert not (mnt / "out").exists()
        assert {(path.stat().st_uid, path.stat().st_gid) for path in mnt.rglob("*")} == {(12, 34)}


def test_a_root_below_makes_another_version(place: Place, tmp_path: Path) -> None:
    """A directory is not the same in two snapshots when a root stands in it in one of them only."""
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/f").write_text("f")
    place.store.create(tmp_path / "a", exclude=["/b/*"])
    place.store.create(tmp_path / "a", tmp_path / "a/b/c", exclude=["/b/*"])
    versions = place.mounted / f"versions{tmp_path}/a/b"
    eventually(lambda: os.path.isdir(versions / "c"))
    assert os.listdir(versions) == ["c"]


def test_a_filtered_root_is_found_by_its_own_name(place: Place, tmp_path: Path) -> None:
    for name in ("one.img", "two.img"):
        (tmp_path / name).write_text(name)
    place.store.create(tmp_path / "one.img", tmp_path / "two.img", name="images")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with place.store.mounted(mnt, "images", only=[tmp_path / "one.img"]):
        assert (mnt / "one.img").read_text() == "one.img"
        assert not os.path.lexists(mnt / "two.img")


def test_roots_in_roots_are_where_they_stood(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/f").write_text("f")
    (tmp_path / "a/x").write_text("x")
    (tmp_path / "z").write_text("z")
    snapshot = place.store.create(
        tmp_path / "a", tmp_path / "a/b/c", tmp_path / "z", exclude=["/b"]
    ).snapshot
    assert snapshot is not None
    inside = place.inside(snapshot.id, tmp_path)
    found = sorted(str(path.relative_to(inside)) for path in inside.rglob("*"))
    assert found == ["a", "a/b", "a/b/c", "a/b/c/f", "a/x", "z"]
    assert (inside / "a/b/c/f").read_text() == "f"
    assert (inside / "a").stat().st_nlink == 3


# Who may


@pytest.mark.needs("root", "setpriv")
def test_modes_and_lists_are_heeded(place: Place) -> None:
    with public_place() as path:
        (path / "secret").write_text("secret")
        (path / "secret").chmod(0o600)
        (path / "public").write_text("public")
        inside = place.take(path)
        assert as_user("cat", inside / "public").stdout == "public"
        assert "Permission denied" in as_user("cat", inside / "secret").stderr


# Coming and going


def serve(store: Path, mountpoint: Path, *more: str) -> subprocess.Popen[bytes]:
    snap = Path(sys.executable).with_name("snap")
    command = [snap, "-s", store, "mount", mountpoint, *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    eventually(lambda: os.path.ismount(mountpoint) or process.poll() is not None)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_unmount(place: Place, tmp_path: Path, number: int) -> None:
    process = serve(place.store.path, tmp_path)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
    assert not os.path.ismount(tmp_path)


def test_the_remains_of_a_killed_mount_are_cleared_away(place: Place, tmp_path: Path) -> None:
    process = serve(place.store.path, tmp_path)
    process.kill()
    process.wait()
    with pytest.raises(OSError) as caught:
        os.listdir(tmp_path)
    assert caught.value.errno == errno.ENOTCONN
    said: list[str | None] = []
    place.store.mount_in_background(tmp_path, started=said.append)
    try:
        assert said[0] is not None and "cleared away" in said[0]
        assert "by-id" in os.listdir(tmp_path)
    finally:
        snapstore.unmount(tmp_path)
    assert not os.path.ismount(tmp_path)


def test_a_busy_mount_goes_when_it_is_let_go(place: Place, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f" * 300)
    place.take(tmp_path / "f", name="busy")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    pid = place.store.mount_in_background(mnt, "busy")
    with open(mnt / str(tmp_path / "f").lstrip("/"), "rb") as file:
        with pytest.raises(MountRefused, match="busy"):
            snapstore.unmount(mnt)
        snapstore.unmount(mnt, lazy=True)
        assert not os.path.ismount(mnt)
        assert file.read() == b"f" * 300
    eventually(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_mount_does_not_outlive_its_program(place: Place, tmp_path: Path) -> None:
    code = f"""
import os, snapstore
with snapstore.open({os.fspath(place.store.path)!r}) as store:
    with store.mounted({os.fspath(tmp_path)!r}):
        os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    eventually(lambda: not os.path.ismount(tmp_path))


def test_mount_points_that_cannot_be(place: Place, tmp_path: Path) -> None:
    store = place.store
    full = tmp_path / "full"
    (full / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "file", "not a directory"),
        (full, "not empty"),
        (store.path / "snap", "in the store"),
        (store.path, "in the store"),
        (store.path.parent, "below"),
        (place.mounted, "already"),
    ):
        with pytest.raises(MountRefused, match=why):
            store.mounted(path).__enter__()
    with pytest.raises(MountRefused, match="no snapshots are mounted"):
        snapstore.unmount(full)


def test_a_store_that_is_only_read_is_mounted_without_a_lease(
    require: Require, tmp_path: Path
) -> None:
    require("loop", "mount")
    (tmp_path / "f").write_text("f")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with file_system(require, tmp_path, "ext4") as mounted:
        with snapstore.init(mounted / "store") as store:
            store.create(tmp_path / "f", name="one")
        run("mount", "-o", "remount,ro", mounted)
        with snapstore.open(mounted / "store") as store:
            assert not store.writable
            with store.mounted(mnt, "one"):
                assert (mnt / str(tmp_path / "f").lstrip("/")).read_text() == "f"


def test_creates_go_on_while_it_is_mounted(place: Place, tmp_path: Path) -> None:
    """Eight readers, while snapshots are taken: no byte is wrong."""
    path = tmp_path / "f"
    content = noise(4 << 20, 9)
    path.write_bytes(content)
    inside = place.take(path)
    stop = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not stop.is_set():
            if inside.read_bytes() != content:
                wrong.append("wrong")

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for number in range(5):
        (tmp_path / "other").write_bytes(noise(1 << 20, number))
        other = place.take(tmp_path / "other", name=f"while {number}")
        assert other.read_bytes() == noise(1 << 20, number)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_damage_is_an_error_of_its_range(place: Place, tmp_path: Path) -> None:
    store_path = tmp_path / "store"
    content = noise(6 << 20, 4)
    (tmp_path / "f").write_bytes(content)
    (tmp_path / "sound").write_text("sound")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with snapstore.init(store_path) as store:
        store.create(tmp_path / "f", tmp_path / "sound", name="one")
        pack = max(store_path.glob("data/*/*"), key=lambda path: path.stat().st_size)
    with open(pack, "r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    process = serve_reading(store_path, mnt)
    try:
        inside = mnt / str(tmp_path).lstrip("/")
        good = bad = 0
        with open(inside / "f", "rb", buffering=0) as file:
            for offset in range(0, len(content), 1 << 16):
                try:
                    data = os.pread(file.fileno(), 1 << 16, offset)
                except OSError as error:
                    assert error.errno == errno.EIO
                    bad += 1
                else:
                    assert data and data == content[offset : offset + len(data)]
                    good += 1
        assert bad and good > len(content) // (1 << 16) // 2
        assert (inside / "sound").read_text() == "sound"
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert "/f: snapshot " in said and "chunk" in said


def test_a_snapshot_that_cannot_be_read_is_an_error_until_it_can(tmp_path: Path) -> None:
    """It is not missing, neither at its place nor in a listing."""
    (tmp_path / "f").write_text("f")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with snapstore.init(tmp_path / "store") as store:
        sound = store.create(tmp_path / "f", name="sound").snapshot
        hit = store.create(tmp_path / "f", name="hit").snapshot
        assert sound is not None and hit is not None
        record = tmp_path / "store/snap" / hit.id
        was = record.read_bytes()
        record.chmod(0o600)
        record.write_bytes(was[:-1])
        with store.mounted(mnt):
            assert set(os.listdir(mnt / "by-id")) == {sound.id, hit.id}
            inside = mnt / "by-id" / hit.id / str(tmp_path).lstrip("/") / "f"
            for path in (mnt / "by-id" / hit.id, inside):
                with pytest.raises(OSError) as caught:
                    path.stat()
                assert caught.value.errno == errno.EIO
            assert os.listdir(mnt / "by-name") == ["sound"]
            record.write_bytes(was)
            eventually(lambda: can_be_read(inside))
            eventually(lambda: sorted(os.listdir(mnt / "by-name")) == ["hit", "sound"])


def can_be_read(path: Path) -> bool:
    try:
        return path.read_text() == "f"
    except OSError as error:
        assert error.errno == errno.EIO
        return False


def test_a_tree_that_cannot_be_read_is_an_error_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with snapstore.init(tmp_path / "store") as store:
        taken = store.create(tmp_path / "f").snapshot
        assert taken is not None
        packs = {path: path.read_bytes() for path in (tmp_path / "store").glob("meta/*/*")}
        with store.mounted(mnt):
            for pack in packs:
                pack.chmod(0o600)
                pack.write_bytes(bytes(pack.stat().st_size))
            inside = mnt / "by-id" / taken.id / str(tmp_path).lstrip("/") / "f"
            versions = mnt / f"versions{tmp_path}/f"
            assert not os.path.lexists(versions)
            with pytest.raises(OSError) as caught:
                inside.stat()
            assert caught.value.errno == errno.EIO
            for pack, content in packs.items():
                pack.write_bytes(content)
            assert inside.read_text() == "f"
            assert len(os.listdir(versions)) == 1


def serve_reading(store: Path, mountpoint: Path) -> subprocess.Popen[bytes]:
    snap = Path(sys.executable).with_name("snap")
    command = [snap, "-s", store, "mount", "one", mountpoint, "--cache-size", "8M"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    eventually(lambda: os.path.ismount(mountpoint))
    return process


def test_hidden_differences_would_be_seen() -> None:
    """The oracle of this file is no rubber stamp."""
    with public_place() as path:
        (path / "f").write_text("f")
        before = scan(path)
        (name,) = [one for one in before if one]
        with pytest.raises(AssertionError):
            assert_same(before, {**before, name: replace(before[name], mtime_ns=1)})


@pytest.mark.parametrize("in_background", [False, True])
def test_an_encrypted_store_is_mounted_by_who_has_it_open(
    tmp_path: Path, in_background: bool
) -> None:
    """The process that serves it gets the keys, not the password."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"secret")
    (mounted := tmp_path / "mnt").mkdir()
    kdf = snapstore.Kdf(memory_kib=8192, passes=1, lanes=1)
    with snapstore.init(tmp_path / "store", password=b"password", kdf=kdf) as store:
        store.create(tmp_path / "source", name="one")
        name = f"by-name/one{tmp_path}/source/file"
        if in_background:
            store.mount_in_background(mounted)
            assert (mounted / name).read_bytes() == b"secret"
            snapstore.unmount(mounted)
        else:
            with store.mounted(mounted):
                assert (mounted / name).read_bytes() == b"secret"
