"""Reindex: makes the local index anew from the packs alone."""

from snapstore.base.progress import Observer
from snapstore.model.results import ReindexResult
from snapstore.ops.running import Meter
from snapstore.repository.open import Repository


def reindex(repository: Repository, observer: Observer | None) -> ReindexResult:
    """Reads every pack's table into a new index, then puts it in the place of the old one.

    Packs that cannot be read are left out and listed; nothing is deleted.
    """
    meter = Meter("reindex", observer)
    packs = {id: kind for kind, id in repository.objects.packs()}
    done = 0

    def note(id: bytes) -> None:
        nonlocal done
        done += 1
        meter.note("reindex", done, len(packs), id.hex().encode())

    unread = repository.rebuild(packs, note)
    return ReindexResult(
        packs=len(packs) - len(unread),
        chunks=repository.index().entries,
        unreadable=[(pack.name, str(pack.error)) for pack in unread],
        elapsed_s=meter.elapsed_s,
    )
