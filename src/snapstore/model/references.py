"""References: how a snapshot is named on a command line or in a call.

`latest`, `latest~2`, a snapshot's name (the newest that has it), an id or a unique prefix of one (4
digits or more); with `:PATH` behind it, a path in the snapshot.
"""

import re
from collections.abc import Callable, Sequence

from snapstore.base.errors import AmbiguousReference, SnapshotNotFound
from snapstore.model.snapshot import Snapshot

_LATEST = re.compile(r"latest(?:~(\d{1,6}))?")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_SHOWN = 10


def newest_first(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    return sorted(snapshots, key=lambda s: (s.time_ns, s.id), reverse=True)


def resolve(reference: str, snapshots: Sequence[Snapshot], host: str) -> Snapshot:
    """The snapshot that a reference without path names. SnapshotNotFound, AmbiguousReference.

    `latest` is the newest complete user snapshot of `host`.
    """
    match = _LATEST.fullmatch(reference)
    if match:
        return _latest(reference, int(match[1] or 0), snapshots, host)
    named = newest_first([s for s in snapshots if s.name == reference])
    if named:
        return named[0]
    if _PREFIX.fullmatch(reference):
        found = [s for s in snapshots if s.id.startswith(reference)]
        if len(found) > 1:
            raise _ambiguous(reference, found)
        if found:
            return found[0]
    raise SnapshotNotFound(
        f"no snapshot answers to {reference!r}",
        hint="list shows the snapshots of a store",
        reference=reference,
    )


def split(reference: str, find: Callable[[str], Snapshot]) -> tuple[Snapshot, bytes | None]:
    """Snapshot and path of `REF` or `REF:PATH`: tried whole first, then split at the last colon
    whose left side resolves.
    """
    try:
        return find(reference), None
    except SnapshotNotFound as error:
        missing = error
    at = reference.rfind(":")
    while at > 0:
        try:
            return find(reference[:at]), reference[at + 1 :].encode("utf-8", "surrogateescape")
        except SnapshotNotFound:
            at = reference.rfind(":", 0, at)
    raise missing


def _latest(reference: str, back: int, snapshots: Sequence[Snapshot], host: str) -> Snapshot:
    own = [s for s in snapshots if s.host == host and s.kind == "user" and not s.partial]
    if back < len(own):
        return newest_first(own)[back]
    hint = None
    if any(s.host != host for s in snapshots):
        hint = "there are snapshots of other hosts: name one by its name or id"
    elif any(s.partial for s in snapshots):
        hint = "there are partial snapshots: name one by its name or id"
    raise SnapshotNotFound(
        f"{reference!r}: this host has {len(own)} complete snapshots here",
        hint=hint,
        reference=reference,
    )


def _ambiguous(reference: str, found: Sequence[Snapshot]) -> AmbiguousReference:
    ids = [s.id for s in newest_first(found)]
    shown = ", ".join(id[: max(8, len(reference) + 2)] for id in ids[:_SHOWN])
    return AmbiguousReference(
        f"{reference!r} is the beginning of {len(ids)} ids: {shown}",
        hint="give more digits",
        reference=reference,
        candidates=ids,
    )
