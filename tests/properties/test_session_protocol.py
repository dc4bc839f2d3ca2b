"""No order of writers, readers, collectors, crashes and leases taken for dead loses a reported
snapshot.

The harness counts only because it catches mutants: each breaks one rule of docs/format/session.md,
and must be found.
"""

import random
from collections.abc import Callable, Collection

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from session_world import Actor, Rules, World, collector, reader, resumed_collector, writer

from snapstore.model.names import GenerationName
from snapstore.repository.session import Session, Steps

CHUNKS = 3
index = st.integers(0, 1 << 16)


def machine(rules: Rules) -> type[RuleBasedStateMachine]:
    class Protocol(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.world = World(rules=rules)
            self.writers: list[Actor] = []
            self.collectors: list[Actor] = []

            for chunk in range(1, CHUNKS + 1):  # what a writer that died left behind
                self.world.write_pack(frozenset([chunk]), "dead")

        @property
        def actors(self) -> list[Actor]:
            self.writers = [actor for actor in self.writers if not actor.over]
            self.collectors = [actor for actor in self.collectors if not actor.over]
            return self.writers + self.collectors

        @precondition(lambda self: len(self.writers) < 3)
        @rule(chunks=st.frozensets(st.integers(1, CHUNKS), min_size=1), reuse=st.booleans())
        def start_writer(self, chunks: frozenset[int], reuse: bool) -> None:
            self.writers.append(writer(self.world, chunks, reuse))

        @precondition(lambda self: self.world.reported and len(self.actors) < 2)
        @rule(which=index)
        def start_reader(self, which: int) -> None:
            ids = sorted(self.world.reported)
            self.writers.append(reader(self.world, ids[which % len(ids)]))

        @precondition(lambda self: len(self.collectors) < 2)
        @rule(seed=index)
        def start_collector(self, seed: int) -> None:
            chance = random.Random(seed)
            actor = collector(
                self.world, lambda packs: [pack for pack in packs if chance.random() < 0.8]
            )
            self.collectors.append(actor)

        @precondition(lambda self: self.world.abandoned and not self.collectors)
        @rule(which=index)
        def resume_collection(self, which: int) -> None:
            name = self.world.abandoned[which % len(self.world.abandoned)]
            self.collectors.append(resumed_collector(self.world, name))

        @precondition(lambda self: self.actors)
        @rule(which=index, steps=st.integers(1, 10))
        def step(self, which: int, steps: int) -> None:
            actor = self.actors[which % len(self.actors)]
            for _ in range(steps):
                actor.step()

        @rule(seed=index)
        def bustle(self, seed: int) -> None:
            """Many steps at once: drawing each by itself would be most of the time."""
            chance = random.Random(seed)
            for _ in range(20):
                if len(self.writers) < 2:
                    wanted = frozenset(chance.sample(range(1, CHUNKS + 1), chance.randint(1, 2)))
                    self.writers.append(writer(self.world, wanted, chance.random() < 0.3))
                if not self.collectors:
                    self.start_collector(chance.getrandbits(16))
                if chance.random() < 0.1:
                    self.take_for_dead(chance.getrandbits(16))
                actor = chance.choice(self.actors)
                for _ in range(chance.choice((1, 2, 5, 40))):
                    actor.step()
                    if actor.at == "waiting for sessions":
                        break
                self.nothing_is_lost()

        @precondition(lambda self: len(self.actors) > 2)
        @rule(which=index)
        def crash(self, which: int) -> None:
            self.actors[which % len(self.actors)].crash()

        @precondition(lambda self: self.writers and self.collectors)
        @rule(which=index)
        def take_for_dead(self, which: int) -> None:
            actor = self.writers[which % len(self.writers)]
            self.world.objects.expired.add(actor.ulid)

        @precondition(lambda self: len(self.world.reported) > 1)
        @rule(which=index)
        def forget(self, which: int) -> None:
            ids = sorted(self.world.reported)
            id = ids[which % len(ids)]
            del self.world.reported[id]
            self.world.objects.delete(f"snap/{id}")

        @invariant()
        def nothing_is_lost(self) -> None:
            assert not self.world.missing(), "a reported snapshot lacks a chunk"

    return Protocol


def run(rules: Rules, examples: int, steps: int = 15) -> None:
    run_state_machine_as_test(
        machine(rules),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


def test_nothing_reported_is_lost() -> None:
    run(Rules(), 200)


@pytest.mark.slow
def test_nothing_reported_is_lost_in_many_worlds() -> None:
    run(Rules(), 20_000, 40)


# Orders that chance seldom comes upon


def test_a_pack_about_to_be_swept_counts_as_gone() -> None:
    """That it still exists says nothing: the collector has marked, and is about to delete it."""
    world = World()
    pack = world.write_pack(frozenset([1]), "dead")
    late = writer(world, frozenset([1]), False)
    late.until("chunk taken")
    late.until("generations listed")  # nothing to settle
    world.objects.expired.add(late.ulid)
    collection = collector(world, lambda packs: packs)
    collection.until("snapshots listed again")
    late.until("snapshot written")
    assert pack in world.packs
    late.finish()
    assert late.failed
    collection.finish()
    assert pack not in world.packs
    assert not world.reported
    assert not world.objects.list("snap/")
    assert not world.objects.list("refs/")


def test_a_living_session_holds_a_sweep_back() -> None:
    world = World()
    world.write_pack(frozenset([1]), "dead")
    slow = writer(world, frozenset([1]), False)
    slow.until("chunk taken")
    collection = collector(world, lambda packs: packs)
    collection.finish()
    assert world.packs
    slow.finish()
    collection.finish()
    assert len(world.reported) == 1
    assert collection.over
    assert not world.missing()


def test_dead_leases_are_cleared_away_and_living_ones_are_not() -> None:
    world = World()
    dead, living = (writer(world, frozenset([1]), False) for _ in range(2))
    for actor in (dead, living):
        actor.until("chunk taken")
    dead.crash()
    writer(world, frozenset([2]), False).finish()
    left = world.objects.list("sess/")
    assert [name.startswith(f"sess/{living.ulid}") for name in left] == [True]


def test_two_generations_of_one_number_are_both_obeyed() -> None:
    world = World()
    for chunk in (1, 2):
        world.write_pack(frozenset([chunk]), "dead")
    first, second = (collector(world, lambda packs, n=n: sorted(packs)[n : n + 1]) for n in (0, 1))
    for each in (first, second):
        each.until("victims chosen")
    for each in (first, second):
        each.until("generation written")
    slow = writer(world, frozenset([1, 2]), False)
    slow.until("packs listed")
    assert len(slow.session.condemned) == 2
    for each in (first, second, slow):
        each.finish()
    assert not world.missing()


@pytest.mark.parametrize("void_by_listing", [True, False])
def test_of_two_generations_of_one_number_the_later_is_void(void_by_listing: bool) -> None:
    """If the smaller nonce won instead, a writer that has settled the first would count as having
    settled the other.
    """
    lost = []
    for seed in range(40):
        world = World(rules=Rules(void_by_listing=void_by_listing), chance=random.Random(seed))
        packs = [world.write_pack(frozenset([chunk]), "dead") for chunk in (1, 2)]
        slow = writer(world, frozenset([1]), False)
        slow.until("chunk taken")
        first, second = (collector(world, lambda _, v=victim: [v]) for victim in reversed(packs))
        for each in (first, second):
            each.until("victims chosen")
        first.until("generation written")
        first.crash()
        slow.until("old lease removed")  # has settled the first, which does not concern it
        slow.until("generations listed")
        second.finish()
        slow.finish()
        lost += world.missing()
    assert bool(lost) is not void_by_listing


# Mutants


class ClaimsWithoutSettling(Session):
    """Says that it has settled new generations, but keeps what it took from condemned packs."""

    def settle_steps(self, used: Collection[bytes]) -> Steps[bool]:
        return (yield from super().settle_steps(()))


class UsesCondemned(Session):
    """Deduplicates against condemned packs."""

    def _look(self) -> dict[GenerationName, set[str]]:
        states = super()._look()
        self.condemned = frozenset()
        return states


class ForgetsWhatWasDone(Session):
    """Takes a generation that is done for one that spared all that exists, though it never settled
    it.
    """

    def _look(self) -> dict[GenerationName, set[str]]:
        states = super()._look()
        self.condemned = frozenset().union(
            *(
                record.condemned
                for name, record in self._generations.items()
                if "done" not in states.get(name, ())
            )
        )
        return states


class NeverLooksAgain(Session):
    """Reports success without listing the generations after publishing."""

    def confirm_steps(self, id: str, used: Collection[bytes]) -> Steps[None]:
        yield from ()


class LinksBeforeLocking(Session):
    """Links its lease first and locks it after."""

    def _hold_steps(self, settled: int) -> Steps[None]:
        before = set(self._objects.list("sess/"))
        steps = super()._hold_steps(settled)
        yield next(steps)
        (new,) = {self._name.name}
        if new not in before:
            self._objects.locked.discard(new)  # type: ignore[attr-defined]
            yield "lease linked, not yet locked"
            self._objects.locked.add(new)  # type: ignore[attr-defined]
        yield from steps


class ListsBeforeLease(Session):
    """Never looks at the generations again once its lease is there: what came in between is not
    seen.
    """

    def begin_steps(self) -> Steps[None]:
        self._look()
        yield "generations listed"
        self._seen += 1
        yield from self._hold_steps(self._seen)


def settles_late(kind: type[Session]) -> list[str]:
    """What it took was condemned after; it settles, and is swept before it publishes."""
    world = World(rules=Rules(session=kind))
    world.write_pack(frozenset([1]), "dead")
    late = writer(world, frozenset([1]), False)
    late.until("chunk taken")
    collection = collector(world, lambda packs: packs)
    collection.until("generation written")
    late.until("old lease removed")
    collection.finish()
    late.finish()
    collection.finish()
    assert len(world.reported) == 1
    return world.missing()


def sleeps_through_a_collection(kind: type[Session]) -> list[str]:
    """A generation begins and ends unseen, because its session was taken for dead."""
    world = World(rules=Rules(session=kind))
    world.write_pack(frozenset([1]), "dead")
    late = writer(world, frozenset([1]), False)
    late.until("chunk taken")
    world.objects.expired.add(late.ulid)
    collector(world, lambda packs: packs).finish()
    assert not world.packs
    late.finish()
    assert len(world.reported) == 1
    return world.missing()


def overtaken_by_a_collection(kind: type[Session]) -> list[str]:
    """A generation condemns what a living session took, which has not seen it."""
    world = World(rules=Rules(session=kind))
    world.write_pack(frozenset([1]), "dead")
    late = writer(world, frozenset([1]), False)
    late.until("chunk taken")
    collection = collector(world, lambda packs: packs)
    collection.finish()
    late.finish()
    collection.finish()
    assert len(world.reported) == 1
    return world.missing()


@pytest.mark.parametrize(
    ("schedule", "mutant"),
    [
        (settles_late, ClaimsWithoutSettling),
        (sleeps_through_a_collection, ForgetsWhatWasDone),
        (overtaken_by_a_collection, ListsBeforeLease),
    ],
)
def test_rare_schedules_lose_nothing_and_catch_their_mutants(
    schedule: Callable[[type[Session]], list[str]], mutant: type[Session]
) -> None:
    assert not schedule(Session)
    assert schedule(mutant)


MUTANTS = {
    "deduplicates against condemned packs": Rules(session=UsesCondemned),
    "does not look again after publishing": Rules(session=NeverLooksAgain),
    "links its lease before locking it": Rules(session=LinksBeforeLocking),
    "sweeps without marking again": Rules(remark=False),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str) -> None:
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        run(MUTANTS[name], 4_000)
