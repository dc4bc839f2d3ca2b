"""Restore: writes snapshots, subtrees or chosen paths into a new or empty directory."""

import contextlib
import os
import stat
from collections.abc import Callable, Sequence

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import TargetDenied, TargetInvalid, TargetNotEmpty
from snapstore.base.progress import Observer
from snapstore.model.results import RestoreResult
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.ops import places
from snapstore.ops.running import Meter
from snapstore.ops.targets import Step, at_target, check_not_store
from snapstore.repository.open import Repository

MAX_PROBLEMS = 100_000
HIDDEN = "a root that has something else here was restored; restore this one by its path"


def restore(
    repository: Repository,
    snapshot: Snapshot,
    target: bytes,
    *,
    within: bytes | None,
    paths: Sequence[bytes],
    verify: bool,
    observer: Observer | None,
    stop: Callable[[], None] | None = None,
    time_limit_s: float | None = None,
) -> RestoreResult:
    """Restores into `target`, which is missing (its parent exists) or an empty directory.

    A snapshot of one root becomes the contents of `target`; of several, each is at its recorded
    path below it. `within`: a path in the snapshot; a directory's contents become those of
    `target`, anything else keeps its name. `paths`: only these, each at its path below its root.
    Raises PathNotFound, TargetNotEmpty, TargetInvalid, TargetDenied, DamagedObject, NoSpace,
    Cancelled.
    """
    require_ready(snapshot)
    target = os.path.abspath(target)
    _check_target(repository, target)
    with repository.reading():
        reader = repository.reader_of_whole(snapshot)
        steps = at_target(reader, snapshot, target, within, paths)
        meter = Meter("restore", observer, stop=stop, time_limit_s=time_limit_s)
        results = []
        hidden = []
        for step in steps:
            if step.target != target:
                covering = _restored_already(step, steps)
                if covering is not None:
                    if not _holds(reader, covering, step):
                        hidden.append((step.target, "content", HIDDEN))
                    continue
                make_parents(target, step.target)
            task = reader.restore(
                bytes.fromhex(step.root.id),
                step.target,
                paths=step.paths,
                strip=step.strip,
                verify=verify,
            )
            results.append((step, meter.wait(task)))
    return _merge(snapshot, target, results, hidden, meter.elapsed_s)


def _restored_already(step: Step, steps: Sequence[Step]) -> Step | None:
    """The root that holds this one and has put its contents in place, if there is one."""
    above = (
        other
        for other in steps
        if step.target.startswith(other.target + b"/") and other.paths is None
    )
    covering = next(above, None)
    try:
        status = os.lstat(step.target)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode) and not os.listdir(step.target):
        return None
    return covering


def _holds(reader: "_native.Reader", covering: Step, step: Step) -> bool:
    """Whether a root holds, at the place of another, the same as that other root."""
    below = step.target[len(covering.target) + 1 :]
    held = places.walk(reader, covering.root, below)
    own = reader.root(bytes.fromhex(step.root.id))
    return held is not None and places.same(reader, held, own)


def _merge(
    snapshot: Snapshot,
    target: bytes,
    results: Sequence[tuple[Step, "_native.RestoreResult"]],
    hidden: Sequence[tuple[bytes, str, str]],
    elapsed_s: float,
) -> RestoreResult:
    problems = [*hidden]
    problems += [
        (places.join(step.target, path), what, reason)
        for step, result in results
        for path, what, reason in result.problems
    ]
    return RestoreResult(
        snapshot=snapshot.id,
        target=target,
        files=sum(result.files for _, result in results),
        directories=sum(result.directories for _, result in results),
        others=sum(result.others for _, result in results),
        bytes=sum(result.bytes for _, result in results),
        problems=problems[:MAX_PROBLEMS],
        problem_count=len(hidden) + sum(result.problem_count for _, result in results),
        verified_files=sum(result.verified_files for _, result in results),
        elapsed_s=elapsed_s,
    )


# The target


def _check_target(repository: Repository, target: bytes) -> None:
    """The target may be missing or an empty directory, and not in the store."""
    check_not_store(repository, target)
    try:
        if os.listdir(target):
            raise TargetNotEmpty(
                f"the target {to_text(target)} is not empty",
                hint="restore into a new or empty directory",
            )
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(target)):
            raise TargetInvalid(
                f"the directory for the target {to_text(target)} does not exist"
            ) from None
    except NotADirectoryError:
        raise TargetInvalid(f"the target {to_text(target)} is not a directory") from None
    except PermissionError as error:
        raise TargetDenied(f"the target {to_text(target)} cannot be read") from error


def make_parents(target: bytes, path: bytes) -> None:
    """Makes `target` and the directories from it down to `path`, following no links on the way."""
    names = path[len(target) + 1 :].split(b"/")[:-1]
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=directory)
                inner = os.open(name, flags, dir_fd=directory)
                os.close(directory)
                directory = inner
        finally:
            os.close(directory)
    except PermissionError as error:
        raise TargetDenied(f"cannot write in {to_text(target)}: {error.strerror}") from error
    except OSError as error:
        raise TargetInvalid(f"cannot restore into {to_text(path)}: {error.strerror}") from error
