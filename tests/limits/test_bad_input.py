"""What users get wrong, and stores that are not as they must be: a clear error with its exit
status, and nothing changed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from limits_tools import Ended, assert_sound, snap

import snapstore
from snapstore import _native
from snapstore.base.errors import (
    AmbiguousReference,
    SnapshotNotFound,
    StoreForked,
    StoreTooNew,
)
from snapstore.model import canonical


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "inside").mkdir(parents=True)
    (top / "file").write_bytes(b"content")
    (top / "inside" / "other").write_bytes(b"more" * 1000)
    return top


@pytest.fixture
def store(tmp_path: Path, source: Path) -> Path:
    """A store with one snapshot, `first`."""
    path = tmp_path / "store"
    with snapstore.init(path) as made:
        made.create(source, name="first")
    return path


def _objects(store: Path) -> set[str]:
    return {
        str(path.relative_to(store))
        for path in store.rglob("*")
        if path.is_file() and path.relative_to(store).parts[0] != "local"
    }


Arguments = Callable[[Path, Path], list[Any]]

WRONG: dict[str, tuple[int, str, Arguments]] = {
    "missing source": (1, "source-not-found", lambda s, t: ["create", t / "nothing"]),
    "source below a file": (1, "source-unreadable", lambda s, t: ["create", t / "source/file/x"]),
    "unknown reference": (13, "snapshot-not-found", lambda s, t: ["show", "nothing"]),
    "unknown id": (13, "snapshot-not-found", lambda s, t: ["show", "0" * 64]),
    "latest far back": (13, "snapshot-not-found", lambda s, t: ["show", "latest~9"]),
    "unknown parent": (13, "snapshot-not-found", lambda s, t: ["create", t, "--parent", "no"]),
    "path not in snapshot": (13, "path-not-found", lambda s, t: ["ls", "first:/nowhere"]),
    "path below a file": (
        13,
        "path-not-found",
        lambda s, t: ["restore", f"first:{t}/source/file/x", "--target", t / "new"],
    ),
    "nothing to undo": (1, "nothing-to-undo", lambda s, t: ["undo"]),
    "target inside a file": (
        1,
        "target-invalid",
        lambda s, t: ["restore", "first", "--target", t / "source/file/x"],
    ),
    "target is a file": (
        1,
        "target-invalid",
        lambda s, t: ["restore", "first", "--target", t / "source/file"],
    ),
    "target without a parent": (
        1,
        "target-invalid",
        lambda s, t: ["restore", "first", "--target", t / "a/b"],
    ),
    "target in the store": (
        1,
        "target-invalid",
        lambda s, t: ["restore", "first", "--target", s / "new"],
    ),
    "store exists": (1, "store-exists", lambda s, t: ["init", s]),
    "image of a directory": (1, "source-unreadable", lambda s, t: ["create", "--image", t]),
    "a stream with a slash": (2, "invalid-argument", lambda s, t: ["create", "--stdin", "a/b"]),
    "nothing to take": (2, "usage", lambda s, t: ["create"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(tmp_path: Path, source: Path, store: Path, case: str) -> None:
    status, kind, arguments = WRONG[case]
    before = _objects(store)
    ended = snap(*arguments(store, tmp_path), "--store", store)
    assert (ended.status, ended.error) == (status, kind), ended
    assert _objects(store) == before, "the store was changed"
    assert sorted(os.listdir(tmp_path)) == ["source", "store"]


@pytest.mark.parametrize("command", [["list"], ["show", "latest"], ["check"], ["create", "/etc"]])
def test_no_store(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file").write_bytes(b"x")
    cases = {"missing": "store-not-found", "file": "store-invalid", "files": "store-invalid"}
    for name, kind in cases.items():
        ended = snap(*command, "--store", tmp_path / name)
        assert (ended.status, ended.error) == (10, kind), ended
    assert not (tmp_path / "missing").exists()


def test_ambiguous_reference(store: Path, source: Path) -> None:
    """Enough snapshots that two ids begin with the same four digits, found or not."""
    with snapstore.open(store) as opened:
        ids = [opened.create(source / "file").snapshot.id for _ in range(3)]
        for digits in range(4, 64):
            prefix = ids[0][:digits]
            same = [s.id for s in opened.snapshots() if s.id.startswith(prefix)]
            if len(same) == 1:
                assert opened.get(prefix).id == ids[0]
                break
            with pytest.raises(AmbiguousReference):
                opened.get(prefix)
        with pytest.raises(SnapshotNotFound):
            opened.get(ids[0][:3])


def test_ambiguous_ids(store: Path, source: Path) -> None:
    """Two objects whose names begin alike, one of them damaged."""
    with snapstore.open(store) as opened:
        id = opened.get("first").id
        (store / "snap" / (id[:40] + "0" * 24)).write_bytes(b"")
        with pytest.raises(AmbiguousReference) as caught:
            opened.get(id[:10])
        assert caught.value.exit_code == 13
        assert opened.get(id).name == "first"


# Stores of newer versions


def _write_config(store: Path, change: dict[str, Any]) -> None:
    """Writes the config anew, with the right checksum."""
    path = store / "config"
    record = canonical.decode_object(_native.read_frame(None, 1, "config", path.read_bytes())[1])
    payload = canonical.encode({**record, **change})
    path.chmod(0o600)
    path.write_bytes(_native.write_frame(None, 1, "config", bytes(16), payload))


def _newer_frame(store: Path) -> None:
    path = store / "config"
    data = bytearray(path.read_bytes())
    data[4] += 1
    data[-8:] = xxhash.xxh3_64_intdigest(bytes(data[:-8])).to_bytes(8, "little")
    path.chmod(0o600)
    path.write_bytes(data)


def _newer_format(store: Path) -> None:
    _write_config(store, {"format": 2})


def _newer_feature(store: Path) -> None:
    _write_config(store, {"features": {"required": ["time-travel"], "optional": []}})


@pytest.mark.parametrize("change", [_newer_frame, _newer_format, _newer_feature])
def test_store_of_a_newer_version(
    store: Path, source: Path, change: Callable[[Path], None]
) -> None:
    change(store)
    with pytest.raises(StoreTooNew):
        snapstore.open(store)
    ended = snap("list", "--store", store)
    assert (ended.status, ended.error) == (1, "store-too-new")


def test_optional_feature_of_a_newer_version(tmp_path: Path, store: Path, source: Path) -> None:
    """It may be read, but not written."""
    _write_config(store, {"features": {"required": [], "optional": ["time-travel"]}})
    with snapstore.open(store) as opened:
        assert [s.name for s in opened.snapshots()] == ["first"]
        assert opened.restore("first", target=tmp_path / "back").success
        with pytest.raises(StoreTooNew):
            opened.create(source)
    assert snap("check", "--store", store).status == 0


# Without rights


@pytest.mark.needs("unprivileged")
def test_unreadable_source(tmp_path: Path, source: Path, store: Path) -> None:
    """One that cannot be read at all is an error; parts that cannot make the snapshot partial."""
    (source / "inside").chmod(0)
    (source / "secret").write_bytes(b"hidden")
    (source / "secret").chmod(0)
    try:
        whole = snap("create", source / "inside", "--store", store, rights=False)
        assert (whole.status, whole.error) == (1, "source-unreadable"), whole
        part = snap("create", source, "--name", "part", "--store", store, rights=False)
        assert part.status == 3, part
    finally:
        (source / "inside").chmod(0o755)
    with snapstore.open(store) as opened:
        partial = opened.get("part")
        assert partial.partial
        names = {path.removeprefix(os.fsencode(source)) for path, _ in partial.unreadable}
        assert names == {b"/inside", b"/secret"}
        assert opened.get("latest").name == "first", "latest is the newest complete one"
        back = opened.restore("part", target=tmp_path / "back")
        assert back.success
    assert (tmp_path / "back" / "file").read_bytes() == b"content"


@pytest.mark.needs("unprivileged")
def test_target_without_permission(tmp_path: Path, store: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(closed, 65_534, 65_534)
    for target in (closed / "new", closed):
        ended = snap("restore", "first", "--target", target, "--store", store, rights=False)
        assert (ended.status, ended.error) == (14, "target-denied"), ended


@pytest.mark.needs("unprivileged")
def test_store_without_permission(tmp_path: Path, store: Path, source: Path) -> None:
    """A store that may only be read can be read, by whoever may."""
    for directory in (store, *(path for path in store.rglob("*") if path.is_dir())):
        directory.chmod(0o500)
    ended = snap("create", source, "--store", store, rights=False)
    assert (ended.status, ended.error) == (14, "read-only"), ended
    for command in (["list"], ["show", "first"], ["ls", "first"], ["check"], ["stats"]):
        assert snap(*command, "--store", store, rights=False).status == 0
    back = ["restore", "first", "--target", tmp_path / "back", "--store", store]
    assert snap(*back, rights=False).status == 0

    store.chmod(0)
    ended = snap("list", "--store", store, rights=False)
    assert ended.status in (10, 14), ended
    assert ended.error in ("store-not-found", "read-only", "denied"), ended
    store.chmod(0o700)


# Streams


def _no_snapshot(ended: Ended, store: Path, name: str) -> None:
    assert (ended.status, ended.error) == (1, "command-failed"), ended
    with snapstore.open(store, mode="r") as opened:
        assert opened.find_one(name) is None


def test_commands_that_fail_commit_nothing(store: Path, source: Path) -> None:
    for command in ("exit 3", "echo some; false", "kill -9 $$", "/no/such/command"):
        ended = snap(
            *("create", source, "--name", "never", "--store", store),
            *("--stdin-from", "good=echo fine", "--stdin-from", f"bad={command}"),
        )
        _no_snapshot(ended, store, "never")
    ended = snap(
        *("create", "--name", "now", "--store", store),
        *("--stdin-from", "one=echo 1", "--stdin-from", "two=printf 22; exit 0"),
    )
    assert ended.status == 0, ended
    with snapstore.open(store) as opened:
        assert b"".join(opened.read("now", b"one")) == b"1\n"
        assert b"".join(opened.read("now", b"two")) == b"22"
    assert_sound(store)


# Several opens, processes, and a store that goes away


def test_two_opens_in_one_process(store: Path, source: Path) -> None:
    with snapstore.open(store) as one, snapstore.open(store) as two:
        (source / "new").write_bytes(os.urandom(100_000))
        made = one.create(source).snapshot
        assert two.get(made.id).id == made.id
        again = two.create(source)
        assert again.new_bytes == 0
        one.close()
        assert two.check(read_data=True).ok
        assert b"".join(two.read(made.id, source / "new")) == (source / "new").read_bytes()


def test_fork(store: Path, source: Path) -> None:
    """A store that was opened before a fork is not for the new process, which may open its own."""
    with snapstore.open(store) as opened:
        opened.create(source)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for call in (opened.snapshots, lambda: opened.create(source), opened.stats):
                    with pytest.raises(StoreForked):
                        call()
                opened.close()
                with snapstore.open(store) as own:
                    status = 0 if own.create(source, name="child").snapshot else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert opened.get("child")
        assert opened.check(read_data=True).ok
