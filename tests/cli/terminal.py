"""A terminal: what a command shows on one, and what it answers to keys."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Sequence
from pathlib import Path

_PATIENCE_S = 30.0


def on_terminal(
    argv: Sequence[str | Path],
    environment: dict[str, str],
    *,
    columns: int = 80,
    lines: int = 24,
    keys: Sequence[tuple[bytes, bytes]] = (),
    ends: bool = True,
) -> tuple[bytes, int | None]:
    """Runs a program on a terminal of its own; gives what it showed and its status.

    `keys`: what is waited for in the output, and what is typed then. With `ends`, the program's end
    is waited for; else it is killed after the last keys were seen to do something.
    """
    process, handle = pty.fork()
    if process == 0:
        try:
            os.execvpe(argv[0], [os.fspath(word) for word in argv], environment)
        finally:
            os._exit(127)
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    shown, seen, waiting = b"", 0, list(keys)
    deadline = time.monotonic() + _PATIENCE_S
    status = None
    while time.monotonic() < deadline:
        if waiting and waiting[0][0] in shown[seen:]:
            seen = len(shown)
            os.write(handle, waiting.pop(0)[1])
        if not waiting and not ends:
            break
        if select.select([handle], [], [], 0.05)[0]:
            try:
                new = os.read(handle, 65536)
            except OSError:
                new = b""
            shown += new
            if not new:
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                break
    if status is None:
        os.kill(process, 9)
        os.waitpid(process, 0)
    os.close(handle)
    return shown, status
