"""A key object as text for paper (docs/format/paper.md), and back; pure.

    # a heading, in lines that begin with #
    01  AD74 2M01 … 0RKS  0FVN
    02  …
    END 0031  XN5Z WJRW

The alphabet is Crockford's base 32: a fifth shorter to type than hexadecimal, without I, L, O and
U, and what is read for 0 and 1 anyway (O, I, L) counts as it. Spaces, hyphens and the case of
letters mean nothing; lines may come in any order.

A line has its number, up to 20 bytes, and CRC-16 (CCITT) of both: that finds each wrong character
for certain, and each error within three neighbours, two exchanged ones among them; all other errors
but one in 65,536. The last line has the number of bytes and the first 5 bytes of SHA-256 of all of
them. This finds slips; whether it is a key that opens something, whoever imports it finds out.
"""

import hashlib
import re
import string
from binascii import crc_hqx

from snapstore.base.errors import InvalidArgument

MAX_BYTES = 1980
"""Of a key on paper: 99 lines."""
QR_PREFIX = "SNAPKEY1:"

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_FOLDED = str.maketrans(string.ascii_lowercase + "OoIiLl", string.ascii_uppercase + "001111")
_LINE_BYTES, _LINE_CHARACTERS = 20, 32
_CRC_CHARACTERS = 4
_TOTAL_BYTES, _TOTAL_CHARACTERS = 5, 8
_RAW = re.compile(rb"SNAP[\x00-\x1f]")
_QR_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BLANKS = re.compile(r"[\s\-\u2010-\u2015]+")
_MOST_TEXT = 1 << 16
_MOST_SCANNED = 4296  # a QR code holds no more


def to_paper(key: bytes, *, store: str, name: str) -> str:
    """The text for paper: a heading with the store's id and the key's name, and numbered lines."""
    if not 0 < len(key) <= MAX_BYTES:
        raise InvalidArgument(
            f"a key of {len(key):,} bytes does not go on paper (1 to {MAX_BYTES:,} do)"
        )
    return "\n".join([*_heading(store, name), "", *lines(key), ""])


def lines(key: bytes) -> list[str]:
    """The numbered lines alone."""
    parts = [key[start : start + _LINE_BYTES] for start in range(0, len(key), _LINE_BYTES)]
    numbered = [_line(number, part) for number, part in enumerate(parts, 1)]
    return [*numbered, f"END {len(key):04}  {_grouped(_encoded(_total(key)))}"]


def qr_text(key: bytes) -> str:
    """The content of a QR code, of its alphanumeric characters only."""
    return QR_PREFIX + _encoded(key, _QR_ALPHABET)


def from_paper(text: str | bytes) -> bytes:
    """The key in what was typed or scanned: the text for paper, the content of the QR code, or the
    key object itself. InvalidArgument, which says in which line something is wrong.
    """
    if isinstance(text, bytes):
        if _RAW.match(text):
            return text
        text = text.decode("utf-8", "replace")
    if len(text) > _MOST_TEXT:
        raise InvalidArgument("this is too long for a key")
    text = text.removeprefix("\ufeff")
    scanned = _BLANKS.sub("", text).upper()
    if scanned.startswith(QR_PREFIX):
        return _from_qr(scanned.removeprefix(QR_PREFIX))
    return _from_lines(text)


# To paper


def _heading(store: str, name: str) -> list[str]:
    said = "".join(character if character.isprintable() else "?" for character in name)
    return [
        "# A key of a snapshot store (snapstore)",
        "#",
        f"# store  {store}",
        f"# key    {said}",
        "#",
        "# With the key's password, which is not on this page, it opens the store, even if",
        "# the store has lost it. To bring it back, type all lines without # into a file, and",
        "#",
        "#     snap key import FILE -s STORE",
        "#",
        "# Spaces and the case of letters do not matter. There is no letter I, L, O or U.",
    ]


def _line(number: int, part: bytes) -> str:
    return f"{number:02}  {_grouped(_encoded(part))}  {_check(number, part)}"


def _check(number: int, part: bytes) -> str:
    value = crc_hqx(bytes([number]) + part, 0xFFFF)
    return "".join(_ALPHABET[value >> shift & 31] for shift in (15, 10, 5, 0))


def _total(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_TOTAL_BYTES]


def _grouped(characters: str) -> str:
    return " ".join(characters[start : start + 4] for start in range(0, len(characters), 4))


def _encoded(data: bytes, alphabet: str = _ALPHABET) -> str:
    """Base 32, the first bit first, filled up with zero bits."""
    count = -(-len(data) * 8 // 5)
    value = int.from_bytes(data) << (count * 5 - len(data) * 8)
    return "".join(alphabet[value >> 5 * place & 31] for place in reversed(range(count)))


# From paper


def _from_lines(text: str) -> bytes:
    parts: dict[int, bytes] = {}
    end: tuple[int, bytes] | None = None
    for place, written in enumerate(text.splitlines(), 1):
        line = _BLANKS.sub("", written)
        if not line or line.startswith("#"):
            continue
        if line[:3].upper() == "END":
            if end is not None:
                raise InvalidArgument("the line END is there twice")
            end = _read_end(line[3:])
            continue
        number, part = _read_line(place, line.translate(_FOLDED))
        if number in parts:
            raise InvalidArgument(f"line {number} is there twice")
        parts[number] = part
    return _joined(parts, end)


def _read_line(place: int, line: str) -> tuple[int, bytes]:
    """A line's number and bytes."""
    digits = line[:2]
    if not re.fullmatch("[0-9]{2}", digits) or digits == "00":
        raise InvalidArgument(
            f"line {place} of the text is no line of a key: it does not begin with a number",
            hint="put # before what is not part of it",
        )
    number, body = int(digits), line[2:]
    strange = next((character for character in body if character not in _VALUES), None)
    if strange is not None:
        raise InvalidArgument(f"line {number} has a character that no key has: {strange!r}")
    data, check = body[:-_CRC_CHARACTERS], body[-_CRC_CHARACTERS:]
    count = len(data)
    part = _decoded(data) if 0 < count <= _LINE_CHARACTERS else None
    if part is None or _check(number, part) != check:
        short = f"it has {max(count, 0)} characters before it; only the last two lines have not"
        raise InvalidArgument(
            f"line {number} does not match its check value",
            hint=None if count == _LINE_CHARACTERS else f"{short} {_LINE_CHARACTERS}",
        )
    return number, part


def _read_end(line: str) -> tuple[int, bytes]:
    """The number of bytes and their check value."""
    line = line.translate(_FOLDED)
    length, total = line[:-_TOTAL_CHARACTERS], line[-_TOTAL_CHARACTERS:]
    check = _decoded(total) if all(character in _VALUES for character in total) else None
    if not re.fullmatch("[0-9]{4}", length) or check is None or len(check) != _TOTAL_BYTES:
        raise InvalidArgument("the line END is not 4 digits and 8 characters")
    return int(length), check


def _joined(parts: dict[int, bytes], end: tuple[int, bytes] | None) -> bytes:
    if not parts and end is None:
        raise InvalidArgument(
            "there is no key in this", hint="a key on paper has numbered lines, and END as the last"
        )
    last = max(parts, default=0) if end is None else -(-end[0] // _LINE_BYTES)
    missing = [str(number) for number in range(1, last + 1) if number not in parts]
    if missing:
        listed = ", ".join(missing if len(missing) < 10 else [*missing[:8], "…", missing[-1]])
        are = "line is" if len(missing) == 1 else "lines are"
        raise InvalidArgument(f"{are} missing: {listed}")
    if end is None:
        raise InvalidArgument("the last line is missing, which begins with END")
    length, total = end
    beyond = next((number for number in sorted(parts) if number > last), None)
    if beyond is not None:
        raise InvalidArgument(f"line {beyond} does not belong to this key, which has {last}")
    key = b"".join(parts[number] for number in range(1, last + 1))
    if not key or len(key) != length or _total(key) != total:
        raise InvalidArgument(
            "the lines do not match the line END", hint="are they all from one page?"
        )
    return key


def _from_qr(characters: str) -> bytes:
    key = None
    fits = len(characters) <= _MOST_SCANNED
    if fits and all(character in _QR_ALPHABET for character in characters):
        key = _decoded(characters, _QR_ALPHABET)
    if not key:
        raise InvalidArgument("this is not all of what the QR code says", hint="scan it again")
    return key


def _decoded(characters: str, alphabet: str = _ALPHABET) -> bytes | None:
    """The bytes of characters of the alphabet; None where no bytes are written so."""
    values = {character: value for value, character in enumerate(alphabet)}
    size, rest = divmod(len(characters) * 5, 8)
    value = 0
    for character in characters:
        value = value << 5 | values[character]
    if rest > 4 or value & ((1 << rest) - 1):
        return None
    return (value >> rest).to_bytes(size)
