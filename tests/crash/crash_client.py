"""Starting creates in processes of their own, ending them at any moment, and looking at what they
left.
"""

import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import snapstore
from tree_scan import Facts, assert_same
from tree_store import facts_by_rescue, rescue

SERVER = Path(__file__).with_name("crash_server.py")
PATIENCE_S = 60.0


@dataclass
class Outcome:
    """How a create ended: its exit status (negative: a signal), and what it said."""

    status: int
    id: str | None = None
    error: str | None = None
    message: str = ""
    stored_bytes: int = 0
    calls: int = 0


@dataclass
class Creates:
    """Creates in processes that are forked off one server. `preload`: library for all of them."""

    preload: Path | None = None
    _said: dict[int, dict[str, Any]] = field(default_factory=dict)
    _buffer: bytes = b""

    def __enter__(self) -> "Creates":
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        if self.preload:
            environment["LD_PRELOAD"] = os.fspath(self.preload)
        self._server = subprocess.Popen(
            [sys.executable, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:
            self._server.kill()
        self._server.stdin.close()
        self._server.wait(PATIENCE_S)
        self._server.stdout.close()

    def start(
        self,
        store: Path,
        source: Path,
        name: str,
        *,
        calls: Sequence[str] = (),
        at: int = 0,
        error: int = 0,
        for_good: bool = False,
    ) -> int:
        """Starts a create; returns its pid. With `calls`, the `at`-th of them fails with `error`,
        or kills.
        """
        failure = {"calls": list(calls), "at": at, "error": error, "for_good": int(for_good)}
        self._ask(
            op="start",
            store=os.fspath(store),
            source=os.fspath(source),
            name=name,
            failure=failure if calls else None,
        )
        while True:
            line = self._line()
            if line.get("started"):
                return line["pid"]
            self._note(line)

    def wait(self, pid: int) -> Outcome:
        """Waits for the end of a create."""
        self._ask(op="wait", pid=pid)
        while True:
            line = self._line()
            if line["pid"] == pid and "ended" in line:
                return Outcome(line["ended"], **self._said.pop(pid, {}))
            self._note(line)

    def run(self, store: Path, source: Path, name: str, **failure: Any) -> Outcome:
        """A create from beginning to end."""
        return self.wait(self.start(store, source, name, **failure))

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)  # it is a zombie at worst until it is waited for

    def _note(self, line: dict[str, Any]) -> None:
        self._said.setdefault(line.pop("pid"), {}).update(line)

    def _ask(self, **request: Any) -> None:
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()

    def _line(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"nothing was heard for {PATIENCE_S} s")
                data = os.read(self._server.stdout.fileno(), 1 << 16)
                if not data:
                    raise EOFError("the server ended")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


# Sources


def make_source(top: Path, chance: random.Random) -> None:
    """A tree with small files, and some large enough to be cut."""
    for number in range(12):
        directory = top / f"d{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        size = chance.choice([0, 40, 3_000, 70_000])
        (directory / f"f{number}").write_bytes(chance.randbytes(size))
    (top / "link").symlink_to("d0/f0")


def change_source(tops: Sequence[Path], chance: random.Random) -> None:
    """The same new content in all of them, and something of its own in each."""
    shared = chance.randbytes(chance.choice([500, 60_000, 150_000]))
    for top in tops:
        (top / f"d{chance.randrange(3)}" / "shared").write_bytes(shared)
        own = top / f"d{chance.randrange(3)}" / f"own{chance.randrange(4)}"
        if own.exists() and chance.random() < 0.3:
            own.unlink()
        else:
            own.write_bytes(chance.randbytes(chance.choice([10, 2_000, 40_000])))


# What must hold


def assert_sound(path: Path, *, read_data: bool = False) -> None:
    """The store checks clean, without being written to."""
    with snapstore.open(path, mode="r") as store:
        report = store.check(read_data=read_data)
    assert report.complete
    assert not report.problems, report.problems


def assert_no_leases(path: Path) -> None:
    assert os.listdir(path / "sess") == []


def assert_held(path: Path, id: str, expected: Facts) -> None:
    """The independent reader finds in a snapshot of one root what was there when it was taken."""
    store = rescue().Store(path)
    record = store.snapshot(id)
    assert_same(expected, facts_by_rescue(store, record["roots"][0]["id"]))


def assert_tmp_is_cleaned(path: Path, creates: Creates, source: Path) -> int:
    """What dead writers left goes away with the first create after a minute; how much it was."""
    left = list((path / "tmp").iterdir())
    for file in left:
        os.utime(file, times=(0, time.time() - 120))
    assert creates.run(path, source, "cleaner").status == 0
    assert list((path / "tmp").iterdir()) == []
    return len(left)
