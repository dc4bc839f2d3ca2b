"""How things look: names, sizes, times, tables, JSON.

Names, texts and messages come from files and stores and are hostile until escaped here: what is
printed holds no control character and no invalid UTF-8. Names are escaped as in the shell's `$'…'`,
so they can be pasted there.
"""

import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from snapstore.model.entries import Entry

_CONTROLS = (
    r"\x00-\x1f\x7f-\x9f"  # C0, delete, C1
    r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, bidirectional
    r"\ud800-\udfff"  # bytes that are not UTF-8, and lone surrogates
    r"\U000e0000-\U000e007f"  # tags
)
_ENCODING = sys.getfilesystemencoding()
_UNSAFE = re.compile(f"[{_CONTROLS}]")
_UNSAFE_OR_BACKSLASH = re.compile(rf"[\\{_CONTROLS}]")
_SHORT_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def name(path: bytes | str) -> str:
    """A path or name of a file, escaped."""
    text = path.decode(_ENCODING, "surrogateescape") if isinstance(path, bytes) else path
    if text.isprintable() and "\\" not in text:
        return text  # most are: this is what a long listing costs
    return _UNSAFE_OR_BACKSLASH.sub(_escape, text)


def plain(text: str) -> str:
    """A text (message, description, tag) on one line, escaped; backslashes stand for themselves."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: int) -> str:
    """Bytes in IEC units: `512 B`, `1.5 KiB`, `12 MiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        value /= 1024
        if value < 1023.5 or unit == "EiB":
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def amount(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: `1 file`, `1,234 files`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def moment(time: datetime, *, seconds: bool = True) -> str:
    """Local time with its offset from UTC."""
    text = time.astimezone().strftime(f"%Y-%m-%d %H:%M{':%S' if seconds else ''} %z")
    return f"{text[:-2]}:{text[-2:]}"


def second(seconds: int) -> str:
    """Local time of a moment in seconds since 1970; one that no calendar has as `@<seconds>`."""
    try:
        return moment(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"


def duration(seconds: float) -> str:
    """`0.25 s`, `2.5 s`, `12 s`, `3:05`, `2:03:05`."""
    if seconds < 0.95:
        return f"{seconds:.2g} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 59.5 else clock(seconds)


def clock(seconds: float) -> str:
    """`0:05`, `3:05`, `2:03:05`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def mode(type: str, bits: int) -> str:
    """Type and permissions as `ls -l` shows them."""
    from snapstore.model.entries import TYPES

    return stat.filemode(TYPES[type] | bits)


def entry_line(path: bytes, entry: "Entry", owners: dict[str, Any]) -> str:
    """An entry as `ls -l` shows it; `owners`: names by number, as the snapshot has them."""
    users, groups = owners.get("users", {}), owners.get("groups", {})
    user = plain(users.get(str(entry.uid), str(entry.uid)))
    group = plain(groups.get(str(entry.gid), str(entry.gid)))
    time = second(entry.mtime_ns // 1_000_000_000)
    what = f"{entry.device[0]}, {entry.device[1]}" if entry.device else f"{entry.size}"
    facts = f"{mode(entry.type, entry.mode)} {user:<8} {group:<8} {what:>12} {time}"
    target = f" -> {name(entry.target)}" if entry.target is not None else ""
    return f"{facts} {name(path)}{target}"


# Terminal


@dataclass
class _Pager:
    """What is known of the terminal while a pager stands before it."""

    width: int
    coloured: bool


_pager: _Pager | None = None


def in_pager() -> bool:
    """Whether stdout leads to a terminal through a pager."""
    return _pager is not None


@contextmanager
def paging(width: int, coloured: bool) -> Iterator[None]:
    """For the block, stdout counts as a terminal: a pager shows it to a person."""
    global _pager
    _pager = _Pager(width, coloured)
    try:
        yield
    finally:
        _pager = None


def is_terminal(stream: TextIO) -> bool:
    """Whether a person is reading the stream on a terminal that can do more than print lines."""
    if stream is sys.stdout and _pager is not None:
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def escapes() -> bool:
    """Whether names on stdout are to be escaped: a terminal of any kind shows them."""
    return _pager is not None or sys.stdout.isatty()


def width() -> int:
    """Columns of the terminal that shows stdout."""
    if _pager is not None:
        return _pager.width
    import shutil

    return max(shutil.get_terminal_size().columns, 1)


_STYLES = {"head": "1", "error": "1;31", "hint": "36", "warning": "1;33", "good": "32"}


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` in a style where the stream shows styles and the user wants them (NO_COLOR)."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    if stream is sys.stdout and _pager is not None and not _pager.coloured:
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def out(line: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(line + "\n")


def lines(found: Iterable[str]) -> None:
    """Lines of a result that may be long."""
    sys.stdout.writelines(line + "\n" for line in found)


def paths(found: Iterable[bytes]) -> None:
    """A path a line: escaped on a terminal, byte for byte elsewhere."""
    if escapes():
        lines(map(name, found))
        return
    sys.stdout.flush()
    sys.stdout.buffer.writelines(path + b"\n" for path in found)


def note(line: str) -> None:
    """A line beside the result, on stderr."""
    sys.stdout.flush()
    sys.stderr.write(line + "\n")


def complaint(kind: str, message: str) -> str:
    """`snap: error: …`, on one line."""
    return f"snap: {styled(kind + ':', kind, sys.stderr)} {plain(message)}"


def warning(message: str) -> None:
    """A warning on stderr."""
    note(complaint("warning", message))


def document(data: dict[str, Any]) -> None:
    """The one JSON document of a command."""
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def streamed(
    head: dict[str, Any],
    name: str,
    items: Iterable[dict[str, Any]],
    tail: Callable[[], dict[str, Any]] = dict,
) -> None:
    """The same, with a list `name` that is written as its items come: it may be larger than memory.
    What `tail` gives when all have come stands behind it.
    """
    import json

    sys.stdout.write(json.dumps({**head, name: []})[:-2])
    separator = "\n  "
    for item in items:
        sys.stdout.write(separator + json.dumps(item))
        separator = ",\n  "
    rest = json.dumps(tail())[1:-1]
    sys.stdout.write("\n]" + (f", {rest}" if rest else "") + "}\n")


def warn_of_unfinished(path: bytes, what: str) -> None:
    """Tells of a staging directory that a restore left behind."""
    where = name(path.rpartition(b"/")[0])
    warning(
        f"a restore into {where} is not finished: {what} may be mixed;"
        f" snap restore --resume {where} finishes it, --abort takes it back"
    )


# Tables and lists


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Labelled lines; a row whose value is empty is left out, one without label continues the row
    before.
    """
    for label, value in rows:
        if value:
            out(f"{label:<12} {value}")


@dataclass(frozen=True)
class Column:
    """A column of a table. One that is `elastic` is cut where the terminal is too narrow; one with
    a `rank` is left out there, the highest rank first.
    """

    title: str
    right: bool = False
    elastic: bool = False
    rank: int = 0


_GAP = "  "
_NARROWEST = 6


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; on a terminal it fits, whatever the width. Columns without any content are
    left out.
    """
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    widths = {
        i: max(_cell_width(text) for text in (columns[i].title, *(row[i] for row in rows)))
        for i in used
    }
    room = width() if is_terminal(sys.stdout) else None
    if room is not None:
        widths = _fitting(columns, widths, room)
    head = _line({i: columns[i].title for i in widths}, columns, widths, room)
    out(styled(head, "head", sys.stdout))
    for row in rows:
        out(_line({i: row[i] for i in widths}, columns, widths, room))


def _fitting(columns: Sequence[Column], widths: dict[int, int], room: int) -> dict[int, int]:
    """Widths with which the columns fit into `room`, as far as they can: elastic ones are narrowed,
    then those of the highest rank are left out.
    """
    squeezed = _squeezed(columns, widths, room)
    if _total(squeezed) <= room:
        return squeezed
    last = max(widths, key=lambda i: columns[i].rank)
    if columns[last].rank == 0:
        return squeezed
    return _fitting(columns, {i: width for i, width in widths.items() if i != last}, room)


def _squeezed(columns: Sequence[Column], widths: dict[int, int], room: int) -> dict[int, int]:
    """Narrows elastic columns, the widest first, until the table fits or none can give more."""
    result = dict(widths)
    excess = _total(result) - room
    elastic = [i for i in result if columns[i].elastic]
    while excess > 0 and elastic:
        widest = max(elastic, key=lambda i: result[i])
        if result[widest] <= _NARROWEST:
            break
        result[widest] -= 1
        excess -= 1
    return result


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + len(_GAP) * max(len(widths) - 1, 0)


def _line(
    cells: dict[int, str], columns: Sequence[Column], widths: dict[int, int], room: int | None
) -> str:
    parts = []
    for i, text in cells.items():
        shown = _cut(text, widths[i])
        padding = " " * (widths[i] - _cell_width(shown))
        parts.append(padding + shown if columns[i].right else shown + padding)
    line = _GAP.join(parts).rstrip()
    return line if room is None else _cut(line, room)


def _cut(text: str, width: int) -> str:
    if _cell_width(text) <= width:
        return text
    while _cell_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _cell_width(text: str) -> int:
    """Cells that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


_SHORT_LIST = 20


def grouped(problems: Iterable[tuple[bytes, str]], total: int, *, full: bool) -> Iterator[str]:
    """Lines that list paths with their reasons, those of one reason together. Unless `full`, a long
    list on a terminal is cut, and says so.

    `problems` are (path, reason); `total` is how many there are, which may be more than are known
    by name.
    """
    groups: dict[str, list[bytes]] = {}
    for path, reason in problems:
        groups.setdefault(reason, []).append(path)
    limit = None if full or not is_terminal(sys.stderr) else _SHORT_LIST
    alone = []
    for reason, paths in groups.items():
        if len(paths) == 1:
            alone.append(f"{name(paths[0])}: {plain(reason)}")
        else:
            yield f"{plain(reason)} ({len(paths):,}):"
            yield from _limited([name(path) for path in paths], limit)
    yield from _limited(alone, limit)
    known = sum(len(paths) for paths in groups.values())
    if total > known:
        yield f"  … and {total - known:,} more, not known by name"


def _limited(lines: Sequence[str], limit: int | None) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:limit])
    if limit is not None and len(lines) > limit:
        yield f"  … and {len(lines) - limit:,} more (-v lists all)"
