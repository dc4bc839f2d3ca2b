"""Unfinished restores: journals that were left behind, found, finished or taken back."""

import contextlib
import os
import re
import time as clock
from collections.abc import Iterable, Iterator

from snapstore import _native
from snapstore.base.bytestext import from_text, to_text
from snapstore.base.errors import (
    DamagedObject,
    RestoreUnfinished,
    SnapstoreError,
    StoreBusy,
    TargetInvalid,
)
from snapstore.base.progress import Observer
from snapstore.model import canonical
from snapstore.model.ids import new_ulid
from snapstore.model.restoring import Unfinished
from snapstore.ops.running import Meter
from snapstore.repository.heads import Head
from snapstore.repository.open import Repository

Problem = tuple[bytes, str, str]

_PREFIX = ".snapstore-restore-"
_NAME = re.compile(rb"\.snapstore-restore-[0-9A-Za-z]{26}")


def new_name() -> str:
    """The name of a new staging directory."""
    return _PREFIX + new_ulid()


def places(repository: Repository, targets: Iterable[bytes]) -> list[bytes]:
    """Staging directories at the top of these targets, or of a directory around them; those of
    devices are with the store.
    """
    found = {}
    own = [] if repository.local is None else [os.path.realpath(os.fsencode(repository.local))]
    about = (place for target in targets for place in (target, *_around(target)))
    for directory in dict.fromkeys((*about, *own)):  # many targets have the same ones around them
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    found[entry.path] = True
    return sorted(found)


def _around(path: bytes) -> Iterator[bytes]:
    while os.path.dirname(path) != path:
        path = os.path.dirname(path)
        yield path


def find(repository: Repository, targets: Iterable[bytes]) -> list[Unfinished]:
    """Restores that are not finished in these targets, and those whose journal was kept for an
    undo.
    """
    targets = list(targets)
    found = {}
    for path in places(repository, targets):
        one = _look(path)
        if _concerns(one, targets):
            found[one.note.get("time_ns"), one.target, one.state] = one
    return list(found.values())


def _concerns(one: Unfinished, targets: list[bytes]) -> bool:
    """Whether a journal is about one of these targets: beside a target it may be a neighbour's."""
    if not one.note:
        return os.path.dirname(one.path) in targets
    about = [from_text(path) for path in one.note.get("paths", [])]
    around = [*about, one.target]
    return any(_holds(a, b) or _holds(b, a) for a in around for b in targets)


def _holds(outer: bytes, inner: bytes) -> bool:
    return (inner + b"/").startswith(outer.rstrip(b"/") + b"/")


def _look(path: bytes) -> Unfinished:
    above = os.path.dirname(path)
    try:
        opened = _native.open_transaction(path)
    except StoreBusy:
        return Unfinished(path, above, "running")
    except DamagedObject:
        return Unfinished(path, above, "damaged")
    if opened is None:
        return Unfinished(path, above, "staging")
    transaction, note = opened
    with contextlib.closing(transaction):
        state = transaction.state
    record = canonical.decode(note) if note else {}  # {}: only the directory is left
    target = from_text(record["target"]) if "target" in record else above
    return Unfinished(path, target, state, record)


def require_none(repository: Repository, targets: Iterable[bytes]) -> None:
    """RestoreUnfinished when a restore into one of these targets has to be finished, or taken back,
    before anything else is done there.
    """
    for one in find(repository, targets):
        where = to_text(one.target)
        if one.state == "running":
            raise RestoreUnfinished(
                f"another process is restoring into {where}",
                hint="wait for it to end",
                **one.to_dict(),
            )
        if one.state == "applied" and one.note.get("keep"):
            raise RestoreUnfinished(
                f"what the last restore into {where} replaced is kept in {to_text(one.path)}",
                hint=f"undo goes back to it, restore --resume {where} gives it up",
                **one.to_dict(),
            )
        if one.state == "staging":
            with _opened(one) as transaction:
                _clear(one, transaction)  # nothing in the target was changed
            continue
        raise RestoreUnfinished(
            f"a restore into {where} was interrupted ({one.state})",
            hint=f"restore --resume {where} finishes it, restore --abort {where} takes it back",
            **one.to_dict(),
        )


def require_none_below(repository: Repository, met: Iterable[bytes]) -> list[str]:
    """RestoreUnfinished when one of these staging directories, which were met further down in a
    target, has a journal of ours by which something has to be finished, or taken back. Of others,
    which anybody could have made who may write there, the answer is what to warn of.
    """
    warnings = []
    for directory in sorted({os.path.dirname(path) for path in met}):
        states = {one.state for one in find(repository, [directory])}
        if states - {"staging", "running", "damaged"}:
            require_none(repository, [directory])
        elif states - {"staging"}:
            warnings.append(
                f"a restore into {to_text(directory)} is not finished: what was there may be mixed"
            )
    return warnings


@contextlib.contextmanager
def _opened(one: Unfinished) -> "Iterator[_native.Transaction | None]":
    """The journal, held meanwhile; None when nothing was begun. It is let go even while an error is
    handled, which keeps all that it went through: whoever handles it may abort or resume.
    """
    opened = _native.open_transaction(one.path)
    if opened is None:
        yield None
        return
    with contextlib.closing(opened[0]) as transaction:
        yield transaction


def _clear(one: Unfinished, transaction: "_native.Transaction | None") -> None:
    if transaction is None:
        _native.remove_remains(one.path)
    else:
        transaction.remove()


def _of(repository: Repository, target: bytes) -> list[Unfinished]:
    """What was begun in a target, none of which is under way. RestoreUnfinished, TargetInvalid."""
    found = find(repository, [target])
    if not found:
        raise TargetInvalid(
            f"no restore into {to_text(target)} is unfinished", hint="there is nothing to be done"
        )
    for one in found:
        if one.state in ("running", "damaged"):
            what = "is under way" if one.state == "running" else "has a damaged journal"
            raise RestoreUnfinished(f"the restore into {to_text(one.target)} {what}", hint=None)
    return found


def resume(repository: Repository, target: bytes, observer: Observer | None) -> list[Unfinished]:
    """Finishes what was begun, as it was planned; gives what it found. Of a restore that had
    changed nothing yet, what it had prepared is removed. RestoreUnfinished, TargetInvalid.
    """
    found = _of(repository, target)
    for one in found:
        with _opened(one) as transaction:
            if transaction is None or one.state == "staging":
                _clear(one, transaction)
            else:
                _finish(repository, one, transaction, Meter("restore", observer))
    return found


def _finish(
    repository: Repository, one: Unfinished, transaction: "_native.Transaction", meter: Meter
) -> None:
    if one.state == "reverting":
        raise RestoreUnfinished(
            f"the restore into {to_text(one.target)} is being taken back",
            hint=f"restore --abort {to_text(one.target)} goes on with that",
            **one.to_dict(),
        )
    if one.state == "ready":
        meter.wait(transaction.apply(again=True))
    _move_head(repository, one)
    transaction.remove()


def _move_head(repository: Repository, one: Unfinished) -> None:
    note = one.note
    if repository.heads is None or note.get("store") != os.fspath(repository.path):
        return
    paths, time_ns = tuple(note["paths"]), note["time_ns"]
    head = Head(note["source"], note.get("head"), note.get("safety"), paths, time_ns)
    repository.heads.restored(head, undoes=bool(note.get("undoes")))


def kept(repository: Repository, targets: Iterable[bytes]) -> Unfinished | None:
    """The restore into one of these targets whose journal was kept for an undo."""
    found = [
        one for one in find(repository, targets) if one.state == "applied" and one.note.get("keep")
    ]
    return max(found, key=lambda one: one.note["time_ns"], default=None)


def take_back(repository: Repository, one: Unfinished, meter: Meter) -> list[Problem]:
    """Goes back to what a kept journal holds; gives what could not be set as it was.
    RestoreUnfinished.
    """
    with _opened(one) as transaction:
        if transaction is None:
            raise TargetInvalid(f"the journal in {to_text(one.path)} is gone")
        problems = _revert(one, transaction, meter)
    note, heads = one.note, repository.heads
    if heads is not None and note.get("store") == os.fspath(repository.path):
        head = Head(note["source"], note.get("was"), None, tuple(note["paths"]), clock.time_ns())
        heads.restored(head, undoes=True)
    return problems


def _revert(one: Unfinished, transaction: "_native.Transaction", meter: Meter) -> list[Problem]:
    try:
        return meter.finish(transaction.revert())
    except SnapstoreError as error:
        raise RestoreUnfinished(
            f"taking back the restore into {to_text(one.target)} failed: {error.message}",
            **one.to_dict(),
        ) from error


def abort(repository: Repository, target: bytes, observer: Observer | None) -> list[Unfinished]:
    """Takes back what was begun; gives what it found. RestoreUnfinished when it was finished and
    only has to be cleared away: then `undo` takes it back.
    """
    found = _of(repository, target)
    for one in found:
        if one.state == "removing":
            raise RestoreUnfinished(
                f"the restore into {to_text(one.target)} was finished, but for what it replaced",
                hint=f"restore --resume {to_text(one.target)}, then undo",
                **one.to_dict(),
            )
        with _opened(one) as transaction:
            if transaction is None or one.state == "staging":
                _clear(one, transaction)
            else:
                _revert(one, transaction, Meter("restore", observer))
    return found
