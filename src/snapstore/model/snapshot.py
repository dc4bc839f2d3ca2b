"""Snapshot: the immutable record of its roots and circumstances, with its label folded in."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from snapstore.base import bytestext
from snapstore.base.errors import (
    DamagedObject,
    InvalidArgument,
    SnapstoreError,
    StoreTooNew,
    TamperedObject,
)
from snapstore.model import canonical
from snapstore.model.config import require_features
from snapstore.model.fields import take, take_bytes, take_hex, take_int, take_list

KINDS = ("user", "system", "safety")
ROOT_KINDS = ("directory", "file", "image", "stream", "other")
MAX_LISTED = 10_000
MAX_LISTED_BYTES = 4 << 20
MAX_ROOTS = 4096

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Root:
    """One path that a snapshot took. `path`: absolute, or a name (a stream's, or of an archive that
    was imported under one); `id`: hexadecimal.

    `entries` and `bytes` count everything below, the root included.
    """

    path: bytes
    kind: str
    id: str
    entries: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return {
            **bytestext.path_fields(self.path),
            "kind": self.kind,
            "id": self.id,
            "entries": self.entries,
            "bytes": self.bytes,
        }

    def record(self) -> dict[str, Any]:
        """The root as the snapshot object has it."""
        return {
            "path": bytestext.to_text(self.path),
            "kind": self.kind,
            "id": self.id,
            "entries": self.entries,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class Label:
    """The editable part of a snapshot, as its label objects add up. `time_ns`: when the first of
    them was written, which is when the snapshot was begun; 0 when that cannot be read. `error`: why
    one of them cannot be read, so that this may not be all.
    """

    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    time_ns: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot. Ids are hexadecimal, times are nanoseconds since 1970 or aware UTC datetimes.

    `partial`: some paths could not be read (`unreadable`, at most 10,000 of `unreadable_count`);
    `changed`: paths that changed while being read. `record` is the whole record, with keys that
    this version does not know. `status`: `ready`, or `damaged` or `too-new`, which its content
    cannot be read of: `error` says why. Where not even the record can (it is empty then), there is
    what the label says, `time_ns` included. One that is ready has an `error` when a label of it
    cannot be read: then name, description, tags and metadata may be others. `tampered`: somebody
    changed its record in an encrypted store.
    """

    id: str
    source: str
    host: str
    time_ns: int
    kind: str
    parents: tuple[str, ...]
    roots: tuple[Root, ...]
    created_by: dict[str, Any]
    session: str
    tool: str
    stats: dict[str, Any]
    unreadable: tuple[tuple[bytes, str], ...]
    unreadable_count: int
    changed: tuple[bytes, ...]
    streams: tuple[dict[str, Any], ...]
    rules: dict[str, Any]
    skipped: dict[str, Any]
    owners: dict[str, Any]
    needs: tuple[str, ...]
    record: dict[str, Any]
    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    status: str = "ready"
    error: str | None = None
    tampered: bool = False

    @property
    def short_id(self) -> str:
        """The first 8 digits of the id."""
        return self.id[:8]

    @property
    def created_at(self) -> datetime:
        """`time_ns` to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.time_ns // 1000)

    @property
    def partial(self) -> bool:
        """Whether something could not be read."""
        return self.unreadable_count > 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all files below all roots."""
        return sum(root.bytes for root in self.roots)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "id": self.id,
            "short_id": self.short_id,
            "name": self.name,
            "description": self.description,
            "tags": list(self.tags),
            "metadata": self.metadata,
            "source": self.source,
            "host": self.host,
            "created_at": self.created_at.isoformat(),
            "time_ns": self.time_ns,
            "kind": self.kind,
            "status": self.status,
            "error": self.error,
            "partial": self.partial,
            "parents": list(self.parents),
            "roots": [root.to_dict() for root in self.roots],
            "size_bytes": self.size_bytes,
            "created_by": self.created_by,
            "session": self.session,
            "tool": self.tool,
            "stats": self.stats,
            "unreadable": [
                {**bytestext.path_fields(path), "error": error} for path, error in self.unreadable
            ],
            "unreadable_count": self.unreadable_count,
            "changed": [bytestext.path_fields(path) for path in self.changed],
            "streams": list(self.streams),
            "rules": self.rules,
            "skipped": self.skipped,
            "owners": self.owners,
        }


# Snapshot objects


def encode(
    *,
    roots: Iterable[Root],
    source: str,
    host: str,
    time_ns: int,
    kind: str,
    parents: Iterable[str],
    created_by: dict[str, Any],
    session: str,
    tool: str,
    stats: dict[str, int],
    owners: dict[str, Any] | None = None,
    rules: dict[str, Any] | None = None,
    unreadable: Iterable[tuple[bytes, str]] = (),
    unreadable_count: int = 0,
    changed: Iterable[bytes] = (),
    skipped: dict[str, int] | None = None,
    streams: Iterable[dict[str, Any]] = (),
) -> bytes:
    """The payload of a `snap/` object. Optional keys are left out when empty."""
    if kind not in KINDS:
        raise InvalidArgument(f"a snapshot cannot be of the kind {kind!r}")
    listed = [
        {"path": bytestext.to_text(path), "error": error}
        for path, error in _first(unreadable, lambda item: len(item[0]))
    ]
    optional = {
        "owners": owners,
        "rules": rules,
        "unreadable": listed,
        "unreadable_count": unreadable_count,
        "changed": [bytestext.to_text(path) for path in _first(changed, len)],
        "skipped": {key: count for key, count in (skipped or {}).items() if count},
        "streams": list(streams),
    }
    required = {
        "roots": [root.record() for root in roots],
        "source": source,
        "host": host,
        "time_ns": time_ns,
        "kind": kind,
        "parents": list(parents),
        "created_by": created_by,
        "session": session,
        "tool": tool,
        "stats": stats,
    }
    return canonical.encode(required | {key: value for key, value in optional.items() if value})


def _first(items: Iterable[T], weight: Callable[[T], int]) -> Iterator[T]:
    """As many of the items as a record has room for: roots bound their own lists, but there may be
    many roots.
    """
    left_bytes = MAX_LISTED_BYTES
    for item in itertools.islice(items, MAX_LISTED):
        left_bytes -= weight(item)
        if left_bytes < 0:
            return
        yield item


def decode(id: str, record: dict[str, Any], label: Label) -> Snapshot:
    """The snapshot in a decoded record. DamagedObject when a field is not what it must be."""
    needs = tuple(take_list(record, "needs", str))
    too_new = _too_new(id, needs)
    roots = take_list(record, "roots", dict, MAX_ROOTS)
    unreadable = take_list(record, "unreadable", dict, MAX_LISTED)
    return Snapshot(
        id=id,
        source=take(record, "source", str),
        host=take(record, "host", str),
        time_ns=take_int(record, "time_ns", -(1 << 63)),
        kind=take(record, "kind", str),
        parents=tuple(take_list(record, "parents", str)),
        roots=tuple(_decode_root(root) for root in roots),
        created_by=take(record, "created_by", dict),
        session=take(record, "session", str),
        tool=take(record, "tool", str),
        stats=take(record, "stats", dict),
        unreadable=tuple(
            (take_bytes(item, "path"), take(item, "error", str)) for item in unreadable
        ),
        unreadable_count=max(take(record, "unreadable_count", int, 0), len(unreadable)),
        changed=tuple(
            take_bytes({"changed": path}, "changed")
            for path in take_list(record, "changed", str, MAX_LISTED)
        ),
        streams=tuple(take_list(record, "streams", dict)),
        rules=take(record, "rules", dict, {}),
        skipped=take(record, "skipped", dict, {}),
        owners=take(record, "owners", dict, {}),
        needs=needs,
        record=record,
        name=label.name,
        description=label.description,
        tags=label.tags,
        metadata=label.metadata,
        status="too-new" if too_new else "ready",
        error=too_new or label.error,
    )


def _too_new(id: str, needs: tuple[str, ...]) -> str | None:
    """What keeps this version from reading a snapshot with such needs."""
    try:
        require_features(needs, f"the snapshot {id[:8]}")
    except StoreTooNew as error:
        return str(error)
    return None


def damaged(id: str, error: SnapstoreError, label: Label) -> Snapshot:
    """What stands for a snapshot whose record cannot be read, so that neither listings nor
    references to its name pass it over.
    """
    return Snapshot(
        id=id,
        source="",
        host="",
        time_ns=label.time_ns,
        kind="",
        parents=(),
        roots=(),
        created_by={},
        session="",
        tool="",
        stats={},
        unreadable=(),
        unreadable_count=0,
        changed=(),
        streams=(),
        rules={},
        skipped={},
        owners={},
        needs=(),
        record={},
        name=label.name,
        description=label.description,
        tags=label.tags,
        metadata=label.metadata,
        status="too-new" if isinstance(error, StoreTooNew) else "damaged",
        error=str(error),
        tampered=isinstance(error, TamperedObject),
    )


def require_ready(snapshot: Snapshot) -> None:
    """Raises what keeps a snapshot's content from being read: DamagedObject, TamperedObject,
    StoreTooNew.
    """
    if snapshot.status == "damaged":
        error = TamperedObject if snapshot.tampered else DamagedObject
        raise error(snapshot.error or "", object=f"snap/{snapshot.id}")
    if snapshot.status == "too-new":
        raise StoreTooNew(snapshot.error or "", object=f"snap/{snapshot.id}")


def _decode_root(record: dict[str, Any]) -> Root:
    root = Root(
        path=take_bytes(record, "path"),
        kind=take(record, "kind", str),
        id=take_hex(record, "id", 32).hex(),
        entries=take_int(record, "entries"),
        bytes=take_int(record, "bytes"),
    )
    if root.kind not in ROOT_KINDS:
        raise DamagedObject(f"a root is of an unknown kind: {root.kind!r}")
    return root


# Labels


def label_operations(
    name: str | None, description: str | None, tags: Iterable[str], metadata: dict[str, Any]
) -> list[list[Any]]:
    """The operations of a first label."""
    operations: list[list[Any]] = []
    if name is not None:
        operations.append(["set", "name", name])
    if description is not None:
        operations.append(["set", "description", description])
    operations += [["tag", tag] for tag in dict.fromkeys(tags)]
    operations += [["meta", key, value] for key, value in metadata.items()]
    return operations


def encode_label(operations: list[list[Any]], by: str, time_ns: int) -> bytes:
    """The payload of a `label/` object. InvalidArgument when a value cannot stand in JSON."""
    return canonical.encode({"by": by, "ops": operations, "time_ns": time_ns})


def operations(record: dict[str, Any]) -> list[Any]:
    """The operations in a label's decoded record. DamagedObject."""
    return take_list(record, "ops", list)


def fold(operations: Iterable[Any], time_ns: int = 0, error: str | None = None) -> Label:
    """What the operations of all labels add up to, of which the first is of `time_ns`, and `error`
    keeps one from being read. Those that are not known are ignored.
    """
    fields: dict[str, str | None] = {"name": None, "description": None}
    tags: dict[str, None] = {}
    metadata: dict[str, Any] = {}
    for operation in operations:
        match operation:
            case ["set", ("name" | "description") as key, (str() | None) as value]:
                fields[key] = value
            case ["tag", str(tag)]:
                tags[tag] = None
            case ["untag", str(tag)]:
                tags.pop(tag, None)
            case ["meta", str(key), None]:
                metadata.pop(key, None)
            case ["meta", str(key), value]:
                metadata[key] = value
            case _:
                pass
    name, description = fields["name"], fields["description"]
    return Label(name, description, tuple(sorted(tags)), metadata, time_ns, error)
