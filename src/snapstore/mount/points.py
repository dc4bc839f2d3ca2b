"""Mount points: what is mounted, whether a directory can be mounted over, and unmounting."""

import contextlib
import ctypes
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from snapstore.base.errors import MountRefused, MountUnavailable, SnapstoreError

TYPE = "fuse.snapstore"
_FUSE_CONF = "/etc/fuse.conf"
_MNT_FORCE, _MNT_DETACH = 1, 2
_PATIENCE_S = 2.0

# Ends with 1 when the process of a mount is gone. What is wrong with a store is an answer; stat
# answers from what the kernel knows.
_ASK = """
import errno, os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(error.errno in (errno.ENOTCONN, errno.ECONNABORTED))
"""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of the kernel's table of mounts."""

    path: str
    type: str
    device: str


def mounts() -> list[Mounted]:
    """What is mounted, the oldest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        path = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        path = path.encode("latin-1").decode("utf-8", "surrogateescape")
        found.append(Mounted(path, after.split()[0], fields[2]))
    return found


def find_mount(path: Path) -> Mounted | None:
    """The mount of ours that is at a path."""
    here = [one for one in mounts() if one.path == os.path.abspath(path)]
    return here[-1] if here and here[-1].type == TYPE else None


class Server(Enum):
    """The process of a mount: it answers, is gone, or does not answer in good time."""

    ANSWERS = 0
    GONE = 1
    SILENT = 2


def ask(path: Path) -> Server:
    """What there is of the process of the mount at `path`. Takes `_PATIENCE_S` at most."""
    if not sys.executable:
        return Server.ANSWERS
    # Who waits for an answer can perhaps not even be killed, so that is another process.
    command = [sys.executable, "-I", "-S", "-c", _ASK, os.path.abspath(path)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        return Server.GONE if child.wait(_PATIENCE_S) else Server.ANSWERS
    except subprocess.TimeoutExpired:
        child.kill()
        return Server.SILENT


def unmount(path: Path, *, lazy: bool = False) -> str | None:
    """Unmounts what a mount of ours shows at `path`. `lazy`: as soon as nobody uses it any more.
    When its process is gone, or does not answer, that is at once and in any case: nobody is to wait
    for it; then a sentence says so. MountRefused when there is no such mount, or it is busy.
    """
    mounted = _ours(path)
    server = ask(path)
    if server is Server.ANSWERS:
        detach(path, lazy=lazy)
        return None
    said = f"the mount at {path} had lost its process"
    if server is Server.SILENT:
        said = f"the process of the mount at {path} did not answer"
        if not _cut_off(path, mounted):
            said += ": whoever reads there waits until it does, or is killed"
    if find_mount(path) is not None:
        detach(path)
    return said


def detach(path: Path, *, lazy: bool = True) -> None:
    """Unmounts what a mount of ours shows at `path`, without a question to its process.
    MountRefused.
    """
    _ours(path)
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), os.path.abspath(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MountUnavailable(
            f"unmounting needs fusermount3: {error.strerror}", hint="install the package fuse3"
        ) from error
    if done.returncode:
        raise MountRefused(
            f"cannot unmount {path}: {done.stderr.strip().rpartition(': ')[2] or 'it is busy'}",
            hint="close what uses it; --lazy unmounts it as soon as nobody does any more",
            path=os.fspath(path),
        )


def _ours(path: Path) -> Mounted:
    found = find_mount(path)
    if found is None:
        raise MountRefused(f"no snapshots are mounted at {path}", path=os.fspath(path))
    return found


def _cut_off(path: Path, mounted: Mounted) -> bool:
    """Ends the kernel's connection with the process of a mount: whoever waits for an answer gets an
    error. False when it cannot be done: root always can, and others where the kernel's list of
    connections is mounted.
    """
    number = mounted.device.partition(":")[2]
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{number}/abort").write_text("1")
        return True
    place = os.fsencode(os.path.abspath(path))
    return bool(ctypes.CDLL(None).umount2(place, _MNT_FORCE | _MNT_DETACH) == 0)


def prepare(mountpoint: Path, store: Path) -> str | None:
    """Checks a mount point. What a mount that was killed left there is cleared away: then a
    sentence says so. MountRefused.
    """
    said = None
    path = Path(os.path.abspath(mountpoint))
    while find_mount(path) is not None:
        if ask(path) is not Server.GONE:
            raise MountRefused(
                f"something is mounted at {path} already",
                hint=f"snap umount {path}",
                path=os.fspath(path),
            )
        detach(path)
        said = f"the mount at {path} had lost its process and was cleared away"
    refused = {"path": os.fspath(path)}
    try:
        inside = os.listdir(path)
    except FileNotFoundError:
        raise MountRefused(f"{path} does not exist", hint="make the directory", **refused) from None
    except NotADirectoryError:
        raise MountRefused(f"{path} is not a directory", **refused) from None
    except OSError as error:
        raise MountRefused(f"cannot list {path}: {error.strerror}", **refused) from error
    real, real_store = path.resolve(), store.resolve()
    if real == real_store or real_store in real.parents:
        raise MountRefused(f"{path} is in the store", **refused)
    if real in real_store.parents:
        raise MountRefused(f"the store is below {path}: it would be hidden", **refused)
    if inside:
        raise MountRefused(f"{path} is not empty", hint="mount over an empty directory", **refused)
    return said


def refusal(path: Path, allow_other: bool) -> SnapstoreError | None:
    """Why a mount at `path` did not come about, as far as that is a matter of permission."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return MountUnavailable(
            f"cannot mount {path}: cannot open /dev/fuse: {error.strerror}",
            hint="load the kernel's module fuse, and let users open the device",
        )
    if os.geteuid() == 0:
        return None
    why = hint = None
    state = path.stat()
    if allow_other and not _allows_others():
        why = "user_allow_other is not set in /etc/fuse.conf, without which nobody else is let in"
        hint = "leave out --allow-other, or have root add that line"
    elif not os.access(path, os.W_OK):
        why = "you may not write to that directory"
        hint = "mount over a directory of your own"
    elif state.st_mode & stat.S_ISVTX and state.st_uid != os.geteuid():
        why = "that directory is everybody's, and you are not its owner"
        hint = "mount over a directory of your own"
    if why is None:
        return None
    return MountRefused(f"cannot mount {path}: {why}", hint=hint, path=os.fspath(path))


def _allows_others() -> bool:
    try:
        lines = Path(_FUSE_CONF).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.partition("#")[0].strip() == "user_allow_other" for line in lines)
