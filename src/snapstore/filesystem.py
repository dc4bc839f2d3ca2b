"""Snapshots for fsspec: `snap://REF/path/in/snapshot`, which pandas, pyarrow and others read.

fsspec finds this by itself, once both are installed.
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

from snapstore import api
from snapstore.base.errors import InvalidArgument, PathNotFound, SnapshotNotFound
from snapstore.base.units import Size
from snapstore.model.entries import FileStatus
from snapstore.ops.viewing import SnapshotView

CACHE_BYTES = 32 << 20
MAX_VIEWS = 4

_TYPES = {"file": "file", "directory": "directory", "symlink": "link"}

Info = dict[str, Any]


class SnapFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """All snapshots of a store, which are only read. Usable from several threads, and after a fork.

    `REF/path/in/snapshot`: a reference (a name, an id, `latest`, `@2026-11-01`) without a slash in
    it means what it means at the time of each call; an id never changes. At the top, snapshots are
    listed by their ids. Symbolic links in a path are followed inside the snapshot; links to files
    are listed as files, links to anything else as `link`. Names that are not UTF-8 are as
    `os.fsdecode` makes them.

    What is not there raises FileNotFoundError, and writing OSError (EROFS); otherwise errors are
    those of the library.
    """

    protocol = "snap"
    root_marker = ""

    def __init__(
        self,
        store: str | os.PathLike[str] | api.Store | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        password: bytes | Callable[[], bytes] | None = None,
        cache_bytes: Size = CACHE_BYTES,
        **options: Any,
    ) -> None:
        """`store`: where it is, or one that is open. `cache_dir`, `password`: as for
        `snapstore.open`. `cache_bytes`: what is kept of each of the snapshots read last.
        """
        super().__init__(**options)
        if store is None:
            raise InvalidArgument(
                "no store was named", hint='storage_options={"store": "/path/of/the/store"}'
            )
        self._store = store
        self._settings = {"cache_dir": cache_dir, "password": password}
        self._cache_bytes = cache_bytes
        self._opened = _Opened()

    def close(self) -> None:
        """Lets go of the store: open files cannot be read any more. What is asked for later opens
        it again.
        """
        opened, self._opened = self._opened, _Opened()
        opened.close(with_store=not isinstance(self._store, api.Store))

    # Looking

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        name = self._strip_protocol(path)
        found = self._ls(name) if name else self._snapshots()
        return found if detail else [info["name"] for info in found]

    def info(self, path: str, **options: Any) -> Info:
        name = self._strip_protocol(path)
        if not name:
            return {"name": "", "type": "directory", "size": 0}
        view, inside = self._split(name)
        if not view.exists(inside):  # there may be links in the middle
            return _info(name, self._status(view, name, inside))
        status = view.stat(inside)
        if status.type != "symlink":
            return _info(name, status)
        return _followed(view, name, inside, status, any_type=True)

    def exists(self, path: str, **options: Any) -> bool:
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isfile(self, path: str) -> bool:
        return self.exists(path) and self.info(path)["type"] == "file"

    def modified(self, path: str) -> datetime:
        """When something in a snapshot was changed, to the microsecond."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    # Reading

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        with self._open(self._strip_protocol(path)) as file:
            begin, stop, _ = slice(start, end).indices(file.size)
            file.seek(begin)
            data: bytes = file.read(max(stop - begin, 0))
            return data

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        if mode != "rb":
            self._refuse(path)
        view, inside = self._split(path)
        if self._status(view, path, inside).type == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return view.open(inside, follow=True)

    # Writing

    def _refuse(self, path: Any = None, *args: Any, **options: Any) -> NoReturn:
        raise OSError(errno.EROFS, "snapshots are only read", path)

    mkdir = makedirs = rmdir = rm = rm_file = _rm = touch = mv = cp_file = _refuse
    put = put_file = pipe_file = _refuse

    # Finding

    @property
    def fsid(self) -> str:
        return f"snap-{self._here.store(self._open_store).id}"

    @property
    def _here(self) -> "_Opened":
        """What is open in this process."""
        if self._opened.pid != os.getpid():
            self._opened = _Opened()
        return self._opened

    def _open_store(self) -> api.Store:
        if isinstance(self._store, api.Store):
            return self._store
        return api.open(self._store, mode="r", **self._settings)  # type: ignore[arg-type]

    def _split(self, name: str) -> tuple[SnapshotView, bytes]:
        """The view of a snapshot, and a path in it."""
        ref, _, inside = name.partition("/")
        here = self._here
        try:
            id = here.store(self._open_store).get(ref).id
        except SnapshotNotFound as error:
            raise _not_found(name) from error
        return here.view(id, self._cache_bytes), os.fsencode(inside)

    def _status(self, view: SnapshotView, name: str, inside: bytes) -> FileStatus:
        try:
            return view.stat(inside, follow=True)
        except PathNotFound as error:
            raise _not_found(name) from error

    def _snapshots(self) -> list[Info]:
        return [
            {
                "name": snapshot.id,
                "type": "directory",
                "size": 0,
                "created": snapshot.created_at,
                "snapshot": snapshot.name,
            }
            for snapshot in self._here.store(self._open_store).snapshots()
        ]

    def _ls(self, name: str) -> list[Info]:
        info = self.info(name)
        if info["type"] != "directory":
            return [info]
        view, inside = self._split(name)
        found = []
        for entry in view.scan(inside, follow=True):
            whole, status = f"{name}/{os.fsdecode(entry.name)}", entry.stat()
            if status.type == "symlink":
                found.append(_followed(view, whole, entry.path, status))
            else:
                found.append(_info(whole, status))
        return found


class _Opened:
    """A store, and views of the snapshots that were read last, in one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.RLock()
        self._store: api.Store | None = None
        self._views: OrderedDict[str, SnapshotView] = OrderedDict()

    def store(self, open: Callable[[], api.Store]) -> api.Store:
        with self._lock:
            if self._store is None:
                self._store = open()
            return self._store

    def view(self, id: str, cache_bytes: Size) -> SnapshotView:
        """The view of a snapshot. One that makes place for others is not closed: files of it may be
        open.
        """
        with self._lock:
            assert self._store is not None
            if id not in self._views:
                self._views[id] = self._store.view(id, cache_bytes=cache_bytes)
            self._views.move_to_end(id)
            while len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
            return self._views[id]

    def close(self, *, with_store: bool) -> None:
        with self._lock:
            for view in self._views.values():
                view.close()
            if self._store is not None and with_store:
                self._store.close()


def _not_found(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _info(name: str, status: FileStatus) -> Info:
    return {
        "name": name,
        "type": _TYPES.get(status.type, "other"),
        "size": status.size,
        "mode": status.st_mode,
        "ino": status.ino,
        "nlink": status.nlink,
        "uid": status.uid,
        "gid": status.gid,
        "mtime": status.mtime_ns / 10**9,
        "mtime_ns": status.mtime_ns,
        "islink": status.type == "symlink",
    }


def _followed(
    view: SnapshotView, name: str, path: bytes, link: FileStatus, *, any_type: bool = False
) -> Info:
    """A link as what it leads to, if that is a file, or may be anything; else as a link."""
    shown = link
    try:
        found = view.stat(path, follow=True)
        if any_type or found.type == "file":
            shown = found
    except (PathNotFound, InvalidArgument):  # it leads nowhere, or round and round
        pass
    return {**_info(name, shown), "islink": True, "destination": os.fsdecode(link.target or b"")}
