"""Times as users give them: ISO 8601, `now`, `now-2d`, seconds since 1970 as `@1700000000`."""

import re
import time
from datetime import UTC, datetime

from snapstore.base.errors import InvalidArgument
from snapstore.base.units import duration_s

Time = datetime | int | str

_NOW = re.compile(r"now(?:-(.+))?")
_BOUND_NS = 1 << 63


def time_ns(value: Time, now_ns: int | None = None) -> int:
    """Nanoseconds since 1970 of a time; times without a zone are local. A number is nanoseconds
    already.

    InvalidArgument for anything else.
    """
    if isinstance(value, int):
        result = value
    elif isinstance(value, datetime):
        result = _nanoseconds(value)
    else:
        result = _parse(value.strip(), time.time_ns() if now_ns is None else now_ns)
    if not -_BOUND_NS <= result < _BOUND_NS:
        raise InvalidArgument(f"a time out of bounds: {value!r}")
    return result


def _parse(text: str, now_ns: int) -> int:
    match = _NOW.fullmatch(text)
    if match:
        return now_ns - (round(duration_s(match[1]) * 1e9) if match[1] else 0)
    try:
        if text.startswith("@"):
            return round(float(text[1:]) * 1e9) if "." in text else int(text[1:]) * 10**9
        return _nanoseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"not a time: {text!r}", hint="write it like 2026-11-20T12:00 or now-2d"
        ) from None


def _nanoseconds(value: datetime) -> int:
    delta = value.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1000
