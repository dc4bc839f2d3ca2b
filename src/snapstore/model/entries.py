"""Entries: what a tree holds, and where."""

import stat
from dataclasses import dataclass
from typing import Any, Protocol

from snapstore.base.bytestext import path_fields

PathBytes = bytes

TYPES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "chardev": stat.S_IFCHR,
    "blockdev": stat.S_IFBLK,
}
"""Types of entries, with their bits in a mode."""


class Entry(Protocol):
    """An entry of a tree, as the native core gives it. `name` is empty for a root."""

    @property
    def name(self) -> PathBytes: ...
    @property
    def type(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def target(self) -> PathBytes | None: ...
    @property
    def device(self) -> tuple[int, int] | None: ...
    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What stat(2) would tell of something in a snapshot. `type`: a key of TYPES; `mode`: without
    it. `ino`: equal for hard links in the same snapshot; `nlink`: of a directory with very many
    entries 1. `blocks`: of 512 bytes, holes left out. `device`: major and minor number. `target`:
    of a symbolic link.
    """

    type: str
    mode: int
    ino: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    mtime_ns: int
    device: tuple[int, int] | None = None
    target: bytes | None = None

    @property
    def st_mode(self) -> int:
        """Type and mode in one number, as in `os.stat_result`."""
        return TYPES[self.type] | self.mode


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """An entry with its path as recorded: the root's path and the path below it."""

    path: bytes
    entry: Entry

    def to_dict(self) -> dict[str, Any]:
        entry = self.entry
        result: dict[str, Any] = {
            **path_fields(self.path),
            "type": entry.type,
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "mtime_ns": entry.mtime_ns,
            "size": entry.size,
        }
        if entry.target is not None:
            result.update(path_fields(entry.target, "target"))
        if entry.device is not None:
            result["device"] = list(entry.device)
        if entry.type == "directory":
            result.update(entries=entry.entries, bytes=entry.bytes)
        return result
