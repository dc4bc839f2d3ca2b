"""Options that every command takes, before or after the verb, and the base class of commands."""

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from snapstore.cli.values import Directory, completed

F = TypeVar("F", bound=Callable[..., Any])

_WIDEST, _ROOMY, _NARROWEST = 100, 48, 18
"""Columns for a help text."""


@dataclass
class Settings:
    """What the shared options said."""

    store: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_progress: bool = False
    no_pager: bool = False
    failed: int = 1
    """The exit status of a failure that has none of its own: a command whose 1 means something else
    sets another.
    """


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """An option given after the verb overrides the one before it; one not given changes nothing."""
    if value:
        setattr(ctx.ensure_object(Settings), str(param.name), value)


def _option(*names: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_keep, is_eager=True, **attributes)


_SHARED = (
    _option(
        "-s",
        "--store",
        metavar="DIR",
        type=Directory(),
        help="The store (else $SNAP_STORE, else your own).",
    ),
    _option("--json", is_flag=True, help="Print one JSON document instead of text."),
    _option("-q", "--quiet", is_flag=True, help="Print results and errors only."),
    _option("-v", "--verbose", is_flag=True, help="Print more, and lists in full."),
    _option("--no-progress", is_flag=True, help="No progress bar, even on a terminal."),
    _option("--no-pager", is_flag=True, help="No pager, even on a terminal."),
)
_SHARED_NAMES = {"store", "json", "quiet", "verbose", "no_progress", "no_pager"}


def is_shared(param: click.Parameter) -> bool:
    """Whether it is one of the options of every command."""
    return param.name in _SHARED_NAMES


def shared_options(function: F) -> F:
    """Adds the shared options; they reach the command as `Settings`, not as arguments."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


def _show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from snapstore.cli import render
        from snapstore.cli.pager import paged

        text = ctx.get_help()
        with paged(ctx.ensure_object(Settings)):
            render.out(text)
        ctx.exit()


class HelpFormatter(click.HelpFormatter):
    """Fits terminals narrower than the 50 columns that click takes for the least."""

    def __init__(self) -> None:
        from snapstore.cli import render

        super().__init__(width=max(min(render.width(), _WIDEST) - 2, _NARROWEST))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        room = self.width * 2 // 5 if self.width >= _ROOMY else 4  # then what is told stands below
        super().write_dl(rows, min(col_max, room), col_spacing)


class HelpContext(click.Context):
    """A context whose help has that format."""

    def make_formatter(self) -> click.HelpFormatter:
        return HelpFormatter()


class HelpMixin(click.Command):
    """Help with the shared options apart and the examples as they were typed."""

    context_class = HelpContext

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                (shared if is_shared(param) else own).append(record)
        for title, records in (("Options", own), ("Options of every command", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write("\n" + textwrap.dedent(self.epilog).strip("\n") + "\n")


def declare(name: str, *, examples: str, cls: type[HelpMixin] = HelpMixin) -> Callable[[F], Any]:
    """Declares the command `name`; `examples` are lines of shell, shown verbatim by `--help`."""
    epilog = "Examples:\n" + textwrap.indent(textwrap.dedent(examples).strip("\n"), "  ")

    def wrap(function: F) -> click.Command:
        command = click.command(name, cls=cls, epilog=epilog)(shared_options(function))
        for param in command.params:
            param.type = completed(param)
        return command

    return wrap
