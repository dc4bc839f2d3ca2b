"""The progress display."""

import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest
from cli_runner import Snap, command

from snapstore.base.progress import Progress
from snapstore.cli.progress import Rate, facts, outlook


def test_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.update(0.0, 0) == 0.0
    assert rate.update(1.0, 100) == 100.0
    for second in range(2, 30):
        rate.update(float(second), 100)
    assert rate.update(30.0, 100) == 0.0


def test_rate_begins_again_with_a_phase() -> None:
    rate = Rate()
    rate.update(0.0, 1000)
    assert rate.update(1.0, 0) == 0.0
    assert rate.update(2.0, 50) == 50.0


def test_facts() -> None:
    progress = Progress(
        phase="create", files_done=1234, bytes_done=1 << 30, bytes_total=4 << 30, errors=2
    )
    assert facts(progress, 1 << 20) == "1,234 files  1.0 GiB of 4.0 GiB  1.0 MiB/s  2 unreadable"
    assert outlook(progress, 1 << 20) == "25%  51:12 left"


def test_outlook_while_the_whole_is_unknown() -> None:
    progress = Progress(phase="scan", files_done=1, bytes_done=5, elapsed_s=65.0)
    assert outlook(progress, 1.0) == "1:05"
    assert facts(progress, 1.0) == "1 file  5 B  1 B/s"


def on_a_terminal(snap: Snap, *arguments: str, **environment: str) -> tuple[bytes, bytes]:
    """What a run writes to stdout (a pipe) and to stderr (a terminal)."""
    controller, terminal = pty.openpty()
    shown = bytearray()

    def watch() -> None:
        while True:
            try:
                data = os.read(controller, 65536)
            except OSError:
                return
            if not data:
                return
            shown.extend(data)

    process = subprocess.Popen(
        [*command(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**snap.environment, "TERM": "xterm", "COLUMNS": "80", **environment},
        cwd=snap.home,
    )
    os.close(terminal)
    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = process.communicate(timeout=60)
    watcher.join(timeout=60)
    os.close(controller)
    return out, bytes(shown)


SLOW = "slow=for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.1; done"


@pytest.fixture
def slow(snap: Snap) -> list[str]:
    snap("init", snap.store)
    return ["create", "--stdin-from", SLOW]


def test_shown_on_a_terminal(snap: Snap, slow: list[str]) -> None:
    out, shown = on_a_terminal(snap, *slow)
    assert out.startswith(b"snapshot ")
    assert b"create" in shown
    assert b"\xe2\x94\x81" in shown


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--no-progress"], {}),
        (["--quiet"], {}),
        ([], {"SNAP_PROGRESS_FPS": "0"}),
        ([], {"TERM": "dumb"}),
    ],
)
def test_not_shown(
    snap: Snap, slow: list[str], options: list[str], environment: dict[str, str]
) -> None:
    assert on_a_terminal(snap, *slow, *options, **environment)[1] == b""


def test_without_colours(snap: Snap, slow: list[str]) -> None:
    _, shown = on_a_terminal(snap, *slow, NO_COLOR="1")
    assert b"create" in shown
    assert b"\x1b[3" not in shown


def test_quiet_in_a_pipe(snap: Snap, slow: list[str]) -> None:
    assert snap(*slow).stderr == b""


def test_errors_are_coloured_on_a_terminal_only(snap: Snap, tmp_path: Path) -> None:
    assert b"\x1b[1;31merror:\x1b[0m" in on_a_terminal(snap, "list")[1]
    assert b"\x1b" not in on_a_terminal(snap, "list", NO_COLOR="1")[1]
    assert b"\x1b" not in snap("list").stderr
