"""Patterns: lines of gitignore syntax, and which of them mean the same whatever the case."""

import os
import re

# An escaped byte, a class, or any other byte; a [ by itself is a class that does not end.
_PIECE = re.compile(rb"\\.|\[[!^]?\]?+(?:\[:[^]]+:\]|\\.|[^]\\])*+\]|.", re.DOTALL)
# In a class: the name of one, or a byte, which may begin a range.
_MEMBER = re.compile(rb"\[:[^]]+:\]|(\\.|[^\\])(?:-(\\.|[^]\\]))?", re.DOTALL)
_NAMED = {b"[:upper:]": b"[:lower:]", b"[:lower:]": b"[:upper:]"}


def any_case(pattern: str | bytes) -> bytes:
    """The pattern that matches what `pattern` does, with the letters A to Z in either case: `*.o`
    becomes `*.[oO]`. One that has no meaning stays as it is.
    """
    line = os.fsencode(pattern)
    pieces = _PIECE.findall(line)
    return line if b"[" in pieces else b"".join(map(_either, pieces))


def _either(piece: bytes) -> bytes:
    if piece.startswith(b"["):
        begin = 2 if piece[1:2] in (b"!", b"^") else 1
        return piece[:begin] + _MEMBER.sub(_members, piece[begin:-1]) + b"]"
    letter = piece[-1:]
    return b"[%c%c]" % (*letter, *letter.swapcase()) if letter.isalpha() else piece


def _members(match: re.Match[bytes]) -> bytes:
    """What stands in a class, with the other case of it behind."""
    whole, first, last = match[0], match[1], match[2]
    if first is None:
        return whole + _NAMED.get(whole, b"")
    low, high = first[-1], (last or first)[-1]
    for begin, end in (b"AZ", b"az"):
        if low <= end and high >= begin and low <= high:
            ends = bytes((max(low, begin), min(high, end))).swapcase()
            whole += ends[:1] if last is None else b"%c-%c" % (*ends,)
    return whole
