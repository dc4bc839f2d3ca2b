"""The progress display."""

import io
import os
import pty
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import Snap, command
from rich.console import Console

from snapstore.base.progress import Progress
from snapstore.cli.progress import Trend, _picture


def state(done: int, total: int = 0) -> Progress:
    return Progress(phase="create", bytes_done=done, bytes_total=total)


def test_rate_is_that_of_the_last_seconds() -> None:
    trend = Trend()
    trend.update(0.0, state(0))
    assert trend.rate == 0.0
    trend.update(1.0, state(100))
    assert trend.rate == 100.0
    for second in range(2, 30):
        trend.update(float(second), state(100))
    assert trend.rate == 0.0


def test_rate_begins_again_with_a_phase() -> None:
    trend = Trend()
    for second, done in enumerate((1000, 0, 50)):
        trend.update(float(second), state(done))
    assert trend.rate == 50.0


def test_total_settles_when_it_stops_growing() -> None:
    trend = Trend()
    for second, total in enumerate((10, 20, 30, 30)):
        trend.update(second / 2, state(5, total))
        assert not trend.settled
    trend.update(2.5, state(5, 30))
    assert trend.settled


def shown_line(progress: Progress, trend: Trend, width: int = 60) -> list[str]:
    """The display as text."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(_picture(progress, trend))
    return capture.get().splitlines()


def test_picture() -> None:
    progress = Progress(
        phase="create",
        files_done=1234,
        bytes_done=1 << 30,
        bytes_total=4 << 30,
        errors=2,
        current=b"a\x1b\xff/" + b"long/" * 20,
    )
    trend = Trend()
    trend.update(0.0, progress)
    assert shown_line(progress, trend)[0].endswith("  0:00")
    trend.update(2.0, progress)
    lines = shown_line(progress, trend)
    assert lines[0].startswith("create  ━━")
    assert lines[0].endswith("  25%")
    assert lines[1].rstrip() == "1,234 files  1.0 GiB of 4.0 GiB  0 B/s  2 unreadable"
    assert max(map(len, shown_line(progress, trend, 20))) <= 20
    assert lines[2].startswith("a\\x1b\\xff/long/")
    assert lines[2].endswith("…")
    progress = replace(progress, bytes_done=2 << 30)
    trend.update(4.0, progress)
    assert shown_line(progress, trend)[0].endswith("  50%  0:08 left")


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
