"""Stats: how much the store holds and what it takes."""

from snapstore.model import names
from snapstore.model.results import StoreStats
from snapstore.repository.open import Repository


def stats(repository: Repository) -> StoreStats:
    """Counts and sizes of the store. Reads the tables of packs that the index does not know yet."""
    repository.synchronise()
    index = repository.index()
    packs = [row for row in index.rows() if row.present]
    snapshots = [s for s in repository.catalog.snapshots() if s.status == "ready"]
    sizes = {
        kind: sum(row.size for row in packs if row.kind == kind) for kind in names.KIND_DIRECTORIES
    }
    times = sorted(s.created_at for s in snapshots)
    return StoreStats(
        snapshots=len(snapshots),
        packs=len(packs),
        data_bytes=sizes[names.DATA],
        meta_bytes=sizes[names.META],
        other_bytes=_other_bytes(repository),
        chunks=sum(row.chunks for row in packs),
        plain_bytes=sum(row.plain_bytes for row in packs),
        logical_bytes=sum(s.size_bytes for s in snapshots),
        index_bytes=index.size_bytes,
        oldest=times[0] if times else None,
        newest=times[-1] if times else None,
    )


def _other_bytes(repository: Repository) -> int:
    """Bytes of all objects that are not packs."""
    objects = repository.objects
    listed = [names.CONFIG]
    for prefix in ("key/", "snap/", "label/", "refs/", "sess/", "gc/"):
        listed += objects.list(prefix)
    return sum(objects.size(name) or 0 for name in listed)
