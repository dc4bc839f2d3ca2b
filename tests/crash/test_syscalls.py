"""A create that dies, or meets an error, at every single call by which it changes files.

The sweep goes on from the first call until a create comes through. Deaths leave every state that
there is between two calls; afterwards, all earlier snapshots check clean, and the next create
succeeds as if nothing had been.
"""

import errno
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_client import (
    Creates,
    Outcome,
    assert_held,
    assert_no_leases,
    assert_sound,
    change_source,
    make_source,
)

import snapstore
from tree_scan import scan

SYNCING = ("fsync", "fdatasync")
WRITING = ("write", "writev", "pwrite64", "pwritev", "ftruncate64")
NAMING = ("link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat")
NAMING += ("mkdir", "mkdirat")
ALL = SYNCING + WRITING + NAMING

CREATE = "import sys, snapstore; snapstore.open(sys.argv[1]).create(sys.argv[2])"


@pytest.fixture(scope="module")
def fail_at(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    """The library that fails calls."""
    require("cc")
    library = tmp_path_factory.mktemp("fail_at") / "fail_at.so"
    source = Path(__file__).with_name("fail_at.c")
    build = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(build, check=True)
    return library


@pytest.fixture
def creates(fail_at: Path) -> Iterator[Creates]:
    with Creates(preload=fail_at) as running:
        yield running


class Sweep:
    """A store with an earlier snapshot, and a source that changes before every create."""

    def __init__(self, place: Path, creates: Creates, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store, self.source = place / "store", place / "source"
        self.creates = creates
        self.known: set[str] = set()
        snapstore.init(self.store).close()
        make_source(self.source, self.chance)
        self.must_succeed("first")

    def must_succeed(self, name: str) -> None:
        outcome = self.creates.run(self.store, self.source, name)
        assert outcome.status == 0, outcome
        assert outcome.id is not None
        self.known.add(outcome.id)

    def fail(self, name: str, **failure: Any) -> Outcome:
        change_source([self.source], self.chance)
        return self.creates.run(self.store, self.source, name, **failure)

    def look(self, outcome: Outcome) -> None:
        """All that must hold after a create that had trouble, and that the next one succeeds."""
        with snapstore.open(self.store, mode="r") as store:
            there = {snapshot.id for snapshot in store.snapshots()}
        assert self.known <= there
        if outcome.status >= 0:
            assert there - self.known == ({outcome.id} if outcome.status == 0 else set()), (
                "the outcome says otherwise",
                outcome,
            )
        self.known = there
        assert_sound(self.store)
        facts = scan(self.source)
        again = self.creates.run(self.store, self.source, "again")
        assert again.status == 0, again
        assert again.id is not None
        self.known.add(again.id)
        assert_no_leases(self.store)
        if self.chance.random() < 0.1:
            assert_held(self.store, again.id, facts)


def test_death_at_every_call(quick_path: Path, creates: Creates) -> None:
    sweep = Sweep(quick_path, creates, seed=11)
    at = 0
    while True:
        at += 1
        outcome = sweep.fail("dies", calls=ALL, at=at)
        sweep.look(outcome)
        if outcome.status == 0:
            break
        assert outcome.status == -9, outcome
    print(f"{at - 1} deaths")
    assert at > 40
    assert_sound(sweep.store, read_data=True)


FAILURES = [
    (SYNCING, errno.EIO, False),
    (WRITING, errno.EIO, False),
    (WRITING, errno.ENOSPC, True),
    pytest.param(SYNCING, errno.EIO, True, marks=pytest.mark.slow),
    pytest.param(SYNCING, errno.ENOSPC, False, marks=pytest.mark.slow),
    pytest.param(SYNCING, errno.ENOSPC, True, marks=pytest.mark.slow),
    pytest.param(WRITING, errno.EIO, True, marks=pytest.mark.slow),
    pytest.param(WRITING, errno.ENOSPC, False, marks=pytest.mark.slow),
    pytest.param(NAMING, errno.EIO, False, marks=pytest.mark.slow),
    pytest.param(NAMING, errno.ENOSPC, False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("calls", "code", "for_good"), FAILURES)
def test_error_at_every_call(
    quick_path: Path, creates: Creates, calls: tuple[str, ...], code: int, for_good: bool
) -> None:
    sweep = Sweep(quick_path, creates, seed=12)
    kinds: Counter[str | None] = Counter()
    at = 0
    while True:
        at += 1
        outcome = sweep.fail("fails", calls=calls, at=at, error=code, for_good=for_good)
        kinds[outcome.error] += 1
        sweep.look(outcome)
        if outcome.status == 0 and outcome.calls < at:
            break
        allowed = {errno.ENOSPC: {"no-space"}, errno.EIO: {"storage-error"}}[code]
        assert outcome.error in allowed | {None}, outcome
    print(f"{at - 1} errors: {dict(kinds)}")
    assert at > 8
    assert_sound(sweep.store, read_data=True)


@pytest.mark.needs("trace")
def test_nothing_escapes_the_sweep(quick_path: Path, fail_at: Path) -> None:
    """The kernel sees no more calls that change files than the library counts."""
    source, store, log = quick_path / "source", quick_path / "store", quick_path / "log"
    make_source(source, random.Random(13))
    snapstore.init(store).close()
    seen = "write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,ftruncate,"
    seen += "fallocate,truncate,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,"
    seen += "mkdirat,symlink,symlinkat,sendfile,copy_file_range,splice,msync,io_uring_enter"
    subprocess.run(
        [
            "strace",
            "-f",
            "-qq",
            "-o",
            log,
            "-e",
            f"trace={seen}",
            sys.executable,
            "-B",
            "-c",
            CREATE,
            store,
            source,
        ],
        check=True,
    )
    lines = (line.split(maxsplit=1)[1] for line in log.read_text().splitlines())
    names = {line.partition("(")[0] for line in lines if not line.startswith(("<", "+", "-"))}
    known = {name.removesuffix("64") for name in ALL} | {"pwrite64", "fallocate"}
    assert names <= known


@pytest.mark.needs("trace")
@pytest.mark.parametrize("call", ["fsync", "link", "rename"])
def test_death_by_strace(quick_path: Path, call: str) -> None:
    """The same from outside, without a library in the process; each thread counts for itself."""
    chance = random.Random(14)
    source, store = quick_path / "source", quick_path / "store"
    make_source(source, chance)
    snapstore.init(store).close()
    run = [sys.executable, "-B", "-c", CREATE, store, source]
    at = 0
    while True:
        at += 1
        change_source([source], chance)
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={at}"]
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", *inject]
        ended = subprocess.run([*strace, *run], check=False).returncode
        assert_sound(store)
        if ended == 0:
            break
        assert ended == -9
        subprocess.run(run, check=True)
        assert_no_leases(store)
        assert_sound(store)
    print(f"{at - 1} deaths at {call}")
    assert at > (1 if call == "rename" else 2)
