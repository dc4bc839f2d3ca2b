"""Outputs: where an export goes. A file appears under its name when it is whole, or not at all."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from snapstore.base.bytestext import to_text
from snapstore.base.errors import (
    NoSpace,
    SnapstoreError,
    StorageError,
    TargetDenied,
    TargetInvalid,
)

_HINT = "name a file in a directory that is there and that you may write to"


@contextlib.contextmanager
def opened(file: Any) -> Iterator[int]:
    """A descriptor to write to: of a path, of an object with `fileno()`, or `file` itself.

    What is no regular file (a FIFO, `/dev/null`) is written to as it is. TargetInvalid,
    TargetDenied; trouble with writing: NoSpace, StorageError, BrokenPipeError.
    """
    path = None
    try:
        if isinstance(file, int):
            yield file
        elif hasattr(file, "fileno"):
            file.flush()
            yield file.fileno()
        else:
            path = os.path.realpath(os.fsencode(file))
            with _opened_path(path) as descriptor:
                yield descriptor
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failure(path, error) from error


@contextlib.contextmanager
def _opened_path(path: bytes) -> Iterator[int]:
    try:
        replaces = not os.path.lexists(path) or stat.S_ISREG(os.stat(path).st_mode)
        temporary = _beside(path) if replaces else path
        how = os.O_CREAT | os.O_EXCL if replaces else 0
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CLOEXEC | how, 0o666)
    except PermissionError as error:
        raise TargetDenied(_message(path, error), hint=_HINT) from error
    except OSError as error:
        raise TargetInvalid(_message(path, error), hint=_HINT) from error
    try:
        yield descriptor
        if replaces:
            os.fsync(descriptor)
            os.replace(temporary, path)
    except BaseException:
        if replaces:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _failure(path: bytes | None, error: OSError) -> SnapstoreError:
    """Our error for one of writing, of the same classes as those of the core."""
    name = "the output" if path is None else to_text(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"no space left: cannot write to {name}", hint="free some space, then run it again"
        )
    return StorageError(
        f"cannot write to {name}: {error.strerror or error}", hint="write it somewhere else"
    )


def _message(path: bytes, error: OSError) -> str:
    return f"cannot write {to_text(path)}: {error.strerror}"


def _beside(path: bytes) -> bytes:
    folder, name = os.path.split(path)
    return os.path.join(folder, b".%s.%s" % (name[:200], os.urandom(8).hex().encode()))
