"""Files of a view, as Python's own file objects."""

import errno
import io
import os
from typing import TYPE_CHECKING, Protocol

from snapstore.base.errors import InvalidArgument

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 64 << 10
MAX_READ_BYTES = 4 << 20
"""So much is had from the core at once: what it gives is copied."""
MAX_OFFSET = 1 << 63

_MODES = {"rb": False, "br": False, "r": True, "rt": True, "tr": True}


class Content(Protocol):
    """Bytes of a file of a view that is still open."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""

    def seek(self, offset: int, *, hole: bool) -> int | None:
        """Where the next data, or hole, begins; None behind the end."""


def is_text(mode: str) -> bool:
    """Whether files that are opened in this mode are text. InvalidArgument."""
    if mode not in _MODES:
        raise InvalidArgument(
            f"a file of a snapshot cannot be opened in the mode {mode!r}",
            hint="snapshots are only read: rb for bytes, r for text",
        )
    return _MODES[mode]


class RawFile(io.RawIOBase):
    """A file without a buffer."""

    def __init__(self, content: Content, name: str | bytes) -> None:
        self.name = name
        self.mode = "rb"
        self.size = content.size
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        self._require_open()
        return True

    def seekable(self) -> bool:
        self._require_open()
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        self._require_open()
        with memoryview(buffer).cast("B") as out:
            data = self._content.read(self._at, min(len(out), MAX_READ_BYTES))
            out[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        self._require_open()
        at, pieces = self._at, []
        while piece := self._content.read(at, MAX_READ_BYTES):
            at += len(piece)
            pieces.append(piece)
        self._at = at
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._require_open()
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            found = self._content.seek(offset, hole=whence == os.SEEK_HOLE)
            if found is None:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            self._at = found
            return found
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}
        if whence not in begin:
            raise ValueError(f"there is no way to seek that is called {whence}")
        at = begin[whence] + offset
        if not 0 <= at < MAX_OFFSET:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def tell(self) -> int:
        self._require_open()
        return self._at

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


class BufferedFile(io.BufferedReader):
    """A file of bytes, which many programs ask for their number."""

    raw: RawFile

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.raw.size


def buffered(content: Content, name: str | bytes) -> BufferedFile:
    """A file to read bytes from."""
    return BufferedFile(RawFile(content, name), BUFFER_BYTES)
