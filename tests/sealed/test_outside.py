"""Of a life of the command with an encrypted store, nothing gets out: no password anywhere, no
content and no name into the store.
"""

import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealed_world import CHEAP, objects_of

import snapstore

HOOK = Path(__file__).with_name("who_sees.py")
MARK = os.urandom(6).hex()
PASSWORD, SECOND = f"first-{MARK}-password".encode(), f"second-{MARK}-password".encode()
NAME, LABEL = f"name-{MARK}-of-file".encode(), f"label-{MARK}-of-snapshot".encode()
CONTENT = f"content-{MARK}-of-file\n".encode()
SMALL = f"small-{MARK}-content".encode()
"""Of a file that stands in its directory's record."""
NAMED = {"stat", "heads", "jobs"}
"""What in the directory for all that is derived has names of files in it (docs/passwords.md)."""


class Life:
    """Runs the command, and keeps all that it says."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store, self.source, self.seen = place / "store", place / "source", place / "seen"
        self.cache, self.temporary = place / "cache", place / "temporary"
        self.said = b""
        self.source.mkdir()
        self.temporary.mkdir()
        for number in range(3):
            path = self.source / f"{NAME.decode()}-{number}"
            path.write_bytes(CONTENT * (10 + 4000 * number))
        (self.source / "small").write_bytes(SMALL)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place / "home"),
            "LANG": "C.UTF-8",
            "SNAP_STORE": str(self.store),
            "SNAP_DEBUG": "1",
            "XDG_CACHE_HOME": str(self.cache),
            "TMPDIR": str(self.temporary),
        }

    def snap(self, *arguments: "str | Path", status: int = 0, **secrets: bytes) -> bytes:
        """What a run printed. `SNAP_PASSWORD_FD=b"…"`: the password comes by a descriptor."""
        environment, passed = dict(self.environment), []
        for variable, secret in (secrets or {"SNAP_PASSWORD_FD": PASSWORD}).items():
            if variable.endswith("_FD"):
                reading, writing = os.pipe()
                os.write(writing, secret)
                os.close(writing)
                passed.append(reading)
                environment[variable] = str(reading)
            else:
                environment[variable] = secret.decode()
        done = subprocess.run(
            [sys.executable, "-m", "snapstore.cli", *arguments],
            env=environment,
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.place,
            check=False,
        )
        for descriptor in passed:
            os.close(descriptor)
        self.said += done.stdout + done.stderr
        assert done.returncode == status, done.stderr.decode()
        return done.stdout

    def hooks(self) -> list[str]:
        command = [sys.executable, str(HOOK), str(self.seen), str(os.getpid())]
        return ["--hook-before", shlex.join(command), "--hook-finally", shlex.join(command)]


def files_below(top: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each file; the path counts too."""
    for path in sorted(top.rglob("*")):
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        yield str(path.relative_to(top)), data


def holding(top: Path, *marks: bytes) -> list[str]:
    """Files with one of these in their name or content."""
    found = files_below(top)
    return [name for name, data in found if any(m in data or m in name.encode() for m in marks)]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    life = Life(tmp_path_factory.mktemp("life"))
    snap, hooks, target = life.snap, life.hooks(), life.place / "out"
    snap("init", "--encrypt", "--unlock-time", "0")
    snap("create", life.source, "--name", LABEL.decode(), "--tag", LABEL.decode())
    snap("create", life.source, "--json")
    for arguments in (["list"], ["list", "--json"], ["show", "latest"], ["ls", "latest"]):
        snap(*arguments)
    snap("check", "--read-data", "--json")
    snap("restore", "latest", "--target", target, *hooks)
    (life.source / f"{NAME.decode()}-1").write_bytes(CONTENT + b"changed")
    snap("restore", "latest", "-y", *hooks, SNAP_PASSWORD=PASSWORD)
    snap("undo", "-y")
    snap("key", "add", "more", SNAP_PASSWORD_FD=PASSWORD, SNAP_NEW_PASSWORD_FD=SECOND)
    snap("key", "list", SNAP_PASSWORD=SECOND)
    job = snap("restore", "latest", "--target", life.place / "later", "--detach", *hooks)
    snap("jobs", "--follow", job.decode().split()[-1])
    snap("list", status=12, SNAP_PASSWORD=b"not " + PASSWORD)
    snap("list", status=12, SNAP_PASSWORD=PASSWORD + b"\0"[:0] + b"x")
    return life


def test_what_is_restored_is_what_was_taken(life: Life) -> None:
    """So that all of it was at work."""
    for target in ("out", "later"):
        assert len(holding(life.place / target, CONTENT)) == 3
    assert life.seen.read_bytes().count(b"cmdline") >= 12


def test_the_store_tells_nothing(life: Life) -> None:
    marks = (MARK.encode(), CONTENT, SMALL, str(life.source).encode())
    assert not holding(life.store, *marks)
    assert len(objects_of(life.store)) > 10


def test_what_is_derived_has_no_content(life: Life) -> None:
    """But of very small files, and names of files only where it is said that there are."""
    assert not holding(life.cache, PASSWORD, SECOND, CONTENT)
    small = holding(life.cache, SMALL)
    assert {part for name in small for part in Path(name).parts[2:3]} <= {"stat"}, small
    named = holding(life.cache, NAME, str(life.source).encode(), LABEL)
    kinds = {part for name in named for part in Path(name).parts[2:3]}
    assert kinds <= NAMED, named
    inside = list((life.cache / "snapstore").iterdir())
    assert len(inside) == 2 and not [p for p in inside if p.stat().st_mode & 0o077], inside


def test_nothing_is_left_in_temporary_files(life: Life) -> None:
    assert not list(life.temporary.iterdir())


def test_nothing_is_said(life: Life) -> None:
    assert not [mark for mark in (PASSWORD, SECOND, CONTENT, SMALL) if mark in life.said]
    assert LABEL in life.said and b"WrongPassword" in life.said


def test_no_hook_sees_a_password(life: Life) -> None:
    """Nor arguments, environments and descriptors of what started it."""
    seen = life.seen.read_bytes()
    assert b"SNAP_DEBUG=1" in seen and b"cmdline" in seen
    assert PASSWORD not in seen and SECOND not in seen and CONTENT not in seen
    assert not re.search(rb"SNAP_(NEW_)?PASSWORD[A-Z_]*=[^\0]", seen), "not overwritten"


@pytest.mark.needs("fuse")
def test_a_mount_tells_nothing(life: Life) -> None:
    mountpoint = life.place / "mounted"
    mountpoint.mkdir()
    life.snap("mount", "--daemon", "latest", mountpoint)
    try:
        assert len(holding(mountpoint, CONTENT)) == 3
        seen = b""
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _is_ours(process, life.store):
                seen += (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert PASSWORD not in seen
    finally:
        life.snap("umount", mountpoint)
    test_what_is_derived_has_no_content(life)
    test_nothing_is_left_in_temporary_files(life)
    test_nothing_is_said(life)


def _is_ours(process: Path, store: Path) -> bool:
    """Started by a command of ours with this store."""
    try:
        if b"snapstore" not in (process / "cmdline").read_bytes():
            return False
        return f"SNAP_STORE={store}".encode() in (process / "environ").read_bytes()
    except OSError:
        return False


def test_a_job_leaves_no_core_dump(tmp_path: Path) -> None:
    """It holds keys, whoever started it; `exec` made it a process like any other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    (tmp_path / "source").mkdir()
    seen = tmp_path / "seen"
    command = [sys.executable, str(HOOK), str(seen), str(os.getpid())]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        how = {"password": PASSWORD, "kdf": CHEAP, "cache_dir": tmp_path / "cache"}
        with snapstore.init(tmp_path / "store", **how) as store:  # type: ignore[arg-type]
            store.create(tmp_path / "source")
            hooks = {"before": command}
            job = store.restore_detached("latest", target=tmp_path / "out", hooks=hooks)
            job.wait()
            assert job.state == "done", job.output
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    limits = re.findall(rb"Max core file size +(\S+)", seen.read_bytes())
    assert len(limits) >= 2 and set(limits) == {b"0"}
