"""Restoring in place: a plan is staged, exchanged, and can be taken back.

docs/design/004-restore-in-place.md says why it is done in this order.
"""

import os
import time as clock
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import Cancelled, RestoreUnfinished, SnapstoreError
from snapstore.model import canonical
from snapstore.model.restoring import RestorePlan
from snapstore.model.results import RestoreResult
from snapstore.ops import hooks, unfinished
from snapstore.ops.planning import Planning
from snapstore.ops.request import Request
from snapstore.ops.running import Meter
from snapstore.ops.targets import check_steps
from snapstore.repository.heads import Head
from snapstore.repository.open import Repository


def restore(repository: Repository, request: Request) -> RestoreResult:
    """Carries out a request: entirely, or not at all but for what `on_error` allows.

    Raises TargetRefused, TargetInvalid, TargetDenied, TargetChanged, ConflictsFound, DamagedObject,
    NoSpace, Cancelled, OperationTimeout, RestoreUnfinished.
    """
    check_steps(request.steps, force=request.force)
    unfinished.require_none(repository, [step.target for step in request.steps])
    return hooks.around(
        {} if request.dry_run else request.hooks,
        request.snapshot.id,
        request.target,
        lambda: _Restoring(repository, request).run(),
        request.stop,
    )


class _Restoring:
    """A restore in place that is under way."""

    def __init__(self, repository: Repository, request: Request) -> None:
        self.repository = repository
        self.request = request
        self.meter = Meter(
            "restore", request.observer, stop=request.stop, time_limit_s=request.time_limit_s
        )
        self.saves = request.safety and not request.dry_run and repository.writable
        self.keeps = request.safety and not request.dry_run and not repository.writable
        self.planning = Planning(repository, request, self.meter)
        self.warnings = self.planning.warnings

    def run(self) -> RestoreResult:
        """The whole of it."""
        repository = self.repository
        with repository.reading():
            reader = repository.reader_of_whole(self.request.snapshot)
            safety = self.planning.compare_and_save(reader) if self.saves else None
            if not self.saves:
                self.planning.compare(reader)
            if self.request.dry_run or self.plan.is_empty:
                if not self.request.dry_run:
                    self._keep_head()
                return self._result(safety, None, [])
            with closing(self._stage(safety)) as transaction:
                problems = self._apply(transaction)
                self._move_head(safety)
                return self._finish(transaction, safety, problems)

    @property
    def plan(self) -> RestorePlan:
        assert self.planning.plan is not None
        return self.planning.plan

    # The transaction

    def _stage(self, safety: str | None) -> "_native.Transaction":
        assert self.planning.core is not None
        task = self.planning.core.stage(
            unfinished.new_name(),
            canonical_note(self._note(safety)),
            verify=self.request.verify,
            goes_on=self.request.goes_on,
        )
        return self.meter.wait(task)

    def _note(self, safety: str | None) -> dict[str, Any]:
        """What is kept in the journal for whoever finds it."""
        request = self.request
        return {
            "store": os.fspath(self.repository.path),
            "snapshot": request.snapshot.id,
            "source": request.source,
            "head": request.moves_head,
            "was": request.was_head,
            "undoes": int(request.undoes),
            "safety": safety,
            "paths": [to_text(step.target) for step in request.steps],
            "target": to_text(request.target),
            "time_ns": clock.time_ns(),
            "keep": int(self.keeps),
        }

    def _apply(self, transaction: "_native.Transaction") -> list[tuple[bytes, str, str]]:
        request = self.request
        try:
            if request.verify:
                request.emit("verified", {"files": transaction.verified_files})
            problems = self.meter.wait(transaction.apply(goes_on=request.goes_on))
            for step in self.planning.steps() if request.is_watched else ():
                request.emit("file", step.to_dict())
            request.settle()
            return problems
        except BaseException as error:
            if self.request.on_error == "stop" and not isinstance(error, Cancelled):
                raise _stopped(self.request.target, error) from error
            _take_back(self.meter, transaction, self.request.target, error)
            raise

    def _move_head(self, safety: str | None) -> None:
        request, heads = self.request, self.repository.heads
        if heads is not None:
            paths = tuple(to_text(step.target) for step in request.steps)
            head = Head(request.source, request.moves_head, safety, paths, clock.time_ns())
            heads.restored(head, undoes=request.undoes)

    def _keep_head(self) -> None:
        """Nothing differed: what there is to be undone stays what it was."""
        request, heads = self.request, self.repository.heads
        known = heads.find(request.source) if heads is not None else None
        if known is None:
            if request.moves_head is not None:
                self._move_head(None)
        elif heads is not None:
            head = replace(known, snapshot=request.moves_head, time_ns=clock.time_ns())
            heads.restored(head, undoes=request.undoes)

    def _finish(
        self,
        transaction: "_native.Transaction",
        safety: str | None,
        problems: list[tuple[bytes, str, str]],
    ) -> RestoreResult:
        if self.keeps:
            where = ", ".join(to_text(path) for path in transaction.places)
            self.warnings.append(
                f"the store is read-only, so what was replaced is kept in {where};"
                " undo goes back to it"
            )
        else:
            try:
                transaction.remove()
            except SnapstoreError as error:
                left = any(os.path.lexists(path) for path in transaction.places)
                again = f"; restore --resume {to_text(self.request.target)} tries again"
                self.warnings.append(f"{error.message}{again if left else ''}")
        return self._result(safety, transaction, problems)

    def _result(
        self,
        safety: str | None,
        transaction: "_native.Transaction | None",
        problems: Sequence[tuple[bytes, str, str]],
    ) -> RestoreResult:
        staged = transaction.problems() if transaction is not None else []
        files, directories, others = transaction.counts if transaction is not None else (0, 0, 0)
        everything = [*self.planning.problems, *staged, *problems]
        return RestoreResult(
            snapshot=self.request.snapshot.id,
            target=self.request.target,
            files=files,
            directories=directories,
            others=others,
            bytes=transaction.bytes if transaction is not None else 0,
            problems=everything,
            problem_count=len(everything),
            verified_files=transaction.verified_files if transaction is not None else 0,
            elapsed_s=self.meter.elapsed_s,
            in_place=True,
            dry_run=self.request.dry_run,
            safety_snapshot=safety,
            plan=self.plan,
            warnings=self.warnings,
            read_bytes=self.planning.read_bytes,
            strategy=self.request.strategy,
        )


def canonical_note(note: dict[str, Any]) -> bytes:
    """A note as it stands in a journal."""
    return canonical.encode({key: value for key, value in note.items() if value is not None})


def _take_back(
    meter: Meter, transaction: "_native.Transaction", target: bytes, error: BaseException
) -> None:
    """Everything is as it was afterwards, or RestoreUnfinished says that it is not."""
    try:
        meter.finish(transaction.revert())
    except SnapstoreError as other:
        raise RestoreUnfinished(
            f"{error}; and taking it back failed: {other.message}",
            state="ready",
            target=to_text(target),
        ) from error
    if isinstance(error, SnapstoreError):
        error.message = f"{error.message}; everything is as it was"
        error.args = (error.message,)


def _stopped(target: bytes, error: BaseException) -> RestoreUnfinished:
    return RestoreUnfinished(
        f"{error}; what was restored until then stays, and the rest is as it was",
        state="ready",
        target=to_text(target),
    )
