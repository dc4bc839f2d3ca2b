"""A restore by somebody who is not root: what cannot be restored is listed exactly, all else is
there, and the command ends with exit status 3.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_trees import USER, Require, as_user, public_place, require_python_for_all

import snapstore
from tree_scan import Fact, Facts, assert_same, scan

FOREIGN = 1
DEVICES = {"null": stat.S_IFCHR, "dir/disk": stat.S_IFBLK}
LEFT_OUT = "; setuid and setgid were left out"

pytestmark = pytest.mark.needs("root", "mknod", "xattr")


@pytest.fixture
def place() -> Iterator[Path]:
    with public_place() as path:
        yield path


def fill(top: Path) -> None:
    """Entries of the user, and of others, with what only root may give back."""
    (top / "dir").mkdir(parents=True)
    (top / "foreign dir").mkdir()
    for name in ("own", "foreign", "setuid", "own setuid", "trusted", "dir/own", "foreign dir/own"):
        (top / name).write_bytes(name.encode() * 1_000)
    (top / "link").symlink_to("own")
    (top / "foreign link").symlink_to("own")
    os.mkfifo(top / "fifo")
    for name, kind in DEVICES.items():
        os.mknod(top / name, kind | 0o666, os.makedev(1, 3))
    os.link(top / "foreign", top / "dir/foreign again")
    os.link(top / "null", top / "dir/null again")
    for path in (top, *top.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    for name in ("foreign", "setuid", "foreign dir"):
        os.chown(top / name, FOREIGN, USER)
    os.chown(top / "foreign link", FOREIGN, FOREIGN, follow_symlinks=False)
    os.chown(top / "dir/disk", 0, 0)
    (top / "setuid").chmod(0o6711)
    (top / "own setuid").chmod(0o4711)
    (top / "foreign dir").chmod(0o3777)
    for name in ("trusted", "dir"):
        os.setxattr(top / name, "trusted.t", b"1")
        os.setxattr(top / name, "user.u", b"2")
    os.setxattr(top / "own", "security.test", b"3")
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 10**18 + 7), follow_symlinks=False)


PROBLEMS = {
    ("dir", "xattr trusted.t"),
    ("dir/disk", "device"),
    ("dir/foreign again", "owner"),  # of hard links, the first path is the one that is written
    ("dir/null again", "device"),
    ("foreign dir", "owner"),
    ("foreign link", "owner"),
    ("null", "link"),
    ("own", "xattr security.test"),
    ("setuid", "owner"),
    ("trusted", "xattr trusted.t"),
}


@pytest.fixture
def taken(place: Path, require: Require) -> Facts:
    """A store that everybody may read, with a snapshot; gives what is in it. Made by root."""
    require_python_for_all(require)
    fill(place / "top")
    with snapstore.init(place / "store") as store:
        assert not store.create(place / "top").partial
    subprocess.run(["chmod", "-R", "a+rX", place / "store"], check=True)
    subprocess.run(["chmod", "0700", place / "store/local"], check=True)
    (place / "home").mkdir()
    os.chown(place / "home", USER, USER)
    return scan(place / "top")


def restore(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snapstore.cli", "--store", str(place / "store"), "restore"]
    return as_user(*command, "latest", "--target", place / "home/out", *options)


def test_what_cannot_be_restored_is_listed_exactly(place: Path, taken: Facts) -> None:
    done = restore(place, "--json")
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    prefix = f"{place}/home/out/"
    found = {item["path"].removeprefix(prefix): item for item in result["problems"]}
    assert {(path, item["what"]) for path, item in found.items()} == PROBLEMS
    assert len(result["problems"]) == result["problem_count"] == len(PROBLEMS)
    assert result["success"] is False
    reasons = {path: item["reason"] for path, item in found.items()}
    assert reasons.pop("null") == "cannot link it to dir/null again: No such file or directory"
    for path, reason in reasons.items():
        left_out = LEFT_OUT if path in ("foreign dir", "setuid") else ""
        assert reason == "Operation not permitted" + left_out, path


def as_restored(facts: Facts) -> Facts:
    """What a user can have of these facts."""
    found: Facts = {}
    for path, fact in facts.items():
        if fact.type in ("chardev", "blockdev"):
            continue
        own = fact.uid == fact.gid == USER
        found[path] = Fact(
            fact.type,
            fact.mode if own or fact.type == "symlink" else fact.mode & ~0o6000,
            USER,
            USER,
            fact.mtime_ns,
            fact.size,
            fact.content,
            fact.holes,
            fact.target,
            None,
            {name: value for name, value in fact.xattrs.items() if name.startswith(b"user.")},
            fact.group,
        )
    return found


def test_everything_else_is_restored(place: Path, taken: Facts) -> None:
    assert restore(place, "--verify").returncode == 3
    assert_same(as_restored(taken), scan(place / "home/out"))


def test_the_list_is_on_stderr(place: Path, taken: Facts) -> None:
    """Paths stand below what is the same for several; those alone say themselves what it is."""
    done = restore(place)
    assert done.returncode == 3
    listed, what = set(), ""
    for line in done.stderr.splitlines():
        path, *alone = line.removeprefix(f"  {place}/home/out/").split(": ")
        if not line.startswith("  "):
            what = path
        else:
            listed.add((path, alone[0] if alone else what))
    assert listed == PROBLEMS


def test_a_complete_restore_ends_with_0(place: Path, taken: Facts) -> None:
    """Chosen paths that hold nothing which only root may give back."""
    done = restore(place, f"{place}/top/fifo", f"{place}/top/link")
    assert done.returncode == 0, done.stderr
    assert set(scan(place / "home/out")) == {b"", b"fifo", b"link"}


def test_a_target_without_permission(place: Path, taken: Facts) -> None:
    os.chown(place / "home", 0, 0)
    done = restore(place)
    assert done.returncode == 14
    assert "snap: error: " in done.stderr
    assert not (place / "home/out").exists()
