"""Several creates at once into one store, each in its own process: all of them succeed."""

import random
from pathlib import Path

from crash_client import (
    Creates,
    assert_held,
    assert_no_leases,
    assert_sound,
    change_source,
    make_source,
)

import snapstore
from tree_scan import scan

ROUNDS = 8


def test_two_first_creates_at_once(tmp_path: Path) -> None:
    """In a store without an index yet: both make one."""
    sources = [tmp_path / "a", tmp_path / "b"]
    for source in sources:
        make_source(source, random.Random(1))
    with Creates() as creates:
        for number in range(ROUNDS):
            store = tmp_path / f"store{number}"
            snapstore.init(store).close()
            pids = [creates.start(store, source, "first") for source in sources]
            outcomes = [creates.wait(pid) for pid in pids]
            assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
            assert_no_leases(store)
            assert_sound(store, read_data=True)


def test_four_processes_with_several_creates(tmp_path: Path) -> None:
    chance = random.Random(2)
    store = tmp_path / "store"
    snapstore.init(store).close()
    sources = [tmp_path / f"source{number}" for number in range(4)]
    for source in sources:
        make_source(source, chance)
    taken = {}
    with Creates() as creates:
        for _ in range(5):
            change_source(sources, chance)
            was = [scan(source) for source in sources]
            pids = [creates.start(store, source, source.name) for source in sources]
            for pid, facts in zip(pids, was, strict=True):
                outcome = creates.wait(pid)
                assert outcome.status == 0, outcome
                taken[outcome.id] = facts
    assert len(taken) == 20
    assert_no_leases(store)
    assert_sound(store, read_data=True)
    for id in chance.sample(sorted(taken), 4):
        assert_held(store, id, taken[id])
