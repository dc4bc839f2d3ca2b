"""Medium: what the file system under a store can do."""

import ctypes
import os
import stat
from pathlib import Path

_NETWORKED = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x01021997: "9p",
    0x5346414F: "afs",
    0x00C36400: "ceph",
    0x73757245: "coda",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x786F4256: "vboxsf",
}


def network_kind(path: Path) -> str | None:
    """Name of the network (or FUSE) file system under `path`; None for a local one."""
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), buffer):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(path))
    return _NETWORKED.get(ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF)


def writable(path: Path) -> bool:
    """Whether this process may write in the directory `path`."""
    return os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def private(path: Path) -> bool:
    """Whether `path` is a directory that only this user (and root) can write."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    own = status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
    return stat.S_ISDIR(status.st_mode) and own
