"""Mount points: what is mounted, whether a directory can be mounted over, and unmounting."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from snapstore.base.errors import MountRefused, MountUnavailable

TYPE = "fuse.snapstore"


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


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Unmounts what a mount of ours shows at `path`. `lazy`: as soon as nobody uses it any more.
    MountRefused when there is no such mount, or it is busy.
    """
    if find_mount(path) is None:
        raise MountRefused(f"no snapshots are mounted at {path}", path=os.fspath(path))
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


def prepare(mountpoint: Path, store: Path) -> str | None:
    """Checks a mount point. What a mount that was killed left there is cleared away: then a
    sentence says so. MountRefused.
    """
    said = None
    path = Path(os.path.abspath(mountpoint))
    if find_mount(path) is not None:
        try:
            os.statvfs(path)  # stat answers from what the kernel knows
        except OSError:
            unmount(path, lazy=True)
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
    if find_mount(path) is not None:
        raise MountRefused(
            f"something is mounted at {path} already", hint=f"snap umount {path}", **refused
        )
    if inside:
        raise MountRefused(f"{path} is not empty", hint="mount over an empty directory", **refused)
    return said
