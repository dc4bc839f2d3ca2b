"""Running: waiting for the core's tasks, with progress and interruption."""

import time
from collections.abc import Callable
from typing import TypeVar

from snapstore import _native
from snapstore.base.errors import Cancelled, OperationTimeout
from snapstore.base.progress import Observer, Progress

T = TypeVar("T")

INTERVAL_S = 0.1


class Meter:
    """Adds up the progress of several tasks and of what came before them, for one observer."""

    def __init__(
        self,
        phase: str,
        observer: Observer | None,
        *,
        stop: Callable[[], None] | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        """`stop` is asked about ten times a second, and raises what is to end the work."""
        self.phase = phase
        self._observer = observer
        self._stop = stop
        self._time_limit_s = time_limit_s
        self._start = time.monotonic()
        self._ended: dict[str, int] = {}
        self._noted = 0.0
        self._expected_bytes = 0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def expect(self, bytes: int) -> None:
        """How much there is to do, as far as can be guessed; what is found beyond it counts too."""
        self._expected_bytes = bytes

    def wait(self, task: "_native.Task[T]", *, goes_on: bool = False) -> T:
        """The task's result; the observer hears of it meanwhile. Ctrl-C cancels it: Cancelled.

        `goes_on`: the next task's counters go on from this one's (those of one writer do).
        """
        try:
            while not task.poll(INTERVAL_S):
                self._check()
                self._report(task.counters(), task.current())
            result = task.result()
            counters = task.counters()
            self._report(counters, b"")
        except KeyboardInterrupt:
            self._cancel(task)
            raise Cancelled("interrupted") from None
        except BaseException:
            self._cancel(task)
            raise
        for name, count in ({} if goes_on else counters).items():
            self._ended[name] = self._ended.get(name, 0) + count
        return result

    def finish(self, task: "_native.Task[T]") -> T:
        """As `wait`, of work that nothing is to interrupt."""
        while True:
            try:
                while not task.poll(INTERVAL_S):
                    self._report(task.counters(), task.current())
                return task.result()
            except KeyboardInterrupt:
                continue

    def _check(self) -> None:
        if self._stop is not None:
            self._stop()
        if self._time_limit_s is not None and self.elapsed_s > self._time_limit_s:
            raise OperationTimeout(f"the {self.phase} took longer than {self._time_limit_s:g} s")

    def note(self, phase: str, done: int, total: int, current: bytes = b"") -> None:
        """Reports work that is not the core's, `done` of `total` objects, at most each tenth of a
        second.
        """
        now = time.monotonic()
        if self._observer is not None and now - self._noted >= INTERVAL_S:
            self._noted = now
            self._observer(
                Progress(
                    phase=phase,
                    files_done=done,
                    files_total=total,
                    current=current,
                    elapsed_s=self.elapsed_s,
                )
            )

    def _cancel(self, task: "_native.Task[T]") -> None:
        task.cancel()
        while not task.poll(INTERVAL_S):
            pass

    def _report(self, counters: dict[str, int], current: bytes) -> None:
        if self._observer is None:
            return
        total = {name: counters.get(name, 0) + self._ended.get(name, 0) for name in counters}
        self._observer(
            Progress(
                phase=self.phase,
                files_done=total.get("done_files", 0),
                bytes_done=total.get("done_bytes", 0),
                files_total=total.get("files", 0),
                bytes_total=max(total.get("bytes", 0), self._expected_bytes),
                new_bytes=total.get("new_bytes", 0),
                stored_bytes=total.get("stored_bytes", 0),
                errors=total.get("errors", 0),
                current=current,
                elapsed_s=self.elapsed_s,
            )
        )
