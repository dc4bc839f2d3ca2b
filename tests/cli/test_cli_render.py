"""How names, sizes, times and tables look."""

import subprocess
import time
from datetime import UTC, datetime

import pytest

from snapstore.cli import render
from snapstore.cli.render import Column


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/plain/name", "/plain/name"),
        ("/größe/名".encode(), "/größe/名"),
        (b"/not utf-8 \xff\xfe", "/not utf-8 \\xff\\xfe"),
        (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
        (b"\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        (b"back\\slash", "back\\\\slash"),
        ("right\u202eleft\u0085".encode(), "right\\u202eleft\\u0085"),
        ("tag\U000e0041".encode(), "tag\\U000e0041"),
    ],
)
def test_names_are_escaped(path: bytes, shown: str) -> None:
    assert render.name(path) == shown


@pytest.mark.parametrize("path", [b"a\nb\\c\xff\x1b", "\u202e\u0085é\U000e0041".encode()])
def test_escaped_names_can_be_pasted_into_a_shell(path: bytes) -> None:
    script = f"printf %s $'{render.name(path)}'"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout == path


def test_texts_keep_their_backslashes() -> None:
    assert render.plain("a\\b\x1b[0m\n") == "a\\b\\x1b[0m\\n"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10188, "9.9 KiB"),
        (10189, "10 KiB"),
        (1024 * 1023, "1023 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 63, "8.0 EiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert render.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0123, "0.012 s"),
        (0.5, "0.5 s"),
        (2.345, "2.3 s"),
        (42.4, "42 s"),
        (59.7, "1:00"),
        (185, "3:05"),
        (7385, "2:03:05"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert render.duration(seconds) == shown


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+12", "Etc/GMT-14"])
def test_times_that_no_calendar_has(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert render.second(0).startswith(("1969-12-31 ", "1970-01-01 "))
        for seconds in (-(1 << 62), 1 << 40, 1 << 62):
            assert render.second(seconds) == f"@{seconds}"
        for year in (1, 9999):  # near the end another zone's time may be beyond it
            for month, day in ((1, 1), (12, 31)):
                moment = datetime(year, month, day, 12, tzinfo=UTC)
                assert render.second(int(moment.timestamp()))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_amounts() -> None:
    assert render.amount(1, "file") == "1 file"
    assert render.amount(1234, "file") == "1,234 files"
    assert render.amount(0, "entry", "entries") == "0 entries"


def test_moment_has_an_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        moment = datetime(2026, 11, 21, 12, 0, 5, tzinfo=UTC)
        assert render.moment(moment) == "2026-11-21 17:30:05 +05:30"
        assert render.moment(moment, seconds=False) == "2026-11-21 17:30 +05:30"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_modes() -> None:
    assert render.mode("file", 0o4755) == "-rwsr-xr-x"
    assert render.mode("directory", 0o1777) == "drwxrwxrwt"
    assert render.mode("symlink", 0o777) == "lrwxrwxrwx"
    assert render.mode("blockdev", 0o660) == "brw-rw----"


COLUMNS = (
    Column("ID"),
    Column("SIZE", right=True),
    Column("NOTHING"),
    Column("PATH", elastic=True),
)


def test_table_in_a_pipe_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(COLUMNS, [["a", "1 B", "", "x" * 200], ["bb", "10 B", "", "名"]])
    assert capsys.readouterr().out == (f"ID  SIZE  PATH\na    1 B  {'x' * 200}\nbb  10 B  名\n")


def test_table_on_a_terminal_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "22")
    monkeypatch.setenv("NO_COLOR", "1")
    render.table(COLUMNS, [["a", "1 B", "", "x" * 200], ["bb", "10 B", "", "名" * 9]])
    out = capsys.readouterr().out
    assert out == "ID  SIZE  PATH\na    1 B  xxxxxxxxxxx…\nbb  10 B  名名名名名…\n"


def test_long_lists_are_cut_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [(b"/%d" % number, "no") for number in range(30)]
    assert len(list(render.grouped(problems, 30, full=False))) == 31
    monkeypatch.setattr(render, "is_terminal", lambda stream: True)
    assert list(render.grouped(problems, 30, full=False))[-1] == "  … and 10 more (-v lists all)"
    assert len(list(render.grouped(problems, 30, full=True))) == 31


def test_paths_of_one_reason_stand_together() -> None:
    problems = [(b"/a", "no"), (b"/b", "never"), (b"/c", "no")]
    lines = list(render.grouped(problems, 3, full=False))
    assert lines == ["no (2):", "  /a", "  /c", "  /b: never"]


def test_problems_not_known_by_name_are_counted() -> None:
    lines = list(render.grouped([(b"/a", "no")], 5, full=True))
    assert lines == ["  /a: no", "  … and 4 more, not known by name"]
