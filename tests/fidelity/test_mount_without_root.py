"""Mounting by somebody who is not root: in a file system namespace of its own, where everybody may
use FUSE, as on most machines.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kept_trees import USER, Require, public_place, run

pytestmark = pytest.mark.needs(
    *("root", "fuse", "fusermount3", "mount", "mknod", "unshare", "nsenter", "setpriv")
)
ANOTHER = 1
FUSE = (10, 229)
PATIENCE_S = 10.0
ROOT = Path(__file__).parents[2]


class Machine:
    """A view of this machine with another /dev/fuse and /etc/fuse.conf, and with this Python where
    everybody can reach it.
    """

    def __init__(self, place: Path, process: subprocess.Popen[bytes]) -> None:
        self.place, self.process = place, process
        self.home = place / "home"
        self.python = place / "python/bin" / f"python{sysconfig.get_python_version()}"
        packages = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(self.home),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{place}/project/src:{place}/venv/{packages}",
            "LD_LIBRARY_PATH": f"{place}/python/lib",
        }

    def inside(self, *command: str | Path) -> list[str | Path]:
        return ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--", *command]

    def root(self, *command: str | Path) -> str:
        return run(*self.inside(*command))

    def run(self, *command: str | Path, user: int = USER) -> subprocess.CompletedProcess[str]:
        """Runs a command as a user, in the user's home."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        clean = ["env", "-i", "-C", self.home, *map("=".join, self.environment.items())]
        return subprocess.run(
            self.inside(*become, "--", *clean, *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def snap(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run(self.python, "-m", "snapstore.cli", "-s", self.home / "store", *arguments)

    def mounts(self) -> list[str]:
        lines = Path(f"/proc/{self.process.pid}/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines if " fuse.snapstore " in line]

    def servers(self) -> list[int]:
        """Processes of the user that serve a mount."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                if path.stat().st_uid == USER and os.fsencode(self.home / "store") in words:
                    found.append(int(path.name))
        return found


@pytest.fixture(scope="module")
def machine(require: Require) -> Iterator[Machine]:
    with public_place() as place:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        machine = Machine(place, process)
        try:
            settle(machine)
            if machine.run(machine.python, "-c", "import snapstore.api").returncode:
                require("a Python that every user can run")
            yield machine
        finally:
            for server in machine.servers():
                os.kill(server, signal.SIGKILL)
            process.kill()
            process.wait()
            process.stdout.close()


def settle(machine: Machine) -> None:
    place = machine.place
    for name, what in (("python", sys.base_prefix), ("venv", sys.prefix), ("project", ROOT)):
        (place / name).mkdir()
        machine.root("mount", "--bind", what, place / name)
    (place / "nodes").mkdir()
    machine.root("mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "none", place / "nodes")
    machine.root("mknod", "-m", "666", place / "nodes/fuse", "c", *map(str, FUSE))
    machine.root("mount", "--bind", place / "nodes/fuse", "/dev/fuse")
    (place / "fuse.conf").write_text("# user_allow_other\n")
    machine.root("mount", "--bind", place / "fuse.conf", "/etc/fuse.conf")
    machine.home.mkdir()
    (machine.home / "source").mkdir()
    (machine.home / "source/f").write_text("content")
    (machine.home / "source/secret").write_text("secret")
    (machine.home / "source/secret").chmod(0o600)
    (machine.home / "mnt").mkdir()
    for path in (machine.home, *machine.home.rglob("*")):
        os.chown(path, USER, USER)
    for arguments in (("init",), ("create", machine.home / "source", "--name", "one")):
        done = machine.snap(*arguments)
        assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def nothing_stays(machine: Machine) -> Iterator[None]:
    yield
    for path in machine.mounts():
        machine.root("umount", "-l", path)
    eventually(lambda: not machine.servers())


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def mounted(machine: Machine, *options: str) -> Iterator[Path]:
    """Where the source is in the mount of a snapshot."""
    done = machine.snap("mount", "one", "mnt", "--daemon", *options)
    assert done.returncode == 0, done.stderr
    yield machine.home / "mnt" / str(machine.home / "source").lstrip("/")
    done = machine.snap("umount", "mnt")
    assert done.returncode == 0, done.stderr
    assert machine.mounts() == []


def test_from_mounting_to_unmounting(machine: Machine) -> None:
    with mounted(machine) as inside:
        assert machine.run("ls", inside).stdout.split() == ["f", "secret"]
        assert machine.run("cat", inside / "f", inside / "secret").stdout == "contentsecret"
        status = machine.run("stat", "-c", "%u %g %a", inside / "secret").stdout.split()
        assert status == [str(USER), str(USER), "600"]
        (line,) = [
            line
            for line in Path(f"/proc/{machine.process.pid}/mountinfo").read_text().splitlines()
            if f" {machine.home}/mnt " in line
        ]
        assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))


def test_nobody_else_is_let_in(machine: Machine) -> None:
    with mounted(machine) as inside:
        for user in (ANOTHER, 0):
            done = machine.run("cat", inside / "f", user=user)
            assert "Permission denied" in done.stderr and not done.stdout


def test_others_are_let_in_where_the_machine_allows_it(machine: Machine) -> None:
    done = machine.snap("mount", "one", "mnt", "--daemon", "--allow-other", "--json")
    assert done.returncode == 14
    error = json.loads(done.stderr[done.stderr.index("{") :])
    assert "user_allow_other is not set in /etc/fuse.conf" in str(error)
    assert machine.mounts() == []
    allowing = machine.place / "allowing.conf"
    allowing.write_text("user_allow_other\n")
    machine.root("mount", "--bind", allowing, "/etc/fuse.conf")
    try:
        with mounted(machine, "--allow-other") as inside:
            assert machine.run("cat", inside / "f", user=ANOTHER).stdout == "content"
            done = machine.run("cat", inside / "secret", user=ANOTHER)
            assert "Permission denied" in done.stderr and not done.stdout
    finally:
        machine.root("umount", "/etc/fuse.conf")


@pytest.mark.parametrize(
    ("owner", "mode", "why"),
    [(0, 0o755, "write"), (0, 0o1777, "owner"), (USER, 0o555, "write")],
    ids=["another's", "everybody's", "read only"],
)
def test_mount_points_that_are_not_for_the_user(
    machine: Machine, owner: int, mode: int, why: str
) -> None:
    """What fusermount3 does not let them have is refused in a sentence that says why."""
    with public_place() as path:
        os.chown(path, owner, owner)
        path.chmod(mode)
        done = machine.snap("mount", "one", path, "--daemon")
        assert done.returncode == 14
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("snap: error: ")]
        assert os.fspath(path) in said and why in said
        assert machine.mounts() == []


def test_where_fuse_is_for_root_only(machine: Machine) -> None:
    machine.root("chmod", "600", "/dev/fuse")
    try:
        done = machine.snap("mount", "one", "mnt", "--daemon")
    finally:
        machine.root("chmod", "666", "/dev/fuse")
    assert done.returncode == 14
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("snap: error: ")]
    assert "/dev/fuse" in said and "Permission denied" in said


def test_what_a_killed_server_left_is_cleared_away(machine: Machine) -> None:
    assert machine.snap("mount", "one", "mnt", "--daemon").returncode == 0
    (server,) = machine.servers()
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not machine.servers())
    eventually(lambda: "not connected" in machine.run("ls", "mnt").stderr)
    done = machine.snap("mount", "one", "mnt", "--daemon")
    assert done.returncode == 0 and "cleared away" in done.stderr
    assert machine.run("ls", "mnt").stdout
    assert machine.snap("umount", "mnt").returncode == 0


def test_a_killed_one_is_unmounted_though_it_is_in_use(machine: Machine) -> None:
    assert machine.snap("mount", "one", "mnt", "--daemon").returncode == 0
    with in_use(machine):
        busy = machine.snap("umount", "mnt")
        assert busy.returncode == 14 and "busy" in busy.stderr
        (server,) = machine.servers()
        os.kill(server, signal.SIGKILL)
        eventually(lambda: not machine.servers())
        done = machine.snap("umount", "mnt")
        assert done.returncode == 0 and "lost its process" in done.stderr, done.stderr
        assert machine.mounts() == []


@pytest.mark.parametrize("listed", [True, False], ids=["connections listed", "not listed"])
def test_a_stopped_one_is_unmounted(machine: Machine, listed: bool) -> None:
    """And cut off, where the kernel's list of connections is mounted."""
    if listed:
        machine.root("mount", "-t", "fusectl", "none", "/sys/fs/fuse/connections")
    elif Path("/sys/fs/fuse/connections").exists() and os.listdir("/sys/fs/fuse/connections"):
        machine.root("umount", "/sys/fs/fuse/connections")
    assert machine.snap("mount", "one", "mnt", "--daemon").returncode == 0
    (server,) = machine.servers()
    with in_use(machine):
        os.kill(server, signal.SIGSTOP)
        start = time.monotonic()
        done = machine.snap("umount", "mnt")
        assert time.monotonic() - start < 5
        assert done.returncode == 0 and "did not answer" in done.stderr, done.stderr
        assert ("waits until" in done.stderr) is not listed
        assert machine.mounts() == []
    os.kill(server, signal.SIGCONT)
    eventually(lambda: not machine.servers())
    if listed:
        machine.root("umount", "/sys/fs/fuse/connections")


@contextlib.contextmanager
def in_use(machine: Machine) -> Iterator[None]:
    """By somebody who stands in it."""
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    stand = ["sh", "-c", 'cd "$1" && echo && exec sleep 1000', "sh", machine.home / "mnt"]
    process = subprocess.Popen(machine.inside(*become, *stand), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("owner", [USER, 0], ids=["own", "another's"])
def test_a_store_that_is_only_read(machine: Machine, owner: int) -> None:
    """No lease is taken; what is shown is the same."""
    store = machine.home / "store"
    copied = machine.place / f"store of {owner}"
    machine.root("cp", "-a", store, copied)
    machine.root("chown", "-R", str(owner), copied)
    machine.root("chmod", "-R", "a+rX,a-w", copied)
    done = machine.run(
        *(machine.python, "-m", "snapstore.cli", "-s", copied, "mount", "one", "mnt", "--daemon")
    )
    assert done.returncode == 0, done.stderr
    inside = machine.home / "mnt" / str(machine.home / "source").lstrip("/")
    assert machine.run("cat", inside / "f").stdout == "content"
    assert os.listdir(copied / "sess") == []
    assert machine.snap("umount", "mnt").returncode == 0


def test_the_library_tells_the_same(machine: Machine) -> None:
    code = f"""
import snapstore
with snapstore.open({os.fspath(machine.home / "store")!r}) as store:
    with store.mounted("mnt", "one") as path:
        print((path / {str(machine.home / "source/f").lstrip("/")!r}).read_text())
    try:
        with store.mounted("mnt", "one", allow_other=True):
            pass
    except snapstore.MountRefused as error:
        print(error.message)
"""
    done = machine.run(machine.python, "-c", code)
    content, refused = done.stdout.splitlines()
    assert content == "content" and "user_allow_other" in refused, done.stderr


def test_the_measure_is_another_user(machine: Machine) -> None:
    """Nothing of this is done by root."""
    assert machine.run("id", "-u").stdout.strip() == str(USER)
    assert machine.run("cat", "/etc/shadow").returncode != 0
