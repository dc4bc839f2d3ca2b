"""Restoring in place: what is there is taken, compared, exchanged, and can be had again.

docs/design/004-restore-in-place.md says why it is done in this order.
"""

import contextlib
import os
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from snapstore import _native
from snapstore.base.bytestext import from_text, path_fields, to_text
from snapstore.base.errors import (
    Cancelled,
    ConflictsFound,
    InvalidArgument,
    RestoreUnfinished,
    SnapstoreError,
    TargetChanged,
    TargetInvalid,
)
from snapstore.base.progress import Observer
from snapstore.model import canonical
from snapstore.model.ids import new_ulid
from snapstore.model.restoring import (
    ON_ERROR,
    STRATEGIES,
    Approve,
    Command,
    Conflict,
    Emit,
    PlannedStep,
    Resolver,
    RestorePlan,
    Side,
)
from snapstore.model.results import RestoreResult
from snapstore.model.snapshot import Snapshot
from snapstore.ops import create as creating
from snapstore.ops import hooks, places, unfinished
from snapstore.ops.running import Meter
from snapstore.ops.selection import Place, Rules
from snapstore.ops.targets import Step, check_steps
from snapstore.repository.commit import Taken, commit_steps
from snapstore.repository.heads import Head
from snapstore.repository.open import Repository
from snapstore.repository.session import Steps, drain

T = TypeVar("T")

MAX_NAMED = 10_000
STEPS_AT_ONCE = 1_000
_MAX_LISTED = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """A restore in place. `extras`: `keep`, `delete`, or `delete-known` (what the base has)."""

    snapshot: Snapshot
    steps: Sequence[Step]
    base: Snapshot | None
    """The head: what both sides come from."""
    source: str
    tool: str
    user: dict[str, Any]
    target: bytes
    extras: str = "keep"
    excluded: bool = False
    """What the rules leave out counts like everything else."""
    strategy: str = "overwrite"
    resolver: Resolver | None = None
    safety: bool = True
    on_error: str = "rollback"
    verify: bool = False
    force: bool = False
    dry_run: bool = False
    approve: Approve | None = None
    time_limit_s: float | None = None
    stop: Callable[[], None] | None = None
    """Raises when the restore is to end."""
    emit: Emit = lambda event, data: None
    settle: Callable[[], None] = lambda: None
    """Called when everything is exchanged and told; raises when it is to be taken back."""
    observer: Observer | None = None
    moves_head: str | None = None
    """The head afterwards; None: as it was, or none where a restore is taken back."""
    was_head: str | None = None
    """The head before, which an undo goes back to."""
    undoes: bool = False
    hooks: Mapping[str, Command] = field(default_factory=dict)


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


def restore(repository: Repository, request: Request) -> RestoreResult:
    """Carries out a request: entirely, or not at all but for what `on_error` allows.

    Raises TargetRefused, TargetInvalid, TargetDenied, TargetChanged, ConflictsFound, DamagedObject,
    NoSpace, Cancelled, OperationTimeout, RestoreUnfinished.
    """
    _check(request)
    check_steps(request.steps, force=request.force)
    unfinished.require_none(repository, [step.target for step in request.steps])
    return hooks.around(
        {} if request.dry_run else request.hooks,
        request.snapshot.id,
        request.target,
        lambda: _Restoring(repository, request).run(),
        request.stop,
    )


def _check(request: Request) -> None:
    if request.strategy not in STRATEGIES:
        raise InvalidArgument(
            f"there is no strategy {request.strategy!r}", hint=f"one of {', '.join(STRATEGIES)}"
        )
    if request.on_error not in ON_ERROR:
        raise InvalidArgument(f"on_error is one of {', '.join(ON_ERROR)}, not {request.on_error!r}")
    if len(request.steps) > 1000:
        raise InvalidArgument("too many roots to restore at once", hint="restore fewer of them")


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
        self.named: dict[int, list[bytes]] = {}
        self.read_bytes = 0
        self.parts: list[_Part] = []
        self.core: _native.RestorePlan | None = None
        self.plan: RestorePlan | None = None
        self.problems: list[tuple[bytes, str, str]] = []
        self.warnings: list[str] = []

    def run(self) -> RestoreResult:
        """The whole of it."""
        repository = self.repository
        with repository.reading():
            reader = repository.reader_of_whole(self.request.snapshot)
            safety = self._compare_and_save(reader) if self.saves else None
            if not self.saves:
                self._compare(reader)
            assert self.plan is not None
            if self.request.dry_run or self.plan.is_empty:
                if not self.request.dry_run:
                    self._move_head(None, unchanged=True)
                return self._result(safety, None, [])
            transaction = self._stage(safety)
            problems = self._apply(transaction)
            self._move_head(safety)
            return self._finish(transaction, safety, problems)

    # Comparing

    def _compare_and_save(self, reader: "_native.Reader") -> str | None:
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

    def _compare(self, reader: "_native.Reader") -> None:
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
        """The create that takes what is there."""
        request = self.request
        rules = Rules(ignore_files=False) if request.excluded else _rules(request.snapshot)
        found: dict[bytes, Place] = {}
        images, below, parts = [], {}, []
        for number, step in enumerate(request.steps):
            if _is_image(step):
                images.append(step.target)
                parts.append(_part_record(step, Place(step.target)))
                continue
            wanted = self._place(reader, number, step)
            parts.append(_part_record(step, wanted))
            place = _there(wanted)
            if place.path in found:
                place = replace(place, named=(*found[place.path].named, *place.named))
            found[place.path] = place
            if step.strip and place.path == step.target:
                below[place.path] = step.strip
        record: dict[str, Any] = {"type": "restore", **request.user, "parts": parts}
        record["snapshot"] = request.snapshot.id
        if request.was_head is not None:
            record["head"] = request.was_head
        return creating.Plan(
            places=tuple(found.values()),
            parent=request.base,
            images=tuple(images),
            streams=(),
            source=request.source,
            host=self.repository.host,
            kind="safety",
            tool=request.tool,
            label=[],
            created_by=record,
            rules=rules,
            below=below,
            dry_run=dry,
            keep_nodes=dry,
        )

    def _place(self, reader: "_native.Reader", number: int, step: Step) -> Place:
        """What is taken for a step: all of it, or only what can be compared."""
        if step.only is not None:
            return Place(step.target, step.only, whole=False)
        if not os.path.lexists(step.target):
            above, name = os.path.split(step.target)
            return Place(above, (name,), whole=False)
        named = list(step.paths or ())
        if step.strip:
            named = [path[len(step.strip) + 1 :] for path in named]
        whole = step.paths is None
        if self._is_listed(step) and whole:
            named, whole = _listed(reader, step), False
        named += self.named.get(number, [])
        return Place(step.target, tuple(dict.fromkeys(named)), whole=whole)

    def _is_listed(self, step: Step) -> bool:
        """Whether only listed paths of a root were taken: of others nothing is known."""
        listed = self.request.snapshot.rules.get("only_listed")
        return step.only is None and listed == to_text(step.root.path)

    def _planned(self, reader: "_native.Reader", taker: creating.Taker) -> bool:
        """Plans; False when something has to be taken that was not, and all be compared again."""
        self.read_bytes += sum(root.result.read_bytes for root in taker.roots)
        taken = {root.path: root for root in taker.roots}
        self.parts = [self._part(step, taken) for step in self.request.steps]
        decided: dict[tuple[int, bytes], bool] = {}
        core = self._core_plan(reader, decided)
        problems = core.problems()
        missed = self._missed(problems)
        if missed:
            for number, path in missed:
                self.named.setdefault(number, []).append(path)
            return False
        conflicts = self._conflicts(core)
        if conflicts and self.request.resolver is not None:
            decided = self._resolve(core, conflicts)
            core = self._core_plan(reader, decided)
            conflicts = self._conflicts(core)
        if problems and self.request.on_error != "keep-going":
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
        listed = self._is_listed(step)
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
            is_directory=is_directory and _is_directory(self.repository, step),
            crosses=not _rules(self.request.snapshot).one_file_system,
            journal=_journal(self.repository) if _is_image(step) else None,
        )

    def _head(self, step: Step) -> tuple[bytes, bytes] | None:
        """Where the base has what a step restores."""
        base = self.request.base
        if base is None:
            return None
        if self.request.undoes:
            return _undone(self.request.snapshot, step)
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
                if inside and below not in self.named.get(number, []) and part.is_directory:
                    missed.append((number, below))
        return missed if len(missed) <= MAX_NAMED else []

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

    # The transaction

    def _stage(self, safety: str | None) -> "_native.Transaction":
        assert self.core is not None
        task = self.core.stage(
            unfinished.new_name(),
            canonical_note(self._note(safety)),
            verify=self.request.verify,
            goes_on=self.request.on_error == "keep-going",
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
        request, goes_on = self.request, self.request.on_error == "keep-going"
        try:
            if request.verify:
                request.emit("verified", {"files": transaction.verified_files})
            problems = self.meter.wait(transaction.apply(goes_on=goes_on))
            for step in self._all_steps():
                request.emit("file", step.to_dict())
            request.settle()
            return problems
        except BaseException as error:
            if self.request.on_error == "stop" and not isinstance(error, Cancelled):
                raise _stopped(self.request.target, error) from error
            _take_back(self.meter, transaction, self.request.target, error)
            raise

    def _move_head(self, safety: str | None, *, unchanged: bool = False) -> None:
        request, repository = self.request, self.repository
        heads = repository.heads
        if heads is None:
            return
        known = heads.find(request.source)
        if unchanged and known is None and request.moves_head is None:
            return
        snapshot = request.moves_head
        if snapshot is None and known is not None and not request.undoes:
            snapshot = known.snapshot
        if unchanged:
            safety = known.safety if known else None
        paths = tuple(to_text(step.target) for step in request.steps)
        if unchanged and known:
            paths = known.paths
        with contextlib.suppress(OSError):  # then the newest snapshot is taken for the head
            heads.put(Head(request.source, snapshot, safety, paths, clock.time_ns()))

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

    def _all_steps(self) -> Iterator[PlannedStep]:
        assert self.plan is not None
        yield from self.plan.steps

    def _result(
        self,
        safety: str | None,
        transaction: "_native.Transaction | None",
        problems: Sequence[tuple[bytes, str, str]],
    ) -> RestoreResult:
        assert self.plan is not None
        staged = transaction.problems() if transaction is not None else []
        files, directories, others = transaction.counts if transaction is not None else (0, 0, 0)
        everything = [*self.problems, *staged, *problems]
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
            read_bytes=self.read_bytes,
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


def _in_the_way(problems: Sequence[tuple[bytes, str, str]]) -> SnapstoreError:
    path, what, why = problems[0]
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    kind = TargetChanged if what == "changed" else TargetInvalid
    return kind(
        f"cannot restore {to_text(path)}: {why}{more}; nothing was changed",
        hint="--on-error keep-going leaves such paths out",
        **path_fields(path),
    )


# The plan in words


def _described(
    core: "_native.RestorePlan", parts: Sequence[_Part], conflicts: list[Conflict]
) -> RestorePlan:
    steps: list[PlannedStep] = []
    while len(steps) < min(MAX_NAMED, len(core)):
        batch = core.steps(len(steps), STEPS_AT_ONCE)
        steps += [
            PlannedStep(places.join(parts[part].path, path), action, size)
            for part, path, action, size in batch
        ]
    return RestorePlan(
        counts=core.counts(),
        steps=steps[:MAX_NAMED],
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


# What is there


def _rules(snapshot: Snapshot) -> Rules:
    return Rules.recorded(snapshot.rules)


def _is_image(step: Step) -> bool:
    """Whether the content of a device is replaced, rather than the device."""
    return step.root.kind in ("image", "file", "stream") and _is_device(step.target)


def _journal(repository: Repository) -> bytes:
    """Where the journal of a device's restore is kept: a device has no place for one."""
    if repository.local is None:
        raise TargetInvalid(
            "there is no place for the journal of a device: the store cannot be written, and no"
            " directory for what is derived is at hand",
            hint="name one that can be written as the cache",
        )
    return os.path.realpath(os.fsencode(repository.local))


def _is_device(path: bytes) -> bool:
    import stat

    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _is_directory(repository: Repository, step: Step) -> bool:
    """Whether what a step restores is a directory."""
    reader = repository.reader()
    entry = places.walk(reader, step.root, step.strip or b"")
    return entry is not None and entry.type == "directory"


def _listed(reader: "_native.Reader", step: Step) -> list[bytes]:
    """Paths of all but filled directories in a root of which only listed paths were taken."""
    top = places.walk(reader, step.root, step.strip or b"")
    found: list[bytes] = []
    if top is None or top.type != "directory":
        return found
    for batch in _native.TreeWalk(reader, top, b"", recursive=True):
        found += [path for path, entry in batch if entry.type != "directory" or not entry.entries]
        if len(found) > _MAX_LISTED:
            raise InvalidArgument(
                "too many listed paths to restore in place", hint="choose some of them"
            )
    return found


def _there(place: Place) -> Place:
    """Without names at which nothing is: they are not missing."""
    named = tuple(path for path in place.named if os.path.lexists(place.prefix + path))
    return replace(place, named=named)


def _part_record(step: Step, place: Place) -> dict[str, Any]:
    """What a safety snapshot says of a step: what was taken of which place, and what came there."""
    record: dict[str, Any] = {"path": to_text(place.path)}
    if not place.whole:
        record["only"] = [to_text(path) for path in place.named]
    if place.path == step.target:
        record |= {"root": step.root.id, "below": to_text(step.strip or b"")}
    return record


def _undone(safety: Snapshot, step: Step) -> tuple[bytes, bytes] | None:
    """What came to the place of a step by the restore for which `safety` was made."""
    parts = safety.created_by.get("parts")
    for part in parts if isinstance(parts, list) else []:
        match part:
            case {"path": str(path), "root": str(root), "below": str(below)}:
                if path == to_text(step.target):
                    return bytes.fromhex(root), from_text(below)
    return None
