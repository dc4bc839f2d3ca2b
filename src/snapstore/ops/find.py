"""Find: entries by name, size, time and type, in many snapshots at once."""

from collections.abc import Iterator, Sequence

from snapstore import _native
from snapstore.base.errors import InvalidArgument, PathNotFound
from snapstore.base.units import Size, size_bytes
from snapstore.model import times
from snapstore.model.entries import TYPES
from snapstore.model.findings import FoundEntry
from snapstore.model.references import newest_first
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.ops import places
from snapstore.repository.open import Repository


def find(
    repository: Repository,
    pattern: str,
    within: Sequence[tuple[Snapshot, bytes | None]] | None,
    *,
    regex: bool,
    ignore_case: bool,
    larger_than: Size | None,
    smaller_than: Size | None,
    newer_than: times.Time | None,
    older_than: times.Time | None,
    types: Sequence[str],
) -> Iterator[FoundEntry]:
    """Entries that match, snapshot by snapshot, the newest first (those of `within` as given).

    InvalidArgument, PathNotFound.
    """
    for type in types:
        if type not in TYPES:
            raise InvalidArgument(
                f"there is no type {type!r}", hint=f"there are {', '.join(TYPES)}"
            )
    if within is None:
        ready = (s for s in repository.catalog.snapshots() if s.status == "ready")
        within = [(snapshot, None) for snapshot in newest_first(list(ready))]
    for snapshot, _ in within:
        require_ready(snapshot)
    reader = repository.reader_of_all([snapshot for snapshot, _ in within])
    snapshots: list[Snapshot] = []
    trees: list[tuple[bytes, bytes, _native.Entry | None]] = []
    for snapshot, path in within:
        found = list(_trees(reader, snapshot, path))
        trees += found
        snapshots += [snapshot] * len(found)
    batches = _native.TreeFind(
        reader,
        trees,
        pattern,
        regex=regex,
        ignore_case=ignore_case,
        larger_than=None if larger_than is None else size_bytes(larger_than),
        smaller_than=None if smaller_than is None else size_bytes(smaller_than),
        newer_than_ns=None if newer_than is None else times.time_ns(newer_than),
        older_than_ns=None if older_than is None else times.time_ns(older_than),
        types=list(types),
    )
    return (
        FoundEntry(snapshots[tree], path, entry) for batch in batches for tree, path, entry in batch
    )


def _trees(
    reader: "_native.Reader", snapshot: Snapshot, path: bytes | None
) -> Iterator[tuple[bytes, bytes, "_native.Entry | None"]]:
    """Path, id and, unless it is a root, the entry of what is searched."""
    roots = list(snapshot.roots)
    if path:
        try:
            place = places.find(reader, snapshot, path, suggest=True)
            yield place.path, b"", place.entry
            return
        except PathNotFound:
            roots = places.roots_below(snapshot, path)
            if not roots:
                raise
    for root in roots:
        yield root.path, bytes.fromhex(root.id), None
