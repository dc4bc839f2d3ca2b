"""How every failure ends: a message and a hint on stderr, and an exit status (docs/reference/exit-
codes.md).
"""

import json
import os
import sys
import traceback
from dataclasses import dataclass, field, replace
from typing import Any

import click

from snapstore.base.errors import SnapstoreError
from snapstore.cli import render
from snapstore.cli.settings import Settings

OK = 0
FAILED = 1
USAGE = 2
PARTIAL = 3
CONFLICTS = 4
DAMAGED = 5
CANCELLED = 130
BROKEN_PIPE = 141


class Usage(click.UsageError):
    """The command line has no meaning; `hint` says what would have."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Failure:
    """What is told about an error."""

    status: int
    kind: str
    message: str
    hint: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def report(error: BaseException, settings: Settings) -> int:
    """Tells what went wrong and returns the exit status."""
    _flush_or_drop()
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.format_message() + "\n")
        return USAGE
    failure = _describe(error)
    if failure.status == FAILED:
        failure = replace(failure, status=settings.failed)
    if os.environ.get("SNAP_DEBUG") == "1":
        traceback.print_exception(error)
    _tell(failure, settings)
    return failure.status


def _describe(error: BaseException) -> Failure:
    if isinstance(error, SnapstoreError):
        return _describe_ours(error)
    if isinstance(error, click.UsageError):
        return Failure(USAGE, "usage", error.format_message(), _usage_hint(error))
    if isinstance(error, click.ClickException):
        return Failure(FAILED, "error", error.format_message())
    if isinstance(error, KeyboardInterrupt):
        return Failure(CANCELLED, "cancelled", "interrupted")
    if isinstance(error, OSError):
        return Failure(FAILED, "io", _io_message(error))
    return Failure(
        FAILED,
        "internal",
        f"unexpected {type(error).__name__}: {error}",
        "this is a bug: please report it with what `snap --version` prints"
        " and the traceback that SNAP_DEBUG=1 shows",
    )


def _io_message(error: OSError) -> str:
    """Without the number, which tells nobody anything."""
    if error.strerror is None:
        return str(error)
    about = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return about + error.strerror


def _describe_ours(error: SnapstoreError) -> Failure:
    known = error.to_dict()
    status, kind = int(known.pop("exit_code")), str(known.pop("kind"))
    return Failure(status, kind, str(known.pop("message")), known.pop("hint"), known)


def _usage_hint(error: click.UsageError) -> str | None:
    if isinstance(error, Usage) and error.hint:
        return error.hint
    path = error.ctx.command_path if error.ctx else "snap"
    return f"{path} --help shows the options and examples"


def _tell(failure: Failure, settings: Settings) -> None:
    if settings.json:
        text = json.dumps({"error": as_json(failure)}, indent=2)
    else:
        text = render.complaint("error", failure.message)
        if failure.hint:
            text += "\n" + render.complaint("hint", failure.hint)
        for warning in failure.fields.get("warnings", ()):
            text += "\n" + render.complaint("warning", warning)
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def as_json(failure: Failure) -> dict[str, Any]:
    """The failure as the object `error` of docs/reference/json.md."""
    return {
        **failure.fields,
        "kind": failure.kind,
        "message": failure.message,
        "hint": failure.hint,
        "exit_code": failure.status,
    }


def _flush_or_drop() -> None:
    """Writes out what was printed; what cannot be written is dropped, or the interpreter's last
    flush would complain.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
