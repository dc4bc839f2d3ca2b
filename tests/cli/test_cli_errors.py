"""Every failure: its message, its hint, its status; and the page that promises them."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_runner import Snap, command

from snapstore.base import errors as base
from snapstore.cli import errors
from snapstore.cli.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


def subclasses(cls: type[base.SnapstoreError]) -> set[type[base.SnapstoreError]]:
    direct = set(cls.__subclasses__())
    return direct.union(*(subclasses(one) for one in direct))


def documented() -> dict[str, int]:
    """The status of each kind of error, as the page has it."""
    rows = re.findall(r"^\| (\d+) \| [^|]*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    return {kind: int(status) for status, kinds in rows for kind in re.findall(r"`([^`]+)`", kinds)}


def test_page_lists_the_errors_of_the_library() -> None:
    ours = {cls.kind: cls.exit_code for cls in subclasses(base.SnapstoreError)}
    page = documented()
    assert {kind: page.get(kind) for kind in ours} == ours
    assert set(page) - set(ours) == {"error", "io", "usage", "cancelled"} - set(ours)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (base.StoreNotFound("x"), 10, "store-not-found"),
        (KeyboardInterrupt(), 130, "cancelled"),
        (OSError(28, "No space left on device"), 1, "io"),
        (RuntimeError("x"), 1, "internal"),
        (MemoryError(), 1, "internal"),
    ],
)
def test_report(
    error: BaseException, status: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert errors.report(error, Settings(json=True)) == status
    told = json.loads(capsys.readouterr().err)["error"]
    assert (told["kind"], told["exit_code"]) == (kind, status)
    assert documented()[kind] == status


def test_fields_of_an_error_are_in_its_json(capsys: pytest.CaptureFixture[str]) -> None:
    error = base.AmbiguousReference("two", hint="say more", candidates=["aa", "ab"])
    assert errors.report(error, Settings(json=True)) == 13
    assert json.loads(capsys.readouterr().err) == {
        "error": {
            "kind": "ambiguous-reference",
            "message": "two",
            "hint": "say more",
            "exit_code": 13,
            "candidates": ["aa", "ab"],
        }
    }


def test_unexpected_error_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert errors.report(ZeroDivisionError("by zero"), Settings()) == 1
    told = capsys.readouterr().err
    assert told.startswith("snap: error: unexpected ZeroDivisionError: by zero\nsnap: hint: ")
    assert "please report it" in told
    assert "Traceback" not in told
    monkeypatch.setenv("SNAP_DEBUG", "1")
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        errors.report(error, Settings())
    assert "Traceback" in capsys.readouterr().err


def test_messages_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(base.PathNotFound("\x1b[2Jgone\udcff"), Settings())
    assert capsys.readouterr().err == "snap: error: \\x1b[2Jgone\\xff\n"


def test_trouble_with_a_file_is_told_without_its_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors.report(FileExistsError(17, "File exists", "man\n"), Settings())
    assert capsys.readouterr().err == "snap: error: man\\n: File exists\n"


@pytest.mark.parametrize(
    "line",
    [
        *("init ~/files", "list -s ~/files", "list -s ~/none", "show nothing", "show latest~9"),
        *("create ~/none", "create ~/files --exclude-file ~/none", "create --files-from ~/none"),
        *("create --image ~/files", "create ~/files --tag=", "create --stdin-from x=false"),
        *("cat first", "cat first:none", "diff first ~/none", "diff first none", "find * --type x"),
        *("find * --larger-than x", "find * --newer-than x", "list --name [", "list --format {x}"),
        *("log /none", "du none", "undo", "restore first --target ~/files/data.bin"),
        *("restore first --target ~/none/none", "export first:none", "export first -o ~/none/x"),
        *("import-tar ~/none", "import-tar ~/files", "check --time-limit x", "check --read-data=x"),
        *("crate", "list --nmae x", "list --sort x", "stats x", "log", "completion tcsh"),
    ],
)
def test_what_to_do_next_is_said(filled: Snap, line: str) -> None:
    run = filled(*line.replace("~/", f"{filled.home}/").split())
    assert run.status not in (0, 3)
    error, hint = run.stderr.decode().splitlines()
    assert error.startswith("snap: error: ")
    assert hint.startswith("snap: hint: ")


def test_no_store_is_named(snap: Snap) -> None:
    assert str(snap("list", SNAP_STORE=None)) == (
        "--- stderr\n"
        "snap: error: no store is named, and you have none of your own yet\n"
        "snap: hint: name one with -s DIR or SNAP_STORE;"
        " `snap create PATH` makes your own in ~/.local/share/snapstore/store\n"
        "--- status 10\n"
    )


def test_no_such_store(snap: Snap, tmp_path: Path) -> None:
    run = snap("list", "-s", tmp_path / "nowhere")
    assert run.status == 10
    assert "~/nowhere" in str(run)
    assert "snap: hint: " in str(run)


def test_not_a_store(snap: Snap, files: Path) -> None:
    run = snap("list", "-s", files)
    assert run.status == 10
    assert "~/files" in str(run)


def test_usage_error_as_json(snap: Snap) -> None:
    run = snap("create", "--json", "--frobnicate")
    assert run.status == 2
    assert run.stdout == b""
    told = json.loads(run.stderr)["error"]
    assert told["kind"] == "usage"
    assert told["exit_code"] == 2
    assert told["hint"]


def test_reader_of_the_output_has_gone(filled: Snap, files: Path) -> None:
    for number in range(3000):
        (files / f"a file with a longer name, number {number}").touch()
    filled("create", files)
    pipe = f"{' '.join(command())} ls -R latest | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", pipe], capture_output=True, text=True, env=filled.environment, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "141"


@pytest.mark.parametrize(
    "line",
    [
        *("list", "list --json", "list --format {id}", "show first", "ls first", "ls first --json"),
        *("cat first:data.bin", "diff first files", "diff first files --json", "find *", "stats"),
        *("find * --json", "log files/data.bin", "du", "export first", "check", "doctor", "--help"),
        *("ls --help", "completion bash", "--version"),
    ],
)
def test_nobody_reads_the_output(filled: Snap, files: Path, line: str) -> None:
    (files / "more").touch()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*command(), *line.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=filled.home,
        env=filled.environment,
    )
    os.close(writer)
    assert (done.stderr, done.returncode) == (b"", 141)


def test_output_that_cannot_be_written(filled: Snap) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*command(), "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=filled.environment,
            check=False,
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


CLOSED = ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


def closing(snap: Snap, closed: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Runs the command with some of the standard streams closed."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *command(), *arguments],
        capture_output=True,
        cwd=snap.home,
        env=snap.environment,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams(filled: Snap, files: Path, closed: str) -> None:
    """The command does its work, and nothing that it prints gets into a file of the store."""
    (files / "more").write_bytes(os.urandom(100_000))
    done = closing(filled, closed, "create", files, "--verbose")
    assert (done.returncode, done.stderr) == (0, b"")
    assert filled("check", "--read-data").status == 0
    done = closing(filled, closed, "show", "nothing")
    assert done.returncode == 13
    assert b"Traceback" not in done.stderr


def test_closed_streams_of_a_command(filled: Snap) -> None:
    done = closing(filled, ">&- 2>&-", "create", "--stdin-from", "x=echo told >&2; echo taken")
    assert done.returncode == 0
    assert filled("cat", "latest:x").stdout == b"taken\n"


def test_closed_input_is_not_an_empty_file(filled: Snap) -> None:
    done = closing(filled, "<&-", "create", "--stdin", "x")
    assert done.returncode == 1
    assert b"snap: error: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_interrupt(snap: Snap) -> None:
    snap("init", snap.store)
    process = subprocess.Popen(
        [*command(), "create", "--stdin-from", "x=echo started >&2; exec sleep 60"],
        stderr=subprocess.PIPE,
        env=snap.environment,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"started\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    told = process.communicate(timeout=20)[1]
    assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert b"Traceback" not in told
    assert b"snap: error: " in told
