"""Archives that are imported: opened, decompressed on the way, and handed to the core."""

import bz2
import contextlib
import grp
import gzip
import io
import lzma
import os
import pwd
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import zstandard

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import ArchiveInvalid, SourceNotFound, SourceUnreadable

_HEAD_BYTES = 512
_READ_BYTES = 256 << 10
_OUT_BYTES = 1 << 20
_ZSTD_STEP_BYTES = 2 << 10
"""Four bytes may stand for 128 KiB."""
_XZ_MEMORY_BYTES = 128 << 20
"""What xz may need to decode: `xz -9` takes 65 MiB."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar archive to be taken as the root `path`. `file`: a path, a descriptor, or an object with
    `fileno()`.
    """

    path: bytes
    file: Any

    @property
    def once(self) -> bool:
        """Whether it can be read only once."""
        return isinstance(self.file, int) or hasattr(self.file, "fileno")


Wait = Callable[["_native.Task[_native.ImportResult]"], "_native.ImportResult"]


def take(archive: Archive, writer: "_native.Writer", wait: Wait) -> "_native.ImportResult":
    """Imports an archive: plain, or as gzip, bzip2, xz or zstd. ArchiveInvalid, SourceNotFound,
    SourceUnreadable.
    """
    with _opened(archive.file) as descriptor:
        head = _head(descriptor)
        found = _decoder(head)
        if found is None:
            return wait(_native.import_tar(writer, descriptor, number_of=_number_of, head=head))
        with _Pump(descriptor, head, *found) as pump:
            return wait(_native.import_tar(writer, pump.output, number_of=_number_of))


def _number_of(kind: str, name: bytes) -> int | None:
    """The number of a user or group of this machine."""
    try:
        if kind == "user":
            return pwd.getpwnam(os.fsdecode(name)).pw_uid
        return grp.getgrnam(os.fsdecode(name)).gr_gid
    except (KeyError, ValueError, OSError):  # unknown, no name at all, no user database
        return None


@contextlib.contextmanager
def _opened(file: Any) -> Iterator[int]:
    if isinstance(file, int):
        yield file
        return
    if hasattr(file, "fileno"):
        yield file.fileno()
        return
    path = os.fsencode(file)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SourceNotFound(f"there is no {to_text(path)}") from None
    except OSError as error:
        raise SourceUnreadable(f"cannot read {to_text(path)}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _head(descriptor: int) -> bytes:
    """The first bytes, which tell how it is compressed."""
    head = b""
    try:
        while len(head) < _HEAD_BYTES and (data := os.read(descriptor, _HEAD_BYTES - len(head))):
            head += data
    except OSError as error:
        raise SourceUnreadable(f"cannot read the archive: {error.strerror}") from error
    return head


class _Source(io.RawIOBase):
    """A descriptor of its own behind bytes that were read already."""

    def __init__(self, descriptor: int, head: bytes) -> None:
        self._descriptor = os.dup(descriptor)
        self._head = head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or os.read(self._descriptor, len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


Decoder = Callable[["io.BufferedReader[_Source]"], Iterator[bytes]]


def _gzip(source: "io.BufferedReader[_Source]") -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=source) as plain:
        while data := plain.read(_OUT_BYTES):
            yield data


def _bzip2(source: "io.BufferedReader[_Source]") -> Iterator[bytes]:
    with bz2.BZ2File(source) as plain:
        while data := plain.read(_OUT_BYTES):
            yield data


def _zstd(source: "io.BufferedReader[_Source]") -> Iterator[bytes]:
    """Frame after frame, in steps small enough that what one of them gives is bounded."""
    data = source.read1(_ZSTD_STEP_BYTES)
    while data:
        decoder = zstandard.ZstdDecompressor().decompressobj()
        while not decoder.eof:
            if not data:
                raise EOFError("it is cut off")
            yield decoder.decompress(data)
            data = b"" if decoder.eof else source.read1(_ZSTD_STEP_BYTES)
        data = decoder.unused_data or source.read1(_ZSTD_STEP_BYTES)


def _xz(source: "io.BufferedReader[_Source]") -> Iterator[bytes]:
    """Stream after stream, with bounded memory, which the library's own reader has not."""
    data = source.read1(_READ_BYTES)
    while data:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = source.read1(_READ_BYTES)
                if not data:
                    raise EOFError("it is cut off")
            yield decoder.decompress(data, _OUT_BYTES)
            data = b""
        data = decoder.unused_data.lstrip(b"\0") or source.read1(_READ_BYTES).lstrip(b"\0")


_DECODERS: dict[bytes, tuple[str, Decoder]] = {
    b"\x1f\x8b": ("gzip", _gzip),
    b"BZh": ("bzip2", _bzip2),
    b"\xfd7zXZ\x00": ("xz", _xz),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
}
_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError)


def _decoder(head: bytes) -> tuple[str, Decoder] | None:
    return next((found for magic, found in _DECODERS.items() if head.startswith(magic)), None)


class _Pump:
    """Decompresses on a thread, into a pipe that the core reads. Its own failure comes first: what
    the core finds wrong then follows from it.
    """

    def __init__(self, descriptor: int, head: bytes, name: str, decoder: Decoder) -> None:
        self.output, self._input = os.pipe()
        self._name = name
        self._decoder = decoder
        self._source = _Source(descriptor, head)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="snap-decompress", daemon=True)

    def __enter__(self) -> "_Pump":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self.output)
        # A core that stopped early may leave the thread in a read that never ends.
        self._thread.join(None if kind is None else 1.0)
        if self._failure is not None and (kind is None or issubclass(kind, ArchiveInvalid)):
            raise ArchiveInvalid(
                f"the archive cannot be decompressed ({self._name}): {self._failure}"
            ) from self._failure

    def _run(self) -> None:
        try:
            with io.BufferedReader(self._source, _READ_BYTES) as source:
                for data in self._decoder(source):
                    self._write(data)
        except BrokenPipeError:  # the core has what it needs, or failed
            pass
        except _FAULTS as error:
            self._failure = error
        finally:
            os.close(self._input)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._input, rest) :]
