"""Jobs at work: a restore in a process of its own, which goes on when whoever started it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from snapstore import _native
from snapstore.base.bytestext import from_text, to_text
from snapstore.base.errors import (
    Cancelled,
    InvalidArgument,
    SnapshotNotFound,
    StoreFailed,
    StoreReadOnly,
)
from snapstore.base.progress import Observer, Progress
from snapstore.model.restoring import Emit, Event, Options
from snapstore.model.results import RestoreResult
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.ops import hooks, restoring, streaming
from snapstore.repository import jobs
from snapstore.repository.jobs import Job
from snapstore.repository.keys import handed_over, taken_over
from snapstore.repository.open import Repository

PROGRESS_S = 1.0
"""How often progress is written down."""

# What the new process runs, with the modules of this one. It forks once more, so that nobody has to
# wait for it.
_CODE = """
import os, sys
if os.fork(): os._exit(0)
import json
sys.path[:] = json.loads(sys.argv[1])
from snapstore.ops import jobs
jobs.main(sys.argv[2], *map(int, sys.argv[3:]))
"""


def start(
    repository: Repository,
    snapshot: Snapshot,
    target: bytes | None,
    *,
    within: bytes | None,
    paths: Sequence[bytes],
    verify: bool,
    tool: str,
    options: Options,
) -> Job:
    """Starts a restore in a process of its own. InvalidArgument for what cannot be handed over."""
    require_ready(snapshot)
    if repository.jobs is None:
        raise StoreReadOnly("there is nowhere to keep a job", hint="name a cache directory")
    hooks.checked(options.get("hooks"))
    record = {
        "store": to_text(os.fsencode(repository.path)),
        "cache_dir": _text(repository.cache_dir),
        "mode": repository.mode if repository.writable else "r",
        "tool": tool,
        "snapshot": snapshot.id,
        "within": None if within is None else to_text(within),
        "paths": [to_text(path) for path in paths],
        "to": None if target is None else to_text(os.path.abspath(target)),
        "target": to_text(_target(snapshot, target, within)),
        "verify": verify,
        "options": _plain(options),
        "started_ns": time.time_ns(),
    }
    job, lock = repository.jobs.make(record)
    try:
        _spawn(job, lock, repository.keys)
    finally:
        os.close(lock)
    return job


def _text(path: Path | None) -> str | None:
    return None if path is None else to_text(os.fsencode(os.path.abspath(path)))


def _target(snapshot: Snapshot, target: bytes | None, within: bytes | None) -> bytes:
    """What a person calls the place."""
    if target is not None:
        return os.path.abspath(target)
    if within is not None and within.startswith(b"/"):
        return within
    paths = [root.path for root in snapshot.roots]
    whole = all(path.startswith(b"/") for path in paths)
    return os.path.commonpath(paths) if whole else paths[0]


def _plain(options: Options) -> dict[str, Any]:
    """Options as JSON: no functions."""
    plain = dict(options)
    for name in ("approve", "resolver"):
        if callable(plain.get(name)):
            raise InvalidArgument(
                f"{name} is a function, and a job is another process",
                hint="a resolver may be a command",
            )
    if isinstance(plain.get("time_limit"), timedelta):
        plain["time_limit"] = cast(timedelta, plain["time_limit"]).total_seconds()
    return plain


def _spawn(job: Job, lock: int, keys: "_native.Keys") -> None:
    if not sys.executable:
        raise StoreFailed("nobody knows which Python runs this, so no job can be started")
    modules = json.dumps(sys.path)
    with open(job.place / "output", "ab") as output, handed_over(keys) as handed:
        passed = [lock, *handed]
        place = os.fspath(job.place)
        arguments = [sys.executable, "-P", "-c", _CODE, modules, place, *map(str, passed)]
        try:
            code = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=passed,
                start_new_session=True,
                check=False,
            ).returncode
        except OSError as error:
            raise StoreFailed(f"no job can be started: {error}") from error
    if code:
        raise StoreFailed(f"no job can be started: {job.output.strip()}")


# In the new process


def main(place: str, lock: int, handed: int | None = None) -> None:
    """Carries out the job in a directory, whose lock this process has; `handed`: a descriptor from
    which to take the keys of an encrypted store over.
    """
    os.set_inheritable(lock, False)
    keys = taken_over(handed)
    job = jobs.read(Path(place))
    assert job is not None, place
    stop = _Stop()
    job.began()
    with open(job.place / "events", "ab", buffering=0) as file:

        def write(event: str, data: dict[str, Any]) -> None:
            file.write(json.dumps(Event(event, data).to_dict()).encode() + b"\n")

        try:
            last = Event("done", _restore(job, keys, write, stop.check).to_dict())
        except BaseException as error:
            last = streaming.failed(error)
        write(last.event, last.data)
        job.ended(last)


class _Stop:
    """A request to end, made by a signal."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True

    def check(self) -> None:
        """Cancelled once it was asked for."""
        if self._asked:
            raise Cancelled("the restore was cancelled")


def _restore(
    job: Job, keys: "_native.Keys | None", write: Emit, stop: Callable[[], None]
) -> RestoreResult:
    record = job.record
    cache_dir = record["cache_dir"]
    repository = Repository.open(
        Path(os.fsdecode(from_text(record["store"]))),
        mode=record["mode"],
        cache_dir=None if cache_dir is None else Path(os.fsdecode(from_text(cache_dir))),
        handed=keys,
    )
    try:
        snapshot = repository.catalog.snapshot(record["snapshot"])
        if snapshot is None:
            raise SnapshotNotFound(f"the snapshot {record['snapshot'][:8]} is gone")
        return restoring.restore(
            repository,
            snapshot,
            None if record["to"] is None else from_text(record["to"]),
            within=None if record["within"] is None else from_text(record["within"]),
            paths=[from_text(path) for path in record["paths"]],
            verify=record["verify"],
            tool=record["tool"],
            observer=_noting(write),
            options=cast(Options, record["options"]),
            emit=write,
            stop=stop,
        )
    finally:
        repository.close()


def _noting(write: Emit) -> Observer:
    """An observer that writes progress down, once a second."""
    noted = float("-inf")

    def note(progress: Progress) -> None:
        nonlocal noted
        now = time.monotonic()
        if now - noted >= PROGRESS_S:
            noted = now
            write("progress", progress.to_dict())

    return note
