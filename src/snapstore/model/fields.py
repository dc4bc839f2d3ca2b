"""Fields of decoded records: taken with their type and bounds checked, DamagedObject otherwise."""

import re
from typing import Any, TypeVar

from snapstore.base import bytestext
from snapstore.base.errors import DamagedObject

T = TypeVar("T")

_HEX = re.compile("(?:[0-9a-f]{2})*")
_MISSING: Any = object()


def take(record: dict[str, Any], key: str, kind: type[T], default: Any = _MISSING) -> T:
    """The value of `key`, which must be of the type `kind` (a boolean is no integer)."""
    value = record.get(key, default)
    if value is _MISSING:
        raise DamagedObject(f"a record has no {key!r}")
    if value is not default and type(value) is not kind:
        raise DamagedObject(f"a record's {key!r} is not of the type {kind.__name__}")
    result: T = value
    return result


def take_int(record: dict[str, Any], key: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
    """An integer from `low` to `high`."""
    value = take(record, key, int)
    if not low <= value <= high:
        raise DamagedObject(f"a record's {key!r} is out of bounds: {value}")
    return value


def take_hex(record: dict[str, Any], key: str, length: int | None = None) -> bytes:
    """The bytes of lower-case hexadecimal digits; `length` bytes if given."""
    text = take(record, key, str)
    if not _HEX.fullmatch(text) or (length is not None and len(text) != 2 * length):
        raise DamagedObject(f"a record's {key!r} is not the hexadecimal text that it should be")
    return bytes.fromhex(text)


def take_bytes(record: dict[str, Any], key: str) -> bytes:
    """A byte string in percent form."""
    try:
        return bytestext.from_text(take(record, key, str))
    except ValueError as error:
        raise DamagedObject(f"a record's {key!r} is not a byte string: {error}") from None


def take_list(record: dict[str, Any], key: str, kind: type[T], most: int = 1 << 20) -> list[T]:
    """A list of values of one type; empty when the key is missing."""
    values: list[Any] = take(record, key, list, [])
    if len(values) > most or any(type(value) is not kind for value in values):
        raise DamagedObject(
            f"a record's {key!r} is not a list of {kind.__name__} within its bounds"
        )
    return values
