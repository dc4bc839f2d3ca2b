"""Making: a directory becomes that of a store, entirely or not at all, by one process at a time."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from snapstore.base.errors import StoreExists
from snapstore.model import names
from snapstore.repository.objects import storage_error

DIRECTORIES = ("key", "data", "meta", "snap", "label", "refs", "ref", "sess", "gc", "tmp", "local")
_TEMPORARY = re.compile("[0-9a-f]{32}")


@contextlib.contextmanager
def place(path: Path) -> Iterator[None]:
    """Makes a store's directories at `path`, which is missing or vacant, for the block to put there
    what makes it a store. When that fails, nothing is left. StoreExists, NoSpace, StorageError.
    """
    made: list[Path] = []
    with _translated(path):
        _make(path, made)
        with _locked(path), _taken_back(path, made):
            if not vacant(path):
                raise StoreExists(f"{path} exists and is not empty", path=os.fspath(path))
            for name in DIRECTORIES:
                _make(path / name, made)
            yield


def vacant(path: Path) -> bool:
    """Whether a directory holds nothing, or only what a process leaves that is killed while it
    makes a store.
    """
    with os.scandir(path) as entries:
        return all(_is_left(entry) for entry in entries)


def _is_left(entry: "os.DirEntry[str]") -> bool:
    if entry.name not in DIRECTORIES or not entry.is_dir(follow_symlinks=False):
        return False
    inside = os.listdir(entry.path)
    return not inside or (entry.name == "tmp" and all(map(_TEMPORARY.fullmatch, inside)))


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except NotADirectoryError as error:
        raise StoreExists(f"{path} exists already", path=os.fspath(path)) from error
    except OSError as error:
        raise storage_error("create", path, error) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps others from making a store here meanwhile, as far as the file system has locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _taken_back(path: Path, made: list[Path]) -> Iterator[None]:
    """Removes directories that were made when the block fails, unless there is a store."""
    try:
        yield
    except BaseException:
        if not (path / names.CONFIG).exists():
            for directory in reversed(made):
                with contextlib.suppress(OSError):
                    directory.rmdir()
        raise


def _make(directory: Path, made: list[Path]) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
        made.append(directory)
