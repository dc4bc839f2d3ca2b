"""Templates of `--format`: text with `{field}` in it, a line for each thing that is printed.

As in Python, `{field:>12}` aligns and `{{` is a brace; nothing else of Python's is taken. `\\n`,
`\\t`, `\\0` and `\\\\` stand for what they do in C. On a terminal what fields hold is escaped; in a
pipe it is as it is, byte for byte.
"""

import re
import string
import sys
from collections.abc import Collection, Mapping

from snapstore.cli import render
from snapstore.cli.errors import Usage

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_SPEC = re.compile(r"(?:[^{}]?[<>^])?0?(\d{0,4})")


class Template:
    """A template over known fields. Raises Usage for one that is not."""

    def __init__(self, text: str, fields: Collection[str]) -> None:
        text = _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), text)
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise Usage(f"--format: {error}", "a brace that is meant is written {{ or }}") from None
        self._parts: list[tuple[str, str, str]] = []
        for literal, name, spec, conversion in parts:
            if name is not None:
                _require(name, spec or "", conversion, fields)
            self._parts.append((literal, name or "", spec or ""))
        self._ends_line = not text.endswith(("\n", "\0"))

    def print(self, values: Mapping[str, str]) -> None:
        """Prints a line; one that ends with a line's end or a NUL of its own gets no other."""
        escape = render.escapes()
        pieces = []
        for literal, name, spec in self._parts:
            pieces.append(literal)
            if name:
                value = values[name]
                pieces.append(format(render.plain(value) if escape else value, spec))
        line = "".join(pieces) + ("\n" if self._ends_line else "")
        if escape:
            sys.stdout.write(line)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape"))


def _require(name: str, spec: str, conversion: str | None, fields: Collection[str]) -> None:
    """Usage unless the field is known and its format does no more than align."""
    if name not in fields:
        from difflib import get_close_matches

        close = get_close_matches(name, fields, n=1)
        meant = f"did you mean {{{close[0]}}}? " if close else ""
        raise Usage(
            f"--format: there is no field {{{name}}}", meant + f"fields: {', '.join(fields)}"
        )
    if conversion or not _SPEC.fullmatch(spec):
        raise Usage(
            f"--format: {{{name}{'!' + conversion if conversion else ''}:{spec}}} cannot be shown",
            "behind the colon stand < > or ^ and a width: {name:<20}",
        )
