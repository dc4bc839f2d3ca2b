"""Commands: programs that a caller names, as a list of arguments or as a text for the shell."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from snapstore.base import bytestext
from snapstore.base.errors import CommandFailed
from snapstore.model.restoring import Command, Conflict, Resolver
from snapstore.ops.running import INTERVAL_S

_SHELL = "/bin/sh"


def shown(command: Command) -> str:
    """A command as a message has it."""
    text = command if isinstance(command, str) else " ".join(command)
    return bytestext.to_text(os.fsencode(text))


def ending(code: int) -> str:
    """How a command ended, from its return code."""
    return f"exit status {code}" if code > 0 else f"signal {-code}"


@contextlib.contextmanager
def running(command: Command) -> "Iterator[subprocess.Popen[bytes]]":
    """A command with its output in a pipe; ended when the block fails. CommandFailed."""
    process = _start(command, _arguments(command), stdout=subprocess.PIPE)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def run(
    command: Command,
    variables: Mapping[str, str | bytes],
    stop: Callable[[], None] | None = None,
) -> int:
    """Runs a command to its end, with these variables in its environment and its output on standard
    error; gives its return code. It is killed when `stop` or an interruption raises. CommandFailed
    when it cannot be run.
    """
    process = _start(command, _with(variables, _arguments(command)), stdout=2)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(INTERVAL_S)
            if stop is not None:
                stop()
    except BaseException:
        process.kill()
        process.wait()
        raise


def run_to_end(command: Command, variables: Mapping[str, str | bytes]) -> int:
    """As `run`, of a command that nothing is to interrupt."""
    process = _start(command, _with(variables, _arguments(command)), stdout=2)
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def resolver(command: Command) -> Resolver:
    """A resolver that runs a command for each conflict: it gets it as JSON, its path also as
    SNAP_PATH, and prints `snapshot` or `live`.
    """

    def decide(conflict: Conflict) -> str:
        arguments = _with({"SNAP_PATH": conflict.path}, _arguments(command))
        try:
            done = subprocess.run(
                arguments,
                input=json.dumps(conflict.to_dict()).encode(),
                stdout=subprocess.PIPE,
                check=False,
            )
        except (OSError, ValueError) as error:
            raise CommandFailed(f"cannot run {shown(command)}: {error}") from error
        if done.returncode:
            raise CommandFailed(
                f"the resolver failed ({ending(done.returncode)}): {shown(command)}",
                hint="it prints snapshot or live; nothing was restored",
            )
        return done.stdout.decode(errors="replace").strip()

    return decide


def _arguments(command: Command) -> list[str]:
    return [_SHELL, "-c", command] if isinstance(command, str) else list(command)


def _with(variables: Mapping[str, str | bytes], arguments: Sequence[str]) -> list[str | bytes]:
    """Arguments that set variables first. A shell does that, so that the rest of the environment is
    handed on without being read here.
    """
    sets = "".join(f'export {name}="$1"; shift; ' for name in variables)
    return [_SHELL, "-c", f'{sets}exec "$@"', _SHELL, *variables.values(), *arguments]


def _start(
    command: Command, arguments: Sequence[str | bytes], *, stdout: int
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=stdout, bufsize=0)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot run {shown(command)}: {error}") from error
