"""On a terminal: widths, colours, escapes, and the pager."""

import re
from pathlib import Path

import pytest
from cli_runner import Snap, command
from terminal import on_terminal

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


def shown(
    snap: Snap, *arguments: str | Path, columns: int = 80, status: int = 0, **environment: str
) -> str:
    """What `snap ARGUMENTS…` shows, without a pager unless one is named."""
    full = {"TERM": "xterm", "SNAP_PAGER": "", **snap.environment, **environment}
    text, ended = on_terminal([*command(), *arguments], full, columns=columns)
    assert ended == status, text
    return text.decode().replace("\r\n", "\n")


@pytest.fixture
def odd(filled: Snap, files: Path) -> Snap:
    """With a file and a snapshot whose names would do something on a terminal."""
    (files / "new\nline\x1b[31m\udcff").write_bytes(b"")
    filled("create", files, "--name", "odd\x1b]0;title\x07\nname", "--tag", "\u202ereversed")
    return filled


@pytest.mark.parametrize("columns", [1, 8, 20, 33, 60, 80, 200])
def test_a_table_fits_any_terminal(odd: Snap, columns: int) -> None:
    for line in shown(odd, "list", columns=columns, NO_COLOR="1").splitlines():
        assert len(line) <= columns


def test_a_narrow_table_keeps_ids_and_names(odd: Snap) -> None:
    lines = shown(odd, "list", columns=20, NO_COLOR="1").splitlines()
    assert lines[0] == "ID        NAME"
    assert re.fullmatch(r"[0-9a-f]{8}  first", lines[2])


@pytest.mark.parametrize(
    ("arguments", "kept"), [(["du"], ["ID", "UNIQUE"]), (["log", "data.bin"], ["REF", "CHANGE"])]
)
def test_other_narrow_tables_keep_what_matters(
    filled: Snap, arguments: list[str], kept: list[str]
) -> None:
    assert shown(filled, *arguments, columns=20, NO_COLOR="1").splitlines()[0].split() == kept


def test_a_verbose_table_has_whole_ids_and_sources(odd: Snap) -> None:
    text = odd("list", "-v").stdout.decode()
    assert re.search(r"^[0-9a-f]{64}  ", text, re.MULTILINE)
    assert "SOURCE" in text and "HOST" in text


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["create", "--help"]])
@pytest.mark.parametrize("columns", [20, 30, 49])
def test_help_fits_a_narrow_terminal(snap: Snap, arguments: list[str], columns: int) -> None:
    """But for options and headings, and examples, which are there to be copied."""
    text = shown(snap, *arguments, columns=columns).partition("Examples:")[0]
    for line in text.splitlines():
        assert len(line) <= columns or line.lstrip().startswith("-") or line.endswith(":"), line


def test_help_is_not_wider_than_can_be_read(snap: Snap) -> None:
    assert max(map(len, shown(snap, "create", "--help", columns=300).splitlines())) <= 100


@pytest.mark.parametrize("arguments", [["show", "first"], ["stats"], ["doctor"]])
def test_nothing_breaks_on_20_columns(filled: Snap, arguments: list[str]) -> None:
    assert shown(filled, *arguments, columns=20)


def test_colours_on_a_terminal_only_and_not_with_no_color(filled: Snap) -> None:
    assert shown(filled, "list").startswith("\x1b[1mID")
    assert "\x1b" not in shown(filled, "list", NO_COLOR="1")
    assert "\x1b" not in shown(filled, "list", TERM="dumb")
    assert b"\x1b" not in filled("list").stdout


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("list", 0),
        ("list --format {name}{tags}", 0),
        ("show latest", 0),
        ("ls -R latest", 0),
        ("ls -lR latest", 0),
        ("find new*", 0),
        ("find new* -l", 0),
        ("du", 0),
        ("diff first latest", 1),
        ("diff first latest --name-only", 1),
        ("show latest\x1b[2J", 13),
        ("find [\x1b", 2),
        ("list --\x1b", 2),
        ("\x1b", 2),
    ],
)
@pytest.mark.parametrize("pager", ["", "cat -u"])
def test_names_never_reach_a_terminal_raw(odd: Snap, line: str, status: int, pager: str) -> None:
    text = shown(odd, *line.split(), SNAP_PAGER=pager, NO_COLOR="1", status=status)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "\\x1b" in text or "\\u{1b}" in text


# The pager


def test_what_a_pager_is_given(filled: Snap, tmp_path: Path) -> None:
    """All of it, and the pager's own output is what is seen."""
    pager = f"tee {tmp_path / 'given'} | wc -l"
    text = shown(filled, "ls", "-R", "latest", SNAP_PAGER=pager)
    given = (tmp_path / "given").read_text()
    assert int(text) == given.count("\n") == 5
    assert given.endswith("/files/link\n")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["list"], ["show", "first"], ["ls", "first"], ["--help"]),
        *(["find", "*"], ["log", "docs/note.txt"], ["du"]),
    ],
)
def test_what_is_paged(filled: Snap, arguments: list[str]) -> None:
    assert shown(filled, *arguments, SNAP_PAGER="sed s/^/paged:/").startswith("paged:")
    assert "paged:" not in shown(filled, *arguments, "--no-pager", SNAP_PAGER="sed s/^/paged:/")
    assert "paged:" not in shown(filled, "--no-pager", *arguments, PAGER="sed s/^/paged:/")


def test_a_pager_leaves_the_status_of_diff(filled: Snap, files: Path) -> None:
    (files / "more").write_bytes(b"")
    text = shown(filled, "diff", "first", files, SNAP_PAGER="sed s/^/paged:/", status=1)
    assert text.startswith("paged:")


@pytest.mark.parametrize("arguments", [["stats"], ["list", "--json"], ["show", "first", "--json"]])
def test_what_is_not_paged(filled: Snap, arguments: list[str]) -> None:
    assert "paged:" not in shown(filled, *arguments, SNAP_PAGER="sed s/^/paged:/")


def test_nothing_is_paged_in_a_pipe(filled: Snap) -> None:
    assert b"paged:" not in filled("list", SNAP_PAGER="sed s/^/paged:/").stdout


def test_which_pager(filled: Snap) -> None:
    def paged(**environment: str) -> str:
        full = {**filled.environment, "TERM": "xterm", "NO_COLOR": "1", **environment}
        return on_terminal([*command(), "list"], full)[0].decode()

    assert paged(SNAP_PAGER="sed s/^/1:/", PAGER="sed s/^/2:/").startswith("1:")
    assert paged(PAGER="sed s/^/2:/").startswith("2:")
    assert paged(SNAP_PAGER="", PAGER="sed s/^/2:/").startswith("ID")
    assert paged(PAGER="cat").startswith("ID")


def test_a_pager_that_is_not_there_hides_nothing(filled: Snap) -> None:
    text = shown(filled, "list", SNAP_PAGER="no-such-pager -x", NO_COLOR="1")
    assert "the pager of SNAP_PAGER was not found: no-such-pager -x" in text
    assert "first" in text


def test_leaving_the_pager_early_is_quiet(filled: Snap, files: Path) -> None:
    for number in range(3000):
        (files / f"a file with a longer name, number {number}").touch()
    filled("create", files)
    text = shown(filled, "ls", "-R", "latest", SNAP_PAGER="head -n 1")
    assert text.count("\n") == 1


@pytest.mark.needs("less")
def test_less_shows_short_output_and_ends(filled: Snap) -> None:
    text, status = on_terminal(
        [*command(), "list"], {**filled.environment, "TERM": "xterm", "PAGER": "less"}
    )
    assert status == 0
    assert b"\x1b[1mID" in text  # with colours, since less is told to show them
    assert b"first" in CONTROL.sub(b"", text)


@pytest.mark.needs("less")
def test_less_is_left_with_a_key(filled: Snap, files: Path) -> None:
    for number in range(300):
        (files / f"file-{number}").touch()
    filled("create", files)
    text, status = on_terminal(
        [*command(), "ls", "-R", "latest"],
        {**filled.environment, "TERM": "xterm", "PAGER": "less"},
        keys=[(b":", b"q")],
    )
    assert status == 0
    assert b"file-299" not in text
    assert b"Traceback" not in text
