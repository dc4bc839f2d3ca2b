"""The pager: where git would use one, what a command prints goes through it.

    with paged(settings):
        render.table(…)

Nothing changes in a pipe, with `--no-pager` or with `--json`. Without a pager to run, the output
goes to the terminal as it would.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from snapstore.cli import render
from snapstore.cli.settings import Settings

if TYPE_CHECKING:
    import subprocess

_DEFAULT = "less"
_SHELL_SIGNS = "|&;<>()$`\\\"' \t\n*?[#~=%"


@contextlib.contextmanager
def paged(settings: Settings) -> Iterator[None]:
    """What is printed to stdout in the block goes to the user's pager. To leave the pager before
    the end of the output is no error: the block ends there.
    """
    command = None
    if not (settings.no_pager or settings.json or render.in_pager()):
        command = _command() if render.is_terminal(sys.stdout) else None
    process = _start(command) if command else None
    if process is None:
        yield
        return
    with _redirected(process), contextlib.suppress(BrokenPipeError):
        yield
        sys.stdout.flush()


def _command() -> list[str] | None:
    """SNAP_PAGER, else PAGER, else less; None where there is none, or it is empty or `cat`."""
    import shutil

    for variable in ("SNAP_PAGER", "PAGER"):
        text = os.environ.get(variable)
        if text is not None:
            return _found(text.strip(), variable)
    return [_DEFAULT] if shutil.which(_DEFAULT) else None


def _found(text: str, variable: str) -> list[str] | None:
    if text in ("", "cat"):
        return None
    import shlex
    import shutil

    if any(sign in text for sign in _SHELL_SIGNS):
        try:
            program = shlex.split(text)[0]
        except (ValueError, IndexError):
            program = text
        command = ["sh", "-c", text]
    else:
        program, command = text, [text]
    if "=" not in program and shutil.which(program) is None:
        render.warning(f"the pager of {variable} was not found: {text}")
        return None
    return command


def _start(command: list[str]) -> "subprocess.Popen[bytes] | None":
    import subprocess

    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    sys.stdout.flush()
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    except OSError as error:
        render.warning(f"the pager could not be started: {error}")
        return None


@contextlib.contextmanager
def _redirected(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Descriptor 1 leads to the pager; at the end the pager is waited for."""
    assert process.stdin is not None
    width = render.width()
    terminal = os.dup(1)
    os.dup2(process.stdin.fileno(), 1)
    process.stdin.close()
    coloured = "r" in os.environ.get("LESS", "R").lower()
    try:
        with render.paging(width, coloured):
            yield
    finally:
        _drop_rest()
        os.dup2(terminal, 1)
        os.close(terminal)
        _wait(process)


def _drop_rest() -> None:
    """Hands over what is printed but not written; if the pager has gone, it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        with contextlib.suppress(OSError):
            sys.stdout.flush()


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C is the pager's while it runs."""
    import signal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
