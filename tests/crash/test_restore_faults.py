"""A restore over a living tree that dies, or meets an error, at every single call by which it
changes files; and what finishes or takes back what it left, which dies too.

Whatever happens, each entry is wholly the old or wholly the new one, and the tree is exactly the
former or exactly the wanted one, or there is a journal, by which either can be had. Content, every
attribute but ctime, and hard links count.

Only the modification time of the directory that has the staging directory is different after a
death right after that was made or removed, before the time is set again: no call does both.
"""

import ast
import errno
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

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
WAYS = ("resume", "abort")
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


class Judge:
    """What is found after a restore had trouble, and what becomes of it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.states: Counter[str] = Counter()
        self.faults: list[str] = []

    def may_miss_time(self, outcome: Outcome) -> bool:
        """Whether it died between the call that made or removed a staging directory, and that which
        sets the time of the directory around it again.
        """
        if not outcome.was_killed or len(outcome.log) < 2:
            return False
        call, name, *_ = outcome.log[-2].split(" ")
        return call in ("mkdirat", "unlinkat") and name.startswith(STAGING)

    def expect(self, what: str, expected: str, outcome: Outcome) -> None:
        lines = differences(getattr(self.scene, expected), self.scene.look())
        if lines and not (only_time_of_top(lines) and self.may_miss_time(outcome)):
            raise AssertionError(f"{what}: not as {expected}:\n" + "\n".join(lines[:6]))

    def judge(self, outcome: Outcome, way: str, name: str, then: str = "wanted") -> None:
        """Notes what is wrong after `outcome`, and after going `way` from there. `then`: the tree
        that is there when it came through.
        """
        try:
            self.look(outcome, way, then)
        except (AssertionError, snapstore.SnapstoreError) as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            self.faults.append(f"{name}, {way}, after\n{outcome.last()}\n{kind}{error}\n")

    def look(self, outcome: Outcome, way: str, then: str = "wanted") -> None:
        scene = self.scene
        with snapstore.open(scene.store) as store:
            journals = store.unfinished(scene.top)
            states = [journal.state for journal in journals]
            self.states[",".join(states) or "none"] += 1
            assert len(journals) == len(scene.staging()) <= 1, (states, scene.staging())
            assert_whole(scene, scene.look(), announced=states in (["ready"], ["reverting"]))
            if not states:
                expected = "before" if outcome.error else then
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


def die(scene: Scene, operations: Operations, at: int, first: str = STAGING) -> Outcome:
    scene.renew()
    return operations.run(scene.store, "restore", scene.id, options=RESTORE, at=at, first=first)


def sweep_deaths(
    scene: Scene,
    operations: Operations,
    places: Iterable[int],
    ways: Callable[[int], Sequence[str]],
    first: str = STAGING,
) -> Judge:
    """Kills restores at these calls, until one comes through."""
    judge = Judge(scene)
    for at in places:
        for way in ways(at):
            outcome = die(scene, operations, at, first)
            if not outcome.was_killed:
                assert outcome.error is None, outcome.message
                judge.judge(outcome, way, "undisturbed")
                assert at > outcome.calls > 100
                return judge
            judge.judge(outcome, way, f"killed at {at}")
    raise AssertionError("it never came through")


def alternately(at: int) -> Sequence[str]:
    return WAYS[at // SHARDS % 2 :][:1]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_death_at_every_call(scene: Scene, operations: Operations, shard: int) -> None:
    """From the making of the staging directory on: before that, it is a create that dies."""
    judge = sweep_deaths(scene, operations, count(shard + 1, SHARDS), alternately)
    judge.verdict()
    assert {"staging", "ready", "removing", "none"} <= set(judge.states)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_death_at_every_call_and_both_ways(
    scene: Scene, operations: Operations, shard: int
) -> None:
    """Those while what is there is taken, too."""
    sweep_deaths(scene, operations, count(shard + 1, SHARDS), lambda at: WAYS, "").verdict()


def places_of(log: Sequence[str]) -> dict[str, int]:
    """Calls of a restore that was not disturbed at which it is in the midst of something."""
    exchanges = [at for at, line in enumerate(log, 1) if line.startswith("renameat2 ")]
    states = [at for at, line in enumerate(log, 1) if line == "renameat state.new state"]
    deletions = [at for at in exchanges if log[at - 1].split("/")[0][-2:] == " 0"]
    return {
        "staging": exchanges[0] // 2,
        "deleting": deletions[len(deletions) // 2],
        "exchanging": exchanges[-4],
        "setting": (exchanges[-1] + states[1]) // 2,
        "applied": states[1] + 2,
        "removing": states[2] + 9,
    }


def sweep_second_deaths(
    scene: Scene,
    operations: Operations,
    place: str,
    op: str,
    ways: Callable[[int], Sequence[str]],
    places: Iterable[int],
) -> None:
    """Kills what goes on from a restore that was killed at one place, at these calls."""
    scene.renew()
    options = {"options": RESTORE, "first": STAGING}
    log = operations.run(scene.store, "restore", scene.id, **options).log
    judge = Judge(scene)
    for at in places:
        for way in ways(at):
            assert die(scene, operations, places_of(log)[place]).was_killed
            outcome = operations.run(scene.store, op, str(scene.top), at=at)
            name = f"{op} killed at {at} after death while {place}"
            then = "before" if op == "abort" or place == "staging" else "wanted"
            judge.judge(outcome, way, name, then)
            if not outcome.was_killed:
                judge.verdict()
                assert at > outcome.calls
                return


@pytest.mark.parametrize("op", ["resume", "abort"])
@pytest.mark.parametrize("place", ["deleting", "setting"])
def test_death_after_death(scene: Scene, operations: Operations, place: str, op: str) -> None:
    sweep_second_deaths(scene, operations, place, op, alternately, count(3, 7))


@pytest.mark.slow
@pytest.mark.parametrize("op", ["resume", "abort"])
@pytest.mark.parametrize(
    "place", ["staging", "deleting", "exchanging", "setting", "applied", "removing"]
)
def test_death_at_every_call_after_death(
    scene: Scene, operations: Operations, place: str, op: str
) -> None:
    sweep_second_deaths(scene, operations, place, op, lambda at: WAYS, count(1))


CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Errors(Judge):
    """What is found after a restore that met an error."""

    def __init__(self, scene: Scene, code: int, *, for_good: bool) -> None:
        super().__init__(scene)
        self.code, self.for_good = code, for_good
        self.kinds: Counter[str] = Counter()

    def may_miss_time(self, outcome: Outcome) -> bool:
        """Whether times could not be set any more."""
        return self.for_good

    def name_of(self, line: str) -> str:
        """The path that a difference is about; of hard links, the first one."""
        path = ast.literal_eval(line.partition(": ")[0])
        return os.fsdecode(self.scene.wanted[path].group or path) or "."

    def look(self, outcome: Outcome, way: str, then: str = "wanted") -> None:
        scene = self.scene
        self.kinds[outcome.error or ("problems" if outcome.problems else "none")] += 1
        assert outcome.error != "unexpected", outcome.message
        with snapstore.open(scene.store) as store:
            states = [journal.state for journal in store.unfinished(scene.top)]
        if outcome.error is None:
            # What the system refuses of an entry's attributes is told, and nothing else is missing.
            lines = differences(scene.wanted, scene.look())
            if only_time_of_top(lines) and outcome.warnings:
                lines = []
            told = {os.path.relpath(path, scene.top) for path, _, _ in outcome.problems}
            missed = {self.name_of(line) for line in lines}
            assert missed <= told, (lines, outcome.problems, outcome.warnings)
            assert all(": missing" not in line and ": not expected" not in line for line in lines)
            assert bool(states) <= bool(outcome.warnings), (states, outcome.warnings)
            if not states:
                return
        elif outcome.error != "restore-unfinished":
            assert outcome.error != "damaged"
            told = outcome.error == "no-space" or os.strerror(self.code) in outcome.message
            assert told, outcome.message
            assert self.for_good or not states, (states, outcome.message)
        super().look(outcome, way, then)


def sweep_errors(
    scene: Scene,
    operations: Operations,
    code: Callable[[int], int],
    places: Iterable[int],
    ways: Callable[[int], Sequence[str]],
    *,
    for_good: bool = False,
    first: str = STAGING,
) -> None:
    judges = {one: Errors(scene, one, for_good=for_good) for one in CODES}
    failure: dict[str, Any] = {"mode": "fail", "for_good": for_good, "first": first}
    failure["options"] = RESTORE
    for at in places:
        for way in ways(at):
            scene.renew()
            outcome = operations.run(
                scene.store, "restore", scene.id, at=at, error=code(at), **failure
            )
            judges[code(at)].judge(outcome, way, f"{errno.errorcode[code(at)]} at {at}")
            if outcome.calls < at:
                for judge in judges.values():
                    print(dict(judge.kinds))
                for judge in judges.values():
                    judge.verdict()
                return


@pytest.mark.parametrize("shard", range(SHARDS))
def test_error_at_every_call(scene: Scene, operations: Operations, shard: int) -> None:
    """One error at each call, of three kinds by turns."""
    places = count(shard + 1, SHARDS)
    sweep_errors(scene, operations, lambda at: CODES[at % 3], places, alternately)


@pytest.mark.slow
@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_each_error_at_every_call(
    scene: Scene, operations: Operations, code: int, for_good: bool
) -> None:
    """Those while what is there is taken, too; once, and from there on."""
    sweep_errors(
        scene, operations, lambda at: code, count(1), lambda at: WAYS, for_good=for_good, first=""
    )
