"""What compares trees sees every kind of difference: each fault of a restore is sown."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import snapstore
from tree_scan import assert_same, scan

ACL = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x05\0\0\0"
ACL += b"\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff \0\0\0\xff\xff\xff\xff"


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tree, and what was restored of it."""
    place = tmp_path_factory.mktemp("mutants")
    top = place / "top"
    (top / "d").mkdir(parents=True)
    (top / "f").write_bytes(b"content")
    (top / "g").write_bytes(b"content")
    os.link(top / "g", top / "h")
    (top / "l").symlink_to("f")
    os.mkfifo(top / "p")
    os.mknod(top / "n", 0o20600, os.makedev(1, 3))
    os.setxattr(top / "f", "user.one", b"1")
    os.setxattr(top / "f", "system.posix_acl_access", ACL)
    with open(top / "s", "wb") as sparse:
        sparse.truncate(1 << 20)
    with snapstore.init(place / "store") as store:
        store.create(top, name="one")
        store.restore(f"one:{top}", target=place / "out")
    assert_same(scan(top), scan(place / "out"))
    return top, place / "out"


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    times = os.stat(path.parent)
    path.unlink()
    make(path)
    os.utime(path.parent, ns=(times.st_atime_ns, times.st_mtime_ns))


def _fill(path: Path) -> None:
    times = path.stat()
    path.write_bytes(bytes(1 << 20))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


MUTANTS: dict[str, Callable[[Path], object]] = {
    "mode": lambda out: (out / "f").chmod(0o601),
    "owner": lambda out: os.chown(out / "d", 7, -1),
    "group of a link": lambda out: os.chown(out / "l", -1, 7, follow_symlinks=False),
    "a nanosecond": lambda out: os.utime(out / "f", ns=(0, (out / "f").stat().st_mtime_ns + 1)),
    "time of a directory": lambda out: os.utime(out / "d", ns=(0, 1)),
    "attribute gone": lambda out: os.removexattr(out / "f", "user.one"),
    "attribute more": lambda out: os.setxattr(out / "d", "user.two", b""),
    "list gone": lambda out: os.removexattr(out / "f", "system.posix_acl_access"),
    "link broken": lambda out: _replace(out / "h", lambda path: shutil.copy2(out / "g", path)),
    "target of a link": lambda out: _replace(out / "l", lambda path: path.symlink_to("g")),
    "device": lambda out: _replace(out / "n", lambda p: os.mknod(p, 0o20600, os.makedev(1, 5))),
    "hole filled": lambda out: _fill(out / "s"),
    "content": lambda out: (out / "f").write_bytes(b"Content"),
    "entry gone": lambda out: (out / "p").unlink(),
    "entry more": lambda out: (out / "more").touch(),
}


@pytest.mark.needs("root", "xattr", "holes", "mknod")
@pytest.mark.parametrize("fault", MUTANTS)
def test_each_sown_fault_is_seen(restored: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
    top, out = restored
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", "--sparse=always", out, copy], check=True)
    assert_same(scan(top), scan(copy))
    MUTANTS[fault](copy)
    with pytest.raises(AssertionError):
        assert_same(scan(top), scan(copy))
