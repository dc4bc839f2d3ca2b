"""Objects: the named, immutable byte strings of a store, and the directory that holds them.

store > prefix > object. An object is written to `tmp/`, made durable and linked to its name;
nothing is ever replaced. A file in `tmp/` is locked by its writer, so that what a crash left can be
told from what is being written.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from snapstore.base.errors import (
    DamagedObject,
    NoSpace,
    SnapstoreError,
    StorageError,
    StoreReadOnly,
)
from snapstore.model import names

RESERVE_BYTES = 8 << 20
MAX_OBJECT_BYTES = 67_108_864 + 40

Stamp = tuple[int, int, int]
"""Size, time of last change in nanoseconds, and inode number of a file."""

_WRITES = ("create", "write", "delete")
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_GRACE_S = 7 * 86_400
_YOUNG_S = 60  # a file that was made a moment ago may not have its lock yet


class Hold(Protocol):
    """A lease that this process keeps alive."""

    def release(self) -> None:
        """Lets go of the lease; its object stays until it is deleted."""


class ObjectStore(Protocol):
    """Where objects are. All of it is durable when a call returns."""

    def list(self, prefix: str) -> list[str]:
        """Names of the objects below `prefix` (`snap/`), sorted; names outside the grammar are left
        out.
        """

    def get(self, name: str) -> bytes | None:
        """An object's bytes; None only when it is certainly not there."""

    def put(self, name: str, data: bytes) -> None:
        """Writes an object. DamagedObject when there is another one of that name."""

    def delete(self, name: str) -> None:
        """Removes an object, if it is there."""

    def hold(self, name: str, data: bytes) -> Hold:
        """Writes a lease that is alive from the moment it can be seen until this process lets go or
        dies.
        """

    def held(self, name: str) -> bool:
        """Whether somebody keeps a lease alive."""


class LocalObjects:
    """The objects in a directory of a local or network file system."""

    def __init__(self, path: Path, *, networked: bool = False) -> None:
        self.path = path
        self.networked = networked

    def list(self, prefix: str) -> list[str]:
        with _translated("list", self.path / prefix):
            try:
                found = sorted(os.listdir(self.path / prefix))
            except FileNotFoundError:
                return []
        return [name for name in map(prefix.__add__, found) if names.ANY.fullmatch(name)]

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        """The same, with what tells a file from another one of its name."""
        found = {}
        with _translated("list", self.path / prefix):
            try:
                entries = list(os.scandir(self.path / prefix))
            except FileNotFoundError:
                return {}
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found[prefix + entry.name] = status.st_size, status.st_mtime_ns, status.st_ino
        return {name: found[name] for name in sorted(found) if names.ANY.fullmatch(name)}

    def packs(self) -> Sequence[tuple[int, bytes]]:
        """(kind, id) of all packs."""
        found = []
        for top in names.KIND_DIRECTORIES.values():
            for directory in self.list(f"{top}/"):
                if len(directory) == len(top) + 3:
                    found += [names.parse_pack(name) for name in self.list(f"{directory}/")]
        return [pack for pack in found if pack is not None]

    def size(self, name: str) -> int | None:
        """Bytes of an object; None only when it is certainly not there."""
        with _translated("stat", self.path / name):
            try:
                return os.stat(self.path / name).st_size
            except FileNotFoundError:
                return None

    def walk(self) -> Iterator[str]:
        """Every file of the store but those in `tmp/` and `local/`, whatever its name."""

        def fail(error: OSError) -> None:
            raise error

        with _translated("list", self.path):
            for top, directories, files in os.walk(self.path, onerror=fail):
                directory = Path(top).relative_to(self.path)
                if directory == Path():
                    directories[:] = [d for d in directories if d not in names.PRIVATE]
                yield from (str(directory / name) for name in files)

    def get(self, name: str) -> bytes | None:
        with _translated("read", self.path / name):
            try:
                with open(self.path / name, "rb", opener=open_at_once) as file:
                    data = file.read(MAX_OBJECT_BYTES + 1)
            except FileNotFoundError:
                return None
        if len(data) > MAX_OBJECT_BYTES:
            raise DamagedObject(f"{name} is larger than any object", object=name)
        return data

    def put(self, name: str, data: bytes) -> None:
        os.close(self._put(name, data))

    def delete(self, name: str) -> None:
        with _translated("delete", self.path / name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / name)
            if not name.startswith("sess/"):
                _sync_directory((self.path / name).parent)

    def hold(self, name: str, data: bytes) -> "LocalHold":
        # A lease that a power cut takes away was dead anyway: nothing of it needs to reach the
        # disk.
        return LocalHold(self._put(name, data, durable=self.networked))

    def held(self, name: str) -> bool:
        with _translated("lock", self.path / name):
            try:
                descriptor = open_at_once(self.path / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                age_s = _age_s(descriptor)
                os.close(descriptor)
        # Locks may not reach other machines on a network file system; there a lease needs to be old
        # as well.
        return self.networked and age_s < _GRACE_S

    def clean(self) -> None:
        """Removes what dead writers left in `tmp/`, as far as it can: what stays harms nobody."""
        for name in self.list("tmp/"):
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor = open_at_once(self.path / name, flags)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _age_s(descriptor) > (_GRACE_S if self.networked else _YOUNG_S):
                        os.unlink(self.path / name)
                finally:
                    os.close(descriptor)

    # The reserve: space given back when the disk is full, so that what has begun can be ended

    def make_reserve(self, local: Path) -> None:
        """Allocates the reserve, if there is room for it."""
        path = local / "reserve"
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < RESERVE_BYTES:
                    os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def release_reserve(self) -> bool:
        """Gives the reserve back to the file system; False when there was none."""
        try:
            os.unlink(self.path / "local" / "reserve")
        except OSError:
            return False
        return True

    # Writing

    def _put(self, name: str, data: bytes, *, durable: bool = True) -> int:
        """Writes an object and returns its locked descriptor."""
        try:
            return self._put_once(name, data, durable)
        except NoSpace:
            if not self.release_reserve():
                raise
            return self._put_once(name, data, durable)

    def _put_once(self, name: str, data: bytes, durable: bool) -> int:
        with _translated("write", self.path / name):
            temporary, descriptor = self._open_temporary()
            try:
                write_all(descriptor, data)
                if durable:
                    os.fsync(descriptor)
                try:
                    _link(temporary, self.path / name)
                except FileNotFoundError:
                    self._make_directory((self.path / name).parent)
                    _link(temporary, self.path / name)
                if durable:
                    self._sync_name(name)
            except FileExistsError:
                os.close(descriptor)
                raise DamagedObject(f"{name} exists already", object=name) from None
            except BaseException:
                os.close(descriptor)
                raise
            finally:
                with contextlib.suppress(OSError):  # a later writer removes it
                    os.unlink(temporary)
            return descriptor

    def _sync_name(self, name: str) -> None:
        """Makes a new name durable. Where that fails the name goes away again: there is no telling
        how long it would stay.
        """
        try:
            _sync_directory((self.path / name).parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self.path / name)
            raise

    def _open_temporary(self) -> tuple[Path, int]:
        """A new file in `tmp/`, locked."""
        while True:
            path = self.path / "tmp" / os.urandom(16).hex()
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            try:
                descriptor = os.open(path, flags, 0o600)
            except FileNotFoundError:
                self._make_directory(self.path / "tmp")
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
            os.close(descriptor)  # somebody cleaned it away before it was locked

    def _make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (path.parent, path.parent.parent):
            if directory.is_relative_to(self.path):
                _sync_directory(directory)


class LocalHold:
    """An exclusive lock on a lease's file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_at_once(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file, and does not wait where somebody left a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: a single write may be cut short when the disk fills up."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def storage_error(operation: str, path: Path, error: OSError) -> SnapstoreError:
    """Our error for an error of the store's medium."""
    code = error.errno or 0
    fields: dict[str, Any] = {"op": operation, "path": os.fspath(path), "errno": code}
    if code in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"no space left for {path}", hint="free some space, then run it again", **fields
        )
    message = f"cannot {operation} {path}: {error.strerror}"
    if code in _REFUSED and operation in _WRITES:
        return StoreReadOnly(message, **fields)
    # One object that may not be read is as one that cannot be: it costs no more than itself.
    hint = "let it be read by you, as what is beside it" if code in _REFUSED else None
    return StorageError(message, hint=hint, **fields)


@contextlib.contextmanager
def _translated(operation: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(operation, path, error) from error


def _age_s(descriptor: int) -> float:
    return time.time() - os.fstat(descriptor).st_mtime


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, or where that is not possible its only one; never replaces."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_without_replacing(source, target)


def _rename_without_replacing(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    old, new = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(target))
