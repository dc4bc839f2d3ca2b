"""What the tests of this folder share: places, file systems of their own, taking and restoring."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import snapstore
from snapstore import CreateResult, RestoreResult, Snapshot
from tree_scan import Facts, assert_same, scan

Require = Callable[..., None]
USER = 65_534
"""Nobody."""


@dataclass
class Kept:
    """A tree that was taken, restored, and taken again."""

    before: Facts
    after: Facts
    out: Path
    created: CreateResult
    restored: RestoreResult
    snapshot: Snapshot
    again: Snapshot


def keep(top: Path, place: Path) -> Kept:
    """Takes `top` into a new store in `place`, restores it there and takes what was restored."""
    before = scan(top)
    out = place / "restored"
    with snapstore.init(place / "store") as store:
        created = store.create(top)
        restored = store.restore("latest", target=out, verify=True)
        again = store.create(out).snapshot
    assert created.snapshot is not None and again is not None
    return Kept(before, scan(out), out, created, restored, created.snapshot, again)


def assert_kept(top: Path, place: Path) -> Kept:
    """That a tree comes back exactly, and gives the same root id when it is taken again."""
    kept = keep(top, place)
    assert (kept.created.unreadable, kept.restored.problems) == ([], [])
    assert_same(kept.before, kept.after)
    assert kept.snapshot.roots[0].id == kept.again.roots[0].id
    return kept


@contextlib.contextmanager
def public_place(inside: str | None = None) -> Iterator[Path]:
    """A new directory that every user can reach, unlike pytest's; removed however deep it is."""
    path = Path(tempfile.mkdtemp(prefix="snap-fidelity-", dir=inside))
    path.chmod(0o755)
    try:
        yield path
    finally:
        if os.geteuid() != 0:
            subprocess.run(["chmod", "-R", "u+rwx", path], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


@contextlib.contextmanager
def file_system(
    require: Require, place: Path, kind: str, *mkfs: str, options: str = "loop", mib: int = 128
) -> Iterator[Path]:
    """A file system of its own in an image file, mounted in `place`."""
    require("loop", "mount", f"mkfs.{kind}")
    image, mounted = place / f"{kind}.image", place / kind
    with open(image, "wb") as file:
        file.truncate(max(mib, 320 if kind == "xfs" else 0) << 20)
    subprocess.run([f"mkfs.{kind}", *mkfs, image], check=True, capture_output=True)
    mounted.mkdir()
    mount: list[str | Path] = ["mount", "-o", options, image, mounted]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        require(f"a kernel that mounts {kind} with {options}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def as_user(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command as somebody who may do nothing special; when not root, as oneself."""
    drop = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        ["setpriv", *drop, "--no-new-privs", "--", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "LANG": "C.UTF-8", "HOME": "/nonexistent"},
    )


def require_python_for_all(require: Require) -> None:
    """That other users can run this Python, which may be in somebody's home directory."""
    require("unprivileged", "setpriv")
    if as_user(sys.executable, "-c", "import snapstore.api").returncode:
        require("a Python that every user can run")


def run(*command: str | Path) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="surrogateescape", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy(source: Path, target: Path) -> None:
    """A copy with everything that `cp` keeps, made with nothing of ours."""
    assert shutil.which("cp")
    run("cp", "--archive", "--sparse=always", source, target)
