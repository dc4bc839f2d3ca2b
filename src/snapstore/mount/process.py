"""Process: a mount in a process of its own.

A program that reads from a mount which it serves itself can wait for itself for ever: a page fault
holds the interpreter. So whoever is not the mount itself starts one.
"""

import contextlib
import json
import logging
import logging.handlers
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from snapstore import _native
from snapstore.base.errors import (
    MountRefused,
    MountUnavailable,
    SnapshotNotFound,
    SnapstoreError,
)
from snapstore.model.mounting import MountOptions
from snapstore.mount import points, serving
from snapstore.repository.keys import handed_over, taken_over
from snapstore.repository.open import Repository

_END_S = 3.0

# What the new process runs, with the modules of this one.
_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from snapstore.mount import process
process.main(*map(int, sys.argv[2:]))
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be mounted where. `snapshot`: an id; `attached`: it ends when its standard input
    does.
    """

    store: Path
    mode: str
    cache_dir: Path | None
    mountpoint: Path
    snapshot: str | None
    below: bytes | None
    options: MountOptions
    attached: bool


def order(
    repository: Repository,
    mountpoint: Path,
    snapshot: str | None,
    below: bytes | None,
    options: MountOptions,
    *,
    attached: bool,
) -> Order:
    """The order for a mount of an open store."""
    mode = repository.mode if repository.writable else "r"
    mountpoint = Path(os.path.abspath(mountpoint))
    return Order(
        repository.path, mode, repository.cache_dir, mountpoint, snapshot, below, options, attached
    )


class Process:
    """A process that serves a mount, from when it can be used."""

    def __init__(self, order: Order, keys: _native.Keys) -> None:
        if not sys.executable:
            raise MountUnavailable("nobody knows which Python runs this, so none can be started")
        self.order = order
        ready, write = os.pipe()
        try:
            with handed_over(keys) as handed:
                passed = [write, *handed]
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CODE, json.dumps(sys.path), *map(str, passed)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=passed,
                    start_new_session=True,
                )
        except OSError as error:
            os.close(ready)
            raise MountUnavailable(f"no process can be started: {error}") from error
        finally:
            os.close(write)
        assert self._child.stdin is not None
        with open(ready, "rb") as answers:
            with contextlib.suppress(BrokenPipeError):  # then it says why
                pickle.dump(order, self._child.stdin)
                self._child.stdin.flush()
            self.said = self._answer(answers)
        if not order.attached:
            self._child.stdin.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def _answer(self, answers: BinaryIO) -> str | None:
        try:
            answer = pickle.load(answers)
        except EOFError:
            code = self._child.wait()
            raise MountUnavailable(f"the mount's process ended early (status {code})") from None
        if isinstance(answer, BaseException):
            self._child.wait()
            raise answer
        assert answer is None or isinstance(answer, str)
        return answer

    def end(self) -> None:
        """Unmounts, also when it is busy: then it vanishes once nobody uses it any more."""
        assert self._child.stdin is not None
        with contextlib.suppress(MountRefused):  # it was unmounted
            points.detach(self.order.mountpoint)
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Whoever still has a file open is told that there is no more to read.
            self._child.kill()
            self._child.wait()


# In the new process


def main(ready: int, handed: int | None = None) -> None:
    """Carries out the order that comes on standard input. What came of it goes to `ready`;
    `handed`: a descriptor by which the keys of an encrypted store come.
    """
    os.set_inheritable(ready, False)
    keys = taken_over(handed)
    ordered = pickle.load(sys.stdin.buffer)
    with open(ready, "wb") as answers:
        try:
            _serve(ordered, keys, answers)
        except SnapstoreError as error:
            if not answers.closed:
                pickle.dump(error, answers)
        except Exception as error:
            if answers.closed:
                raise
            pickle.dump(MountUnavailable(f"the mount failed: {error!r}"), answers)


def _serve(ordered: Order, keys: "_native.Keys | None", answers: BinaryIO) -> None:
    said = points.prepare(ordered.mountpoint, ordered.store)
    repository = Repository.open(
        ordered.store, mode=ordered.mode, cache_dir=ordered.cache_dir, handed=keys
    )

    def started() -> None:
        pickle.dump(said, answers)
        answers.close()
        if ordered.attached:
            threading.Thread(target=_watch, args=(ordered.mountpoint,), daemon=True).start()
        else:
            detach()

    try:
        snapshot = None
        if ordered.snapshot is not None:
            snapshot = repository.catalog.snapshot(ordered.snapshot)
            if snapshot is None:
                raise SnapshotNotFound(f"the snapshot {ordered.snapshot[:8]} is gone")
        serving.serve(
            repository, ordered.mountpoint, snapshot, ordered.below, ordered.options, started
        )
    finally:
        repository.close()


def _watch(mountpoint: Path) -> None:
    """Ends with whoever started this."""
    while os.read(0, 1):
        pass
    with contextlib.suppress(SnapstoreError):
        points.detach(mountpoint)


def detach() -> None:
    """Lets go of the terminal; what there is to say goes to the system's log."""
    with contextlib.suppress(OSError):
        logging.getLogger("snapstore").addHandler(logging.handlers.SysLogHandler("/dev/log"))
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
