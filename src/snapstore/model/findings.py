"""Findings: what reading and comparing snapshots gives back, as plain values with `to_dict`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from snapstore.base.bytestext import path_fields
from snapstore.model.entries import Entry, ListedEntry
from snapstore.model.snapshot import Snapshot

FIELDS = ("content", "holes", "target", "device", "mode", "owner", "mtime", "xattrs")
"""What may differ between two entries of one type."""
CHANGE_KINDS = ("added", "removed", "content", "metadata", "type", "renamed", "unreadable")


class Change(NamedTuple):
    """A difference. `kind`: one of CHANGE_KINDS; `fields`: which of FIELDS differ.

    `old` and `new` are the entries, None where there is none. `path` is the new one's, or that of
    what was removed; `old_path` is set for what was renamed. `error`: why the new one, on disk,
    cannot be read.
    """

    kind: str
    path: bytes
    old_path: bytes | None
    old: Entry | None
    new: Entry | None
    fields: tuple[str, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        before = self.path if self.old_path is None else self.old_path
        result: dict[str, Any] = {
            "kind": self.kind,
            **path_fields(self.path),
            "fields": list(self.fields),
            "old": None if self.old is None else ListedEntry(before, self.old).to_dict(),
            "new": None if self.new is None else ListedEntry(self.path, self.new).to_dict(),
        }
        if self.old_path is not None:
            result.update(path_fields(self.old_path, "old_path"))
        if self.error is not None:
            result["error"] = self.error
        return result


@dataclass(slots=True)
class DiffStat:
    """How many differences of each kind, and sizes of files in bytes.

    `added_bytes`: of what is new; `removed_bytes`: of what is gone; what changed its type counts in
    both. `content_bytes`: the new sizes of files that hold something else.
    """

    added: int = 0
    removed: int = 0
    content: int = 0
    metadata: int = 0
    type: int = 0
    renamed: int = 0
    unreadable: int = 0
    added_bytes: int = 0
    removed_bytes: int = 0
    content_bytes: int = 0

    @property
    def changes(self) -> int:
        """How many differences in all."""
        return sum(getattr(self, kind) for kind in CHANGE_KINDS)

    def add(self, change: Change) -> None:
        """Counts a difference."""
        setattr(self, change.kind, getattr(self, change.kind) + 1)
        new = _file_bytes(change.new)
        if change.kind in ("added", "type"):
            self.added_bytes += new
        if change.kind in ("removed", "type"):
            self.removed_bytes += _file_bytes(change.old)
        if change.kind == "content":
            self.content_bytes += new

    @classmethod
    def of(cls, changes: Iterable[Change]) -> "DiffStat":
        """Counts differences."""
        stat = cls()
        for change in changes:
            stat.add(change)
        return stat

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        sizes = ("added_bytes", "removed_bytes", "content_bytes")
        return {name: getattr(self, name) for name in (*CHANGE_KINDS, "changes", *sizes)}


def _file_bytes(entry: Entry | None) -> int:
    return entry.size if entry is not None and entry.type == "file" else 0


class FoundEntry(NamedTuple):
    """An entry that was found in a snapshot, with its path as recorded."""

    snapshot: Snapshot
    path: bytes
    entry: Entry

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"snapshot": self.snapshot.id, **ListedEntry(self.path, self.entry).to_dict()}


@dataclass(frozen=True, slots=True)
class PathVersion:
    """A version of what is at a path, and the snapshots that have it, the newest first.

    `change`: `added`, `changed` or `removed` (then `entry` is None, and the snapshots are those
    without it). `fields`: in what it differs from the version before; of a directory, `content`
    means something below it, and `type` that it was something else.
    """

    change: str
    path: bytes
    host: str
    entry: Entry | None
    fields: tuple[str, ...]
    snapshots: tuple[Snapshot, ...]

    @property
    def since(self) -> datetime:
        """When the first of the snapshots was made."""
        return self.snapshots[-1].created_at

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "change": self.change,
            "host": self.host,
            "since": self.since.isoformat(),
            "fields": list(self.fields),
            "entry": None if self.entry is None else ListedEntry(self.path, self.entry).to_dict(),
            "snapshots": [snapshot.id for snapshot in self.snapshots],
        }


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a snapshot, or a path in it, takes. Sizes in bytes, before compression.

    `logical_bytes`: sum of the sizes of its files. `unique_bytes`: chunks and tree nodes that no
    other snapshot of the store needs, each counted once, however often it is needed in this one.
    """

    snapshot: Snapshot
    path: bytes | None
    entries: int
    logical_bytes: int
    unique_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "snapshot": self.snapshot.id,
            "name": self.snapshot.name,
            "created_at": self.snapshot.created_at.isoformat(),
            **({"path": None} if self.path is None else path_fields(self.path)),
            "entries": self.entries,
            "logical_bytes": self.logical_bytes,
            "unique_bytes": self.unique_bytes,
        }
