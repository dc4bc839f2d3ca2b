"""Log: the versions of what is at one path, through all snapshots that took it."""

from collections import defaultdict
from collections.abc import Sequence

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import PathNotFound
from snapstore.model.findings import PathVersion
from snapstore.model.references import newest_first
from snapstore.model.snapshot import Snapshot
from snapstore.ops import places
from snapstore.ops.running import Meter
from snapstore.repository.open import Repository

State = tuple[Snapshot, "_native.Entry | None"]


def log(
    repository: Repository, path: bytes, *, host: str | None, source: str | None
) -> list[PathVersion]:
    """Versions of a path, the newest first; those of each host follow each other by themselves.

    PathNotFound when no snapshot has it.
    """
    snapshots = [
        snapshot
        for snapshot in newest_first(repository.catalog.snapshots())
        if snapshot.status == "ready"
        and host in (None, snapshot.host)
        and source in (None, snapshot.source)
    ]
    place, states = _states(repository, snapshots, path)
    by_host: dict[str, list[State]] = defaultdict(list)
    for snapshot, entry in states:
        by_host[snapshot.host].append((snapshot, entry))
    versions = [
        version for one in by_host.values() if any(entry for _, entry in one)
        for version in _versions(place, one)
    ]  # fmt: skip
    return sorted(versions, key=lambda version: version.snapshots[-1].time_ns, reverse=True)


def _states(
    repository: Repository, snapshots: Sequence[Snapshot], path: bytes
) -> tuple[bytes, list[State]]:
    """The path as recorded, and what each snapshot has there that took it, or something around it,
    and could read it. One that is relative is meant as the newest snapshot that has it records it.
    """
    candidates = [
        (snapshot, root, below)
        for snapshot in snapshots
        for root, below in places.candidates(snapshot.roots, path)
    ]
    reader = repository.reader_of_all([snapshot for snapshot, _, _ in candidates])
    wanted = [(bytes.fromhex(root.id), below) for _, root, below in candidates]
    entries = Meter("log", None).wait(_native.lookup(reader, wanted))
    found = [
        (snapshot, places.join(root.path, below), entry)
        for (snapshot, root, below), entry in zip(candidates, entries, strict=True)
    ]
    place = next((place for _, place, entry in found if entry), None)
    if place is None:
        raise _not_found(path)
    states: dict[str, State] = {}
    for snapshot, at, entry in found:
        if at == place and not _blind(snapshot, place):
            known = states.get(snapshot.id)
            if known is None or known[1] is None:
                states[snapshot.id] = (snapshot, entry)
    return place, list(states.values())


def _blind(snapshot: Snapshot, place: bytes) -> bool:
    """Whether what is at a path, or a directory above it, could not be read."""
    return any((place + b"/").startswith(unread + b"/") for unread, _ in snapshot.unreadable)


def _not_found(path: bytes) -> PathNotFound:
    return PathNotFound(
        f"{to_text(path)} is in no snapshot",
        hint="find looks for names in all snapshots",
        path=to_text(path),
    )


def _versions(path: bytes, states: Sequence[State]) -> list[PathVersion]:
    """Versions of one host's path; `states` are the newest first."""
    versions: list[PathVersion] = []
    group: list[Snapshot] = []
    current: _native.Entry | None = None
    before: _native.Entry | None = None  # the version before the current one

    def end() -> None:
        if not group or (current is None and before is None):
            return  # it was not there yet
        change = "removed" if current is None else "added" if before is None else "changed"
        fields = _fields(before, current)
        newest = tuple(reversed(group))
        versions.append(PathVersion(change, path, group[0].host, current, fields, newest))

    for snapshot, entry in reversed(states):
        if not group or not _same(current, entry):
            end()
            before, current = (current if group else None), entry
            group = []
        group.append(snapshot)
    end()
    return versions


def _same(one: "_native.Entry | None", other: "_native.Entry | None") -> bool:
    if one is None or other is None:
        return one is other
    return _native.same_entry(one, other)


def _fields(old: "_native.Entry | None", new: "_native.Entry | None") -> tuple[str, ...]:
    """In what two versions differ."""
    if old is None or new is None:
        return ()
    if old.type != new.type:
        return ("type",)
    fields = _native.differing_fields(old, new)
    return ("content", *fields) if old.node != new.node else fields
