"""`snap list`."""

import json
import re
from pathlib import Path

import pytest
from cli_runner import Snap


@pytest.fixture
def three(filled: Snap, files: Path) -> Snap:
    filled("create", files, "--name", "second", "--tag", "prod", "--tag", "eu")
    filled("create", files / "docs", "--name", "third", "--host", "other", "--tag", "prod")
    return filled


def names(snap: Snap, *options: str) -> list[str]:
    document = json.loads(snap("list", "--json", *options).stdout)
    return [snapshot["name"] for snapshot in document["snapshots"]]


def test_one(filled: Snap) -> None:
    head, row = filled("list").stdout.decode().replace(str(filled.home), "~").splitlines()
    assert head == "ID        CREATED                  NAME      SIZE  PATHS"
    assert re.fullmatch(
        r"[0-9a-f]{8}  \d{4}-\d\d-\d\d \d\d:\d\d \+00:00  first  100 KiB  ~/files", row
    )


def test_newest_first(three: Snap) -> None:
    lines = str(three("list")).splitlines()
    assert lines[0].split() == ["ID", "CREATED", "NAME", "SIZE", "HOST", "TAGS", "PATHS"]
    assert [line.split()[2] for line in lines[1:]] == ["third", "second", "first"]
    assert "eu" in lines[2]
    assert lines[1].endswith("~/files/docs")


def test_filters(three: Snap) -> None:
    assert names(three) == ["third", "second", "first"]
    assert names(three, "--tag", "prod") == ["third", "second"]
    assert names(three, "--tag", "prod", "--limit", "1") == ["third"]
    assert names(three, "--host", "other") == ["third"]
    assert names(three, "--name", "first") == ["first"]
    assert names(three, "--source", "nobody's") == []


def test_nothing_matches(filled: Snap) -> None:
    assert str(filled("list", "--tag", "x")) == "--- stderr\nsnap: no snapshots match\n"
    assert str(filled("list", "--tag", "x", "-q")) == ""


def test_json_of_an_empty_store(snap: Snap) -> None:
    snap("init")
    assert json.loads(snap("list", "--json").stdout) == {"snapshots": []}


def test_texts_from_a_snapshot_are_escaped(filled: Snap, files: Path) -> None:
    filled("create", files, "--tag", "\x1b[31mred", "--name", "a\nb")
    shown = filled("list").stdout
    assert b"\x1b" not in shown
    assert rb"\x1b[31mred" in shown
    assert rb"a\nb" in shown
