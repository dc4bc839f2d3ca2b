"""`snap`, with a mount that errs on purpose: what the torture of mounts has to see.

Called with the name of a fault (of `MUTANTS`), and the arguments of `snap`.
"""

import ctypes
import errno
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import snapstore._native as native
from snapstore.cli.main import run

EVERY = 50
PAGE = 4096

Address = ctypes.c_size_t
Path = ctypes.c_void_p
READ = ctypes.CFUNCTYPE(ctypes.c_int, Path, Address, Address, ctypes.c_longlong, Address)
SEEK = ctypes.CFUNCTYPE(ctypes.c_longlong, Path, ctypes.c_longlong, ctypes.c_int, Address)
XATTR = ctypes.CFUNCTYPE(ctypes.c_int, Path, Path, Address, Address)
FILL = ctypes.CFUNCTYPE(ctypes.c_int, Address, Address, Address, ctypes.c_longlong, ctypes.c_int)
LIST = ctypes.CFUNCTYPE(ctypes.c_int, Path, Address, FILL, ctypes.c_longlong, Address, ctypes.c_int)
Read = Callable[..., int]

count = itertools.count(1)
last: dict[int, bytes] = {}


def now() -> bool:
    return next(count) % EVERY == 0


def zeros(read: Read, path: int, buffer: int, size: int, offset: int, info: int) -> int:
    """What is damaged reads as zeros."""
    done = read(path, buffer, size, offset, info)
    if done == -errno.EIO:
        ctypes.memset(buffer, 0, size)
        return size
    return done


def hangs(read: Read, path: int, buffer: int, size: int, offset: int, info: int) -> int:
    """What is damaged is tried for ever."""
    done = read(path, buffer, size, offset, info)
    while done == -errno.EIO:
        time.sleep(1)
    return done


def another_error(read: Read, path: int, buffer: int, size: int, offset: int, info: int) -> int:
    """What is damaged is said to be missing."""
    done = read(path, buffer, size, offset, info)
    return -errno.ENOENT if done == -errno.EIO else done


def shifted(read: Read, path: int, buffer: int, size: int, offset: int, info: int) -> int:
    """Bytes of another place."""
    return read(path, buffer, size, offset + PAGE * now(), info)


def stale(read: Read, path: int, buffer: int, size: int, offset: int, info: int) -> int:
    """Bytes of an earlier answer of the same length."""
    done = read(path, buffer, size, offset, info)
    if done > 0:
        data = ctypes.string_at(buffer, done)
        if now() and done in last:
            ctypes.memmove(buffer, last[done], done)
        last[done] = data
    return done


def short(read: Read, path: int, buffer: int, size: int, offset: int, info: int) -> int:
    """Less than there is."""
    done = read(path, buffer, size, offset, info)
    return done - done // 2 if now() else done


def no_holes(seek: Read, path: int, offset: int, whence: int, info: int) -> int:
    """Holes are data."""
    return offset if whence == os.SEEK_DATA else seek(path, offset, whence, info)


def no_xattr(get: Read, path: int, name: int, buffer: int, size: int) -> int:
    """An attribute has no value."""
    return 0 if now() else get(path, name, buffer, size)


def name_missing(
    read: Read, path: int, buffer: int, fill: Read, offset: int, info: int, flags: int
) -> int:
    """A name of a directory is left out."""

    def filling(*entry: Any) -> int:
        return 0 if now() else fill(*entry)

    return read(path, buffer, FILL(filling), offset, info, flags)


MUTANTS: dict[str, tuple[str, Any, Read]] = {
    "zeros": ("read", READ, zeros),
    "hangs": ("read", READ, hangs),
    "another error": ("read", READ, another_error),
    "shifted": ("read", READ, shifted),
    "stale": ("read", READ, stale),
    "short": ("read", READ, short),
    "no holes": ("lseek", SEEK, no_holes),
    "no xattr": ("getxattr", XATTR, no_xattr),
    "name missing": ("readdir", LIST, name_missing),
}


def infect(mutant: str) -> None:
    operation, kind, wrong = MUTANTS[mutant]
    sound = native.fuse_operations
    kept: list[Any] = []

    def infected(*given: Any) -> dict[str, int]:
        table = sound(*given)
        was = kind(table[operation])
        kept.append(kind(lambda *args: wrong(was, *args)))
        table[operation] = ctypes.cast(kept[-1], ctypes.c_void_p).value or 0
        return table

    native.fuse_operations = infected


if __name__ == "__main__":
    infect(sys.argv[1])
    sys.exit(run(sys.argv[2:]))
