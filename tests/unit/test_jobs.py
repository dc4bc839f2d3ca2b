"""Jobs: restores that go on by themselves, and what is known of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import restored_trees
from restored_trees import Changed

import snapstore
from snapstore import InvalidArgument, Job, JobNotFound, SnapshotNotFound, Store
from snapstore.repository import jobs


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        yield store


@pytest.fixture
def tree(store: Store, tmp_path: Path) -> Changed:
    return restored_trees.make(store, tmp_path / "tree")


def at_work(job: Job) -> int:
    """The number of the job's process, once it runs its hook."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        if job.pid is not None and "at work" in job.output:
            return job.pid
        time.sleep(0.02)
    raise AssertionError(job.output)


WAITS = {"before": "echo at work; exec sleep 60"}


def test_a_job_from_beginning_to_end(store: Store, tree: Changed) -> None:
    job = store.restore_detached(
        "first",
        delete=True,
        verify=True,
        time_limit=timedelta(minutes=5),
        hooks={"after": "echo x"},
    )
    words = [event.event for event in job.events(follow=True)]
    assert [word for word in words if word != "progress"] == [
        "plan", "verified", *["file"] * words.count("file"), "done",
    ]  # fmt: skip
    assert tree.is_before
    assert job.state == "done" and job.pid is None and job.output == "x\n"
    assert (job.target, job.snapshot) == (os.fsencode(tree.top), store.get("first").id)
    assert job.ended_at is not None and job.started_at <= job.ended_at
    assert job.end is not None and job.end.data["success"]
    assert [event.event for event in job.events()] == words
    told = job.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["state"], told["success"], told["error"]) == ("done", True, None)
    store.undo(tree.top)
    assert tree.is_after


def test_a_job_runs_and_is_found(store: Store, tree: Changed, tmp_path: Path) -> None:
    job = store.restore_detached("first", hooks=WAITS)
    pid = at_work(job)
    assert os.getsid(pid) != os.getsid(0) and os.getppid() != pid
    assert job.state == "running" and job.ended_at is None and job.to_dict()["success"] is None
    assert job.wait(0.2) == "running"
    with snapstore.open(tmp_path / "store", mode="r") as other:
        (found,) = other.jobs()
        assert (found.id, found.state) == (job.id, "running")
        assert other.job(job.id).state == other.job(job.id[-6:].upper()).state == "running"
        assert found.cancel()
        assert found.wait(30) == "failed"
    assert tree.is_after
    assert not job.cancel()
    assert job.to_dict()["error"]["kind"] == "cancelled"
    assert [event.event for event in job.events(follow=True)] == ["failed"]


def test_a_job_that_is_killed_has_died(store: Store, tree: Changed) -> None:
    job = store.restore_detached("first", hooks=WAITS)
    pid = at_work(job)
    os.kill(pid, signal.SIGKILL)
    assert job.wait(30) == "died"
    assert list(job.events(follow=True)) == []
    assert job.to_dict()["success"] is None and job.pid is None


def test_a_number_alone_does_not_make_it_alive(store: Store, tree: Changed) -> None:
    job = store.restore_detached("first", hooks=WAITS)
    os.kill(at_work(job), signal.SIGKILL)
    job.wait(30)
    (job.place / "lock").write_text(str(os.getpid()))
    assert job.state == "died" and not job.cancel()


def test_it_goes_on_when_whoever_started_it_ends(store: Store, tree: Changed) -> None:
    code = f"""
import snapstore
store = snapstore.open({str(store.path)!r})
print(store.restore_detached("first", delete=True, hooks={{"before": "sleep 1"}}).id)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    job = store.job(done.stdout.strip())
    assert job.state == "running" and done.stderr == ""
    assert job.wait(30) == "done" and tree.is_before


def test_failures_are_its_end(store: Store, tree: Changed, tmp_path: Path) -> None:
    job = store.restore_detached("first", paths=["/none"])
    assert job.wait(30) == "failed"
    assert job.to_dict()["error"]["kind"] == "path-not-found"
    job = store.restore_detached("first", target=tmp_path / "none" / "none")
    assert job.wait(30) == "failed" and job.target == os.fsencode(tmp_path / "none" / "none")


def test_what_cannot_be_begun_is_no_job(store: Store, tree: Changed) -> None:
    with pytest.raises(SnapshotNotFound):
        store.restore_detached("none")
    for name in ("approve", "resolver"):
        with pytest.raises(InvalidArgument, match=name):
            store.restore_detached("first", **{name: print})
    assert store.jobs() == []
    for id in ("none", "", "x"):
        with pytest.raises(JobNotFound):
            store.job(id)


def test_odd_names_go_over(store: Store, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff%\n"
    os.mkdir(odd)
    with open(odd + b"/\xfe", "wb") as file:
        file.write(b"x")
    store.create(odd, name="odd")
    job = store.restore_detached("odd", target=odd + b"-new", paths=[b"\xfe"])
    assert job.wait(30) == "done"
    assert os.listdir(odd + b"-new") == [b"\xfe"]


def test_a_relative_target_is_meant_from_here(
    store: Store, tree: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = store.restore_detached("first", target="new", resolver="echo live")
    assert job.wait(30) == "done"
    assert restored_trees.facts(tmp_path / "new") == tree.before


def test_the_newest_come_first_and_the_old_are_forgotten(store: Store, tree: Changed) -> None:
    made = [store.restore_detached("first", dry_run=True) for _ in range(3)]
    assert [job.wait(30) for job in made] == ["done"] * 3
    assert [job.id for job in store.jobs()] == [job.id for job in reversed(made)]
    running = store.restore_detached("first", hooks=WAITS)
    at_work(running)
    old = time.time() - jobs.FORGOTTEN_S - 60
    for job in (made[0], running):
        for file in (*job.place.iterdir(), job.place):
            os.utime(file, (old, old))
    (made[2].place.parent / "foreign").touch()
    shutil.copytree(made[1].place, made[1].place.with_name("0" * 26))
    (made[1].place.with_name("0" * 26) / "job").write_text("{}")
    last = store.restore_detached("first", dry_run=True)
    assert {job.id for job in store.jobs()} == {made[1].id, made[2].id, running.id, last.id}
    running.cancel()
    assert running.wait(30) == "failed" and last.wait(30) == "done"


def test_a_line_that_is_being_written_is_not_read(store: Store, tree: Changed) -> None:
    job = store.restore_detached("first", dry_run=True)
    job.wait(30)
    whole = len(list(job.events()))
    with open(job.place / "events", "ab") as file:
        file.write(b'{"event": "fi')
    assert len(list(job.events())) == whole
    assert len(list(job.events(follow=True))) == whole
