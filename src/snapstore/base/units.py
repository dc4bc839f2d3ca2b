"""Durations and sizes as users give them: `90s`, `1h30m`, `2d`; `4096`, `10k`, `1.5 GiB`."""

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


# Sizes

Size = int | str

_FACTORS = {unit: 1024**power for power, unit in enumerate("kmgtpe", 1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?:([kmgtpe])(?:i?b)?|b)?", re.ASCII)


def size_bytes(value: Size) -> int:
    """Bytes in a size: a number, or text such as `4096`, `10k`, `1.5 GiB`. Units are powers of
    1024, with or without `iB`. InvalidArgument for anything else.
    """
    if isinstance(value, int):
        count: float = value
    else:
        match = _SIZE.fullmatch(value.strip().lower().replace(" ", ""))
        if match is None:
            raise InvalidArgument(f"not a size: {value!r}", hint="write it like 4096, 10k or 1.5G")
        factor = _FACTORS.get(match[2], 1)
        count = int(match[1]) * factor if match[1].isdigit() else float(match[1]) * factor
    if not 0 <= count < 1 << 63:
        raise InvalidArgument(f"a size cannot be {value!r}")
    return round(count)
