"""Streaming: a restore in a thread of its own, whose events are read one by one."""

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

from snapstore.base.errors import Cancelled, SnapstoreError, StoreFailed
from snapstore.base.progress import Progress
from snapstore.model.restoring import Event
from snapstore.model.results import RestoreResult

Work = Callable[..., RestoreResult]
"""A restore that is given `emit`, `observer`, `stop` and `settle`."""

ROOM = 1000
INTERVAL_S = 1.0
ABANDONED_S = 60.0


def failed(error: BaseException) -> Event:
    """The last event of a restore that an error ended."""
    if not isinstance(error, SnapstoreError):
        error = StoreFailed(f"unexpected {type(error).__name__}: {error}")
    return Event("failed", error.to_dict())


class RestoreEvents(Iterator[Event]):
    """The events of a restore, as they come. The last is `done` or `failed`.

    The restore begins with the first `next`. It is finished only when all events but the last were
    read: until then `close`, `cancel`, the end of a `with` block, and losing the iterator take it
    back, and wait for that. While it runs, an event comes at least each second.
    """

    def __init__(self, work: Work) -> None:
        self._run = _Run(work)
        # What runs keeps no reference to this object: else nobody could lose it.
        weakref.finalize(self, self._run.abandon).atexit = False

    def __next__(self) -> Event:
        event = self._run.next()
        if event is None:
            raise StopIteration
        return event

    def cancel(self) -> None:
        """Takes the restore back, unless it is finished, and waits for that; from any thread. What
        events there are can still be read.
        """
        self._run.cancel()

    def close(self) -> None:
        """As `cancel`; no further event comes."""
        self._run.close()

    def __enter__(self) -> "RestoreEvents":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def result(self) -> RestoreResult | None:
        """What the restore did, once it is done."""
        return self._run.result

    @property
    def error(self) -> BaseException | None:
        """Why it failed, once it has."""
        return self._run.error


class _Run:
    """A restore and its thread."""

    def __init__(self, work: Work) -> None:
        self.result: RestoreResult | None = None
        self.error: BaseException | None = None
        self._work = work
        self._channel = _Channel()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._pid = os.getpid()

    def next(self) -> Event | None:
        """The next event. Ctrl-C takes the restore back."""
        try:
            self._start()
            return self._channel.get()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Ends the restore and waits for it, however long that takes."""
        if os.getpid() == self._pid:
            self._end()
            while self._wait(None):
                pass

    def close(self) -> None:
        """As `cancel`; what was not read is forgotten."""
        self.cancel()
        self._channel.forget()

    def abandon(self) -> None:
        """As `cancel`, when nobody can read any more. The garbage collector may call this anywhere,
        so that it does not wait for ever: the restore might wait for a lock of whoever is here.
        """
        if os.getpid() == self._pid:
            self._end()
            self._wait(ABANDONED_S)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._channel.ended:
                self._thread = threading.Thread(
                    target=self._carry_out, name="snapstore-restore", daemon=True
                )
                atexit.register(self.cancel)
                self._thread.start()

    def _carry_out(self) -> None:
        channel = self._channel
        try:
            self.result = self._work(
                emit=channel.put,
                observer=channel.tell,
                stop=channel.check,
                settle=channel.settle,
            )
            last = Event("done", self.result.to_dict())
        except BaseException as error:
            self.error = error
            last = failed(error)
        channel.end(last)
        atexit.unregister(self.cancel)

    def _end(self) -> None:
        self._channel.cancel()
        with self._starting:
            if self._thread is None and not self._channel.ended:
                self.error = Cancelled("cancelled before it began")
                self._channel.end(failed(self.error))

    def _wait(self, timeout: float | None) -> bool:
        """Waits for the thread; whether it is still at work, having been interrupted here."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return False
        try:
            thread.join(timeout)
        except KeyboardInterrupt:
            return True
        return False


class _Channel:
    """Events on their way from a restore to its reader: no more than there is room for."""

    def __init__(self) -> None:
        self.ended = False
        self._cancelled = False
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque()
        self._readers = 0
        self._latest = Progress("restore")
        self._told = time.monotonic()

    # For the restore

    def check(self) -> None:
        """Cancelled when it is to end."""
        if self._cancelled:
            raise Cancelled("the restore was cancelled")

    def put(self, event: str, data: dict[str, Any]) -> None:
        """Hands on an event when there is room. Cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or len(self._waiting) < ROOM)
            self.check()
            self._add(Event(event, data))

    def tell(self, progress: Progress) -> None:
        """Hands on what can be left out: there will be more of it."""
        with self._changed:
            self._latest, self._told = progress, time.monotonic()
            if len(self._waiting) < ROOM:
                self._add(Event("progress", progress.to_dict()))

    def settle(self) -> None:
        """Returns when everything was read, and more is wanted. Cancelled."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._cancelled or (self._readers > 0 and not self._waiting)
            )
            self.check()

    def end(self, last: Event) -> None:
        """Hands on the last event; there is always room for that."""
        with self._changed:
            self.ended = True
            self._add(last)

    # For the reader

    def get(self) -> Event | None:
        """The next event; None after the last one. When there is none for a second, progress."""
        with self._changed:
            self._readers += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._waiting or self.ended, INTERVAL_S)
            finally:
                self._readers -= 1
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            if self.ended:
                return None
            return Event("progress", self._now().to_dict())

    def cancel(self) -> None:
        """From now on `check`, `put` and `settle` raise."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def forget(self) -> None:
        """Drops what was not read."""
        with self._changed:
            self._waiting.clear()

    def _add(self, event: Event) -> None:
        self._waiting.append(event)
        self._changed.notify_all()

    def _now(self) -> Progress:
        """The latest progress, as it is now."""
        elapsed_s = self._latest.elapsed_s + time.monotonic() - self._told
        return replace(self._latest, elapsed_s=elapsed_s)
