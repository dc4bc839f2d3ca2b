"""Left out: snapshots that cannot be read, which a command over all of them goes without, and says
so.
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
        _warn(left_out, settings)
        raise
    _warn(left_out, settings)


def status(left_out: Sequence["Snapshot"]) -> int:
    """The exit status of a command that did all else."""
    return errors.PARTIAL if left_out else errors.OK


def as_json(left_out: Sequence["Snapshot"]) -> list[dict[str, Any]]:
    """The field `left_out` of docs/reference/json.md."""
    return [{"snapshot": snapshot.id, "error": snapshot.error} for snapshot in left_out]


def _warn(left_out: Sequence["Snapshot"], settings: Settings) -> None:
    if not left_out or settings.json:
        return
    render.warning(f"{render.amount(len(left_out), 'snapshot')} left out that cannot be read")
    problems = [(one.short_id.encode(), one.error or "") for one in left_out]
    for line in render.grouped(problems, len(problems), full=settings.verbose):
        render.note(line)
