"""What tests may need of the machine.

A test that needs root, loop devices or a program says so by `@pytest.mark.needs("root",
"mkfs.ext4")`, or inside by the fixture `require`: `require("loop")`. Where something is missing,
the test is skipped and the reason names it; with SNAP_STRICT=1 (CI) it fails. A need is one of
`PROBES`, or else a program on PATH.
"""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"


def _root() -> bool:
    return os.geteuid() == 0


def _unprivileged() -> bool:
    """A way to act as a user who is not root: being one, or being able to become `nobody`."""
    return not _root() or shutil.which("setpriv") is not None


def _loop() -> bool:
    """Loop devices can be attached."""
    if not _root() or shutil.which("losetup") is None:
        return False
    with tempfile.NamedTemporaryFile() as image:
        image.truncate(1 << 20)
        attach = ["losetup", "--find", "--show", image.name]
        done = subprocess.run(attach, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)
    return done.returncode == 0


def _mount() -> bool:
    """File systems can be mounted."""
    if not _root() or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place]
        done = subprocess.run(mount, capture_output=True, check=False)
        if done.returncode == 0:
            subprocess.run(["umount", place], check=True)
    return done.returncode == 0


def _mknod() -> bool:
    """Device nodes can be made."""
    with tempfile.TemporaryDirectory() as place:
        try:
            os.mknod(Path(place, "null"), 0o20600, os.makedev(1, 3))
        except PermissionError:
            return False
    return True


def _xattr() -> bool:
    """The temporary directory's file system has user attributes."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.setxattr(file.name, "user.test", b"1")
        except OSError:
            return False
    return True


def _holes() -> bool:
    """The temporary directory's file system has sparse files and tells where data lie."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(1 << 20)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0 and os.stat(file.name).st_blocks == 0


def _huge_files() -> bool:
    """The temporary directory's file system has sparse files of 4 TiB."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            file.truncate(4 << 40)
        except OSError:
            return False
    return _holes()


def _preallocation() -> bool:
    """The temporary directory's file system can reserve space."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
        except OSError:
            return False
    return True


def _trace() -> bool:
    """System calls can be traced."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o/dev/null", "true"], capture_output=True).returncode == 0


def _seccomp() -> bool:
    """A process can be asked about the system calls of another."""
    try:
        return "user_notif" in Path("/proc/sys/kernel/seccomp/actions_avail").read_text()
    except OSError:
        return False


def _fuse() -> bool:
    """File systems can be served from a process."""
    return _root() and os.access("/dev/fuse", os.R_OK | os.W_OK)


def _memory_of_children() -> bool:
    """The memory of a process that was started from here can be read."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        try:
            with open(f"/proc/{child.pid}/mem", "rb"):
                return True
        except OSError:
            return False


def _core_dumps() -> bool:
    """A process that is aborted leaves a core dump in its working directory."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return not pattern.startswith("|") and "/" not in pattern and limit == resource.RLIM_INFINITY


PROBES: dict[str, Callable[[], bool]] = {
    "root": _root,
    "unprivileged": _unprivileged,
    "loop": _loop,
    "mount": _mount,
    "mknod": _mknod,
    "xattr": _xattr,
    "holes": _holes,
    "4 TiB files": _huge_files,
    "preallocation": _preallocation,
    "trace": _trace,
    "seccomp": _seccomp,
    "fuse": _fuse,
    "memory of children": _memory_of_children,
    "core dumps": _core_dumps,
}


@cache
def has(need: str) -> bool:
    """Whether this machine has what is needed."""
    probe = PROBES.get(need)
    return probe() if probe else shutil.which(need) is not None


def _require(*needs: str) -> None:
    missing = [need for need in needs if not has(need)]
    if not missing:
        return
    reason = "this machine lacks: " + ", ".join(missing)
    if os.environ.get("SNAP_STRICT") == "1":
        pytest.fail(reason + " (SNAP_STRICT=1)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """`require("root", "mkfs.ext4")`: skips the test, or fails it under SNAP_STRICT=1, where one is
    missing.
    """
    return _require


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one, for stores of which there are many: what a killed
    process or damage leaves is the same there as on a disk.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK | os.X_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="snap-test-") as place:
        yield Path(place)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): what the test needs of the machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        _require(*marker.args)
