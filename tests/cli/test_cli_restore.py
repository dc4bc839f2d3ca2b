"""`snap restore`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from cli_runner import Snap


def same(one: Path, other: Path) -> bool:
    compare = ["diff", "--recursive", "--no-dereference", str(one), str(other)]
    return subprocess.run(compare, check=False).returncode == 0


def test_whole(filled: Snap, files: Path) -> None:
    assert str(filled("restore", "first", "--target", "back")) == (
        "snapshot <short> restored to ~/back\n"
        "contents     2 files, 2 directories, 1 other entry; 100 KiB\n"
        "took         <s>\n"
    )
    assert same(files, filled.home / "back")


def test_verify(filled: Snap, files: Path) -> None:
    run = filled("restore", "first", "--target", "back", "--verify")
    assert "verified     2 files\n" in str(run)


def test_subtree(filled: Snap, files: Path) -> None:
    assert filled("restore", f"first:{files}/docs", "--target", "back").status == 0
    assert same(files / "docs", filled.home / "back")


def test_paths(filled: Snap, files: Path) -> None:
    assert filled("restore", "first", files / "docs", "--target", "back").status == 0
    found = sorted(path.name for path in (filled.home / "back").rglob("*"))
    assert "note.txt" in found
    assert "data.bin" not in found


def test_quiet(filled: Snap) -> None:
    assert str(filled("restore", "-q", "first", "--target", "back")) == ""


def test_json(filled: Snap) -> None:
    document = json.loads(filled("restore", "first", "--target", "back", "--json").stdout)
    assert document["success"] is True
    assert document["files"] == 2
    assert document["problems"] == []


def test_empty_target_is_used(filled: Snap, files: Path) -> None:
    (filled.home / "back").mkdir()
    assert filled("restore", "first", "--target", "back").status == 0
    assert same(files, filled.home / "back")


def test_target_is_a_file(filled: Snap, files: Path) -> None:
    run = filled("restore", "first", "--target", files / "data.bin")
    assert run.status == 1
    assert "snap: error: " in str(run)


def test_without_a_reference(filled: Snap) -> None:
    assert str(filled("restore")) == (
        "--- stderr\n"
        "snap: error: which snapshot? REF is missing\n"
        "snap: hint: snap list shows them\n"
        "--- status 2\n"
    )


def test_path_not_in_the_snapshot(filled: Snap) -> None:
    for arguments in (["first:/missing"], ["first", "/missing"]):
        run = filled("restore", *arguments, "--target", "back")
        assert run.status == 13
        assert "/missing" in str(run)
    assert not (filled.home / "back").exists()


def test_unknown_reference(filled: Snap) -> None:
    assert filled("restore", "nothing", "--target", "back").status == 13
    assert not (filled.home / "back").exists()


@pytest.mark.needs("root", "unprivileged")
def test_what_cannot_be_restored_is_listed(filled: Snap, files: Path) -> None:
    os.chown(files / "data.bin", 12345, 12345)
    filled("create", files)
    run = filled("restore", "latest", "--target", "back", rights=False)
    told = run.tidy(run.stderr)
    assert run.status == 3, str(run)
    assert told.startswith(
        "snap: warning: 1 thing could not be restored\n  ~/back/data.bin: owner: "
    )
    assert told.count("\n") == 2
    assert same(files, filled.home / "back")


def test_in_place_and_back(filled: Snap, files: Path) -> None:
    note = files / "docs" / "note.txt"
    first = note.read_bytes()
    note.write_text("other")
    (files / "since").write_text("since")
    dry = filled("restore", "first", "--dry-run")
    assert "dry run: nothing was changed" in str(dry)
    assert note.read_text() == "other"
    run = filled("restore", "first", "--delete", "--yes")
    assert run.status == 0, str(run)
    assert "undo with    snap undo " in str(run)
    assert note.read_bytes() == first
    assert not (files / "since").exists()
    undone = filled("undo")
    assert undone.status == 0
    assert "is as it was" in str(undone)
    assert note.read_text() == "other"
    assert (files / "since").exists()


def test_nothing_to_resume(filled: Snap, files: Path) -> None:
    for way in ("--resume", "--abort"):
        run = filled("restore", way, files)
        assert run.status == 1
        assert "no restore into ~/files is unfinished" in str(run)
