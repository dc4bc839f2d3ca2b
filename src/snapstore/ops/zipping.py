"""Zip archives: written in one pass, to a file or a pipe.

A zip holds names, contents, modes, owners' numbers, symbolic links, and times in seconds. It has no
hard links (each name gets a copy), no FIFOs and devices (left out), no attributes.
"""

import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO

from snapstore import _native
from snapstore.base.errors import Cancelled
from snapstore.model.entries import TYPES, Entry
from snapstore.model.results import ExportResult
from snapstore.model.snapshot import MAX_LISTED, Snapshot
from snapstore.ops import listing
from snapstore.ops.places import Place
from snapstore.ops.running import Meter
from snapstore.repository.open import Repository

SMALL_BYTES = 1 << 20
"""Files up to this size are compressed as one, several at once."""
_PIECE_BYTES = 1 << 20
_WORKERS = min(os.cpu_count() or 1, 8)
_SPOOL_BYTES = 16 << 20
_MAX_32 = 0xFFFFFFFF
_LIMIT_32 = _MAX_32 - (64 << 20)
"""Larger files get sizes of 64 bits: compressing may make them a little longer."""
_STORED, _DEFLATED = 0, 8
_MADE_ON_UNIX = 3 << 8 | 45
_HELD = ("file", "directory", "symlink")


def write(
    repository: Repository,
    snapshot: Snapshot,
    parts: Sequence[tuple[Place, bytes]],
    descriptor: int,
    meter: Meter,
) -> ExportResult:
    """Writes the parts, each under its name, to an open descriptor."""
    reader = repository.reader(snapshot)
    try:
        with (
            os.fdopen(os.dup(descriptor), "wb", buffering=_PIECE_BYTES) as file,
            tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as directory,
        ):
            archive = _Zip(reader, file, directory, meter)
            for place, name in parts:
                archive.add_all(_members(repository, snapshot, place, name))
            archive.finish()
    except KeyboardInterrupt:
        raise Cancelled("interrupted") from None
    return ExportResult(
        snapshot=snapshot.id,
        format="zip",
        files=archive.files,
        directories=archive.directories,
        others=archive.others,
        bytes=archive.content_bytes,
        written_bytes=archive.offset,
        omitted=archive.omitted,
        omitted_count=archive.omitted_count,
        elapsed_s=meter.elapsed_s,
    )


def _members(
    repository: Repository, snapshot: Snapshot, place: Place, name: bytes
) -> Iterator[tuple[bytes, Entry]]:
    """Names and entries of a part; the top of the archive itself has none."""
    if place.entry.type != "directory":
        yield name, place.entry
        return
    prefix = b"" if name == b"." else name + b"/"
    if prefix:
        yield prefix, place.entry
    cut = len(place.path.rstrip(b"/")) + 1
    for listed in listing.ls(repository, snapshot, place.path, recursive=True):
        slash = b"/" if listed.entry.type == "directory" else b""
        yield prefix + listed.path[cut:] + slash, listed.entry


@dataclass(frozen=True, slots=True)
class _Packed:
    """Content as it stands in the archive."""

    crc: int
    method: int
    size: int
    data: bytes


@dataclass(slots=True)
class _Zip:
    reader: "_native.Reader"
    file: IO[bytes]
    directory: IO[bytes]
    """The central directory, which comes last."""
    meter: Meter
    offset: int = 0
    count: int = 0
    files: int = 0
    directories: int = 0
    others: int = 0
    content_bytes: int = 0
    omitted: list[bytes] = field(default_factory=list)
    omitted_count: int = 0

    def add_all(self, members: Iterator[tuple[bytes, Entry]]) -> None:
        """Adds members in order; small contents are compressed by several threads."""
        waiting: deque[tuple[bytes, Entry, Future[_Packed]]] = deque()
        pool = ThreadPoolExecutor(_WORKERS)
        try:
            for name, entry in members:
                if entry.type not in _HELD:
                    self._omit(name)
                    continue
                if entry.type == "file" and entry.size > SMALL_BYTES:
                    self._write_waiting(waiting, 0)
                    self._write_large(name, entry)
                else:
                    waiting.append((name, entry, pool.submit(_pack, self.reader, entry)))
                    self._write_waiting(waiting, 4 * _WORKERS)
                self._count(entry)
            self._write_waiting(waiting, 0)
        finally:
            pool.shutdown(cancel_futures=True)

    def _omit(self, name: bytes) -> None:
        self.omitted_count += 1
        if len(self.omitted) < MAX_LISTED:
            self.omitted.append(name)

    def _count(self, entry: Entry) -> None:
        self.files += entry.type == "file"
        self.directories += entry.type == "directory"
        self.others += entry.type == "symlink"
        self.content_bytes += entry.size if entry.type == "file" else 0

    def _write_waiting(
        self, waiting: "deque[tuple[bytes, Entry, Future[_Packed]]]", most: int
    ) -> None:
        while len(waiting) > most:
            name, entry, future = waiting.popleft()
            packed = future.result()
            start = self.offset
            sizes = (packed.crc, len(packed.data), packed.size)
            self._write(_local(name, entry, packed.method, sizes, streamed=False))
            self._write(packed.data)
            self._enter(name, entry, packed.method, sizes, start, streamed=False)

    def _write_large(self, name: bytes, entry: Entry) -> None:
        """Content of unknown compressed length: its sizes follow it."""
        start, crc, stored = self.offset, 0, 0
        self._write(_local(name, entry, _DEFLATED, (0, 0, entry.size), streamed=True))
        encoder = zlib.compressobj(wbits=-15)
        for at in range(0, entry.size, _PIECE_BYTES):
            data = self.reader.read(_native_entry(entry), at, min(_PIECE_BYTES, entry.size - at))
            crc = zlib.crc32(data, crc)
            stored += self._write(encoder.compress(data))
            self.meter.note("export", self.count, 0, name)
        stored += self._write(encoder.flush())
        shape = "<4sLQQ" if entry.size > _LIMIT_32 else "<4sLLL"
        self._write(struct.pack(shape, b"PK\x07\x08", crc, stored, entry.size))
        self._enter(name, entry, _DEFLATED, (crc, stored, entry.size), start, streamed=True)

    def _write(self, data: bytes) -> int:
        self.file.write(data)
        self.offset += len(data)
        return len(data)

    def _enter(
        self,
        name: bytes,
        entry: Entry,
        method: int,
        sizes: tuple[int, int, int],
        start: int,
        *,
        streamed: bool,
    ) -> None:
        """Adds a member to the central directory."""
        crc, stored, size = sizes
        large = [number for number in (size, stored, start) if number > _LIMIT_32]
        extra = _extra(entry)
        if large:
            extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) + extra
        stored, size, start = (
            _MAX_32 if number > _LIMIT_32 else number for number in (stored, size, start)
        )
        mode = TYPES[entry.type] | entry.mode
        self.directory.write(
            struct.pack(
                "<4sHHHHLLLLHHHHHLL",
                b"PK\x01\x02",
                _MADE_ON_UNIX,
                45 if large else 20,
                _flags(name, streamed),
                method,
                _dos_time(entry),
                crc,
                stored,
                size,
                len(name),
                len(extra),
                0,
                0,
                0,
                mode << 16 | (0x10 if entry.type == "directory" else 0),
                start,
            )
            + name
            + extra
        )
        self.count += 1
        self.meter.note("export", self.count, 0, name)

    def finish(self) -> None:
        """Writes the central directory."""
        start, size = self.offset, self.directory.tell()
        self.directory.seek(0)
        while data := self.directory.read(_PIECE_BYTES):
            self._write(data)
        if self.count >= 0xFFFF or start > _LIMIT_32 or size > _LIMIT_32:
            end = self.offset
            counts = (self.count, self.count, size, start)
            self._write(
                struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, _MADE_ON_UNIX, 45, 0, 0, *counts)
            )
            self._write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        count = min(self.count, 0xFFFF)
        start, size = (_MAX_32 if number > _LIMIT_32 else number for number in (start, size))
        self._write(struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, count, count, size, start, 0))


def _pack(reader: "_native.Reader", entry: Entry) -> _Packed:
    """Content of a small member, compressed if that makes it shorter."""
    if entry.type == "directory":
        return _Packed(0, _STORED, 0, b"")
    if entry.target is not None:
        data = entry.target
    else:
        data = reader.read(_native_entry(entry), 0, entry.size)
    encoder = zlib.compressobj(wbits=-15)
    coded = encoder.compress(data) + encoder.flush()
    if entry.type != "file" or len(coded) >= len(data):
        return _Packed(zlib.crc32(data), _STORED, len(data), data)
    return _Packed(zlib.crc32(data), _DEFLATED, len(data), coded)


def _native_entry(entry: Entry) -> "_native.Entry":
    assert isinstance(entry, _native.Entry)
    return entry


def _local(
    name: bytes, entry: Entry, method: int, sizes: tuple[int, int, int], *, streamed: bool
) -> bytes:
    """A local header. `sizes`: CRC, compressed, plain; when `streamed` they follow the content."""
    crc, stored, size = sizes
    extra, version = _extra(entry), 20
    if streamed and size > _LIMIT_32:
        extra = struct.pack("<HHQQ", 1, 16, 0, 0) + extra
        crc, stored, size, version = 0, _MAX_32, _MAX_32, 45
    elif streamed:
        crc, stored, size = 0, 0, 0
    fields = (version, _flags(name, streamed), method, _dos_time(entry), crc, stored, size)
    head = struct.pack("<4sHHHLLLLHH", b"PK\x03\x04", *fields, len(name), len(extra))
    return head + name + extra


def _flags(name: bytes, streamed: bool) -> int:
    try:
        text = 0 if name.isascii() or not name.decode() else 1 << 11
    except UnicodeDecodeError:
        text = 0
    return text | (1 << 3 if streamed else 0)


def _dos_time(entry: Entry) -> int:
    """Date and time in two-second steps since 1980, in UTC: the same wherever it is written."""
    seconds = min(max(entry.mtime_ns // 1_000_000_000, 315_532_800), 4_354_819_198)
    time = datetime.fromtimestamp(seconds, UTC)
    date = (time.year - 1980) << 9 | time.month << 5 | time.day
    return date << 16 | time.hour << 11 | time.minute << 5 | time.second // 2


def _extra(entry: Entry) -> bytes:
    """Time in seconds where it fits (`UT`), and numbers of owner and group (`ux`)."""
    seconds = entry.mtime_ns // 1_000_000_000
    time = b""
    if -(1 << 31) <= seconds < 1 << 31:
        time = struct.pack("<2sHBl", b"UT", 5, 1, seconds)
    return time + struct.pack("<2sHBBLBL", b"ux", 11, 1, 4, entry.uid, 4, entry.gid)
