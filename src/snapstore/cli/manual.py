"""Manual pages, made from the definitions of the commands: what `--help` says, as man pages."""

import inspect
import os
import re
import textwrap
import time
from collections.abc import Iterable, Iterator

import click

import snapstore
from snapstore.cli.settings import Settings, is_shared

# What the command reads from the environment (docs/reference/environment.md says more).
ENVIRONMENT = {
    "SNAP_STORE": "The store, where no -s names one.",
    "SNAP_PASSWORD": "The password of a sealed store; SNAP_PASSWORD_FILE names a file with it,"
    " SNAP_PASSWORD_COMMAND a command that prints it, SNAP_PASSWORD_FD an open descriptor. One of"
    " them may be set; without any the keyring is asked, then the terminal.",
    "SNAP_NEW_PASSWORD": "The same for a password that is to be set; and so with _FILE, _COMMAND"
    " and _FD.",
    "SNAP_PAGER": "The pager; else PAGER, else less. Empty, or cat, for none.",
    "PAGER": "The pager, where SNAP_PAGER is not set.",
    "LESS": "Options of less; FRX where it is not set.",
    "NO_COLOR": "Not empty: no colours.",
    "SNAP_PROGRESS_FPS": "How often a second the progress display is drawn; 0 for never.",
    "SNAP_DEBUG": "1: show tracebacks.",
    "TERM": "dumb: no colours, no pager, no progress display.",
    "COLUMNS": "Width of the terminal, where it is not to be asked.",
    "SHELL": "The shell whose script completion prints, where none is named.",
}

# Exit statuses (docs/reference/exit-codes.md says more).
STATUSES = {
    0: "Done.",
    1: "Failed; of diff: there are differences.",
    2: "The command line, or an argument, has no meaning; of diff also: failed.",
    3: "Done in part: some files could not be read or restored.",
    4: "Conflicts were found, or left.",
    5: "Damage was found.",
    10: "There is no store, or it cannot be used as one.",
    11: "Another process holds what is needed.",
    12: "No password, or a wrong one.",
    13: "No such snapshot, several of them, or no such path in it.",
    14: "Not allowed.",
    15: "The time allowed has passed.",
    16: "An interrupted restore has to be ended first.",
    17: "Keys of an encrypted store are damaged.",
    18: "An encrypted store has no keys left.",
    19: "An encrypted store was tampered with, or exchanged.",
    20: "The store is append-only.",
    130: "Interrupted.",
    141: "Whoever read the output has gone.",
}


def pages(group: click.Group) -> Iterator[tuple[str, str]]:
    """Name and text of each page: one of the command as a whole, one of each command in it."""
    context = click.Context(group, info_name="snap", obj=Settings(), **group.context_settings)
    names = group.list_commands(context)
    yield "snap.1", _page("snap", group, context, _whole(names, group, context))
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield f"snap-{name}.1", _page(f"snap-{name}", command, inner, _see_also(["snap"]))


def _page(name: str, command: click.Command, context: click.Context, rest: Iterable[str]) -> str:
    summary, _, description = inspect.cleandoc(command.help or "").partition("\n")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH "{_text(name.upper())}" 1 "{_date()}" "snapstore {snapstore.__version__}"'
        ' "snapstore"',
        ".SH NAME",
        rf"{_text(name)} \- {_text(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        rf"\fB{_text(context.command_path)}\fR {_text(usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(f"{summary}\n{description}"),
        *_options(command, context),
        *_examples(command),
        *rest,
    ]
    return "\n".join(lines) + "\n"


def _date() -> str:
    """Today, or the day in SOURCE_DATE_EPOCH, so that a build can be repeated."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%d", time.gmtime(int(epoch) if epoch.isdigit() else None))


# Sections


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and isinstance(param, click.Option):
            (shared if is_shared(param) else own).append(record)
    for title, records in (("OPTIONS", own), ("OPTIONS OF EVERY COMMAND", shared)):
        if records:
            yield f".SH {title}"
            yield from _terms(records)


def _terms(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in pairs:
        yield from (".TP", rf"\fB{_text(term)}\fR", *_lines(meaning))


def _examples(command: click.Command) -> Iterator[str]:
    text = textwrap.dedent(command.epilog or "").strip("\n")
    _, _, examples = text.partition("Examples:\n")
    if examples:
        yield from (".SH EXAMPLES", ".nf")
        yield from map(_guarded, textwrap.dedent(examples.partition("\n\n")[0]).splitlines())
        yield ".fi"


def _whole(names: Iterable[str], group: click.Group, context: click.Context) -> Iterator[str]:
    """What the page of the command as a whole has beside the others."""
    names = list(names)
    yield ".SH COMMANDS"
    yield from _terms((name, _summary(group, context, name)) for name in names)
    yield ".SH EXIT STATUS"
    yield from _terms((str(status), meaning) for status, meaning in STATUSES.items())
    yield ".SH ENVIRONMENT"
    yield from _terms(ENVIRONMENT.items())
    yield from _see_also(f"snap-{name}" for name in names)


def _summary(group: click.Group, context: click.Context, name: str) -> str:
    command = group.get_command(context, name)
    return inspect.cleandoc((command and command.help) or "").partition("\n")[0]


def _see_also(names: Iterable[str]) -> list[str]:
    *others, last = [rf".BR {_text(name)} (1)" for name in names]
    return [".SH SEE ALSO", *(f"{name}," for name in others), last]


# Text


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(filter(None, re.split(r"\n\s*\n", text.strip()))):
        if number:
            yield ".PP"
        yield from _lines(paragraph)


def _lines(text: str) -> Iterator[str]:
    return map(_guarded, textwrap.wrap(" ".join(text.split()), 80, break_on_hyphens=False))


def _guarded(line: str) -> str:
    """A line of text that begins no request."""
    line = _text(line)
    return rf"\&{line}" if line.startswith((".", "'")) else line


_SIGNS = {
    "\\": r"\e",
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
    '"': r"\(dq",
}


def _text(text: str) -> str:
    """A text in which no sign means anything to roff."""
    return "".join(
        _SIGNS.get(sign) or (sign if sign.isascii() else rf"\[u{ord(sign):04X}]") for sign in text
    )
