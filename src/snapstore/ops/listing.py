"""Listing: snapshots, what is in them, and the contents of a file."""

from collections.abc import Iterable, Iterator

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import InvalidArgument, PathNotFound
from snapstore.model import references
from snapstore.model.entries import ListedEntry
from snapstore.model.filters import Filter
from snapstore.model.snapshot import Root, Snapshot, require_ready
from snapstore.ops import places
from snapstore.ops.places import Place
from snapstore.repository.open import Repository

READ_BYTES = 1 << 20

_ORDERS = {
    "created_at": lambda s: (s.time_ns, s.id),
    "name": lambda s: (s.name or "", s.time_ns),
    "source": lambda s: (s.source, s.time_ns),
    "host": lambda s: (s.host, s.time_ns),
    "size_bytes": lambda s: (s.size_bytes, s.time_ns),
}


def snapshots(
    repository: Repository,
    wanted: Filter,
    *,
    order: str = "-created_at",
    limit: int | None = None,
    all: bool = False,
) -> list[Snapshot]:
    """Snapshots that pass a filter. Without a `kind` in it and without `all`, those made by the
    system and for safety are left out.

    `order`: created_at, name, source, host or size_bytes, with a minus for descending.
    InvalidArgument.
    """
    key = _ORDERS.get(order.removeprefix("-"))
    if key is None:
        raise InvalidArgument(
            f"snapshots cannot be ordered by {order!r}", hint=f"one of {', '.join(_ORDERS)}"
        )
    if limit is not None and limit < 0:
        raise InvalidArgument(f"a limit cannot be {limit}")
    hidden = () if all or wanted.kind is not None else ("system", "safety")
    found = wanted.select(s for s in repository.catalog.snapshots() if s.kind not in hidden)
    found.sort(key=key, reverse=order.startswith("-"))
    return found[:limit]


def unreadable(repository: Repository) -> list[Snapshot]:
    """Snapshots whose content cannot be read, in the order of their ids."""
    return [s for s in repository.catalog.snapshots() if s.status != "ready"]


def get(repository: Repository, reference: str) -> Snapshot:
    """The snapshot that a reference names. SnapshotNotFound, AmbiguousReference."""
    return references.resolve(reference, repository.catalog.snapshots(), repository.host)


def resolve(repository: Repository, reference: str) -> tuple[Snapshot, bytes | None]:
    """Snapshot and path of `REF` or `REF:PATH`."""
    found = repository.catalog.snapshots()
    return references.split(
        reference, lambda name: references.resolve(name, found, repository.host)
    )


def passed_over(repository: Repository, reference: str) -> list[Snapshot]:
    """Snapshots that cannot be read, and that a reference might mean if they could."""
    if repository.catalog.whole or not references.counts(reference):
        return []  # listing them again would take as long as finding what the reference means
    return references.passed_over(reference, repository.catalog.snapshots(), repository.host)


def ls(
    repository: Repository, snapshot: Snapshot, path: bytes, *, recursive: bool
) -> Iterator[ListedEntry]:
    """Entries of a directory, or the one entry that is no directory; roots without a path.
    PathNotFound, at once.
    """
    require_ready(snapshot)
    reader = repository.reader(snapshot)
    if not path:
        return _roots(reader, snapshot.roots, recursive)
    try:
        return _at(reader, places.find(reader, snapshot, path, suggest=True), recursive)
    except PathNotFound:
        roots = places.roots_below(snapshot, path)
        if not roots:
            raise
        return _roots(reader, roots, recursive)


def read(repository: Repository, snapshot: Snapshot, path: bytes) -> Iterator[bytes]:
    """Content of a file, piece by piece, each verified. PathNotFound, InvalidArgument (no file), at
    once; DamagedObject.
    """
    require_ready(snapshot)
    if not path and len(snapshot.roots) > 1:
        raise InvalidArgument(
            f"snapshot {snapshot.short_id} is not a file but took {len(snapshot.roots)} paths",
            hint=f"say which file: {snapshot.short_id}:PATH",
        )
    reader = repository.reader(snapshot)
    place = places.find(reader, snapshot, path, suggest=True)
    entry = place.entry
    if entry.type != "file":
        raise InvalidArgument(
            f"{to_text(place.path)} is not a file but a {entry.type}",
            hint=f"ls shows what files there are; name one with {snapshot.short_id}:PATH",
        )
    pieces = range(0, entry.size, READ_BYTES)
    return (reader.read(entry, at, min(READ_BYTES, entry.size - at)) for at in pieces)


def _roots(
    reader: "_native.Reader", roots: Iterable[Root], recursive: bool
) -> Iterator[ListedEntry]:
    """Roots, each before what is in it."""
    for root in roots:
        entry = reader.root(bytes.fromhex(root.id))
        yield ListedEntry(root.path, entry)
        if recursive and entry.type == "directory":
            yield from _below(reader, root.path, entry, True)


def _at(reader: "_native.Reader", place: Place, recursive: bool) -> Iterator[ListedEntry]:
    """What is in a directory; the entry itself if it is none."""
    if place.entry.type == "directory":
        yield from _below(reader, place.path, place.entry, recursive)
    else:
        yield ListedEntry(place.path, place.entry)


def _below(
    reader: "_native.Reader", path: bytes, directory: "_native.Entry", recursive: bool
) -> Iterator[ListedEntry]:
    """Entries below a directory, each directory before what is in it."""
    for batch in _native.TreeWalk(reader, directory, path, recursive=recursive):
        for below, entry in batch:
            yield ListedEntry(below, entry)
