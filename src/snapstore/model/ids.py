"""Ids of sessions: ULIDs, 26 characters of lower-case Crockford base 32 around 128 bits."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}


def new_ulid() -> str:
    """A ULID of now: 48 bits of milliseconds, 80 random bits."""
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    return ulid_text(milliseconds << 80 | int.from_bytes(os.urandom(10)))


def ulid_text(value: int) -> str:
    """The 26 characters of a 128-bit number."""
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in range(25, -1, -1))


def ulid_bytes(text: str) -> bytes:
    """The 16 bytes (big-endian) of a ULID. ValueError for any other text."""
    if len(text) != 26 or text[0] > "7" or not set(text) <= _VALUES.keys():
        raise ValueError(f"not a ULID: {text!r}")
    value = 0
    for character in text:
        value = value << 5 | _VALUES[character]
    return value.to_bytes(16, "big")
