"""Restore points: a block of code happens, or it does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import restored_trees

import snapstore
from snapstore import (
    RestorePoint,
    RestoreUnfinished,
    SourceNotFound,
    SourceUnreadable,
    Store,
    StoreFailed,
    TargetRefused,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        yield store


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "file").write_bytes(b"as it was")
    (top / "kept.log").write_bytes(b"log")
    (top / ".snapignore").write_text("*.log\n")
    (top / "link").symlink_to("sub/file")
    return top


def spoil(top: Path) -> None:
    (top / "sub" / "file").write_bytes(b"spoilt")
    (top / "sub" / "more").mkdir()
    (top / "sub" / "more" / "new").touch()
    (top / "kept.log").unlink()
    (top / "link").unlink()
    (top / "link").mkdir()
    os.chmod(top / "sub", 0o700)


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(3)])
def test_everything_goes_back(store: Store, top: Path, error: BaseException) -> None:
    before = restored_trees.facts(top)
    with pytest.raises(type(error)) as caught, store.restore_point(top, name="point") as point:
        assert point.snapshot.kind == "system" and point.snapshot.name == "point"
        spoil(top)
        raise error
    assert caught.value is error
    assert restored_trees.facts(top) == before
    assert point.result is not None and point.failure is None
    (note,) = error.__notes__
    assert note.startswith(f"restored to the restore point, snapshot {point.snapshot.short_id}: ")
    assert store.get("point").id == point.snapshot.id
    assert point.result.can_undo
    store.undo(top)
    assert (top / "sub" / "more" / "new").exists()


def test_without_an_exception_nothing_is_changed(store: Store, top: Path) -> None:
    with store.restore_point(top) as point:
        spoil(top)
    assert (top / "sub" / "more" / "new").exists() and point.result is None
    assert store.get(point.snapshot.id).kind == "system"
    assert store.snapshots() == []
    assert len(store.snapshots(all=True)) == 1


def test_a_root_that_is_gone_comes_back(store: Store, top: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.write_bytes(b"one")
    before = restored_trees.facts(top)
    with pytest.raises(ValueError), store.restore_point(top, single):
        subprocess.run(["rm", "-r", top, single], check=True)
        raise ValueError
    assert restored_trees.facts(top) == before and single.read_bytes() == b"one"


def test_what_is_left_out_is_left_alone(store: Store, top: Path) -> None:
    with pytest.raises(ValueError), store.restore_point(top, exclude=["*.log"]):
        (top / "kept.log").write_bytes(b"more")
        (top / "sub" / "file").unlink()
        raise ValueError
    assert (top / "kept.log").read_bytes() == b"more"
    assert (top / "sub" / "file").exists()


def test_where_one_works_does_not_matter(
    store: Store, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError), store.restore_point("tree"):
        monkeypatch.chdir("/")
        (top / "sub" / "file").unlink()
        raise ValueError
    assert (top / "sub" / "file").exists()


def test_points_in_points(store: Store, top: Path) -> None:
    before = restored_trees.facts(top)
    with pytest.raises(ValueError) as caught, store.restore_point(top):
        (top / "outer").touch()
        with store.restore_point(top / "sub"):
            spoil(top)
            raise ValueError
    assert restored_trees.facts(top) == before
    assert len(caught.value.__notes__) == 2


def test_from_threads(store: Store, tmp_path: Path) -> None:
    failures: list[BaseException | str] = []

    def work(number: int) -> None:
        top = tmp_path / f"tree-{number}"
        top.mkdir()
        (top / "file").write_bytes(b"%d" % number)
        try:
            with store.restore_point(top):
                (top / "file").unlink()
                (top / "new").touch()
                raise ValueError
        except ValueError as error:
            if os.listdir(top) != ["file"]:
                failures.append(str(error.__notes__))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_cannot_go_back_says_so(store: Store, tmp_path: Path) -> None:
    top = tmp_path / "above" / "tree"
    top.mkdir(parents=True)
    (top / "file").touch()
    with pytest.raises(ValueError) as caught, store.restore_point(top) as point:
        subprocess.run(["rm", "-r", top.parent], check=True)
        raise ValueError
    assert point.failure is not None and point.result is None
    (note,) = caught.value.__notes__
    assert note.startswith("NOT restored") and f"restore {point.snapshot.short_id} --delete" in note


def test_a_point_that_could_not_be_gone_back_to(store: Store, top: Path, tmp_path: Path) -> None:
    def never() -> None:
        pytest.fail("the block was entered")

    with pytest.raises(SourceNotFound), store.restore_point(tmp_path / "none"):
        never()
    with pytest.raises(TargetRefused), store.restore_point("/"):
        never()
    with pytest.raises(TargetRefused), store.restore_point(store.path):
        never()
    store.create(top, name="first")
    (top / "sub" / "file").write_bytes(b"other")
    with store.restore_stream("first") as events:
        next(event for event in events if event.event == "file")
        with pytest.raises(RestoreUnfinished), store.restore_point(top):
            never()
    with pytest.raises(StoreFailed):
        _ = store.restore_point(top).snapshot


def test_what_cannot_be_read_could_not_come_back(store: Store, top: Path) -> None:
    taken = replace(store.create(top), unreadable_count=1)
    point = RestorePoint(lambda: taken, lambda snapshot: pytest.fail("restored"))
    with pytest.raises(SourceUnreadable), point:
        pytest.fail("the block was entered")


def test_ctrl_c_again_and_again(store: Store, top: Path, tmp_path: Path) -> None:
    """A process that is interrupted, and then interrupted again while it goes back."""
    code = f"""
import pathlib, snapstore, time
top = pathlib.Path({str(top)!r})
with snapstore.open({str(store.path)!r}) as store:
    with store.restore_point(top):
        for number in range(3000):
            (top / f"new-{{number}}").write_bytes(b"new")
        print("ready", flush=True)
        time.sleep(60)
"""
    before = restored_trees.facts(top)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
            if not any(name.startswith("new-") for name in os.listdir(top)):
                break
        _, said = process.communicate()
    assert restored_trees.facts(top) == before
    assert b"KeyboardInterrupt" in said
