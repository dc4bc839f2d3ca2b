"""Canonical JSON of docs/format: one byte string for each value, and nothing else is accepted."""

import json
import re
from typing import Any

from snapstore.base.errors import DamagedObject, InvalidArgument

MAX_DEPTH = 64
_ESCAPED = re.compile('["\\\\\x00-\x1f]')
_INTEGERS = range(-(1 << 63), 1 << 63)


def encode(value: Any) -> bytes:
    """The canonical bytes of a value of dicts, lists, tuples, text, 64-bit integers, booleans,
    None.

    InvalidArgument for anything else, lone surrogates included.
    """
    try:
        return _text(value, 0).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument("text is not valid Unicode") from None


def decode(data: bytes) -> Any:
    """The value of canonical bytes. DamagedObject when they are anything but canonical."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
        if encode(value) == data:
            return value
    except (ValueError, RecursionError, InvalidArgument) as error:
        raise DamagedObject(f"a record is not canonical JSON: {error}") from None
    raise DamagedObject("a record is not canonical JSON")


def decode_object(data: bytes) -> dict[str, Any]:
    """The same for a record, which is an object."""
    value = decode(data)
    if not isinstance(value, dict):
        raise DamagedObject("a record is not a JSON object")
    return value


def _text(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise InvalidArgument("a record is nested too deeply")
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            if value not in _INTEGERS:
                raise InvalidArgument(f"an integer does not fit into 64 bits: {value}")
            return str(value)
        case str():
            return f'"{_ESCAPED.sub(_escape, value)}"'
        case list() | tuple():
            return f"[{','.join(_text(item, depth + 1) for item in value)}]"
        case dict():
            return f"{{{','.join(_member(key, value[key], depth) for key in _sorted(value))}}}"
    raise InvalidArgument(f"a record cannot hold a {type(value).__name__}")


def _member(key: str, value: Any, depth: int) -> str:
    return f"{_text(key, depth + 1)}:{_text(value, depth + 1)}"


def _sorted(value: dict[Any, Any]) -> list[str]:
    if not all(isinstance(key, str) for key in value):
        raise InvalidArgument("the keys of a record must be text")
    return sorted(value)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return "\\" + character if character in '"\\' else f"\\u{ord(character):04x}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return members


def _refuse(text: str) -> Any:
    raise ValueError(f"not an integer: {text}")
