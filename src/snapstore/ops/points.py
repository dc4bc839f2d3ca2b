"""Restore points: a snapshot to which everything goes back when a block of code fails."""

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType

from snapstore.base.errors import SourceUnreadable, StoreFailed
from snapstore.model.results import CreateResult, RestoreResult
from snapstore.model.snapshot import Snapshot


class RestorePoint:
    """A context manager: takes a snapshot, and goes back to it when the block raises anything.

    Going back is exact: what came new is deleted, as far as the snapshot's rules do not leave it
    out. What the block had done is in a safety snapshot (`undo`). Without an exception nothing is
    changed. The snapshot stays in any case. The exception goes on, with a note of what was done.
    """

    def __init__(
        self, take: Callable[[], CreateResult], go_back: Callable[[Snapshot], RestoreResult]
    ) -> None:
        self._take = take
        self._go_back = go_back
        self._snapshot: Snapshot | None = None
        self.result: RestoreResult | None = None
        """What going back did."""
        self.failure: BaseException | None = None
        """Why going back was not possible."""

    @property
    def snapshot(self) -> Snapshot:
        """What is gone back to. StoreFailed before the block has begun."""
        if self._snapshot is None:
            raise StoreFailed("the restore point was not entered: use it in a with statement")
        return self._snapshot

    def __enter__(self) -> "RestorePoint":
        taken = self._take()
        assert taken.snapshot is not None
        if taken.partial:
            raise SourceUnreadable(
                f"{taken.unreadable_count:,} paths cannot be read, and could not be brought back",
                hint="leave them out (exclude), or take the snapshot as a user who may read them",
                snapshot=taken.snapshot.id,
            )
        self._snapshot = taken.snapshot
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        _uninterrupted(self._restore)
        error.add_note(self._note())

    def _restore(self) -> None:
        try:
            self.result = self._go_back(self.snapshot)
        except BaseException as failure:
            self.failure = failure

    def _note(self) -> str:
        id = self.snapshot.short_id
        if self.result is None:
            return (
                f"NOT restored to the restore point, snapshot {id}: {self.failure};"
                f" restore {id} --delete tries again"
            )
        plan = self.result.plan
        changes = sum(entries for entries, _ in plan.counts.values()) if plan is not None else 0
        text = f"restored to the restore point, snapshot {id}: {changes:,} changes taken back"
        if self.result.problem_count:
            text += f", but for {self.result.problem_count:,} problems"
        if self.result.can_undo:
            text += "; undo brings them back"
        return text


def _uninterrupted(work: Callable[[], None]) -> None:
    """Does work in a thread that Ctrl-C does not reach: half of it would be worse than none."""
    once, done = threading.Lock(), threading.Event()

    def carry_out() -> None:
        if once.acquire(blocking=False):
            try:
                work()
            finally:
                done.set()

    while not done.is_set():
        with contextlib.suppress(KeyboardInterrupt):
            if not once.locked():
                try:
                    threading.Thread(target=carry_out, name="snapstore-restore-point").start()
                except RuntimeError:  # the interpreter is ending
                    carry_out()
            done.wait()
