"""Viewing: a snapshot as a file system that is only read, without a mount."""

import io
import os
import stat
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from snapstore.base.arguments import Path_
from snapstore.base.bytestext import to_text
from snapstore.base.errors import InvalidArgument, PathNotFound, StoreFailed
from snapstore.model.entries import TYPES, FileStatus
from snapstore.model.mounting import require_cache
from snapstore.model.snapshot import Snapshot
from snapstore.ops import places, viewfile
from snapstore.repository.open import Repository
from snapstore.repository.view import View

if TYPE_CHECKING:
    from snapstore import _native
    from snapstore.repository.session import Session

MAX_LINKS = 40
FIRST_BATCH = 64
MAX_BATCH = 1024

_NAME = b""
_TYPE_OF = {bits: type for type, bits in TYPES.items()}


class SnapshotView:
    """A snapshot, or what is at a path in it, to be read like a file system. A context manager;
    usable from several threads at once. What it reads lately is kept, within a bound; while it is
    open, what it shows is kept from being collected, as far as the store can be written.

    Paths are as recorded (`/srv/app/x`), or, in a view of `REF:PATH`, below that path; with or
    without a slash before them. Directories above the roots are shown too. No symbolic link is
    followed, not even in the middle of a path, unless `follow` says so: then up to 40 of them,
    inside the snapshot, where a target with a slash before it begins at the snapshot's top, and
    `..` in it goes no higher.

    Everything raises PathNotFound, InvalidArgument (what has no meaning for this type; too many
    links), DamagedObject, StorageError. After `close`, or when the store is closed, StoreFailed; in
    a forked process, StoreForked.
    """

    def __init__(
        self,
        opened: Callable[[], Repository],
        snapshot: Snapshot,
        below: bytes,
        cache_bytes: int,
    ) -> None:
        """`opened` gives the repository, or raises when it is closed. `below`: a path as recorded,
        or relative to a root.
        """
        require_cache(cache_bytes)
        repository = opened()
        self.snapshot = snapshot
        self._opened = opened
        self._below: Sequence[bytes] = ()
        # Also when nobody closes it. In a forked process it is the lease of another one.
        self._end = weakref.finalize(self, _end, repository.lease("view"), os.getpid())
        try:
            view = View(repository, cache_bytes=cache_bytes)
            view.show(_NAME, snapshot)
            self._view: View | None = view
            self._below = self._place(below)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SnapshotView":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of what is kept; files that are open cannot be read any more. Closing twice is
        fine.
        """
        self._view = None
        self._end()

    # What is there

    def stat(self, path: Path_, *, follow: bool = False) -> FileStatus:
        """What is at a path."""
        return _status(self._find(path, follow))

    def exists(self, path: Path_, *, follow: bool = False) -> bool:
        """Whether there is anything at a path; with `follow`, also at the end of its links."""
        try:
            self._find(path, follow)
        except PathNotFound:
            return False
        return True

    def xattrs(self, path: Path_, *, follow: bool = False) -> dict[bytes, bytes]:
        """Extended attributes by name; ACLs as the kernel gives them."""
        return dict(self._find(path, follow).xattrs())

    def list(self, path: Path_ = b"", *, follow: bool = False) -> Iterator[bytes]:
        """Names in a directory, as they come: nothing is held but the next of them. InvalidArgument
        when it is none, at once.
        """
        return (entry.name for entry in self.scan(path, follow=follow))

    def scan(self, path: Path_ = b"", *, follow: bool = False) -> "Iterator[SnapshotEntry]":
        """The same, with what they are."""
        found = self._find(path, follow)
        if not found.is_directory:
            raise InvalidArgument(f"{to_text(os.fsencode(path))} is not a directory")
        return self._entries(found, _join(_names(path)))

    def walk(self, path: Path_ = b"", *, follow: bool = False) -> "Iterator[SnapshotEntry]":
        """Everything below a directory, each directory before what is in it, as it comes. `follow`
        is for `path` itself: links that are found are never followed.
        """
        return self._descend(self.scan(path, follow=follow))

    # Contents

    @overload
    def open(
        self, path: Path_, mode: Literal["rb"] = "rb", *, follow: bool = False
    ) -> io.BufferedReader: ...

    @overload
    def open(
        self,
        path: Path_,
        mode: Literal["r", "rt"],
        *,
        encoding: str = "utf-8",
        errors: str | None = None,
        newline: str | None = None,
        follow: bool = False,
    ) -> io.TextIOWrapper: ...

    def open(
        self,
        path: Path_,
        mode: str = "rb",
        *,
        encoding: str = "utf-8",
        errors: str | None = None,
        newline: str | None = None,
        follow: bool = False,
    ) -> io.BufferedReader | io.TextIOWrapper:
        """A file to read from, of bytes, or of text as the built-in `open` makes it. What is
        damaged raises DamagedObject when it is read, and nothing of it is given.
        """
        text = viewfile.is_text(mode)
        content = _Content(self, self._file(path, follow))
        file = viewfile.buffered(content, path if isinstance(path, bytes) else os.fspath(path))
        return io.TextIOWrapper(file, encoding, errors, newline) if text else file

    def read_at(self, path: Path_, offset: int, size: int, *, follow: bool = False) -> bytes:
        """At most `size` bytes of a file from `offset` on; fewer only at its end."""
        if size < 0:
            raise InvalidArgument(f"a size cannot be {size}")
        return self._file(path, follow).read(_offset(offset), size)

    def seek_data(self, path: Path_, offset: int, *, follow: bool = False) -> int | None:
        """Where the next data of a file begin, from `offset` on; None when none follow."""
        return self._file(path, follow).seek(_offset(offset), False)

    def seek_hole(self, path: Path_, offset: int, *, follow: bool = False) -> int | None:
        """Where the next hole of a file begins, from `offset` on: its end counts as one. None
        behind the end.
        """
        return self._file(path, follow).seek(_offset(offset), True)

    # Finding

    def require_open(self) -> "_native.View":
        """Raises StoreFailed when the view, or the store, was closed; StoreForked."""
        self._opened()
        view = self._view
        if view is None:
            raise StoreFailed("the view was closed")
        return view.core

    def _place(self, below: bytes) -> Sequence[bytes]:
        """The names in a path as recorded, of one that may be relative to a root."""
        for root, inside in places.candidates(self.snapshot.roots, below) if below else ():
            names = _names(places.join(root.path, inside))
            if self._look(names) is not None:
                return names
        if self._look(_names(below)) is None:
            raise self._missing(below)
        return _names(below)

    def _look(self, names: Sequence[bytes]) -> "_native.Shown | None":
        """What is at a path of the snapshot."""
        found = self.require_open().find(_NAME, b"/".join(names))
        # At the top of a mount, links stand for roots: they are not recorded.
        is_recorded = found is not None and (found.root is not None or found.is_directory)
        return found if is_recorded else None

    def _find(self, path: Path_, follow: bool) -> "_native.Shown":
        names = [*self._below, *_names(path)]
        found = self._follow(path, names) if follow else self._look(names)
        if found is None:
            raise self._missing(path, self._link_before(names))
        return found

    def _follow(self, path: Path_, names: Sequence[bytes]) -> "_native.Shown | None":
        """What is at a path when links are followed."""
        here: Sequence[bytes] = []
        found = self._look(here)
        left, links = [*reversed(names)], 0
        while left and found is not None:
            name = left.pop()
            step = here[:-1] if name == b".." else [*here, name]
            found = self._look(step) if found.is_directory else None
            if found is None or found.target is None:
                here = step
                continue
            links += 1
            if links > MAX_LINKS:
                raise InvalidArgument(f"too many links: {to_text(os.fsencode(path))}")
            left += reversed(_names(found.target))
            here = [] if found.target.startswith(b"/") else here
            found = self._look(here)
        return found

    def _file(self, path: Path_, follow: bool) -> "_native.Shown":
        found = self._find(path, follow)
        type = _status(found).type
        if type != "file":
            hint = "follow=True follows links" if type == "symlink" else None
            text = to_text(os.fsencode(path))
            raise InvalidArgument(f"{text} is not a file but a {type}", hint=hint)
        return found

    def _link_before(self, names: Sequence[bytes]) -> bytes | None:
        """The link in the middle of a path at which it ends."""
        for count in range(1, len(names)):
            found = self._look(names[:count])
            if found is None or found.target is not None:
                return None if found is None else names[count - 1]
        return None

    def _missing(self, path: Path_, link: bytes | None = None) -> PathNotFound:
        text = to_text(os.fsencode(path))
        hint = "list shows what is in a directory"
        if link is not None:
            hint = f"{to_text(link)} is a symbolic link; follow=True follows links"
        return PathNotFound(
            f"{text} is not in snapshot {self.snapshot.short_id}",
            hint=hint,
            path=text,
            snapshot=self.snapshot.id,
        )

    # Directories

    def _entries(self, directory: "_native.Shown", path: bytes) -> "Iterator[SnapshotEntry]":
        start, count = 0, FIRST_BATCH
        while True:
            self.require_open()
            found, start = directory.list(start, count)
            if not found:
                return
            for name, shown in found:
                yield SnapshotEntry(self, path.rstrip(b"/") + b"/" + name, name, shown)
            count = min(2 * count, MAX_BATCH)

    def _descend(self, entries: "Iterator[SnapshotEntry]") -> "Iterator[SnapshotEntry]":
        levels = [entries]
        while levels:
            entry = next(levels[-1], None)
            if entry is None:
                levels.pop()
                continue
            yield entry
            if entry.is_directory:
                levels.append(self._entries(entry.shown, entry.path))


class SnapshotEntry:
    """Something in a directory of a view. `path`: in the view, with a slash before it; `target`: of
    a symbolic link.
    """

    __slots__ = ("_view", "name", "path", "shown")

    def __init__(
        self, view: SnapshotView, path: bytes, name: bytes, shown: "_native.Shown"
    ) -> None:
        self._view = view
        self.path = path
        self.name = name
        self.shown = shown

    def __repr__(self) -> str:
        return f"<SnapshotEntry {self.path!r}>"

    @property
    def is_directory(self) -> bool:
        return self.shown.is_directory

    @property
    def target(self) -> bytes | None:
        return self.shown.target

    def stat(self) -> FileStatus:
        """What `SnapshotView.stat` gives, without looking for it again."""
        self._view.require_open()
        return _status(self.shown)


class _Content:
    """The bytes of a file."""

    def __init__(self, view: SnapshotView, shown: "_native.Shown") -> None:
        self._view = view
        self._shown = shown
        self.size = _status(shown).size

    def read(self, offset: int, size: int) -> bytes:
        self._view.require_open()
        return self._shown.read(offset, size)

    def seek(self, offset: int, *, hole: bool) -> int | None:
        self._view.require_open()
        return self._shown.seek(_offset(offset), hole)


def _end(lease: "Session | None", pid: int) -> None:
    if lease is not None and os.getpid() == pid:
        lease.end()


def _names(path: Path_) -> Sequence[bytes]:
    return [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]


def _join(names: Sequence[bytes]) -> bytes:
    return b"/" + b"/".join(names)


def _offset(offset: int) -> int:
    if not 0 <= offset < viewfile.MAX_OFFSET:
        raise InvalidArgument(f"an offset cannot be {offset}")
    return offset


def _status(found: "_native.Shown") -> FileStatus:
    ino, mode, nlink, uid, gid, device, size, blocks, mtime_ns = found.status()
    type = _TYPE_OF[stat.S_IFMT(mode)]
    is_device = type in ("chardev", "blockdev")
    return FileStatus(
        type,
        stat.S_IMODE(mode),
        ino,
        nlink,
        uid,
        gid,
        size,
        blocks,
        mtime_ns,
        device=(os.major(device), os.minor(device)) if is_device else None,
        target=found.target,
    )
