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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from restore_client import (
    RESTORE,
    STAGING,
    WAYS,
    Judge,
    Operations,
    Outcome,
    Scene,
    assert_whole,
    build_trap,
    only_time_of_top,
)

import snapstore
from tree_scan import differences

pytestmark = pytest.mark.needs("seccomp", "xattr", "holes")

SHARDS = 4


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    """The library that asks about calls."""
    require("cc")
    return build_trap(tmp_path_factory.mktemp("trap"))


@pytest.fixture
def operations(trap: Path) -> Iterator[Operations]:
    with Operations(trap) as running:
        yield running


@pytest.fixture
def scene(quick_path: Path) -> Iterator[Scene]:
    with Scene(quick_path) as scene:
        yield scene


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
    judge = Judge(scene, operations)
    for at in places:
        for way in ways(at):
            outcome = die(scene, operations, at, first)
            if not outcome.was_killed:
                assert outcome.error is None, outcome.message
                judge.judge(outcome, way, "undisturbed")
                assert at > outcome.calls > 30
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
    deletions = [at for at in exchanges if log[at - 1].rpartition(" ")[2].startswith("0/")]
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
    judge = Judge(scene, operations)
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


def make_mounted(top: Path) -> None:
    for place in (top, top / "mounted"):
        for name in ("replaced", "kept", "new"):
            (place / name).write_text("wanted")


def change_mounted(top: Path) -> None:
    (top / "mounted" / "replaced").write_text("there")
    (top / "mounted" / "new").unlink()
    (top / "mounted" / "extra").write_text("there")


def change_one_file(top: Path) -> None:
    """That the directory around it is as it was."""
    (top / "mounted" / "replaced").write_text("there")


def change_both(top: Path) -> None:
    change_mounted(top)
    (top / "replaced").write_text("there")
    (top / "new").unlink()


INSIDE = [change_one_file, change_mounted, change_both]


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("change", INSIDE)
def test_death_with_a_file_system_inside(
    quick_path: Path, operations: Operations, change: Callable[[Path], None]
) -> None:
    """Each file system has a staging directory of its own; whoever looks at the top finds it."""
    with Scene(quick_path, make_mounted, change, ["mounted"]) as scene:
        sweep_deaths(scene, operations, count(1, SHARDS), alternately).verdict()


@pytest.mark.slow
@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("change", INSIDE)
def test_death_at_every_call_with_a_file_system_inside(
    quick_path: Path, operations: Operations, change: Callable[[Path], None]
) -> None:
    with Scene(quick_path, make_mounted, change, ["mounted"]) as scene:
        sweep_deaths(scene, operations, count(1), lambda at: WAYS).verdict()


CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Errors(Judge):
    """What is found after a restore that met an error."""

    def __init__(self, scene: Scene, operations: Operations, code: int, *, for_good: bool) -> None:
        super().__init__(scene, operations)
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
            told = not any(STAGING in line for line in outcome.log)
            told |= outcome.error == "no-space" or os.strerror(self.code) in outcome.message
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
    judges = {one: Errors(scene, operations, one, for_good=for_good) for one in CODES}
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


@pytest.mark.parametrize("shard", range(0, SHARDS, 2))
def test_error_at_each_other_call(scene: Scene, operations: Operations, shard: int) -> None:
    """One error, of three kinds by turns."""
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


# On file systems that cannot exchange (NFS, FUSE): what is replaced gives way by one rename, and
# what comes takes its place by the next.

NOREPLACE, EXCHANGE = 1, 2
REFUSED = {
    "no exchange": {"refused": EXCHANGE, "refusal": errno.EINVAL},
    "no flags": {"refused": EXCHANGE | NOREPLACE, "refusal": errno.EINVAL},
    "no such call": {"refused": EXCHANGE | NOREPLACE, "refusal": errno.ENOSYS},
}


@pytest.fixture(params=REFUSED)
def refusing(trap: Path, request: pytest.FixtureRequest) -> Iterator[Operations]:
    """Operations, whatever ends them included, on a file system that refuses renames."""
    with Operations(trap, **REFUSED[request.param]) as running:
        yield running


def assert_two_renames(log: Sequence[str]) -> None:
    assert any(line.startswith("rename") and line.endswith(".old") for line in log)


def test_there_and_back_without_exchanges(scene: Scene, refusing: Operations) -> None:
    for op, argument, expected in (
        ("restore", scene.id, scene.wanted),
        ("undo", str(scene.top), scene.before),
        ("undo", str(scene.top), scene.wanted),
    ):
        outcome = refusing.run(scene.store, op, argument, options=RESTORE)
        assert (outcome.error, outcome.problems, outcome.warnings) == (None, [], [])
        assert_two_renames(outcome.log)
        assert differences(expected, scene.look()) == []
        assert scene.staging() == []


@pytest.mark.parametrize("shard", range(0, SHARDS, 3))
def test_death_without_exchanges(scene: Scene, refusing: Operations, shard: int) -> None:
    sweep_deaths(scene, refusing, count(shard + 1, SHARDS), alternately).verdict()


@pytest.mark.slow
def test_death_at_every_call_without_exchanges(scene: Scene, refusing: Operations) -> None:
    sweep_deaths(scene, refusing, count(1), lambda at: WAYS).verdict()


@pytest.mark.parametrize("op", ["resume", "abort"])
def test_death_after_death_without_exchanges(scene: Scene, refusing: Operations, op: str) -> None:
    sweep_second_deaths(scene, refusing, "exchanging", op, alternately, count(5, 9))


@pytest.mark.slow
@pytest.mark.parametrize("op", ["resume", "abort"])
@pytest.mark.parametrize("place", ["deleting", "exchanging", "setting", "applied"])
def test_death_at_every_call_after_death_without_exchanges(
    scene: Scene, refusing: Operations, place: str, op: str
) -> None:
    sweep_second_deaths(scene, refusing, place, op, lambda at: WAYS, count(1))


def test_error_without_exchanges(scene: Scene, refusing: Operations) -> None:
    sweep_errors(scene, refusing, lambda at: CODES[at % 3], count(2, SHARDS), alternately)


@pytest.mark.slow
@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_each_error_at_every_call_without_exchanges(
    scene: Scene, refusing: Operations, code: int, for_good: bool
) -> None:
    sweep_errors(scene, refusing, lambda at: code, count(1), lambda at: WAYS, for_good=for_good)


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("on_error", ["keep-going", "stop"])
def test_what_gave_way_comes_back_when_nothing_takes_its_place(
    scene: Scene, refusing: Operations, on_error: str, for_good: bool
) -> None:
    """A rename fails: what stood at the path is neither away nor, at the end, removed."""
    scene.renew()
    failure = {"options": {**RESTORE, "on_error": on_error}, "first": STAGING}
    log = refusing.run(scene.store, "restore", scene.id, **failure).log
    assert_two_renames(log)
    failure |= {"mode": "fail", "error": errno.EIO, "for_good": for_good}
    ready = log.index("renameat state.new state")
    renames = [at for at, line in enumerate(log, 1) if line.startswith("renameat") and at > ready]
    for at in renames[1::3]:
        scene.renew()
        outcome = refusing.run(scene.store, "restore", scene.id, at=at, **failure)
        # Where the journal has it, and says so, one entry may be away.
        assert_whole(scene, scene.look(), announced=bool(outcome.error), away=1)
        if outcome.error is None:
            assert len(scene.staging()) <= int(for_good)
        elif outcome.error != "restore-unfinished":
            assert differences(scene.before, scene.look()) == []
        else:
            way = "abort" if on_error == "keep-going" else "resume"
            expected = scene.before if on_error == "keep-going" else scene.wanted
            Judge(scene, refusing).act(way)
            assert differences(expected, scene.look()) == []


# The same with a step left out: would it be seen?


def forgets(scene: Scene, operations: Operations, log: list[str], mutant: str) -> tuple[str, Judge]:
    """Carries out a restore without a step, and all that goes with it; in what it is to be seen."""
    judge = Judge(scene)
    at = places_of(log)
    restore = {"options": RESTORE, "first": STAGING}

    def killed(place: str, **more: Any) -> Outcome:
        scene.renew()
        failure = {"at": at[place], **restore, **more}
        return operations.run(scene.store, "restore", scene.id, **failure)

    match mutant:
        case "none":
            judge.judge(killed("exchanging"), "resume", mutant)
            assert killed("exchanging").was_killed
            abort = operations.run(scene.store, "abort", str(scene.top))
            judge.judge(abort, "abort", mutant, "before")
            scene.renew()
            failure = {"at": at["exchanging"], "mode": "fail", "error": errno.EIO}
            done = operations.run(scene.store, "restore", scene.id, **restore, **failure)
            judge.judge(done, "abort", mutant)
            return "", judge
        case "ready is never written":
            done = killed("exchanging", forgotten="renameat state.new state")
            judge.judge(done, "resume", mutant)
            return "while it was staged: not as before", judge
        case "entries are exchanged before they are complete":
            scene.renew()
            done = operations.run(scene.store, "restore", scene.id, forgotten="pwritev ", **restore)
            judge.judge(done, "resume", mutant)
            return "", judge
        case "something that was deleted is not brought back":
            assert killed("exchanging").was_killed
            first = next(line for line in log if line.startswith("renameat2 "))
            name, _, number = first.removeprefix("renameat2 ").rpartition(" ")
            line = f"renameat2 {number} {name}"
            abort = operations.run(scene.store, "abort", str(scene.top), forgotten=line)
            assert line in abort.log
            judge.judge(abort, "abort", mutant, "before")
            return "not as before", judge
        case "a time is not set at the end":
            scene.renew()
            last = max(
                i for i, line in enumerate(log[: at["applied"]], 1) if line[:9] == "utimensat"
            )
            failure = {"at": last, "mode": "pass over"}
            done = operations.run(scene.store, "restore", scene.id, **restore, **failure)
            judge.judge(done, "resume", mutant)
            return "mtime_ns", judge
        case "an error takes nothing back":
            scene.renew()
            failure = {"at": at["exchanging"], "mode": "fail", "error": errno.EIO}
            done = operations.run(
                scene.store, "restore", scene.id, mutant=mutant, **restore, **failure
            )
            errors = Errors(scene, operations, errno.EIO, for_good=False)
            errors.judge(done, "abort", mutant)
            return "ready", errors
        case "resuming only clears away":
            assert killed("exchanging").was_killed
            done = operations.run(scene.store, "resume", str(scene.top), mutant=mutant)
            assert done.error is None, done.message
            judge.judge(done, "resume", mutant)
            return "", judge
    raise ValueError(mutant)


MUTANTS = [
    "ready is never written",
    "entries are exchanged before they are complete",
    "something that was deleted is not brought back",
    "a time is not set at the end",
    "an error takes nothing back",
    "resuming only clears away",
]


def test_a_forgotten_step_is_seen(scene: Scene, operations: Operations) -> None:
    scene.renew()
    options = {"options": RESTORE, "first": STAGING}
    log = operations.run(scene.store, "restore", scene.id, **options).log
    _, judge = forgets(scene, operations, log, "none")
    judge.verdict()
    for mutant in MUTANTS:
        seen, judge = forgets(scene, operations, log, mutant)
        assert judge.faults, f"{mutant}: nobody noticed"
        assert all(seen in fault for fault in judge.faults), judge.faults
        print(mutant, *judge.faults)
