"""Every document has exactly the fields that docs/reference/json.md promises."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Snap

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
    "object": (dict,),
    "path": (str,),
    "time": (str,),
    "snapshot": (dict,),
    "plan": (dict,),
}


def promised() -> dict[str, dict[str, tuple[str, str]]]:
    """Fields with their types and meanings for each section of the page."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0].strip("`"): {
            name: (described, meaning)
            for name, described, meaning in re.findall(
                r"^\| `(\w+)` \| (.*?) \|(.*) ?\|$", section, re.MULTILINE
            )
        }
        for section in sections
    }


def of_type(value: Any, described: str, meaning: str) -> bool:
    """Whether a value is of a type as the page describes it, such as `[snapshot](#snapshot) or
    null`.
    """
    text, _, or_null = described.partition(" or ")
    if or_null and value is None:
        return True
    if text.startswith("list of "):
        one = text.removeprefix("list of ")
        return isinstance(value, list) and all(element_of(item, one, meaning) for item in value)
    word = text.lstrip("[").split("]")[0].split()[0]
    if isinstance(value, bool):
        return word == "bool"
    return isinstance(value, _TYPES[word])


def element_of(value: Any, described: str, meaning: str) -> bool:
    """Whether an element of a list is as described; fields of `objects` are in the meaning."""
    if described == "objects":
        named = set(re.findall(r"`(\w+)`", meaning))
        return isinstance(value, dict) and {key.removesuffix("_b64") for key in value} <= named
    return isinstance(value, {"text": str, "two ints": int}.get(described, dict))


def agree(document: dict[str, Any], section: str, optional: frozenset[str] = frozenset()) -> None:
    fields = promised()[section]
    assert set(fields) - optional <= set(document) <= set(fields), section
    for name, value in document.items():
        assert of_type(value, *fields[name]), (section, name, value)


def test_the_page_says_what_is_in_every_list() -> None:
    for section, fields in promised().items():
        assert "list" not in [described for described, _ in fields.values()], section


def document(snap: Snap, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    run = snap(*arguments, "--json")
    assert run.status == status, str(run)
    assert run.stderr == b""
    value = json.loads(run.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def odd(filled: Snap, files: Path) -> Snap:
    """The command with a second snapshot, which has as much as possible to tell."""
    os.mkfifo(files / "fifo")
    filled(
        "create", files, "--name", "odd", "--tag", "t", "--meta", "k=v", "--exclude", "*.tmp",
        "--stdin-from", "words=echo words",
    )  # fmt: skip
    return filled


def test_init(snap: Snap) -> None:
    agree(document(snap, "init"), "snap init")


def test_create(filled: Snap, files: Path) -> None:
    made = document(filled, "create", files)
    agree(made, "snap create")
    agree(made["snapshot"], "snapshot")
    agree(document(filled, "create", files, "--dry-run"), "snap create")
    agree(document(filled, "create", files, "--skip-if-unchanged"), "snap create")


def test_list_and_show(odd: Snap) -> None:
    listed = document(odd, "list")
    agree(listed, "snap list")
    for snapshot in listed["snapshots"]:
        agree(snapshot, "snapshot")
    shown = document(odd, "show", "odd")
    agree(shown, "snap show")
    agree(shown["snapshot"], "snapshot")
    assert shown["snapshot"] == listed["snapshots"][0]


def test_ls(odd: Snap) -> None:
    listed = document(odd, "ls", "-R", "odd")
    agree(listed, "snap ls")
    special = {"target", "device", "entries", "bytes"}
    for entry in listed["entries"]:
        agree(entry, "entry", frozenset(special))
    by_type = {entry["type"]: set(entry) & special for entry in listed["entries"]}
    assert by_type == {
        "file": set(),
        "directory": {"entries", "bytes"},
        "symlink": {"target"},
        "fifo": set(),
    }


def test_restore(filled: Snap) -> None:
    agree(document(filled, "restore", "first", "--target", "back"), "snap restore")
    for pack in (filled.store / "data").rglob("*"):
        if pack.is_file():
            pack.unlink()
    restored = document(filled, "restore", "first", "--target", "back2", status=3)
    agree(restored, "snap restore")
    assert restored["problems"]


def test_restore_in_place(filled: Snap, files: Path) -> None:
    (files / "docs" / "note.txt").write_text("other")
    for options in (["--dry-run"], ["--strategy", "merge"], []):
        status = 0
        restored = document(filled, "restore", "first", *options, status=status)
        agree(restored, "snap restore")
        agree(restored["plan"], "plan")
    filled("create", files)
    (files / "docs" / "note.txt").write_text("others")
    restored = document(filled, "restore", "first", "--strategy", "merge")
    agree(restored, "snap restore")
    undone = document(filled, "undo")
    agree(undone, "snap restore")


def test_conflict(filled: Snap, files: Path) -> None:
    note = files / "docs" / "note.txt"
    note.write_text("second")
    filled("create", files)
    note.write_text("third one")
    restored = document(filled, "restore", "first", "--strategy", "merge", status=4)
    (conflict,) = restored["conflicts"]
    agree(conflict, "conflict")
    assert conflict["taken"] == "live"


def test_export(odd: Snap) -> None:
    run = odd("export", "odd", "--format", "zip", "-o", "x.zip", "--json")
    written = json.loads(run.stdout)
    agree(written, "snap export")
    assert (run.status, [set(one) for one in written["omitted"]]) == (3, [{"path"}])


def test_check(filled: Snap) -> None:
    agree(document(filled, "check", "--read-data"), "snap check")


def test_problems(filled: Snap) -> None:
    for pack in (filled.store / "data").rglob("*"):
        if pack.is_file():
            pack.unlink()
    report = document(filled, "check", status=5)
    agree(report, "snap check")
    assert report["problems"]
    for problem in report["problems"]:
        agree(problem, "problem")


def test_stats(filled: Snap, snap: Snap) -> None:
    agree(document(filled, "stats"), "snap stats")
    snap("init", "empty")
    agree(document(snap, "stats", "-s", "empty"), "snap stats")


def test_reindex(filled: Snap) -> None:
    agree(document(filled, "reindex"), "snap reindex")


def test_doctor(filled: Snap) -> None:
    found = document(filled, "doctor")
    agree(found, "snap doctor")
    for finding in found["findings"]:
        agree(finding, "finding")


def test_completion(snap: Snap) -> None:
    agree(document(snap, "completion", "bash"), "snap completion")


def test_man(snap: Snap) -> None:
    agree(document(snap, "man", "share"), "snap man")


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["list", "-s", "/nowhere"], ["show", "nothing"], ["create"]]
)
def test_errors(filled: Snap, arguments: list[str]) -> None:
    run = filled(*arguments, "--json")
    assert run.stdout == b""
    told = json.loads(run.stderr)
    assert set(told) == {"error"}
    common = {name: told["error"][name] for name in promised()["error"]}
    agree(common, "error")
    assert common["exit_code"] == run.status


def test_diff(odd: Snap, files: Path) -> None:
    (files / "docs" / "note.txt").rename(files / "note.txt")
    (files / "data.bin").write_bytes(b"other")
    odd("create", files, "--name", "third")
    found = document(odd, "diff", "first", "third", status=1)
    agree(found, "snap diff")
    agree(found["stat"], "stat")
    optional = frozenset({"old_path", "error"})
    for change in found["changes"]:
        agree(change, "change", optional)
    assert {change["kind"] for change in found["changes"]} >= {"added", "content", "renamed"}
    assert found["stat"]["changes"] == len(found["changes"])


def test_find_log_and_du(odd: Snap, files: Path) -> None:
    found = document(odd, "find", "note.txt")
    agree(found, "snap find")
    assert [set(one) for one in found["found"]] == [
        {"snapshot", "path", "type", "mode", "uid", "gid", "mtime_ns", "size"}
    ] * 2
    followed = document(odd, "log", files / "data.bin")
    agree(followed, "snap log")
    for version in followed["versions"]:
        agree(version, "version")
    used = document(odd, "du")
    agree(used, "snap du")
    for one in used["snapshots"]:
        agree(one, "usage")
