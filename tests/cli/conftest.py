"""A command to run, a store, and something to keep in it."""

from pathlib import Path

import pytest
from cli_runner import Snap


@pytest.fixture
def snap(tmp_path: Path) -> Snap:
    """The command; there is no store yet."""
    return Snap(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A small directory: two files of which one is large enough to be cut, a link, a directory."""
    top = tmp_path / "files"
    (top / "docs").mkdir(parents=True)
    (top / "docs" / "note.txt").write_bytes(b"a note\n")
    (top / "data.bin").write_bytes(bytes(range(256)) * 400)
    (top / "link").symlink_to("docs/note.txt")
    return top


@pytest.fixture
def filled(snap: Snap, files: Path) -> Snap:
    """The command with a store that holds one snapshot, `first`, of `files`."""
    snap("init", snap.store)
    made = snap("create", files, "--name", "first")
    assert made.status == 0, str(made)
    return snap
