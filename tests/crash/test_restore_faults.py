"""A restore over a living tree that dies, or meets an error, at every single call by which it
changes files; and what finishes or takes back what it left, which dies too.

Whatever happens, each entry is wholly the old or wholly the new one, and the tree is exactly the
former or exactly the wanted one, or there is a journal, by which either can be had. Content, every
attribute but ctime, and hard links count.

Only the modification time of the directory that has the staging directory is different after a
death right after that was made or removed, before the time is set again: no call does both.
"""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from restore_client import (
    STAGING,
    Operations,
    Outcome,
    Scene,
    assert_whole,
    only_time_of_top,
)

import snapstore
from snapstore.base.errors import RestoreUnfinished
from tree_scan import differences

pytestmark = pytest.mark.needs("seccomp", "xattr", "holes")

SHARDS = 4
RESTORE = {"delete": True}


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    """The library that asks about calls."""
    require("cc")
    library = tmp_path_factory.mktemp("trap") / "trap.so"
    source = Path(__file__).with_name("trap.c")
    build = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source]
    subprocess.run(build, check=True)
    return library


@pytest.fixture
def operations(trap: Path) -> Iterator[Operations]:
    with Operations(trap) as running:
        yield running


@pytest.fixture
def scene(quick_path: Path) -> Iterator[Scene]:
    with Scene(quick_path) as scene:
        yield scene


def misses_time(outcome: Outcome) -> bool:
    """Whether it died between the call that made or removed a staging directory, and that which
    sets the time of the directory around it again.
    """
    if not outcome.was_killed or len(outcome.log) < 2:
        return False
    call, name, *_ = outcome.log[-2].split(" ")
    return call in ("mkdirat", "unlinkat") and name.startswith(STAGING)


class Judge:
    """What is found after a restore had trouble, and what becomes of it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.states: Counter[str] = Counter()
        self.faults: list[str] = []

    def expect(self, what: str, expected: str, outcome: Outcome) -> None:
        lines = differences(getattr(self.scene, expected), self.scene.look())
        if lines and not (only_time_of_top(lines) and misses_time(outcome)):
            raise AssertionError(f"{what}: not as {expected}:\n" + "\n".join(lines[:6]))

    def judge(self, outcome: Outcome, way: str, name: str) -> None:
        """Notes what is wrong after `outcome`, and after going `way` from there."""
        try:
            self.look(outcome, way)
        except (AssertionError, snapstore.SnapstoreError) as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            self.faults.append(f"{name}, {way}, after\n{outcome.last()}\n{kind}{error}\n")

    def look(self, outcome: Outcome, way: str) -> None:
        scene = self.scene
        with snapstore.open(scene.store) as store:
            journals = store.unfinished(scene.top)
            states = [journal.state for journal in journals]
            self.states[",".join(states) or "none"] += 1
            assert len(journals) == len(scene.staging()) <= 1, (states, scene.staging())
            assert_whole(scene, scene.look(), announced=states == ["ready"])
            if not states:
                expected = "before" if outcome.error else "wanted"
                if outcome.was_killed:
                    is_former = not differences(scene.before, scene.look(), ignore=["mtime_ns"])
                    expected = "before" if is_former else "wanted"
                self.expect("without a journal", expected, outcome)
                return
            state = states[0]
            if state == "staging":
                self.expect("while it was staged", "before", outcome)
            if way == "resume":
                if state == "reverting":
                    with pytest.raises(RestoreUnfinished):
                        store.resume(scene.top)
                    way = "abort"
                else:
                    store.resume(scene.top)
                    after = "before" if state == "staging" else "wanted"
            if way == "abort":
                after = "before"
                if state == "removing":
                    with pytest.raises(RestoreUnfinished):
                        store.abort(scene.top)
                    store.resume(scene.top)
                    self.expect("after resuming what was being removed", "wanted", outcome)
                    store.undo(scene.top, delete=True)
                else:
                    store.abort(scene.top)
            self.expect(f"{way} from {state}", after, outcome)
            assert not store.unfinished(scene.top)
            assert not scene.staging()

    def verdict(self) -> None:
        print(dict(self.states))
        assert not self.faults, f"{len(self.faults)} faults:\n" + "\n".join(self.faults[:20])


def sweep_deaths(
    scene: Scene,
    operations: Operations,
    places: Iterator[int],
    ways: Callable[[int], list[str]],
    first: str,
) -> Judge:
    """Kills restores at these calls, until one comes through."""
    judge = Judge(scene)
    for at in places:
        for way in ways(at):
            scene.renew()
            outcome = operations.run(
                scene.store, "restore", scene.id, options=RESTORE, at=at, first=first
            )
            if not outcome.was_killed:
                assert outcome.error is None, outcome.message
                judge.judge(outcome, way, "undisturbed")
                assert at > outcome.calls > 100
                return judge
            judge.judge(outcome, way, f"killed at {at}")
    raise AssertionError("it never came through")


@pytest.mark.parametrize("shard", range(SHARDS))
def test_death_at_every_call(scene: Scene, operations: Operations, shard: int) -> None:
    """From the making of the staging directory on: before that, it is a create that dies."""
    places = iter(range(shard + 1, 10_000, SHARDS))
    judge = sweep_deaths(
        scene, operations, places, lambda at: ["resume", "abort"][at // SHARDS % 2 :][:1], STAGING
    )
    judge.verdict()
    assert {"staging", "ready", "removing", "none"} <= set(judge.states)
