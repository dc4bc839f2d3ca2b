"""What a tree on disk is, attribute by attribute, read with nothing of snapstore: the measure of
everything that is restored.

`scan` gives a `Fact` for each path, `differences` says in words where two trees are not the same.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from blake3 import blake3

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "blockdev",
    stat.S_IFSOCK: "socket",
}
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Fact:
    """All that is kept of one entry. `group`: the bytewise smallest path of its hard links.

    Symbolic links have no mode of their own on Linux: it always reads 0777.
    """

    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    content: str = ""
    holes: tuple[tuple[int, int], ...] = ()
    target: bytes | None = None
    device: tuple[int, int] | None = None
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    group: bytes | None = None


Facts = dict[bytes, Fact]


def scan(top: str | bytes | os.PathLike[str]) -> Facts:
    """Facts of a tree by path relative to `top`, whose own is empty. Paths may be of any length."""
    path = os.path.abspath(os.fsencode(top))
    found: dict[bytes, tuple[dict[str, Any], tuple[int, int]]] = {}
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        _scan(parent, os.path.basename(path), b"", found)
    finally:
        os.close(parent)
    groups: dict[tuple[int, int], list[bytes]] = {}
    for below, (values, inode) in found.items():
        if values["type"] != "directory":
            groups.setdefault(inode, []).append(below)
    first = {inode: min(paths) for inode, paths in groups.items() if len(paths) > 1}
    return {
        below: Fact(**values, group=first.get(inode)) for below, (values, inode) in found.items()
    }


def _scan(parent: int, name: bytes, below: bytes, found: dict[bytes, Any]) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    values: dict[str, Any] = {
        "type": kind,
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
        "xattrs": xattrs(b"/proc/self/fd/%d/%s" % (parent, name)),
    }
    if kind == "symlink":
        values["target"] = os.readlink(name, dir_fd=parent)
    elif kind in ("chardev", "blockdev"):
        values["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    elif kind == "file":
        values |= _content(parent, name, status)
    found[below] = values, (status.st_dev, status.st_ino)
    if kind == "directory":
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        inside = os.open(name, flags, dir_fd=parent)
        try:
            for member in sorted(map(os.fsencode, os.listdir(inside))):
                _scan(inside, member, below + b"/" + member if below else member, found)
        finally:
            os.close(inside)


def _content(parent: int, name: bytes, status: os.stat_result) -> dict[str, Any]:
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        holes = file_holes(handle, status.st_size)
        digest = blake3()
        if status.st_size <= 1 << 30:  # beyond that, sparse files of which only the holes matter
            while piece := os.read(handle, PIECE):
                digest.update(piece)
        return {"size": status.st_size, "content": digest.hexdigest(), "holes": tuple(holes)}
    finally:
        os.close(handle)


def file_holes(handle: int, size: int) -> list[tuple[int, int]]:
    """(offset, length) of the holes of an open file, which is left at its beginning."""
    holes, at = [], 0
    while at < size:
        start = os.lseek(handle, at, os.SEEK_HOLE)
        if start >= size:
            break
        try:
            at = os.lseek(handle, start, os.SEEK_DATA)
        except OSError:  # no more data
            at = size
        holes.append((start, at - start))
    os.lseek(handle, 0, os.SEEK_SET)
    return holes


def xattrs(path: bytes) -> dict[bytes, bytes]:
    """Extended attributes of a path, not following a link."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            found[os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=False)
    return found


def differences(expected: Facts, actual: Facts, *, ignore: Iterable[str] = ()) -> list[str]:
    """One line for every path and attribute in which two trees differ."""
    lines = [f"{path!r}: missing" for path in expected.keys() - actual.keys()]
    lines += [f"{path!r}: not expected" for path in actual.keys() - expected.keys()]
    names = [item.name for item in fields(Fact) if item.name not in set(ignore)]
    for path in expected.keys() & actual.keys():
        for name in names:
            was, now = getattr(expected[path], name), getattr(actual[path], name)
            if was != now:
                lines.append(f"{path!r}: {name} was {was!r}, is {now!r}"[:600])
    return sorted(lines)


def assert_same(expected: Facts, actual: Facts, *, ignore: Iterable[str] = ()) -> None:
    """Fails with the list of differences."""
    assert not (lines := differences(expected, actual, ignore=ignore)), "\n".join(lines)
