"""Left out: snapshots that cannot be read, which a command over all of them goes without, and says
so; and those that a reference passes over.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from snapstore.base.errors import SnapstoreError
from snapstore.cli import errors, render
from snapstore.cli.settings import Settings

if TYPE_CHECKING:
    from snapstore import Snapshot, Store


@contextmanager
def noted(
    store: "Store", settings: Settings, *, of_all: bool = True
) -> Iterator[Sequence["Snapshot"]]:
    """The snapshots that are left out; none unless the command is `of_all`. What the block prints
    is followed by a warning of them, also when it fails: they may be why. JSON has them in it
    instead.
    """
    left_out = store.unreadable_snapshots() if of_all else []
    try:
        yield left_out
    except SnapstoreError:
        warn(left_out, settings)
        raise
    warn(left_out, settings)


@contextmanager
def passed_over(store: "Store", settings: Settings, *refs: str) -> Iterator[None]:
    """What the block prints is followed by a warning of snapshots that cannot be read, and that
    `refs` might have meant; with --json not when it fails: stderr has but the error then.
    """
    try:
        yield
    except SnapstoreError:
        if not settings.json:
            _warn_of_passed_over(store, settings, refs)
        raise
    _warn_of_passed_over(store, settings, refs)


def _warn_of_passed_over(store: "Store", settings: Settings, refs: Sequence[str]) -> None:
    for ref in refs:
        missed = store.passed_over(ref)
        if missed:
            count = render.amount(len(missed), "snapshot")
            render.warning(f"{ref}: {count} passed over that cannot be read")
            _list(missed, settings)


def status(left_out: Sequence["Snapshot"]) -> int:
    """The exit status of a command that did all else."""
    return errors.PARTIAL if left_out else errors.OK


def as_json(left_out: Sequence["Snapshot"]) -> list[dict[str, Any]]:
    """The field `left_out` of docs/reference/json.md."""
    return [{"snapshot": snapshot.id, "error": snapshot.error} for snapshot in left_out]


def warn(left_out: Sequence["Snapshot"], settings: Settings) -> None:
    """Names them on stderr; JSON has them in it."""
    if left_out and not settings.json:
        render.warning(f"{render.amount(len(left_out), 'snapshot')} left out that cannot be read")
        _list(left_out, settings)


def _list(snapshots: Sequence["Snapshot"], settings: Settings) -> None:
    problems = [(one.short_id.encode(), one.error or "") for one in snapshots]
    for line in render.grouped(problems, len(problems), full=settings.verbose):
        render.note(line)
