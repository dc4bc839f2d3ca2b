"""Durations: timedelta, seconds, or text such as `90s`, `10m`, `1h30m`, `2d`, `1w`. Sizes: bytes,
or text such as `512`, `10k`, `1.5M`, `2GiB`.
"""

import re
from datetime import timedelta

from snapstore.base.errors import InvalidArgument

Duration = timedelta | float | str

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_TEXT = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")


def duration_s(value: Duration) -> float:
    """Seconds in a duration; never negative. InvalidArgument for anything else; a bare number is
    seconds.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        seconds = _parse(value.strip().lower().replace(" ", ""))
    else:
        seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise InvalidArgument(f"a duration cannot be {value!r}")
    return seconds


def _parse(text: str) -> float:
    if _TEXT.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(
            f"not a duration: {text!r}", hint="write it like 90s, 10m, 1h30m, 2d or 1w"
        ) from None


_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([kmgtpe])(?:i?b)?|b)?")
_LARGEST = (1 << 63) - 1


def size_bytes(value: int | str) -> int:
    """Bytes in a size; k, M, G, T, P, E are powers of 1024, with or without `B` or `iB`.
    InvalidArgument for anything else.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip().lower().replace(" ", ""))
        if match is None:
            raise InvalidArgument(f"not a size: {value!r}", hint="write it like 500k, 1.5M or 2GiB")
        exponent = " kmgtpe".index(match[2] or " ")
        value = int(float(match[1]) * 1024**exponent) if exponent else int(float(match[1]))
    if not 0 <= value <= _LARGEST:
        raise InvalidArgument(f"a size cannot be {value!r}")
    return value
