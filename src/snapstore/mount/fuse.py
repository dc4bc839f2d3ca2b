"""The calls of the kernel, as libfuse hands them on: what is in snapshots is answered by the core,
the names above them here.

mfusepy is the binding: it loads libfuse 3, has its structures and its table of operations, and runs
the file system. The core's functions stand in that table directly: to enter the interpreter costs
several times what most answers take.
"""

import ctypes
import ctypes.util
import errno
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import xxhash

from snapstore import _native
from snapstore.base import libfuse
from snapstore.base.bytestext import to_text
from snapstore.base.errors import MountUnavailable, SnapstoreError

_READDIRPLUS_AUTO = 1 << 14  # FUSE_CAP_READDIRPLUS_AUTO
_POSIX_ACLS = 1 << 19  # FUSE_CAP_POSIX_ACL
_FOREVER_S = 86_400.0
_THREADS = "10"
_KNOWS_MAX_THREADS = (3, 12)
_ROOT_INO = 1
_M_ARENA_MAX = -8

log = logging.getLogger("snapstore.mount")


def _load() -> Any:
    """mfusepy with libfuse 3: by itself it would take libfuse 2 when both are there."""
    library = libfuse.find()
    if library is None:
        raise MountUnavailable(
            "mounting needs libfuse 3, which is not there", hint="install the package fuse3"
        )
    search, ctypes.util.find_library = ctypes.util.find_library, lambda name: library
    try:
        import mfusepy  # type: ignore[import-untyped]
    finally:
        ctypes.util.find_library = search
    return mfusepy


class Link(bytes):
    """The target of a symbolic link."""


class Names(Protocol):
    """The names above snapshots."""

    below: bytes | None
    """When the mount is one snapshot: the path in it that is shown. Nothing else is asked then."""

    def show(self, id: bytes) -> bool:
        """Lets the core show a snapshot; False when there is none."""

    def find(self, path: bytes) -> dict[bytes, bool] | Link | None:
        """What is at a path that is in no snapshot: names in a directory and whether each is a
        link, or a link's target.
        """

    def mtime_ns(self, path: bytes) -> int:
        """When what is at such a path was changed."""

    def statfs(self) -> dict[str, int]:
        """Fields of statvfs."""


class Kernel:
    """What can be told to the kernel while it is mounted."""

    def __init__(self, fuse: Any) -> None:
        self._forget = fuse._libfuse.fuse_invalidate_path
        self._forget.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._handle = fuse._libfuse.fuse_get_context().contents.fuse

    def forget(self, path: bytes) -> None:
        """What was known of a path is asked for anew."""
        self._forget(self._handle, path)


def mount(
    core: "_native.View",
    names: Names,
    mountpoint: bytes,
    options: dict[str, str | bool],
    started: Callable[[Kernel], None],
) -> None:
    """Mounts, and serves until it is unmounted or a signal says so. `started` is called once it can
    be used. MountUnavailable.
    """
    # Each of libfuse's threads would keep what it once used of memory for itself.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    fuse = _load()
    if (fuse.fuse_version_major, fuse.fuse_version_minor) >= _KNOWS_MAX_THREADS:
        options = {**options, "max_threads": _THREADS, "max_idle_threads": _THREADS}
    types = {field[0]: field[1] for field in fuse.fuse_operations._fields_}
    ours = _Answers(fuse, names, started)
    # Kept until the end: libfuse has but their addresses.
    kept = {name: types[name](getattr(ours, name)) for name in ("getattr", "readlink", "readdir")}
    kept["show"] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(ours.show)
    kept["complain"] = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)(ours.complain)
    addresses = {name: _address(call) for name, call in kept.items()}
    table = fuse.fuse_operations()
    for name, address in _native.fuse_operations(core, addresses, names.below).items():
        setattr(table, name, types[name](address))
    table.init, table.statfs = types["init"](ours.init), types["statfs"](ours.statfs)
    joined = ",".join(
        key if value is True else f"{key}={value}" for key, value in options.items() if value
    )
    arguments = [b"snap", b"-f", b"-o", os.fsencode(joined), mountpoint]
    argv = (ctypes.c_char_p * len(arguments))(*arguments)
    with _default_interrupt():
        code = fuse.fuse_main_real(
            len(argv), argv, ctypes.pointer(table), ctypes.sizeof(table), None
        )
    if code and not ours.began:  # later, it is a signal that ended it
        raise MountUnavailable(
            f"cannot mount {to_text(mountpoint)}: libfuse gave up ({code})",
            hint="what it says is above; doctor tells whether something is missing",
        )


def _address(call: Any) -> int:
    return ctypes.cast(call, ctypes.c_void_p).value or 0


@contextmanager
def _default_interrupt() -> Iterator[None]:
    """libfuse handles signals that nobody handles: Ctrl-C then unmounts."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def number(path: bytes) -> int:
    """The inode number of a name above snapshots."""
    return int(xxhash.xxh3_64_intdigest(path) >> 1) if path != b"/" else _ROOT_INO


def _answering(answer: Callable[..., int]) -> Callable[..., int]:
    """A method that libfuse calls: its answer is a number, the negative one of an error."""

    def call(self: "_Answers", *args: Any) -> int:
        try:
            return answer(self, *args)
        except SnapstoreError as error:
            log.error("%s", error)
        except Exception:
            log.exception("%s failed", answer.__name__)
        return -errno.EIO

    return call


class _Answers:
    """What is answered here."""

    def __init__(self, fuse: Any, names: Names, started: Callable[[Kernel], None]) -> None:
        self._fuse = fuse
        self._names = names
        self._started = started
        self._owner = os.getuid(), os.getgid()
        self.began = False

    def init(self, connection: Any, config: Any) -> int:
        found = config.contents
        found.use_ino = found.kernel_cache = 1
        # What is in snapshots never changes; names above them are links, or listed anew each time.
        found.attr_timeout = found.entry_timeout = _FOREVER_S
        found.negative_timeout = 0.0
        can = connection.contents
        # Attributes always come with names: one alone costs as much as those of a directory.
        can.want = (can.want | _POSIX_ACLS & can.capable) & ~_READDIRPLUS_AUTO
        self.began = True
        self._started(Kernel(self._fuse))
        return 0

    @_answering
    def show(self, id: bytes) -> int:
        return int(self._names.show(id))

    def complain(self, path: bytes, what: bytes) -> None:
        log.error("%s: %s", to_text(path), os.fsdecode(what))

    @_answering
    def getattr(self, path: bytes, buffer: Any, _: Any) -> int:
        found = self._names.find(path)
        if found is None:
            return -errno.ENOENT
        status = buffer.contents
        ctypes.memset(buffer, 0, ctypes.sizeof(status))
        status.st_ino = number(path)
        status.st_uid, status.st_gid = self._owner
        if isinstance(found, Link):
            status.st_mode, status.st_nlink = stat.S_IFLNK | 0o777, 1
            status.st_size = len(found)
        else:
            status.st_mode = stat.S_IFDIR | 0o555
            status.st_nlink = 2 + sum(not is_link for is_link in found.values())
        for time in (status.st_mtimespec, status.st_ctimespec, status.st_atimespec):
            time.tv_sec, time.tv_nsec = divmod(self._names.mtime_ns(path), 10**9)
        return 0

    @_answering
    def readlink(self, path: bytes, buffer: Any, size: int) -> int:
        found = self._names.find(path)
        if not isinstance(found, Link):
            return -errno.ENOENT if found is None else -errno.EINVAL
        cut = found[: size - 1] + b"\0"
        ctypes.memmove(buffer, cut, len(cut))
        return 0

    @_answering
    def readdir(
        self, path: bytes, buffer: int, filler: Any, offset: int, _: Any, flags: int
    ) -> int:
        found = self._names.find(path)
        if not isinstance(found, dict):
            return -errno.ENOENT if found is None else -errno.ENOTDIR
        status = self._fuse.c_stat()
        own = [(b".", path), (b"..", os.path.dirname(path))]
        inside = [(name, os.path.join(path, name)) for name in found]
        for at, (name, whole) in enumerate([*own, *inside][offset:], offset + 1):
            status.st_ino = number(whole)
            status.st_mode = stat.S_IFLNK if found.get(name) else stat.S_IFDIR
            if filler(buffer, name, ctypes.pointer(status), at, 0):
                break
        return 0

    @_answering
    def statfs(self, path: bytes, buffer: Any) -> int:
        for key, value in self._names.statfs().items():
            setattr(buffer.contents, key, value)
        return 0
