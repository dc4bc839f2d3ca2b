"""Kinds of values on the command line: functions from text, for click's `type=`."""

from collections.abc import Callable

import click

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
