"""Hooks: commands that a caller has run around a restore, such as one that stops a service."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from snapstore.base.errors import Cancelled, CommandFailed, InvalidArgument, SnapstoreError
from snapstore.model.restoring import HOOKS, Command
from snapstore.model.results import RestoreResult
from snapstore.ops import commands

_MAX_ERROR = 10_000


def checked(hooks: Mapping[str, Command] | None) -> Mapping[str, Command]:
    """The hooks. InvalidArgument for one that there is not, and for one that is no command."""
    for name, command in (hooks or {}).items():
        if name not in HOOKS:
            raise InvalidArgument(f"there is no hook {name!r}", hint=f"one of {', '.join(HOOKS)}")
        words = [command] if isinstance(command, str) else command
        texts = isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
        if not texts or not words or not words[0]:
            raise InvalidArgument(f"the hook {name} is no command: {command!r}")
    return hooks or {}


def around(
    hooks: Mapping[str, Command],
    snapshot: str,
    target: bytes,
    work: Callable[[], RestoreResult],
    stop: Callable[[], None] | None = None,
) -> RestoreResult:
    """Runs `before`, the work, and `after`; `failed` when one of the first two fails, and `finally`
    in the end. Other failures than that of `before` are warnings.
    """
    run = _Hooks(hooks, snapshot, target)
    try:
        run.before(stop)
        result = work()
    except BaseException as error:
        run.status, run.error = "failed", str(error)
        warnings = [*run.afterwards("failed"), *run.afterwards("finally")]
        for warning in warnings:
            error.add_note(warning)
        if warnings and isinstance(error, SnapstoreError):
            error.fields["warnings"] = warnings
        raise
    run.status = "done" if result.success else "partial"
    for name in ("after", "finally"):
        result.warnings.extend(run.afterwards(name))
    return result


@dataclass
class _Hooks:
    """The hooks of one restore, and what they are told."""

    commands: Mapping[str, Command]
    snapshot: str
    target: bytes
    status: str = "running"
    error: str = ""

    def before(self, stop: Callable[[], None] | None) -> None:
        """Runs the first. CommandFailed, Cancelled."""
        command = self.commands.get("before")
        if command is None:
            return
        try:
            code = commands.run(command, self._variables("before"), stop)
        except KeyboardInterrupt:
            raise Cancelled("interrupted") from None
        if code == -signal.SIGINT:  # Ctrl-C, which it got as well
            raise Cancelled("interrupted")
        if code:
            shown = commands.shown(command)
            raise CommandFailed(
                f"the hook before failed ({commands.ending(code)}): {shown}",
                hint="nothing was restored",
                hook="before",
                command=shown,
                exit=code,
            )

    def afterwards(self, name: str) -> list[str]:
        """Runs one of the others; gives what is to be said about that."""
        command = self.commands.get(name)
        if command is None:
            return []
        try:
            code = commands.run_to_end(command, self._variables(name))
        except CommandFailed as error:
            return [f"the hook {name} failed: {error.message}"]
        if code:
            return [f"the hook {name} failed ({commands.ending(code)}): {commands.shown(command)}"]
        return []

    def _variables(self, name: str) -> dict[str, str | bytes]:
        return {
            "SNAP_EVENT": name,
            "SNAP_SNAPSHOT": self.snapshot,
            "SNAP_TARGET": self.target,
            "SNAP_STATUS": self.status,
            "SNAP_ERROR": self.error[:_MAX_ERROR].replace("\0", ""),
        }
