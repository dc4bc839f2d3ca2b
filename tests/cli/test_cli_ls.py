"""`snap ls`."""

import json
import os
from pathlib import Path

import pytest
from cli_runner import Snap


def test_roots(filled: Snap) -> None:
    assert str(filled("ls", "first")) == "~/files\n"


def test_directory(filled: Snap, files: Path) -> None:
    assert str(filled("ls", f"first:{files}")) == ("~/files/data.bin\n~/files/docs\n~/files/link\n")


def test_recursive(filled: Snap) -> None:
    assert str(filled("ls", "-R", "first")) == (
        "~/files\n~/files/data.bin\n~/files/docs\n~/files/docs/note.txt\n~/files/link\n"
    )


def test_long(filled: Snap, files: Path) -> None:
    os.chmod(files / "docs" / "note.txt", 0o4640)
    filled("create", files)
    lines = str(filled("ls", "-l", "-R", "latest")).splitlines()
    assert lines[3].startswith("-rwS") or lines[3].startswith("-rwS") or "rwSr-----" in lines[3]
    assert lines[3].endswith(" 7 <time> ~/files/docs/note.txt")
    assert lines[4].startswith("lrwxrwxrwx ")
    assert lines[4].endswith(" <time> ~/files/link -> docs/note.txt")


def test_names_are_raw_in_a_pipe_and_escaped_in_long(filled: Snap, files: Path) -> None:
    odd = b"\xff\x1b[31m"
    Path(os.fsdecode(os.fsencode(files) + b"/docs/" + odd)).write_text("")
    filled("create", files)
    place = f"latest:{files}/docs"
    assert os.fsencode(files) + b"/docs/" + odd in filled("ls", place).stdout.splitlines()
    assert rb"/docs/\xff\x1b[31m" in filled("ls", "-l", place).stdout


def test_json(filled: Snap, files: Path) -> None:
    document = json.loads(filled("ls", "-R", "first", "--json").stdout)
    assert len(document["snapshot"]) == 64
    assert [entry["path"] for entry in document["entries"]] == [
        f"{files}{tail}" for tail in ("", "/data.bin", "/docs", "/docs/note.txt", "/link")
    ]


def test_path_not_in_the_snapshot(filled: Snap, files: Path) -> None:
    run = filled("ls", f"first:{files}/missing")
    assert run.status == 13
    assert "~/files/missing" in str(run)


def test_path_not_in_the_snapshot_as_json(filled: Snap) -> None:
    run = filled("ls", "first:/missing", "--json")
    assert run.status == 13
    assert json.loads(run.stderr)["error"]["kind"] == "path-not-found"


@pytest.mark.parametrize("verb", ["cat", "du", "export", "find x"])
def test_a_typo_in_a_path_suggests_the_near_one_everywhere(filled: Snap, verb: str) -> None:
    run = filled(*verb.split(), "first:docs/nte.txt")
    assert "did you mean ~/files/docs/note.txt?" in str(run)
    assert run.status == 13


def test_a_typo_in_a_path_suggests_the_near_one(filled: Snap) -> None:
    assert str(filled("ls", f"first:{filled.home}/files/docs/notes.text")) == (
        "--- stderr\n"
        "snap: error: ~/files/docs/notes.text is not in snapshot <short>\n"
        "snap: hint: did you mean ~/files/docs/note.txt? ls shows what is in it\n"
        "--- status 13\n"
    )
    assert "did you mean ~/files?" in str(filled("ls", f"first:{filled.home}/fils"))
    assert "did you mean ~/files/data.bin?" in str(filled("ls", "first:data.bin/x"))
    assert "hint: ls shows what is in it" in str(filled("ls", "first:/entirely/different"))
