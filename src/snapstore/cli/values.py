"""Kinds of values on the command line: functions from text, for click's `type=`."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPRESSION = click.Choice(["fast", "default", "small", "none"])

# Whether a path can be read is for the library to find out: here it would be a usage error.
PATH = click.Path(readable=False)


def assignment(shape: str) -> Callable[[str], tuple[str, str]]:
    """Texts such as `KEY=VALUE`, as pairs; what is left of the `=` is not empty."""

    def convert(text: str) -> tuple[str, str]:
        left, separator, right = text.partition("=")
        if not left or not separator:
            raise click.BadParameter(f"'{text}' is not {shape}")
        return left, right

    return convert


def share(text: str) -> float:
    """A part of the whole, above 0 and at most 1: `10%` or `1/7`."""
    try:
        part = _part(text)
    except (ValueError, ZeroDivisionError):
        part = 0.0
    if not 0 < part <= 1:
        raise click.BadParameter(f"'{text}' is not a share; write it as 10% or 1/7")
    return part


def _part(text: str) -> float:
    if text.endswith("%"):
        return float(text[:-1]) / 100
    numerator, denominator = text.split("/")
    return int(numerator) / int(denominator)


class Directory(click.types.StringParamType):
    """A directory, completed as such; what it is, the library finds out."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


class Reference(click.types.StringParamType):
    """A reference to a snapshot, completed from the store; `with_path`: one that may go on with
    `:PATH`; `or_directory`: in its place may stand a directory on disk.
    """

    def __init__(self, *, with_path: bool, or_directory: bool = False) -> None:
        self.with_path = with_path
        self.or_directory = or_directory

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from snapstore.cli import completing

        if self.or_directory and incomplete.startswith((".", "/", "~")):
            return Directory().shell_complete(ctx, param, incomplete)
        return completing.references(ctx, incomplete, with_path=self.with_path)


class RecordedPath(click.types.StringParamType):
    """A path in the snapshot that the command's argument `ref` names, completed from it."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from snapstore.cli import completing

        return completing.recorded_paths(ctx, incomplete)


class JobId(click.types.StringParamType):
    """A job, completed from those that the store knows."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from snapstore.cli import completing

        return completing.jobs(ctx, incomplete)


class Recorded(click.types.StringParamType):
    """A text that is completed from what the store's snapshots have in a field."""

    def __init__(self, field: str) -> None:
        self.field = field

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from snapstore.cli import completing

        return completing.recorded(ctx, self.field, incomplete)


_RECORDED = {f"--{field}": Recorded(field) for field in ("name", "tag", "host", "source")}


def completed(param: click.Parameter) -> "click.ParamType[Any]":
    """The type of a parameter that is a text, with what completes it: told by its metavar, which
    says REF or REF[:PATH], or by its name.
    """
    if type(param.type) is not click.types.StringParamType:
        return param.type
    shown = param.metavar or (param.name or "").upper()
    if re.search(r"\bREF\b", shown):
        return Reference(with_path=":PATH" in shown, or_directory="DIR" in shown)
    return next((_RECORDED[name] for name in param.opts if name in _RECORDED), param.type)
