"""References: how a snapshot is named on a command line or in a call.

`latest`; a snapshot's name (the newest that has it); an id or a unique prefix of one (4 digits or
more); `@TIME`, the newest before a time. Each with `~N` behind it for the one N steps further back,
and with `:PATH` behind that, a path in the snapshot.
"""

import re
from collections.abc import Callable, Sequence

from snapstore.base.errors import AmbiguousReference, InvalidArgument, SnapshotNotFound
from snapstore.model import times
from snapstore.model.snapshot import Snapshot

_STEPS = re.compile(r"(.+)~(\d{1,6})", re.DOTALL)
_COUNTING = re.compile(r"latest(?=[~:]|$)|@|.+~\d", re.DOTALL)
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_SHORT_PREFIX = re.compile(r"[0-9a-f]{1,3}")
_SHOWN = 10
_SUGGESTED = 3
_LIST = "list shows the snapshots of a store"


def newest_first(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    return sorted(snapshots, key=lambda s: (s.time_ns, s.id), reverse=True)


def resolve(reference: str, snapshots: Sequence[Snapshot], host: str) -> Snapshot:
    """The snapshot that a reference without path names. SnapshotNotFound, AmbiguousReference;
    InvalidArgument for `@` and no time.

    What exists under the whole text comes first: a snapshot may be called `a~1`. `latest` and
    `@TIME` choose among the complete user snapshots of `host`; `NAME~N` among those of that name;
    `ID~N` among those of its source and host that are older.
    """
    line = _line(reference, snapshots, host)
    steps = _STEPS.fullmatch(reference)
    base, back = (steps[1], int(steps[2])) if steps and not line else (reference, 0)
    if base != reference:
        line = _line(base, snapshots, host)
    if back < len(line):
        return line[back]
    raise _nothing(reference, base, line, snapshots, host)


def split(reference: str, find: Callable[[str], Snapshot]) -> tuple[Snapshot, bytes | None]:
    """Snapshot and path of `REF` or `REF:PATH`: tried whole first, then split at the last colon
    whose left side resolves.
    """
    missing: SnapshotNotFound | InvalidArgument | None = None
    at = len(reference)
    while at > 0:
        try:
            snapshot = find(reference[:at])
        except SnapshotNotFound as error:
            if missing is None or isinstance(missing, InvalidArgument):
                missing = error
        except InvalidArgument as error:  # the whole of `@TIME:PATH` is no time, a part may be
            missing = missing or error
        else:
            path = reference[at + 1 :].encode("utf-8", "surrogateescape")
            return snapshot, path if at < len(reference) else None
        at = reference.rfind(":", 0, at)
    raise missing or _not_found("no snapshot answers to ''", "", _LIST)


def counts(reference: str) -> bool:
    """Whether a reference, with or without a path, may count snapshots: `latest`, `@TIME`, `~N`."""
    return _COUNTING.match(reference) is not None


def passed_over(reference: str, snapshots: Sequence[Snapshot], host: str) -> list[Snapshot]:
    """Snapshots whose record cannot be read, and which `REF` or `REF:PATH` might mean if it could:
    it counts snapshots, and they are not known to be older than the one it means.
    """
    asked = ""

    def find(base: str) -> Snapshot:
        nonlocal asked
        asked = base
        return resolve(base, snapshots, host)

    try:
        oldest_ns = split(reference, find)[0].time_ns
    except (SnapshotNotFound, AmbiguousReference, InvalidArgument):
        oldest_ns = 0
    unread = [s for s in snapshots if not s.record] if counts(asked) else []
    return [s for s in newest_first(unread) if s.time_ns > oldest_ns or not s.time_ns]


def _line(base: str, snapshots: Sequence[Snapshot], host: str) -> list[Snapshot]:
    """What a reference without `~N` names, and behind it what `~1`, `~2`, … name. Empty when it
    names nothing.
    """
    if base == "latest":
        return _own(snapshots, host)
    named = [s for s in snapshots if s.name == base]
    if named:
        return newest_first(named)
    if _PREFIX.fullmatch(base):
        return _of_id(base, snapshots)
    before_ns = _time(base)
    if before_ns is not None:
        return [s for s in _own(snapshots, host) if s.time_ns < before_ns]
    return []


def _own(snapshots: Sequence[Snapshot], host: str) -> list[Snapshot]:
    """The complete user snapshots of a host, the newest first."""
    return newest_first(
        [s for s in snapshots if s.host == host and s.kind == "user" and not s.partial]
    )


def _of_id(prefix: str, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    found = [s for s in snapshots if s.id.startswith(prefix)]
    if len(found) > 1:
        raise _ambiguous(prefix, found)
    if not found:
        return []
    (one,) = found
    series = [s for s in snapshots if (s.source, s.host) == (one.source, one.host)]
    return [one, *(s for s in newest_first(series) if (s.time_ns, s.id) < (one.time_ns, one.id))]


def _time(base: str) -> int | None:
    """The time in `@TIME`; `@1700000000`, which is a time itself, needs no second `@`."""
    if not base.startswith("@"):
        return None
    for text in (base[1:], base):
        try:
            return times.time_ns(text)
        except InvalidArgument:
            pass
    return None


# What is said when there is nothing


def _nothing(
    reference: str, base: str, line: Sequence[Snapshot], snapshots: Sequence[Snapshot], host: str
) -> SnapshotNotFound | InvalidArgument:
    if not snapshots:
        return _not_found(f"{reference!r}: this store has no snapshots yet", reference)
    if base == "latest":
        return _no_latest(reference, len(line), snapshots, host)
    if line:
        count = len(line) - 1
        return _not_found(f"{reference!r}: only {count} are older than {base!r}", reference)
    if base.startswith("@") and len(base) > 1:
        return _no_time(reference, base, snapshots, host)
    near = suggestions(base.partition(":")[0], snapshots)
    hint = _LIST
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}? {_LIST}"
    elif _SHORT_PREFIX.fullmatch(base):
        hint = f"of an id, 4 digits or more are needed; {_LIST}"
    return _not_found(f"no snapshot answers to {reference!r}", reference, hint, suggestions=near)


def suggestions(word: str, snapshots: Sequence[Snapshot]) -> list[str]:
    """Names, and ids in short, that are spelt much as `word` is; the nearest first."""
    from difflib import get_close_matches

    known = {s.name.lower(): s.name for s in newest_first(snapshots) if s.name}
    known["latest"] = "latest"
    if re.fullmatch("[0-9a-fA-F]{6,}", word):
        known |= {s.id[: len(word)]: s.short_id for s in snapshots}
    close = get_close_matches(word.lower(), known, n=_SUGGESTED, cutoff=0.65)
    return list(dict.fromkeys(known[text] for text in close))


def _no_latest(
    reference: str, count: int, snapshots: Sequence[Snapshot], host: str
) -> SnapshotNotFound:
    return _not_found(
        f"{reference!r}: this host has {count} complete snapshots here",
        reference,
        _others(snapshots, host) or _LIST,
    )


def _no_time(
    reference: str, base: str, snapshots: Sequence[Snapshot], host: str
) -> SnapshotNotFound | InvalidArgument:
    if _time(base) is None:
        try:
            times.time_ns(base[1:])
        except InvalidArgument as error:
            return error
    return _not_found(
        f"{reference!r}: this host has no complete snapshot from before that time",
        reference,
        _others(snapshots, host) or "list shows the snapshots of a store and their times",
    )


def _others(snapshots: Sequence[Snapshot], host: str) -> str | None:
    """A hint at snapshots that `latest` does not choose among."""
    if any(s.host != host for s in snapshots):
        return "there are snapshots of other hosts: name one by its name or id"
    if any(s.partial for s in snapshots):
        return "there are partial snapshots: name one by its name or id"
    return None


def _not_found(
    message: str, reference: str, hint: str | None = None, **fields: object
) -> SnapshotNotFound:
    return SnapshotNotFound(message, hint=hint, reference=reference, **fields)


def _ambiguous(reference: str, found: Sequence[Snapshot]) -> AmbiguousReference:
    ids = [s.id for s in newest_first(found)]
    shown = ", ".join(id[: max(8, len(reference) + 2)] for id in ids[:_SHOWN])
    return AmbiguousReference(
        f"{reference!r} is the beginning of {len(ids)} ids: {shown}",
        hint="give more digits",
        reference=reference,
        candidates=ids,
    )
