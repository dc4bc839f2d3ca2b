"""Mounting from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Snap
from test_cli_json import agree

from snapstore.cli import mount_helper

fuse = pytest.mark.needs("fuse", "fusermount3")


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@fuse
def test_in_the_background_and_back(filled: Snap, files: Path, mountpoint: Path) -> None:
    begun = filled("mount", mountpoint, "--daemon")
    assert (begun.status, begun.stdout) == (0, b"")
    assert begun.stderr.decode() == (
        f"snap: all snapshots mounted at {mountpoint}; snap umount {mountpoint} ends it\n"
    )
    try:
        inside = mountpoint / "latest" / str(files).lstrip("/")
        assert (inside / "docs/note.txt").read_text() == (files / "docs/note.txt").read_text()
        again = filled("mount", mountpoint)
        assert again.status == 14 and "already" in str(again)
    finally:
        ended = filled("umount", mountpoint)
    assert ended.stderr.decode() == f"snap: {mountpoint} is no longer mounted\n"
    assert filled("umount", mountpoint).status == 14


@fuse
def test_documents(filled: Snap, mountpoint: Path) -> None:
    run = filled("mount", "first", mountpoint, "-d", "--json")
    assert (run.status, run.stderr) == (0, b"")
    document = json.loads(run.stdout)
    agree(document, "snap mount")
    assert document == {"mountpoint": str(mountpoint), "reference": "first", "cleared": False}
    run = filled("umount", mountpoint, "--json")
    document = json.loads(run.stdout)
    agree(document, "snap umount")
    assert not os.path.ismount(mountpoint)


@fuse
def test_options_say_what_is_shown(filled: Snap, files: Path, mountpoint: Path) -> None:
    only = files / "docs"
    run = filled(
        *("mount", "first", mountpoint, "-d", "-q", "--path-filter", only),
        *("--uid", "7", "--gid", "8", "--cache-size", "16M"),
    )
    assert (run.status, run.stderr) == (0, b""), str(run)
    try:
        inside = mountpoint / str(files).lstrip("/")
        assert os.listdir(inside) == ["docs"]
        assert (inside / "docs").stat().st_uid == 7
    finally:
        filled("umount", mountpoint)
    run = filled("mount", mountpoint, "-d", "-q", "--time-format", "%Y/%m", "--name", "first")
    assert (run.status, run.stderr) == (0, b""), str(run)
    try:
        (year,) = [name for name in os.listdir(mountpoint / "by-time") if name != "latest"]
        (month,) = os.listdir(mountpoint / "by-time" / year)
        assert len(year) == 4 and len(month) == 2
        assert len(os.listdir(mountpoint / "by-id")) == 1
    finally:
        filled("umount", mountpoint)


def test_what_cannot_be(filled: Snap, mountpoint: Path) -> None:
    for arguments, status in (
        (("mount", mountpoint / "missing"), 14),
        (("mount", "no-such", mountpoint), 13),
        (("mount", "first:/no/such", mountpoint), 13),
        (("mount", mountpoint, "--cache-size", "1M"), 2),
        (("mount", mountpoint, "--uid", "-2"), 2),
        (("mount", mountpoint, "--time-format", "///"), 2),
        (("umount", mountpoint), 14),
    ):
        run = filled(*arguments)
        assert run.status == status, str(run)
        assert b"Traceback" not in run.stderr
        assert not os.path.ismount(mountpoint)


@fuse
def test_as_mount_runs_it(filled: Snap, mountpoint: Path) -> None:
    options = "ro,nodev,noauto,x-systemd.automount,ref=first,uid=5,allow_other"
    given = [str(filled.store), str(mountpoint), "-s", "-o", options]
    arguments, passwords = mount_helper.translate(given)
    assert passwords == {}
    assert filled(*arguments).status == 0
    try:
        assert (mountpoint / os.listdir(mountpoint)[0]).stat().st_uid >= 0
    finally:
        filled("umount", mountpoint)


@fuse
def test_an_encrypted_store_is_mounted_at_boot(
    snap: Snap, mountpoint: Path, tmp_path: Path
) -> None:
    (secret := tmp_path / "secret").write_bytes(b"correct horse\n")
    secret.chmod(0o600)
    named = str(secret)
    assert snap("init", "--encrypt", "--unlock-time", "0", SNAP_PASSWORD_FILE=named).status == 0
    assert snap("create", secret, SNAP_PASSWORD_FILE=named).status == 0
    options = f"ro,password-file={secret}"
    arguments = [str(snap.store), str(mountpoint), "-o", options]
    code = f"from snapstore.cli import mount_helper; mount_helper.main({arguments})"
    subprocess.run([sys.executable, "-c", code], env=snap.environment, check=True)
    try:
        assert (mountpoint / "latest" / str(secret).lstrip("/")).read_bytes() == secret.read_bytes()
    finally:
        snap("umount", mountpoint)


def test_options_that_mount_does_not_have() -> None:
    with pytest.raises(ValueError, match="no option 'fast'"):
        mount_helper.translate(["/store", "/mnt", "-o", "fast"])
    with pytest.raises(ValueError, match="mount point"):
        mount_helper.translate(["/store"])
    assert mount_helper.main(["/store"]) == 2
