"""Restores as a stream of events: what comes, and what becomes of one that nobody reads."""

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import restored_trees
from restored_trees import Changed

import snapstore
from snapstore import Cancelled, Event, Progress, RestoreEvents, Store
from snapstore.ops import streaming


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        yield store


@pytest.fixture
def tree(store: Store, tmp_path: Path) -> Changed:
    return restored_trees.make(store, tmp_path / "tree")


def words(events: list[Event]) -> list[str]:
    return [event.event for event in events if event.event != "progress"]


def test_events_of_a_restore_in_place(store: Store, tree: Changed) -> None:
    stream = store.restore_stream("first", delete=True, verify=True)
    events = list(stream)
    files = [event for event in events if event.event == "file"]
    assert words(events) == ["plan", "verified", *["file"] * len(files), "done"]
    assert {"path": str(tree.top / "added"), "action": "delete", "bytes": 5} in [
        event.data for event in files
    ]
    assert tree.is_before
    assert stream.result is not None and stream.error is None
    assert events[-1].data == stream.result.to_dict()
    assert stream.result.success and stream.result.can_undo
    assert list(stream) == []


def test_every_file_is_told_however_many(store: Store, tmp_path: Path) -> None:
    """The plan names some of them; who reads the events can have them all."""
    top, count = tmp_path / "many", 10_050
    top.mkdir()
    for number in range(count):
        (top / str(number)).touch()
    store.create(top)
    for number in range(count):
        (top / str(number)).chmod(0o600)
    plan, *files, done = [
        event.data for event in store.restore_stream("latest") if event.event != "progress"
    ]
    assert plan["step_count"] == count and len(plan["steps"]) == 10_000
    assert sorted(int(Path(one["path"]).name) for one in files) == list(range(count))
    assert {one["action"] for one in files} == {"metadata"}
    assert done["success"] and len(done["plan"]["steps"]) == 10_000


def test_conflicts_are_told(store: Store, tree: Changed) -> None:
    store.create(tree.top)
    (tree.top / "sub" / "file-1").write_bytes(b"changed again")
    events = list(store.restore_stream("first", strategy="merge"))
    (conflict,) = [event.data for event in events if event.event == "conflict"]
    assert conflict["path"].endswith("file-1") and conflict["taken"] == "live"
    assert events[-1].event == "done" and not events[-1].data["success"]


def test_a_new_target(store: Store, tree: Changed, tmp_path: Path) -> None:
    seen: list[Progress] = []
    stream = store.restore_stream("first", target=tmp_path / "new", progress=seen.append)
    assert {event.event for event in stream} == {"progress", "done"}
    assert seen
    assert restored_trees.facts(tmp_path / "new") == tree.before


def test_nothing_begins_before_the_first_event(store: Store, tree: Changed) -> None:
    threads = threading.active_count()
    stream = store.restore_stream("first")
    assert threading.active_count() == threads
    stream.close()
    assert list(stream) == []
    cancelled = store.restore_stream("first")
    cancelled.cancel()
    assert [event.data["kind"] for event in cancelled] == ["cancelled"]
    assert tree.is_after


@pytest.mark.parametrize(
    ("ref", "arguments", "kind"),
    [
        ("none", {}, "snapshot-not-found"),
        ("first", {"paths": "text"}, "invalid-argument"),
        ("first", {"strategy": "none"}, "invalid-argument"),
        ("first", {"no_such_option": 1}, "internal"),
    ],
)
def test_errors_are_the_last_event(store: Store, tree: Changed, ref, arguments, kind) -> None:
    stream = store.restore_stream(ref, **arguments)
    (failed,) = list(stream)
    assert (failed.event, failed.data["kind"]) == ("failed", kind)
    assert stream.error is not None and stream.result is None
    assert tree.is_after


def read_until(stream: RestoreEvents, word: str) -> None:
    for event in stream:
        if event.event == word:
            return
    pytest.fail(f"no {word} came")


LAST_FILE = "the last file"


def read_all_but_the_end(stream: RestoreEvents) -> None:
    count = 0
    for event in stream:
        if event.event == "plan":
            count = event.data["step_count"]
        count -= event.event == "file"
        if count == 0:
            return


@pytest.mark.parametrize("word", ["plan", "verified", "file", LAST_FILE])
@pytest.mark.parametrize("how", ["close", "cancel", "with", "closing", "garbage", "cycle"])
def test_whoever_stops_reading_gets_it_taken_back(
    store: Store, tree: Changed, word: str, how: str
) -> None:
    stream = store.restore_stream("first", delete=True, verify=True)
    if word == LAST_FILE:
        read_all_but_the_end(stream)
    else:
        read_until(stream, word)
    if how == "with":
        with stream:
            pass
    elif how == "closing":
        with contextlib.closing(stream):
            pass
    elif how == "cycle":
        holder: list[object] = [stream]
        holder.append(holder)
        del holder
    elif how != "garbage":
        getattr(stream, how)()
    if how in ("garbage", "cycle"):
        del stream
        gc.collect()
    else:
        rest = list(stream)
        assert isinstance(stream.error, Cancelled)
        assert rest == [] or how == "cancel"
    assert tree.is_after
    assert not store.unfinished(tree.top)
    assert store.restore("first", delete=True).success and tree.is_before


def test_cancel_from_another_thread_waits_until_it_is_taken_back(
    store: Store, tree: Changed
) -> None:
    stream = store.restore_stream("first", delete=True)
    read_until(stream, "file")
    state: list[bool] = []

    def cancel() -> None:
        stream.cancel()
        state.append(tree.is_after)

    other = threading.Thread(target=cancel)
    other.start()
    rest = list(stream)
    other.join()
    assert state == [True]
    assert rest[-1].event == "failed"
    assert "everything is as it was" in rest[-1].data["message"]


def test_cancel_after_the_end_changes_nothing(store: Store, tree: Changed) -> None:
    stream = store.restore_stream("first", delete=True)
    assert words(list(stream))[-1] == "done"
    stream.cancel()
    stream.close()
    assert tree.is_before


def test_closing_the_store_takes_back_what_is_not_finished(
    store: Store, tree: Changed, tmp_path: Path
) -> None:
    with snapstore.open(tmp_path / "store") as other:
        stream = other.restore_stream("first", delete=True)
        read_until(stream, "file")
    assert tree.is_after
    assert list(stream)[-1].event == "failed"


def test_an_event_each_second_when_nothing_happens(
    store: Store, tree: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "INTERVAL_S", 0.05)
    stream = store.restore_stream("first", hooks={"before": "sleep 0.5"})
    times = [time.monotonic()]
    events = []
    for event in stream:
        times.append(time.monotonic())
        events.append(event)
    waits = [after - before for before, after in pairwise(times)]
    assert max(waits) < 0.4
    idle = [event.data["elapsed_s"] for event in events[:4]]
    assert [event.event for event in events[:4]] == ["progress"] * 4
    assert idle == sorted(idle) and idle[0] < idle[3]


def test_no_more_events_wait_than_there_is_room_for(
    store: Store, tree: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "ROOM", 2)
    for number in range(20):
        (tree.top / f"extra-{number}").touch()
    stream = store.restore_stream("first", delete=True)
    next(stream)
    channel = stream._run._channel
    most = 0
    for _ in stream:
        time.sleep(0.002)
        most = max(most, len(channel._waiting))
    assert 0 < most <= 3  # there is always room for the last one
    assert tree.is_before


def test_ctrl_c_while_waiting_takes_it_back(
    store: Store, tree: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = store.restore_stream("first", delete=True)
    read_until(stream, "file")

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream._run._channel, "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    monkeypatch.undo()
    assert tree.is_after
    assert list(stream)[-1].event == "failed"


@pytest.mark.parametrize("asked", [lambda plan: False, lambda plan: 1 / 0])
def test_who_says_no_is_heard(store: Store, tree: Changed, asked: Callable[..., bool]) -> None:
    events = list(store.restore_stream("first", delete=True, approve=asked))
    assert words(events) == ["plan", "failed"]
    assert tree.is_after


def test_several_at_once(store: Store, tmp_path: Path) -> None:
    trees = [restored_trees.make(store, tmp_path / f"tree-{number}") for number in range(4)]
    refs = [store.snapshots(path=tree.top)[0].id for tree in trees]
    streams = [store.restore_stream(ref, delete=True) for ref in refs]
    waiting = list(streams)
    while waiting:
        waiting = [stream for stream in waiting if next(stream, None) is not None]
    assert all(tree.is_before for tree in trees)
