"""Session: the writer's side of docs/format/session.md.

A session holds a lease, learns of the collector's generations, never uses what they condemned
without saying so, and looks again after publishing. Each step that others can come in between of
ends with a `yield`, so that tests can run sessions, collectors and crashes in every order; `drain`
runs steps to their end.
"""

import contextlib
import time
from collections.abc import Collection, Generator
from typing import TypeVar

from snapstore.base.errors import (
    DamagedObject,
    NoSpace,
    StorageError,
    StoreBusy,
    StoreFailed,
    StoreReadOnly,
)
from snapstore.model import names
from snapstore.model.ids import new_ulid
from snapstore.model.names import GenerationName, LeaseName
from snapstore.model.records import Generation, Lease
from snapstore.repository.frames import Frames, FrameType
from snapstore.repository.objects import Hold

T = TypeVar("T")
Steps = Generator[str, None, T]

MAX_RENEWALS = 9_999


def drain(steps: Steps[T]) -> T:
    """Runs steps to their end and returns their result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


class Session:
    """One writer's stay in a store, from `begin` to `end`.

    `condemned`: ids of the packs that generations seen so far condemned: not to be deduplicated
    against. `published`: names of the objects that say what was published.
    """

    def __init__(
        self, frames: Frames, *, purpose: str, host: str, pid: int, ulid: str | None = None
    ) -> None:
        self.ulid = ulid or new_ulid()
        self.condemned: frozenset[bytes] = frozenset()
        self._frames = frames
        self._objects = frames.objects
        self._lease = Lease(self.ulid, 0, purpose, host, pid, time.time_ns())
        self._name = LeaseName(self.ulid, 0)
        self._hold: Hold | None = None
        self._generations: dict[GenerationName, Generation] = {}
        self._seen = 0
        self.published: list[str] = []

    @property
    def settled(self) -> int:
        """Highest generation that the lease says is settled."""
        return self._lease.settled

    # 1. The lease

    def begin_steps(self) -> Steps[None]:
        """Takes a lease. Leases of dead sessions are cleared away."""
        self._look()
        yield "generations listed"
        yield from self._hold_steps(self._seen)
        for name in self._objects.list("sess/"):
            # A foreign directory, for one, or another user's lease.
            with contextlib.suppress(NoSpace, StorageError, StoreReadOnly):
                if name != self._name.name and not self._objects.held(name):
                    self._objects.delete(name)
        yield "dead leases removed"
        yield from self.settle_steps(())

    def _hold_steps(self, settled: int) -> Steps[None]:
        """Links a lease that is locked already, then removes the one before it."""
        old_name, old_hold = self._name, self._hold
        if old_hold is not None:
            if old_name.k >= MAX_RENEWALS:
                raise StoreFailed("the session has renewed its lease too often")
            self._name = LeaseName(self.ulid, old_name.k + 1)
        self._lease = Lease(
            self.ulid,
            settled,
            self._lease.purpose,
            self._lease.host,
            self._lease.pid,
            self._lease.started_ns,
        )
        self._hold = self._frames.hold(self._name.name, self._lease.encode())
        yield "lease linked"
        if old_hold is not None:
            self._objects.delete(old_name.name)
            old_hold.release()
            yield "old lease removed"

    # 2. and 3. What was condemned

    def settle_steps(self, used: Collection[bytes]) -> Steps[bool]:
        """Settles all generations, if the packs `used` by what is to be published allow it.

        False when one of `used` is condemned: then everything is to be taken again without
        `condemned`, and settled again.
        """
        while True:
            self._look()
            yield "generations listed"
            if not self.condemned.isdisjoint(used):
                return False
            if self._seen <= self.settled:
                return True
            yield from self._hold_steps(self._seen)

    def _look(self) -> dict[GenerationName, set[str]]:
        """Reads generations that are new, updates `condemned`, returns the states of all."""
        states: dict[GenerationName, set[str]] = {}
        for name in self._objects.list("gc/"):
            parsed = names.parse_generation(name)
            if parsed is not None:
                states.setdefault(GenerationName(parsed.n, parsed.nonce), set()).add(parsed.state)
        for generation in states:
            if generation not in self._generations:
                payload = self._frames.read(FrameType.COLLECTOR, generation.name)
                if payload is not None:
                    self._generations[generation] = Generation.decode(payload)
            self._seen = max(self._seen, generation.n)
        # A generation that is done has spared what still exists, unless it ran while this session
        # used its packs.
        self.condemned = frozenset().union(
            *(
                record.condemned
                for generation, record in self._generations.items()
                if generation.n > self.settled or "done" not in states.get(generation, ())
            )
        )
        return states

    # 4. Publishing

    def publish_steps(self, payload: bytes, refs: bytes, label: bytes) -> Steps[str]:
        """Writes refs, the first label, and the snapshot object, which is the commit; returns its
        id.
        """
        id = self._frames.snapshot_id(payload)
        self._frames.write_versioned(FrameType.REFS, id, 1, refs)
        yield "refs written"
        self.published.append(self._frames.write_versioned(FrameType.LABEL, id, 1, label))
        yield "label written"
        self._frames.write_snapshot(names.snapshot(id), payload)
        self.published.append(names.snapshot(id))
        yield "snapshot written"
        return id

    # 5. Looking again

    def confirm_steps(self, id: str, used: Collection[bytes]) -> Steps[None]:
        """Makes sure that no collector took this session for dead and swept packs that the snapshot
        needs.

        If one did, the snapshot is removed again, and StoreBusy says so.
        """
        swept = self._swept()
        yield "generations listed again"
        if swept.isdisjoint(used) and self._name.name in self._objects.list("sess/"):
            return
        self._objects.delete(names.snapshot(id))
        self.published.clear()
        yield "snapshot removed"
        for prefix in ("label/", "refs/"):
            for name in self._objects.list(prefix):
                if name.startswith(f"{prefix}{id}-"):
                    self._objects.delete(name)
        raise StoreBusy(
            "a collection took this session for dead and removed packs that it used",
            hint="nothing was lost but this snapshot: run it again",
        )

    def _swept(self) -> frozenset[bytes]:
        """Packs that unsettled generations have deleted, or are about to delete."""
        states = self._look()
        swept: set[bytes] = set()
        for generation, found in states.items():
            if generation.n > self.settled and found & {"sweep", "done"}:
                record = self._generations.get(generation)
                if record is None:
                    raise DamagedObject(f"{generation.name} is missing", object=generation.name)
                swept |= record.condemned
        return frozenset(swept)

    # Plainly

    def begin(self) -> None:
        """Takes a lease. StoreReadOnly, NoSpace, StorageError."""
        drain(self.begin_steps())

    def end(self) -> None:
        """Drops the lease. One whose object cannot be removed is dead all the same."""
        if self._hold is not None:
            try:
                with contextlib.suppress(NoSpace, StorageError, StoreReadOnly):
                    self._objects.delete(self._name.name)
            finally:
                self._hold.release()
                self._hold = None
