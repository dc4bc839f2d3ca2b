"""Restoring: to a new place or over what is there, back to before, and a point to come back to."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from snapstore.base.bytestext import to_text
from snapstore.base.errors import InvalidArgument, TargetInvalid
from snapstore.base.progress import Observer
from snapstore.base.units import duration_s
from snapstore.model.restoring import Emit, Options, Unfinished
from snapstore.model.results import RestoreResult
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.ops import commands, hooks, inplace, targets, undo, unfinished
from snapstore.ops import restore as fresh
from snapstore.ops.create import user
from snapstore.ops.request import Request, silent
from snapstore.ops.running import Meter
from snapstore.ops.targets import Step
from snapstore.repository.open import Repository


def restore(
    repository: Repository,
    snapshot: Snapshot,
    target: bytes | None,
    *,
    within: bytes | None,
    paths: Sequence[bytes],
    verify: bool,
    tool: str,
    observer: Observer | None,
    options: Options,
    emit: Emit | None = None,
    stop: Callable[[], None] | None = None,
    settle: Callable[[], None] | None = None,
) -> RestoreResult:
    """Restores into `target`, or to where everything was taken."""
    require_ready(snapshot)
    known = _known(options)
    if target is not None:
        target = os.path.abspath(target)
        targets.check_not_store(repository, target)
        if _vacant(target) and not options.get("dry_run", False):
            write = functools.partial(
                fresh.restore,
                repository,
                snapshot,
                target,
                within=within,
                paths=paths,
                verify=verify,
                observer=observer,
                stop=stop,
                time_limit_s=_time_limit_s(options),
            )
            return hooks.around(known["hooks"], snapshot.id, target, write, stop)
        target = os.path.realpath(target)
    else:
        targets.check_host(repository, snapshot)
    with repository.reading():
        reader = repository.reader_of_whole(snapshot)
        if target is None:
            steps = targets.in_place(reader, snapshot, within, paths)
        else:
            steps = targets.at_target(reader, snapshot, target, within, paths)
            for step in [] if options.get("dry_run", False) else steps:
                if step.target != target:
                    fresh.make_parents(target, step.target)
        steps = targets.apart(reader, [_resolved(step) for step in steps])
    source = snapshot.source if target is None else _source(repository, steps)
    whole = within is None and not paths
    base = repository.head(source, repository.host)
    request = Request(
        snapshot=snapshot,
        steps=steps,
        base=base,
        source=source,
        tool=tool,
        user={"id": user()},
        target=target if target is not None else _common(steps),
        extras="delete" if options.get("delete", False) else "keep",
        verify=verify,
        moves_head=snapshot.id if whole else None,
        was_head=base.id if base is not None else None,
        emit=emit or silent,
        stop=stop,
        settle=settle or _nothing,
        observer=observer,
        **known,
    )
    return inplace.restore(repository, request)


def take_back(
    repository: Repository,
    target: bytes | None,
    *,
    verify: bool,
    tool: str,
    observer: Observer | None,
    options: Options,
    emit: Emit | None = None,
    stop: Callable[[], None] | None = None,
    settle: Callable[[], None] | None = None,
) -> RestoreResult:
    """Takes back the last restore into `target`, or the last one of all. NothingToUndo, and what
    `restore` raises.
    """
    target = None if target is None else os.path.realpath(os.path.abspath(target))
    one = undo.kept(repository, target)
    if one is not None:
        return _take_back_kept(repository, one, observer, options)
    safety, head = undo.last(repository, target)
    steps = undo.steps(safety)
    source = head.source if head is not None else safety.source
    was = repository.head(source, repository.host)
    request = Request(
        snapshot=safety,
        steps=steps,
        base=undo.restored(repository, safety),
        source=source,
        tool=tool,
        user={"id": user()},
        target=undo.target_of(safety),
        verify=verify,
        moves_head=undo.undone(safety),
        was_head=was.id if was is not None else None,
        undoes=True,
        emit=emit or silent,
        stop=stop,
        settle=settle or _nothing,
        observer=observer,
        **_known({**options, "force": True}),
    )
    return inplace.restore(repository, request)


def _take_back_kept(
    repository: Repository, one: Unfinished, observer: Observer | None, options: Options
) -> RestoreResult:
    """Exchanges back what was kept beside the target. No snapshot has it."""
    _known(options)
    dry_run, problems = options.get("dry_run", False), []
    meter = Meter("restore", observer)
    if not dry_run:
        problems = unfinished.take_back(repository, one, meter)
    return RestoreResult(
        snapshot="",
        target=one.target,
        files=0,
        directories=0,
        others=0,
        bytes=0,
        problems=problems,
        problem_count=len(problems),
        verified_files=0,
        elapsed_s=meter.elapsed_s,
        in_place=True,
        dry_run=dry_run,
        warnings=[f"what is kept in {to_text(one.path)} is put back"] if dry_run else [],
    )


def _known(options: Options) -> dict[str, Any]:
    """The options that are handed on as they are."""
    names = set(Options.__annotations__)
    unknown = set(options) - names
    if unknown:
        raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
    handed = names - {"delete", "delete_excluded", "time_limit"}
    known = {name: value for name, value in options.items() if name in handed}
    known["time_limit_s"] = _time_limit_s(options)
    known["hooks"] = hooks.checked(options.get("hooks"))
    resolver = options.get("resolver")
    if resolver is not None and not callable(resolver):
        known["resolver"] = commands.resolver(resolver)
    if options.get("delete_excluded"):
        if not options.get("delete"):
            raise InvalidArgument("delete_excluded is of use with delete only")
        known["excluded"] = True
    return known


def _time_limit_s(options: Options) -> float | None:
    limit = options.get("time_limit")
    return None if limit is None else duration_s(limit)


def _nothing() -> None:
    pass


def _vacant(target: bytes) -> bool:
    """Whether nothing is at the target that could be restored over."""
    try:
        return not os.listdir(target)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    except OSError as error:
        raise TargetInvalid(
            f"the target {to_text(target)} cannot be read: {error.strerror}"
        ) from error


def _resolved(step: Step) -> Step:
    """With the real path of the directory around the target: links in it are followed once."""
    return Step(step.root, targets.real_place(step.target), step.paths, step.strip)


def _source(repository: Repository, steps: Sequence[Step]) -> str:
    paths = ",".join(sorted(to_text(step.target) for step in steps))
    return f"{repository.host}:{paths}"


def _common(steps: Sequence[Step]) -> bytes:
    paths = [step.target for step in steps]
    return paths[0] if len(paths) == 1 else os.path.commonpath(paths)
