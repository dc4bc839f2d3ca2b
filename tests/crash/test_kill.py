"""Two creates at once, one of them killed at a random moment: nothing that was there is harmed, and
the next create needs no help.
"""

import random
import time
from pathlib import Path

import pytest
from crash_client import (
    Creates,
    assert_held,
    assert_no_leases,
    assert_sound,
    assert_tmp_is_cleaned,
    change_source,
    make_source,
)

import snapstore
from tree_scan import Facts, scan

KILLS_PER_STORE = 50
SAMPLE = 3


def _undisturbed_s(creates: Creates, store: Path, sources: list[Path]) -> float:
    """How long two creates at once take."""
    start = time.monotonic()
    pids = [creates.start(store, source, "first") for source in sources]
    assert [creates.wait(pid).status for pid in pids] == [0, 0]
    return time.monotonic() - start


def _torture(place: Path, creates: Creates, chance: random.Random, kills: int) -> dict[str, int]:
    """Kills one of two creates again and again in one store."""
    store = place / "store"
    snapstore.init(store).close()
    sources = [place / "a", place / "b"]
    for source in sources:
        make_source(source, chance)
    span_s = _undisturbed_s(creates, store, sources)
    taken: dict[str, Facts] = {}
    figures = {"kills": 0, "rounds": 0, "committed unheard": 0}
    while figures["kills"] < kills:
        figures["rounds"] += 1
        change_source(sources, chance)
        was = [scan(source) for source in sources]
        pids = [creates.start(store, source, source.name) for source in sources]
        time.sleep(chance.uniform(0, 1.1 * span_s))
        victim = chance.randrange(2)
        creates.kill(pids[victim])
        outcomes = [creates.wait(pid) for pid in pids]

        assert outcomes[1 - victim].status == 0, outcomes
        assert outcomes[victim].status in (0, -9), outcomes
        again = creates.run(store, sources[victim], sources[victim].name)
        assert again.status == 0, again
        assert_no_leases(store)
        assert_sound(store)

        figures["kills"] += outcomes[victim].status == -9
        for outcome, facts in [*zip(outcomes, was, strict=True), (again, was[victim])]:
            if outcome.id:
                taken[outcome.id] = facts
    with snapstore.open(store, mode="r") as opened:
        there = {snapshot.id for snapshot in opened.snapshots()}
    assert taken.keys() <= there, "a snapshot that was reported is gone"
    figures["committed unheard"] = len(there) - len(taken) - len(sources)
    figures["left in tmp"] = assert_tmp_is_cleaned(store, creates, sources[0])
    figures["snapshots"] = len(there)
    assert_sound(store, read_data=True)
    for id in chance.sample(sorted(taken), SAMPLE):
        assert_held(store, id, taken[id])
    return figures


def _torture_stores(place: Path, seed: int, kills: int) -> None:
    print(f"seed {seed}")
    start = time.monotonic()
    sums: dict[str, int] = {}
    with Creates() as creates:
        for number in range(0, kills, KILLS_PER_STORE):
            some = min(KILLS_PER_STORE, kills - number)
            chance = random.Random(seed * 1_000_003 + number)
            for name, count in _torture(place / str(number), creates, chance, some).items():
                sums[name] = sums.get(name, 0) + count
    figures = ", ".join(f"{count} {name}" for name, count in sums.items())
    print(f"{figures}, {time.monotonic() - start:.0f} s")


def test_kill_either_of_two_creates(quick_path: Path) -> None:
    _torture_stores(quick_path, seed=1, kills=30)


@pytest.mark.slow
def test_kill_either_of_two_creates_for_long(quick_path: Path) -> None:
    _torture_stores(quick_path, seed=2, kills=600)
