"""LMDB environments: opened once per process, never mapped unless that is safe.

Writes are not synced one by one, since what they hold can be read again from the packs. Instead a
*mark* naming the boot in which they were made lies beside the data while some of them may not be on
disk; a mark of another boot means that the machine went down meanwhile, and the environment is
never mapped again. Killed processes do no harm: the page cache outlives them.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

from snapstore.base.errors import (
    IndexDamaged,
    NoSpace,
    SnapstoreError,
    StorageError,
    StoreBusy,
    StoreFailed,
    StoreForked,
    StoreReadOnly,
)

MAP_BYTES = (
    64 << 30
)  # address space, not memory; never resized, which LMDB does not survive with several processes
DATABASES = (b"meta", b"pack", b"number", b"chunk", b"more")

_DIRECTORY = re.compile(r"index-(\d{8})")
_META = struct.Struct(
    "<16xII Q Q I44x 48x QQ"
)  # page header, magic, version, address, map size, two tables, last page
_META_MAGIC, _META_VERSION = 0xBEEFC0DE, 1
_FULL_BYTES = 64 << 20
_MARGIN_BYTES = 64 << 10


# Directories


def newest(local: Path) -> Path | None:
    """The environment in use below `local`, or None."""
    return max(_directories(local), default=None)


def discard(local: Path, keep: Path | None = None) -> None:
    """Removes the environments below `local` that nobody has open, but not `keep`, and what builds
    that were killed left a day ago or earlier.
    """
    for path in _directories(local):
        if path != keep:
            with contextlib.suppress(OSError):  # in use, or gone: somebody else removes it
                use = _lock(path, fcntl.LOCK_EX)
                try:
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(use)
    for path in local.glob("new-*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def building(local: Path) -> Iterator[None]:
    """Keeps other processes from putting an environment into use below `local` meanwhile."""
    with translated(local):
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        descriptor = os.open(local / "index-lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _lock(path: Path, kind: int) -> int:
    """A descriptor with a lock on an environment's directory: whoever has it open shares one.
    BlockingIOError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def staging(local: Path) -> Path:
    """A new private directory for an environment that is being built."""
    path = local / f"new-{os.urandom(8).hex()}"
    path.mkdir(mode=0o700)
    return path


def install(local: Path, staged: Path) -> Path:
    """Puts a finished environment into use, as the highest number."""
    while True:
        last = newest(local)
        number = int(last.name[6:]) + 1 if last else 1
        path = local / f"index-{number:08d}"
        try:
            os.rename(staged, path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first
                continue
            raise
        return path


def _directories(local: Path) -> list[Path]:
    try:
        return [local / name for name in os.listdir(local) if _DIRECTORY.fullmatch(name)]
    except FileNotFoundError:
        return []


# Environments


@dataclass(slots=True)
class Environment:
    """One open environment, shared by all who opened it in this process."""

    path: Path
    env: lmdb.Environment
    tables: dict[bytes, "lmdb._Database"]
    pid: int
    use: int
    """Descriptor with a shared lock: others do not remove the directory."""
    users: int = 1
    mark: int | None = None
    """Descriptor of the locked mark while there may be writes that are not on disk."""
    trouble: SnapstoreError | None = None
    """The last write that failed."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    active: int = 0
    closed: bool = False
    idle: threading.Condition = field(default_factory=threading.Condition)

    def check_process(self) -> None:
        """StoreForked in any process but the one that opened it."""
        if os.getpid() != self.pid:
            raise StoreForked(
                "the store was opened before this process was forked",
                hint="open the store again in the new process",
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator["lmdb.Transaction[bytes]"]:
        """A write transaction, committed at the end of the block."""
        self.check_process()
        if not self.enter():
            raise StoreFailed("the store was closed")
        try:
            with self.lock, self._translated():
                if self.mark is None:
                    self.mark = _set_mark(self.path)
                with self.env.begin(write=True) as transaction:
                    yield transaction
        finally:
            self.leave()

    @contextlib.contextmanager
    def reading(self) -> Iterator["lmdb.Transaction[bytes]"]:
        """A read transaction, one consistent state, between `enter` and `leave`."""
        with self._translated(), self.env.begin() as transaction:
            yield transaction

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """After a write that failed, LMDB only says that it did: what it was is said again."""
        try:
            with translated(self.path):
                yield
        except (NoSpace, StorageError) as error:
            self.trouble = error
            raise
        except IndexDamaged as error:
            if self.trouble is not None and isinstance(error.__cause__, lmdb.PanicError):
                raise self.trouble from error
            raise

    def enter(self) -> bool:
        """Keeps the environment mapped until `leave`; False when it is closed."""
        with self.idle:
            self.active += not self.closed
            return not self.closed

    def leave(self) -> None:
        with self.idle:
            self.active -= 1
            self.idle.notify_all()

    def close(self) -> None:
        """Closes the environment once nobody is in it."""
        with self.idle:
            self.closed = True
            self.idle.wait_for(lambda: self.active == 0)
        self.env.close()
        os.close(self.use)

    def sync(self) -> None:
        """Makes everything written so far durable. A failure condemns the environment: its pages
        are lost for good.
        """
        self.check_process()
        with self.lock:
            if self.mark is None:
                return
            try:
                marks = _marks(self.path)
                self.env.sync(True)
                _cover_last_page(self.path, self.env)
            except (lmdb.Error, OSError) as error:
                shutil.rmtree(self.path, ignore_errors=True)
                raise IndexDamaged(
                    f"the index could not be made durable: {error}", hint="it will be rebuilt"
                ) from error
            os.close(self.mark)
            self.mark = None
            _remove_free_marks(marks)


_registry: dict[tuple[int, int], Environment] = {}
_registry_lock = threading.Lock()


_inherited: dict[tuple[int, int], Environment] = {}
"""Environments that were open when this process was forked: not its own."""


def _after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    _inherited.update(_registry)
    _registry.clear()


os.register_at_fork(after_in_child=_after_fork)


def _drop_inherited(key: tuple[int, int]) -> None:
    """Closes this process's copy of an environment that its parent has open, which allows opening
    it anew.
    """
    inherited = _inherited.pop(key, None)
    if inherited is not None:
        if inherited.active:  # a thread that did not come along would have had to finish first
            raise StoreForked("this process was forked while the store was being used")
        inherited.env.close()


def acquire(path: Path) -> Environment:
    """Opens the environment at `path`, or shares the one that is open. IndexDamaged when it must
    not be used.
    """
    with _registry_lock, translated(path):
        key = _check_private(path)
        shared = _registry.get(key)
        if shared is not None:
            shared.users += 1
            return shared
        _drop_inherited(key)
        shared = _registry[key] = _open_shared(path)
        return shared


def release(shared: Environment) -> None:
    """Gives an environment back; the last one makes it durable and closes it."""
    if os.getpid() != shared.pid:
        return
    with _registry_lock:
        shared.users -= 1
        if shared.users:
            return
        for key in [key for key, value in _registry.items() if value is shared]:
            del _registry[key]
        try:
            shared.sync()
        finally:
            shared.close()


def create(path: Path) -> None:
    """Makes an empty environment in the empty directory `path`."""
    with translated(path):
        env = _open(path)
        for name in DATABASES:
            env.open_db(name, dupsort=name == b"more")
        env.sync(True)
        env.close()


def _open_shared(path: Path) -> Environment:
    try:
        use = _lock(path, fcntl.LOCK_SH)
    except BlockingIOError:
        raise IndexDamaged("the index is being removed") from None
    try:
        _check_marks(path)
        check_size(path / "data.mdb")
        env = _open(path)
        try:
            with contextlib.suppress(OSError):  # a full disk must not hinder reading
                _cover_last_page(path, env)
            tables = {
                name: env.open_db(name, create=False, dupsort=name == b"more") for name in DATABASES
            }
        except BaseException:
            env.close()
            raise
    except BaseException:
        os.close(use)
        raise
    return Environment(path, env, tables, os.getpid(), use)


def _open(path: Path) -> lmdb.Environment:
    # No WRITEMAP: a full disk would kill the process. No read-ahead: keys are hashes.
    return lmdb.open(
        os.fspath(path),
        map_size=MAP_BYTES,
        max_dbs=len(DATABASES),
        max_readers=512,
        max_spare_txns=0,  # a kept transaction would be ended by forked processes too
        mode=0o600,
        readahead=False,
        sync=False,
        lib_version=0,
    )


# What must hold before a file is mapped


def _check_private(path: Path) -> tuple[int, int]:
    """Identity of the data file, once nobody but this user and root can write it or exchange it."""
    for part, is_right in ((path, stat.S_ISDIR), (path / "data.mdb", stat.S_ISREG)):
        status = os.lstat(part)
        if not is_right(status.st_mode):
            raise IndexDamaged(f"{part} is not what it must be")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise IndexDamaged(f"{part} can be written by others, so it cannot be trusted")
    return status.st_dev, status.st_ino


def check_size(path: Path) -> None:
    """IndexDamaged when the file ends before the last page that its meta pages speak of: reading
    there kills the process.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        pages, page_bytes = _meta(file.read(_META.size), path)
        file.seek(page_bytes)
        pages = max(pages, _meta(file.read(_META.size), path)[0])
    if pages * page_bytes > size:
        raise IndexDamaged(f"the index is cut off: {size} bytes of {pages * page_bytes}")


def _meta(head: bytes, path: Path) -> tuple[int, int]:
    """(pages, bytes of a page) as a meta page has them."""
    if len(head) < _META.size:
        raise IndexDamaged(f"the index is cut off: {path}")
    magic, version, _, map_bytes, page_bytes, last_page, _ = _META.unpack(head)
    if (magic, version) != (_META_MAGIC, _META_VERSION):
        raise IndexDamaged(f"the index is not an LMDB file of this version: {path}")
    if page_bytes not in (4096, 8192, 16384, 32768, 65536) or last_page >= MAP_BYTES // page_bytes:
        raise IndexDamaged(f"the index has impossible sizes: {path}")
    if map_bytes > MAP_BYTES:
        raise IndexDamaged(f"the index is larger than it may be: {path}")
    return last_page + 1, page_bytes


def _cover_last_page(path: Path, env: lmdb.Environment) -> None:
    """Makes the file as long as its meta pages say, since LMDB leaves out a last page that was
    freed at once, and longer by what a damaged offset within a page can reach: that is then read
    as zeros instead of killing the process.
    """
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"] + _MARGIN_BYTES
    if os.stat(path / "data.mdb").st_size < needed:
        with open(path / "data.mdb", "r+b") as file:
            # Only ever longer: another process may have grown the file since it was looked at.
            os.posix_fallocate(file.fileno(), needed - 1, 1)


# Marks


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _set_mark(path: Path) -> int:
    """Writes a durable mark and returns its locked descriptor."""
    while True:
        descriptor = os.open(
            path / f"mark-{os.urandom(8).hex()}",
            os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC,
            0o600,
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # taken for a dead process's mark before it was locked
    os.write(descriptor, _boot().encode("ascii"))
    os.fsync(descriptor)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return descriptor


def _marks(path: Path) -> list[Path]:
    return [path / name for name in os.listdir(path) if name.startswith("mark-")]


def _check_marks(path: Path) -> None:
    for mark in _marks(path):
        with contextlib.suppress(FileNotFoundError):
            if mark.read_text("ascii", "replace") not in ("", _boot()):
                raise IndexDamaged("the machine went down while the index was being written")


def _remove_free_marks(marks: list[Path]) -> None:
    """Removes marks that nobody holds. They were listed before a sync, so what they stood for is on
    disk.
    """
    for mark in marks:
        with contextlib.suppress(OSError):  # held, gone, or left to the next one
            descriptor = os.open(mark, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(mark)
            finally:
                os.close(descriptor)


# Errors


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns errors of LMDB and of the operating system into ours."""
    try:
        yield
    except SnapstoreError:
        raise
    except lmdb.MapFullError as error:
        raise NoSpace(f"the index has reached {MAP_BYTES >> 30} GiB") from error
    except lmdb.ReadersFullError as error:
        raise StoreBusy("too many processes read the index at once") from error
    except lmdb.ReadonlyError as error:
        raise StoreReadOnly(f"the index cannot be written: {error}") from error
    except lmdb.Error as error:
        raise _from_code(error.code, path, error) from error
    except OSError as error:
        raise _from_code(error.errno or 0, path, error) from error


def _from_code(code: int, path: Path, error: Exception) -> SnapstoreError:
    if code in (errno.ENOSPC, errno.EDQUOT) or (code == errno.EIO and _full(path)):
        return NoSpace(f"no space left for the index at {path}", path=os.fspath(path))
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreReadOnly(f"the index at {path} cannot be used: {error}")
    if code == errno.ENOENT or (isinstance(error, lmdb.Error) and code <= 0):
        return IndexDamaged(f"the index at {path} is damaged: {error}", hint="run reindex")
    return StorageError(f"the index at {path} failed: {error}", path=os.fspath(path), errno=code)


def _full(path: Path) -> bool:
    """LMDB reports a short write as an I/O error; whether the disk is full decides what it was."""
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _FULL_BYTES
