"""The progress display: three lines on stderr, only on a terminal, only when a run lasts.

The library calls a reporter about ten times a second; rich is imported when the first line is
drawn.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from snapstore.base.progress import Observer, Progress
from snapstore.cli import render
from snapstore.cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_DELAY_S = 0.4
_FPS = 5.0
_WINDOW_S = 5.0
_SETTLED_S = 1.0


@contextmanager
def reporter(settings: Settings) -> Iterator[Observer | None]:
    """A reporter for the library; None where no progress is to be shown. The display is gone at the
    end.
    """
    fps = _frames_per_second()
    if settings.quiet or settings.no_progress or not render.is_terminal(sys.stderr) or fps <= 0:
        yield None
        return
    display = Display(fps)
    try:
        yield display
    finally:
        display.close()


def _frames_per_second() -> float:
    """SNAP_PROGRESS_FPS; 0 turns the display off, nonsense is ignored."""
    try:
        return min(float(os.environ.get("SNAP_PROGRESS_FPS", _FPS)), 60.0)
    except ValueError:
        return _FPS


class Trend:
    """What can be said of a run's course: its rate, and whether its totals are all there is."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []
        self._total = 0
        self._total_since = 0.0

    def update(self, now: float, progress: Progress) -> None:
        """Takes the state at `now`."""
        done = progress.bytes_done
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()  # a new phase counts from zero
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _WINDOW_S:
            del self._samples[0]
        if progress.bytes_total != self._total:
            self._total, self._total_since = progress.bytes_total, now

    @property
    def rate(self) -> float:
        """Bytes a second over the last seconds, so that a stall shows and a burst does not."""
        (since, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - since) if now > since else 0.0

    @property
    def settled(self) -> bool:
        """Whether the total has not grown for a while: files are still being found until then."""
        return self._samples[-1][0] - self._total_since >= _SETTLED_S


class Display:
    """Draws what it is told, at most `fps` times a second."""

    def __init__(self, fps: float) -> None:
        self._interval_s = 1 / fps
        self._next = time.monotonic() + _DELAY_S
        self._trend = Trend()
        self._live: Live | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        self._trend.update(now, progress)
        if now < self._next:
            return
        self._next = now + self._interval_s
        self._open().update(_picture(progress, self._trend), refresh=True)

    def close(self) -> None:
        """Removes the display."""
        if self._live is not None:
            self._live.stop()

    def _open(self) -> "Live":
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self._live


def _picture(progress: Progress, trend: Trend) -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share = _share(progress) if trend.settled else None
    bar = ProgressBar(
        total=1.0,
        completed=share or 0.0,
        pulse=share is None,
        animation_time=progress.elapsed_s,
    )
    line = Table.grid(padding=(0, 2, 0, 0), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    outlook = Text(_outlook(progress, share, trend.rate))
    line.add_row(Text(progress.phase, style="bold"), bar, outlook)
    current = Text(render.name(progress.current), "dim", no_wrap=True, overflow="ellipsis")
    return Group(line, Text(_facts(progress, trend.rate), no_wrap=True), current)


def _share(progress: Progress) -> float | None:
    """How much is done, from 0 to 1; None while the whole is unknown."""
    if progress.bytes_total:
        return min(progress.bytes_done / progress.bytes_total, 1.0)
    if progress.files_total:
        return min(progress.files_done / progress.files_total, 1.0)
    return None


def _outlook(progress: Progress, share: float | None, rate: float) -> str:
    """The share done and the time left; while the whole is unknown, the time so far."""
    if share is None:
        return render.clock(progress.elapsed_s)
    if not progress.bytes_total or rate <= 0:
        return f"{share:.0%}"
    left = max(progress.bytes_total - progress.bytes_done, 0) / rate
    return f"{share:.0%}  {render.clock(left)} left"


def _facts(progress: Progress, rate: float) -> str:
    """Files, bytes, rate and errors, in one line."""
    done = render.size(progress.bytes_done)
    parts = [
        render.amount(progress.files_done, "file"),
        f"{done} of {render.size(progress.bytes_total)}" if progress.bytes_total else done,
        f"{render.size(int(rate))}/s",
    ]
    if progress.errors:
        parts.append(f"{progress.errors:,} unreadable")
    return "  ".join(parts)
