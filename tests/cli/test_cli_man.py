"""`snap man`: the pages that it writes."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from cli_runner import Snap

from snapstore.cli.main import COMMANDS
from snapstore.cli.manual import STATUSES

DOCS = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture
def pages(snap: Snap) -> list[Path]:
    run = snap("man", "share/man")
    assert str(run) == f"{len(COMMANDS) + 1} pages written to share/man/man1\n"
    return sorted((snap.home / "share/man/man1").iterdir())


def test_a_page_for_each_command(pages: list[Path]) -> None:
    names = {"snap.1", *(f"snap-{name}.1" for name in COMMANDS)}
    assert {page.name for page in pages} == names
    for page in pages:
        text = page.read_text("ascii")
        assert text.startswith(f'.TH "{page.stem.upper()}" 1 "'.replace("-", "\\-"))
        assert ".SH EXAMPLES" in text and ".SH SYNOPSIS" in text


@pytest.mark.needs("man", "groff")
def test_man_finds_nothing_wrong(pages: list[Path]) -> None:
    for page in pages:
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), page.name


@pytest.mark.needs("mandoc")
def test_mandoc_finds_nothing_wrong(pages: list[Path]) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.needs("man", "groff")
def test_a_page_says_what_the_help_says(pages: list[Path], snap: Snap) -> None:
    (page,) = [page for page in pages if page.name == "snap-create.1"]
    shown = subprocess.run(
        ["man", "-E", "UTF-8", "-l", "-P", "cat", page],
        capture_output=True,
        text=True,
        check=True,
        env={**snap.environment, "MANWIDTH": "1000", "MAN_KEEP_FORMATTING": ""},
    ).stdout
    shown = " ".join(re.sub(".\b", "", shown).split())
    for phrase in (
        "snap create [OPTIONS] [PATH]…",
        "--exclude PATTERN",
        "-x, --one-file-system Do not descend into other mounts.",
        "pg_dump app | snap create --stdin app.sql",
        "-h, --help",
    ):
        assert phrase in shown


def test_pages_can_be_made_again_the_same(snap: Snap) -> None:
    for place in ("one", "two"):
        snap("man", place, SOURCE_DATE_EPOCH="1700000000")
    for page in (snap.home / "one/man1").iterdir():
        text = page.read_bytes()
        assert text == (snap.home / "two/man1" / page.name).read_bytes()
        assert b'"2023-11-14"' in text


def test_json_and_quiet(snap: Snap) -> None:
    told = json.loads(snap("man", "share", "--json").stdout)
    assert told["directory"] == "share/man1"
    assert "snap.1" in told["pages"]
    assert str(snap("man", "share", "-q")) == ""


def test_a_place_that_cannot_be_written(snap: Snap) -> None:
    (snap.home / "file").touch()
    run = snap("man", "file")
    assert run.status == 1
    assert "Traceback" not in str(run)


def test_statuses_are_those_of_the_reference() -> None:
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    assert {int(status) for status in rows} == set(STATUSES)
