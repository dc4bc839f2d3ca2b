"""Planning: the live tree taken, compared with what is wanted, and what follows approved."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from snapstore import _native
from snapstore.base.bytestext import path_fields, to_text
from snapstore.base.errors import (
    Cancelled,
    ConflictsFound,
    InvalidArgument,
    SnapstoreError,
    TargetChanged,
    TargetInvalid,
)
from snapstore.model.ids import new_ulid
from snapstore.model.restoring import Conflict, PlannedStep, RestorePlan, Side
from snapstore.ops import create as creating
from snapstore.ops import livetree, places, unfinished
from snapstore.ops.livetree import Missed
from snapstore.ops.request import Request
from snapstore.ops.running import Meter
from snapstore.ops.targets import Step
from snapstore.repository.commit import Taken, commit_steps
from snapstore.repository.open import Repository
from snapstore.repository.session import Steps, drain

MAX_NAMED = 10_000
STEPS_AT_ONCE = 1_000


@dataclass(slots=True)
class _Part:
    """A step on disk. Its fields but `step` are read by the core."""

    step: Step
    live: bytes | None
    wanted: tuple[bytes, bytes]
    head: tuple[bytes, bytes] | None
    paths: list[bytes] | None
    extras: str
    path: bytes
    is_directory: bool
    crosses: bool
    journal: bytes | None


class Planning:
    """A plan that is being made. Afterwards: `core` carries it out, `plan` tells it, `problems` are
    what cannot be done and is left out.
    """

    def __init__(self, repository: Repository, request: Request, meter: Meter) -> None:
        self.repository = repository
        self.request = request
        self.meter = meter
        self.read_bytes = 0
        self.parts: list[_Part] = []
        self.core: _native.RestorePlan | None = None
        self.plan: RestorePlan | None = None
        self.problems: list[tuple[bytes, str, str]] = []
        self.warnings: list[str] = []
        self._missed_before: Missed = {}

    def compare_and_save(self, reader: "_native.Reader") -> str | None:
        """Takes what is there, plans, and commits the safety snapshot if there is work to do."""
        repository = self.repository
        with repository.session("restore") as session:
            repository.prepare_writing()
            takers: list[creating.Taker] = []

            def take(condemned: frozenset[bytes]) -> Steps[Taken]:
                while True:
                    taker = creating.Taker(
                        repository, self._taking(reader, dry=False), self.meter, session.ulid
                    )
                    takers.append(taker)
                    taken = yield from taker.take(condemned)
                    if self._planned(reader, taker):
                        break
                assert self.plan is not None
                if self.plan.is_empty:
                    return replace(taken, payload=None)
                return taken

            try:
                id = drain(commit_steps(session, take))
                if id is not None:
                    takers[-1].install_caches(id, only_missing=True)
                return id
            finally:
                for taker in takers:
                    taker.discard_caches()

    def compare(self, reader: "_native.Reader") -> None:
        """Plans, with the nodes of what is there in memory only."""
        repository = self.repository
        while True:
            taker = creating.Taker(
                repository, self._taking(reader, dry=True), self.meter, new_ulid()
            )
            drain(taker.take(frozenset()))
            with_live = repository.reader_with(taker.nodes)
            if self._planned(with_live, taker):
                return

    def _taking(self, reader: "_native.Reader", *, dry: bool) -> creating.Plan:
        return livetree.taking(self.repository, reader, self.request, self._missed_before, dry=dry)

    def _planned(self, reader: "_native.Reader", taker: creating.Taker) -> bool:
        """Plans; False when something has to be taken that was not, and all be compared again."""
        self.read_bytes += sum(root.result.read_bytes for root in taker.roots)
        met = [
            places.join(root.path, path) for root in taker.roots for path in root.result.unfinished
        ]
        told = unfinished.require_none_below(self.repository, met)
        self.warnings += [text for text in told if text not in self.warnings]
        taken = {root.path: root for root in taker.roots}
        self.parts = [self._part(step, taken) for step in self.request.steps]
        decided: dict[tuple[int, bytes], bool] = {}
        core = self._core_plan(reader, decided)
        problems = core.problems()
        missed = self._missed(problems)
        if missed:
            for number, path in missed:
                self._missed_before.setdefault(number, []).append(path)
            return False
        conflicts = self._conflicts(core)
        if conflicts and self.request.resolver is not None:
            decided = self._resolve(core, conflicts)
            core = self._core_plan(reader, decided)
            conflicts = self._conflicts(core)
        if problems and not self.request.goes_on:
            raise _in_the_way(problems)
        self.problems = problems
        self.core, self.plan = core, _described(core, self.parts, conflicts)
        self._approve()
        return True

    def _core_plan(
        self, reader: "_native.Reader", decided: dict[tuple[int, bytes], bool]
    ) -> "_native.RestorePlan":
        strategy = self.request.strategy
        return self.meter.wait(
            _native.plan_restore(
                reader,
                self.parts,
                strategy="overwrite" if strategy == "fail" else strategy,
                decided=decided,
            )
        )

    def _part(self, step: Step, taken: dict[bytes, creating.TakenRoot]) -> _Part:
        root = taken.get(step.target)
        is_directory = root is not None and root.result.kind == "directory"
        wanted = (bytes.fromhex(step.root.id), step.strip or b"")
        listed = livetree.is_listed(self.request, step)
        extras = step.extras or self.request.extras
        if listed and extras == "delete":
            extras = "keep"
            self.warnings.append(
                f"{to_text(step.target)}: only listed paths were taken, so nothing else is deleted"
            )
        return _Part(
            step=step,
            live=root.result.id if root is not None else None,
            wanted=wanted,
            head=self._head(step),
            paths=list(step.paths) if step.paths is not None else None,
            extras=extras,
            path=step.target,
            is_directory=is_directory and livetree.is_directory(self.repository, step),
            crosses=not livetree.rules_of(self.request.snapshot).one_file_system,
            journal=livetree.journal(self.repository) if livetree.is_image(step) else None,
        )

    def _head(self, step: Step) -> tuple[bytes, bytes] | None:
        """Where the base has what a step restores."""
        base = self.request.base
        if base is None:
            return None
        if self.request.undoes:
            return livetree.undone(self.request.snapshot, step)
        if step.only is not None:
            return None
        for root in base.roots:
            if root.path == step.root.path:
                return bytes.fromhex(root.id), step.strip or b""
        return None

    def _missed(self, problems: Sequence[tuple[bytes, str, str]]) -> list[tuple[int, bytes]]:
        """Paths that the snapshot has, and that the live tree lacks only because of its rules."""
        missed = []
        for path, what, _ in problems:
            if what != "in the way":
                continue
            for number, part in enumerate(self.parts):
                below = path[len(part.path.rstrip(b"/")) + 1 :]
                inside = path.startswith(part.path.rstrip(b"/") + b"/")
                if (
                    inside
                    and below not in self._missed_before.get(number, [])
                    and part.is_directory
                ):
                    missed.append((number, below))
        return missed if len(missed) <= MAX_NAMED else []

    def steps(self) -> Iterator[PlannedStep]:
        """All of what the plan does, also when it was carried out; it names but the first ones."""
        assert self.core is not None
        return _steps(self.core, self.parts)

    # Conflicts

    def _conflicts(self, core: "_native.RestorePlan") -> list[Conflict]:
        return [
            Conflict(
                places.join(self.parts[part].path, path),
                live=_side(live),
                snapshot=_side(wanted),
                head=_side(head),
                taken="snapshot" if taken else "live",
            )
            for part, path, live, wanted, head, taken in core.conflicts()
        ]

    def _resolve(
        self, core: "_native.RestorePlan", conflicts: Sequence[Conflict]
    ) -> dict[tuple[int, bytes], bool]:
        """What the caller says of each conflict. One that is not among those named stays live."""
        assert self.request.resolver is not None
        if core.conflict_count > len(conflicts):
            raise ConflictsFound(
                f"{core.conflict_count:,} conflicts are too many to decide one by one",
                conflicts=core.conflict_count,
            )
        decided = {}
        for (part, path, *_), conflict in zip(core.conflicts(), conflicts, strict=True):
            answer = self.request.resolver(conflict)
            if answer not in ("snapshot", "live"):
                raise InvalidArgument(
                    f"the resolver said {answer!r} of {to_text(conflict.path)}",
                    hint="it says snapshot or live",
                )
            decided[part, path] = answer == "snapshot"
        return decided

    def _approve(self) -> None:
        """Tells the plan, and asks where something could be lost."""
        plan, request = self.plan, self.request
        assert plan is not None
        request.emit("plan", plan.to_dict())
        for conflict in plan.conflicts:
            request.emit("conflict", conflict.to_dict())
        if request.dry_run:
            return
        if request.strategy == "fail" and plan.conflict_count:
            raise ConflictsFound(
                f"{plan.conflict_count:,} paths were changed on disk and in the snapshot;"
                " nothing was done",
                conflicts=[to_text(conflict.path) for conflict in plan.conflicts],
            )
        risky = plan.deletes or plan.conflict_count
        if risky and request.approve is not None and not request.approve(plan):
            raise Cancelled("not restored; nothing was changed")


def _in_the_way(problems: Sequence[tuple[bytes, str, str]]) -> SnapstoreError:
    path, what, why = problems[0]
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    kind = TargetChanged if what == "changed" else TargetInvalid
    return kind(
        f"cannot restore {to_text(path)}: {why}{more}; nothing was changed",
        hint="--on-error keep-going leaves such paths out",
        **path_fields(path),
    )


def _steps(core: "_native.RestorePlan", parts: Sequence[_Part]) -> Iterator[PlannedStep]:
    for start in range(0, len(core), STEPS_AT_ONCE):
        for part, path, action, size in core.steps(start, STEPS_AT_ONCE):
            yield PlannedStep(places.join(parts[part].path, path), action, size)


def _described(
    core: "_native.RestorePlan", parts: Sequence[_Part], conflicts: list[Conflict]
) -> RestorePlan:
    return RestorePlan(
        counts=core.counts(),
        steps=list(itertools.islice(_steps(core, parts), MAX_NAMED)),
        step_count=len(core),
        conflicts=conflicts,
        conflict_count=core.conflict_count,
        extras=[places.join(parts[part].path, path) for part, path in core.extras()],
        extra_count=core.extra_count,
    )


def _side(entry: "_native.Entry | None") -> Side:
    if entry is None:
        return Side()
    return Side(entry.type, entry.size, entry.mtime_ns, entry.mode)
