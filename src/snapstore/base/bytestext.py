"""Byte strings as text: the percent form of docs/format, which any JSON can hold and which loses
nothing.
"""

import base64
import re
from typing import Any

_ESCAPED = re.compile("[\x00-\x1f%\x7f\udc80-\udcff]")
_CODE = re.compile("%([0-9A-F]{2})?")


def to_text(data: bytes) -> str:
    """`data` with every byte outside valid UTF-8, below 0x20, 0x7f, and `%` as `%XX`."""
    return _ESCAPED.sub(
        lambda m: f"%{ord(m[0]) & 0xFF:02X}", data.decode("utf-8", "surrogateescape")
    )


def from_text(text: str) -> bytes:
    """The byte string that `to_text` turned into `text`. ValueError for any other text."""

    def byte(match: re.Match[str]) -> str:
        if match[1] is None:
            raise ValueError(f"% without two upper-case hexadecimal digits in {text!r}")
        value = int(match[1], 16)
        return chr(value) if value < 0x80 else chr(0xDC00 + value)

    data = _CODE.sub(byte, text).encode("utf-8", "surrogateescape")
    if to_text(data) != text:
        raise ValueError(f"not the percent form of a byte string: {text!r}")
    return data


def path_fields(path: bytes, key: str = "path") -> dict[str, Any]:
    """JSON fields of a path: `key` in percent form, and `key_b64` with the raw bytes when they are
    not UTF-8.
    """
    fields: dict[str, Any] = {key: to_text(path)}
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        fields[f"{key}_b64"] = base64.b64encode(path).decode("ascii")
    return fields
