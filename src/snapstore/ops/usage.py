"""Usage: what snapshots take, and what each of them alone holds."""

from snapstore import _native
from snapstore.base.progress import Observer
from snapstore.model.findings import DiskUse
from snapstore.model.references import newest_first
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.ops import places
from snapstore.ops.running import Meter
from snapstore.repository.open import Repository

Top = tuple[bytes, "_native.Entry | None"]


def du_all(repository: Repository, observer: Observer | None) -> list[DiskUse]:
    """What each snapshot takes, the newest first. Those that cannot be read are left out."""
    ready = [s for s in newest_first(repository.catalog.snapshots()) if s.status == "ready"]
    reader = repository.reader_of_all(ready)
    task = _native.unique_bytes(reader, [_roots(snapshot) for snapshot in ready])
    unique = Meter("du", observer).wait(task)
    return [
        DiskUse(snapshot, None, _entries(snapshot), snapshot.size_bytes, bytes)
        for snapshot, bytes in zip(ready, unique, strict=True)
    ]


def du(
    repository: Repository, snapshot: Snapshot, path: bytes | None, observer: Observer | None
) -> DiskUse:
    """What one snapshot, or a path in it, takes. PathNotFound."""
    require_ready(snapshot)
    ready = [s for s in repository.catalog.snapshots() if s.status == "ready"]
    reader = repository.reader_of_all([snapshot, *ready])
    others = [top for other in ready if other.id != snapshot.id for top in _roots(other)]
    if path is None:
        own, entries, size = _roots(snapshot), _entries(snapshot), snapshot.size_bytes
    else:
        place = places.find(reader, snapshot, path, suggest=True)
        entry, path = place.entry, place.path
        own = [(b"", entry)] if place.below else [(bytes.fromhex(place.root.id), None)]
        entries, size = entry.entries + 1, entry.bytes
    unique = Meter("du", observer).wait(_native.unique_bytes(reader, [own, others]))
    return DiskUse(snapshot, path, entries, size, unique[0])


def _roots(snapshot: Snapshot) -> list[Top]:
    return [(bytes.fromhex(root.id), None) for root in snapshot.roots]


def _entries(snapshot: Snapshot) -> int:
    return sum(root.entries for root in snapshot.roots)
