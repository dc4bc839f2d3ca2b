"""Commands around a restore: in which order, what they know, and what their failures do."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import restored_trees
from restored_trees import Changed

import snapstore
from snapstore import Cancelled, CommandFailed, InvalidArgument, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        yield store


@pytest.fixture
def tree(store: Store, tmp_path: Path) -> Changed:
    return restored_trees.make(store, tmp_path / "tree")


class Log:
    """Hooks that write down that they ran, and what they knew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def hooks(self, **exits: int) -> dict[str, str]:
        line = '"$SNAP_EVENT $SNAP_STATUS $SNAP_SNAPSHOT $SNAP_TARGET"'
        return {
            name: f'echo {line} >> {self.path}; echo "$SNAP_ERROR" >> {self.path}.errors; exit '
            f"{exits.get(name, 0)}"
            for name in ("before", "after", "failed", "finally")
        }

    @property
    def lines(self) -> list[list[str]]:
        try:
            return [line.split(" ") for line in self.path.read_text().splitlines()]
        except FileNotFoundError:
            return []

    @property
    def events(self) -> list[tuple[str, ...]]:
        return [tuple(line[:2]) for line in self.lines]

    @property
    def errors(self) -> list[str]:
        return Path(f"{self.path}.errors").read_text().splitlines()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


DONE = [("before", "running"), ("after", "done"), ("finally", "done")]
FAILED = [("before", "running"), ("failed", "failed"), ("finally", "failed")]


def test_the_order(store: Store, tree: Changed, log: Log, tmp_path: Path) -> None:
    result = store.restore("first", delete=True, hooks=log.hooks())
    assert log.events == DONE and result.warnings == []
    assert {tuple(line[2:]) for line in log.lines} == {(result.snapshot, str(tree.top))}
    assert log.errors == [""] * 3
    assert tree.is_before
    store.undo(hooks=log.hooks())
    assert log.events == DONE * 2
    assert tree.is_after
    store.restore("first", target=tmp_path / "new", hooks=log.hooks())
    assert log.events == DONE * 3
    assert log.lines[-1][3] == str(tmp_path / "new")
    assert [event.event for event in store.restore_stream("first", hooks=log.hooks())][-1] == "done"
    assert log.events == DONE * 4


def test_it_runs_where_something_is_still_as_it_was(
    store: Store, tree: Changed, tmp_path: Path
) -> None:
    added = tree.top / "added"
    looks = {
        "before": f"test -e {added} && touch {tmp_path}/1",
        "after": f"test ! -e {added} && touch {tmp_path}/2",
    }
    assert store.restore("first", delete=True, hooks=looks).warnings == []
    assert (tmp_path / "1").exists() and (tmp_path / "2").exists()


def test_before_fails(store: Store, tree: Changed, log: Log, tmp_path: Path) -> None:
    for target in (None, tmp_path / "new"):
        with pytest.raises(CommandFailed, match="exit status 7") as caught:
            store.restore("first", target=target, hooks=log.hooks(before=7))
        assert caught.value.fields["exit"] == 7
    assert log.events == FAILED * 2
    assert "exit status 7" in log.errors[-1]
    assert tree.is_after and not (tmp_path / "new").exists()
    assert not [one for one in store.snapshots(all=True) if one.kind == "safety"]


def test_the_restore_fails(store: Store, tree: Changed, log: Log) -> None:
    with pytest.raises(Cancelled):
        store.restore("first", delete=True, approve=lambda plan: False, hooks=log.hooks())
    assert log.events == FAILED
    assert log.errors[1:] == ["not restored; nothing was changed"] * 2


@pytest.mark.parametrize("name", ["after", "finally"])
def test_what_fails_afterwards_is_a_warning(
    store: Store, tree: Changed, log: Log, name: str
) -> None:
    result = store.restore("first", delete=True, hooks=log.hooks(**{name: 3}))
    assert log.events == DONE
    (warning,) = result.warnings
    assert warning.startswith(f"the hook {name} failed (exit status 3)")
    assert result.success and tree.is_before


def test_what_fails_after_a_failure_is_told_with_it(store: Store, tree: Changed, log: Log) -> None:
    with pytest.raises(CommandFailed) as caught:
        store.restore("first", hooks=log.hooks(before=1, failed=2, **{"finally": 3}))
    assert log.events == FAILED
    warnings = caught.value.fields["warnings"]
    assert [text.partition(":")[0] for text in warnings] == [
        "the hook failed failed (exit status 2)",
        "the hook finally failed (exit status 3)",
    ]
    assert caught.value.__notes__ == warnings


def test_a_command_that_is_not_there(store: Store, tree: Changed) -> None:
    with pytest.raises(CommandFailed):
        store.restore("first", hooks={"before": ["/no/such/program"]})
    assert tree.is_after
    result = store.restore("first", hooks={"after": ["/no/such/program"]})
    assert len(result.warnings) == 1


def test_a_list_is_run_as_it_is(store: Store, tree: Changed, tmp_path: Path) -> None:
    odd = tmp_path / "a b'c$HOME=1"
    store.restore("first", hooks={"before": ["touch", str(odd)]})
    assert odd.exists()


def test_output_goes_to_standard_error(
    store: Store, tree: Changed, capfd: pytest.CaptureFixture[str]
) -> None:
    store.restore("first", hooks={"before": "echo out; echo err >&2; cat"})
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "out\nerr\n")


def test_the_rest_of_the_environment_is_handed_on(
    store: Store, tree: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_TEST", "1")
    store.restore("first", hooks={"before": 'test "$OF_THE_TEST" = 1'})


def test_a_dry_run_runs_none(store: Store, tree: Changed, log: Log) -> None:
    store.restore("first", dry_run=True, hooks=log.hooks())
    store.restore("first")
    store.undo(dry_run=True, hooks=log.hooks())
    assert log.events == []


def test_none_is_run_for_what_is_refused(store: Store, tree: Changed, log: Log) -> None:
    with pytest.raises(InvalidArgument):
        store.restore("first", strategy="none", hooks=log.hooks())
    assert log.events == []


@pytest.mark.parametrize(
    "hooks", [{"during": "true"}, {"before": ""}, {"before": []}, {"before": 1}, {"after": [1]}]
)
def test_what_is_no_hook(
    store: Store, tree: Changed, hooks: dict[str, Any], tmp_path: Path
) -> None:
    for arguments in ({}, {"target": tmp_path / "new"}, {"dry_run": True}):
        with pytest.raises(InvalidArgument):
            store.restore("first", hooks=hooks, **arguments)
    with pytest.raises(InvalidArgument):
        store.restore_detached("first", hooks=hooks)


def test_a_hook_is_ended_when_the_restore_is(store: Store, tree: Changed, log: Log) -> None:
    stream = store.restore_stream("first", hooks={**log.hooks(), "before": ["sleep", "60"]})
    next(stream)
    begun = time.monotonic()
    stream.cancel()
    assert time.monotonic() - begun < 30
    assert log.events == FAILED[1:]
    assert tree.is_after


def test_time_for_hooks_does_not_count(store: Store, tree: Changed) -> None:
    result = store.restore("first", delete=True, hooks={"before": "sleep 1"}, time_limit=0.9)
    assert result.success and tree.is_before


def test_hooks_after_it_are_not_ended_with_it(store: Store, tree: Changed, log: Log) -> None:
    hooks = log.hooks(before=1)
    hooks["failed"] = f"sleep 1; {hooks['failed']}"
    stream = store.restore_stream("first", hooks=hooks)
    ended = threading.Timer(0.3, stream.cancel)
    ended.start()
    assert list(stream)[-1].event == "failed"
    ended.join()
    assert log.events == FAILED


def test_a_resolver_may_be_a_command(store: Store, tree: Changed) -> None:
    store.create(tree.top)
    (tree.top / "sub" / "file-1").write_bytes(b"changed again")
    command = 'case "$SNAP_PATH" in */file-1) grep -q snapshot && echo live;; esac'
    with pytest.raises(CommandFailed, match="the resolver failed"):
        store.restore("first", resolver=["false"])
    result = store.restore("first", resolver=command)
    assert [conflict.taken for conflict in result.conflicts] == ["live"]
    assert (tree.top / "sub" / "file-1").read_bytes() == b"changed again"
