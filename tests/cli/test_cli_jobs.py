"""Restores that go on by themselves, hooks, and events as lines of JSON."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Run, Snap, command
from test_cli_json import agree

WAITS = "echo at work; exec sleep 60"


@pytest.fixture
def changed(filled: Snap, files: Path) -> Path:
    """A file that is not as the snapshot `first` has it, and one that it does not have."""
    (files / "added").touch()
    note = files / "docs" / "note.txt"
    note.write_text("another note\n")
    return note


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def detached(snap: Snap, *arguments: str) -> str:
    run = snap("restore", "first", "--detach", "-q", *arguments)
    assert run.status == 0 and run.stderr == b"", str(run)
    return run.stdout.decode().strip()


def is_back(note: Path) -> bool:
    return note.read_text() == "a note\n"


# Events


def test_events(filled: Snap, changed: Path) -> None:
    run = filled("restore", "first", "--delete", "--verify", "--json-events")
    assert (run.status, run.stderr) == (0, b"")
    events = lines(run)
    for event in events:
        agree(event, "event")
    words = [event["event"] for event in events]
    assert words[-1] == "done" and {"plan", "verified", "file", "progress"} <= set(words)
    agree(events[-1]["data"], "snap restore")
    agree(next(event["data"] for event in events if event["event"] == "plan"), "plan")
    assert is_back(changed) and not (changed.parent.parent / "added").exists()


def test_events_of_what_fails(filled: Snap, changed: Path) -> None:
    run = filled("restore", "none", "--json-events")
    (event,) = lines(run)
    assert run.status == event["data"]["exit_code"] == 13
    assert json.loads(run.stderr) == {"error": event["data"]}
    filled("create", changed)
    changed.write_text("a third note\n")
    filled("create", changed.parent.parent)
    changed.write_text("a fourth note\n")
    run = filled("restore", "first", "--strategy", "merge", "--json-events")
    assert run.status == 4 and lines(run)[-1]["event"] == "done"


def test_a_reader_that_goes_gets_it_taken_back(filled: Snap, changed: Path) -> None:
    for number in range(2000):  # more than a pipe holds
        (changed.parent / f"more-{number}").touch()
    run = [*command(), "restore", "first", "--delete", "--json-events"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, env=filled.environment) as process:
        assert process.stdout is not None
        while b'"file"' not in process.stdout.readline():
            pass
        process.stdout.close()
    assert process.returncode == 141
    assert not is_back(changed) and (changed.parent / "more-1999").exists()
    assert not list(changed.parent.parent.glob(".snapstore-restore-*"))


def test_ctrl_c_is_told_as_the_last_event(filled: Snap, changed: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    run = [*command(), "restore", "first", "--json-events"]
    run += ["--hook-before", f"trap '' INT; touch {begun}; exec sleep 60"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, env=filled.environment) as process:
        limit = time.monotonic() + 30
        while not begun.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate()
    assert process.returncode == 130
    last = json.loads(printed.splitlines()[-1])
    assert (last["event"], last["data"]["kind"]) == ("failed", "cancelled")
    assert not is_back(changed)


@pytest.mark.parametrize(
    "options",
    [
        ("first", "--detach", "--json-events"),
        ("--detach", "--abort", "x"),
        ("--json-events", "--resume", "x"),
    ],
)
def test_what_does_not_go_together(filled: Snap, options: tuple[str, ...]) -> None:
    assert filled("restore", *options).status == 2


# Hooks


def test_hooks(filled: Snap, changed: Path) -> None:
    told = {
        name: f"echo {name} $SNAP_EVENT $SNAP_STATUS >> log"
        for name in ("before", "after", "failed", "finally")
    }
    options = [word for name, text in told.items() for word in (f"--hook-{name}", text)]
    assert filled("restore", "first", "--dry-run", *options).status == 0
    assert not (filled.home / "log").exists()
    assert filled("restore", "first", *options).status == 0
    assert filled("undo", *options).status == 0
    assert filled("restore", "first", "--target", "new", *options).status == 0
    once = "before before running\nafter after done\nfinally finally done\n"
    assert (filled.home / "log").read_text() == once * 3


def test_hooks_that_fail(filled: Snap, changed: Path) -> None:
    run = filled("restore", "first", "--hook-before", "exit 3", "--hook-finally", "exit 4")
    assert str(run) == (
        "--- stderr\n"
        "snap: error: the hook before failed (exit status 3): exit 3\n"
        "snap: hint: nothing was restored\n"
        "snap: warning: the hook finally failed (exit status 4): exit 4\n"
        "--- status 1\n"
    )
    assert not is_back(changed)
    for target in ([], ["--target", "new"]):
        run = filled("restore", "first", "--hook-after", "echo sorry; exit 5", *target)
        assert run.status == 0 and b"sorry" not in run.stdout
        assert run.tidy(run.stderr) == (
            "sorry\nsnap: warning: the hook after failed (exit status 5): echo sorry; exit 5\n"
        )
    assert is_back(changed)


# Jobs


def test_a_job_is_followed(filled: Snap, changed: Path) -> None:
    id = detached(filled, "--delete", "--verify", "--hook-after", "echo said")
    run = filled("jobs", id, "--follow")
    text = run.stdout.decode()
    assert run.status == 0 and text.endswith("\ndone\n")
    for line in ("plan: ", "verified: ", "replace: ", "delete: "):
        assert f"\n{line}" in f"\n{text}"
    assert is_back(changed)
    again = filled("jobs", id[-5:], "-f", "--json")
    assert again.status == 0
    for event in lines(again):
        agree(event, "event")
    agree(lines(again)[-1]["data"], "snap restore")
    shown = filled("jobs", id).stdout.decode()
    assert "\nstate        done\n" in shown and "\noutput       said\n" in shown


def test_jobs_as_json(filled: Snap, changed: Path) -> None:
    started = json.loads(filled("restore", "first", "--detach", "--json").stdout)
    agree(started["job"], "job")
    id = started["job"]["id"]
    filled("jobs", id, "--follow")
    filled("jobs", detached(filled, "--target", "none/none"), "-f")
    listed = json.loads(filled("jobs", "--json").stdout)
    agree(listed, "snap jobs", optional=frozenset({"job", "result", "output"}))
    assert [job["state"] for job in listed["jobs"]] == ["failed", "done"]
    for job in listed["jobs"]:
        agree(job, "job")
    shown = json.loads(filled("jobs", id, "--json").stdout)
    agree(shown, "snap jobs", optional=frozenset({"jobs"}))
    agree(shown["result"], "snap restore")


def test_the_list(filled: Snap, changed: Path) -> None:
    assert str(filled("jobs")) == "--- stderr\nsnap: no jobs\n"
    id = detached(filled, "--hook-before", WAITS)
    head, row = filled("jobs").stdout.decode().splitlines()
    assert head.split() == ["job", "state", "started", "snapshot", "target"]
    assert row.split()[:2] == [id, "running"] and row.endswith(str(changed.parent.parent))
    assert "state        failed" in str(filled("jobs", id, "--cancel"))
    run = filled("jobs", id, "--follow")
    assert run.status == 130
    assert run.stderr == b"snap: error: the restore was cancelled\n"
    assert not is_back(changed)


def test_a_job_that_died(filled: Snap, changed: Path) -> None:
    id = detached(filled, "--hook-before", WAITS)
    for _ in range(200):
        pid = json.loads(filled("jobs", id, "--json").stdout)["job"]["pid"]
        if pid is not None:
            break
    os.kill(pid, signal.SIGKILL)
    run = filled("jobs", id, "--follow")
    assert run.status == 1 and f"the job {id} died" in str(run)
    assert "state        died" in str(filled("jobs", id))


def test_a_job_that_failed(filled: Snap, changed: Path) -> None:
    id = detached(filled, "/none")
    run = filled("jobs", id, "--follow")
    assert run.status == 13 and b"snap: error: " in run.stderr
    assert "error        " in str(filled("jobs", id))


def test_detached_from_a_terminal_session(filled: Snap, changed: Path) -> None:
    """It holds nothing of whoever started it: who reads that one's output sees its end at once."""
    begun = time.monotonic()
    run = filled("restore", "first", "--detach", "--hook-before", WAITS)
    assert time.monotonic() - begun < 30
    id = run.stdout.decode().strip()
    assert b"snap jobs " + id.encode() in run.stderr
    filled("jobs", id, "--cancel")


def test_what_is_said_at_once(filled: Snap) -> None:
    assert filled("restore", "none", "--detach").status == 13
    assert filled("jobs", "none").status == 13
    assert filled("jobs", "--follow").status == 2
    assert filled("jobs", "--cancel").status == 2
    assert str(filled("jobs")) == "--- stderr\nsnap: no jobs\n"
