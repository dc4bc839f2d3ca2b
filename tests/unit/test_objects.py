"""Objects on disk: written whole or not at all, never replaced, and trouble is never absence."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapstore.base.errors import DamagedObject, NoSpace, StorageError, StoreReadOnly
from snapstore.repository import objects as module
from snapstore.repository.objects import LocalObjects

NAME = "snap/" + "a" * 64


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    for name in ("snap", "tmp", "sess", "data", "local"):
        (tmp_path / name).mkdir()
    return LocalObjects(tmp_path)


def failing(code: int, after: int = 0) -> Callable[..., Any]:
    """A function that raises an error of the operating system from its call `after` on."""
    calls = iter(range(1 << 30))

    def fail(*_: Any, **__: Any) -> Any:
        if next(calls) >= after:
            raise OSError(code, os.strerror(code))

    return fail


def left(objects: LocalObjects) -> list[str]:
    return os.listdir(objects.path / "tmp")


def test_an_object_is_there_after_it_was_put(objects: LocalObjects) -> None:
    objects.put(NAME, b"data")
    assert objects.get(NAME) == b"data"
    assert objects.list("snap/") == [NAME]
    assert objects.size(NAME) == 4
    assert left(objects) == []
    assert (objects.path / NAME).stat().st_mode & 0o077 == 0
    objects.delete(NAME)
    objects.delete(NAME)
    assert objects.get(NAME) is None
    assert objects.size(NAME) is None
    assert objects.list("snap/") == objects.list("nowhere/") == []


def test_nothing_is_ever_replaced(objects: LocalObjects) -> None:
    objects.put(NAME, b"first")
    with pytest.raises(DamagedObject):
        objects.put(NAME, b"second")
    assert objects.get(NAME) == b"first"
    assert left(objects) == []


def test_directories_are_made_when_they_are_missing(objects: LocalObjects) -> None:
    (objects.path / "tmp").rmdir()
    objects.put("ref/branch/" + "0" * 32 + "-00000001-00000000", b"x")
    assert objects.list("ref/branch/") == ["ref/branch/" + "0" * 32 + "-00000001-00000000"]


def test_names_outside_the_grammar_are_not_listed(objects: LocalObjects) -> None:
    for name in (".hidden", "UPPER", "a b", "good-1"):
        (objects.path / "snap" / name).touch()
    assert objects.list("snap/") == ["snap/good-1"]
    assert sorted(objects.walk()) == ["snap/.hidden", "snap/UPPER", "snap/a b", "snap/good-1"]


def test_packs(objects: LocalObjects) -> None:
    id = bytes(range(32))
    (objects.path / "data" / "00").mkdir()
    (objects.path / "data" / "00" / id.hex()).touch()
    (objects.path / "data" / "00" / ("1" * 64)).touch()
    (objects.path / "data" / "README").touch()
    assert list(objects.packs()) == [(1, id)]


def test_an_object_that_is_too_large_is_damage(objects: LocalObjects) -> None:
    with open(objects.path / NAME, "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DamagedObject):
        objects.get(NAME)


# Trouble


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EROFS, StoreReadOnly),
        (errno.EACCES, StoreReadOnly),
        (errno.EIO, StorageError),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "open", "link"])
def test_errors_of_the_medium(
    objects: LocalObjects,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    kind: type[Exception],
) -> None:
    monkeypatch.setattr(os, call, failing(code))
    monkeypatch.setattr(module, "_rename_without_replacing", failing(code))
    with pytest.raises(kind) as caught:
        objects.put(NAME, b"data")
    monkeypatch.undo()
    assert caught.value.fields["errno"] == code  # type: ignore[attr-defined]
    assert objects.get(NAME) is None
    assert left(objects) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_read_is_not_absent(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    objects.put(NAME, b"data")
    monkeypatch.setattr("builtins.open", failing(code))
    monkeypatch.setattr(os, "listdir", failing(code))
    monkeypatch.setattr(os, "stat", failing(code))
    looks = (objects.get, objects.size, lambda _: objects.list("snap/"))
    for look in looks:
        with pytest.raises(StorageError) as caught:
            look(NAME)
        assert ("read by you" in str(caught.value.hint)) == (code == errno.EACCES)


def test_short_writes_are_carried_on(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    objects.put(NAME, b"0123456789")
    assert objects.get(NAME) == b"0123456789"


def test_a_full_disk_gives_the_reserve_back_first(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.make_reserve(objects.path / "local")
    reserve = objects.path / "local" / "reserve"
    assert reserve.stat().st_size == module.RESERVE_BYTES
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "no space")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    objects.put(NAME, b"data")
    assert objects.get(NAME) == b"data"
    assert not objects.release_reserve()


def test_without_hard_links(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    objects.put(NAME, b"first")
    assert objects.get(NAME) == b"first"
    with pytest.raises(DamagedObject):
        objects.put(NAME, b"second")
    assert objects.get(NAME) == b"first"
    assert left(objects) == []


def test_a_name_that_cannot_be_made_durable_is_taken_back(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_sync_directory", failing(errno.EIO))
    with pytest.raises(StorageError):
        objects.put(NAME, b"data")
    monkeypatch.undo()
    assert objects.get(NAME) is None


# Leases

LEASE = "sess/" + "0" * 26 + "-0000"

_HOLD = """
import sys
from pathlib import Path
from snapstore.repository.objects import LocalObjects
hold = LocalObjects(Path(sys.argv[1])).hold(sys.argv[2], b"lease")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(objects: LocalObjects) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, objects.path, LEASE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lease_lives_as_long_as_its_process(
    objects: LocalObjects, holder: "subprocess.Popen[str]"
) -> None:
    assert objects.held(LEASE)
    assert objects.get(LEASE) == b"lease"
    holder.kill()
    holder.wait()
    assert not objects.held(LEASE)
    assert objects.get(LEASE) == b"lease"


def test_looking_at_leases_does_not_keep_them(objects: LocalObjects) -> None:
    hold = objects.hold(LEASE, b"lease")
    assert objects.held(LEASE)
    hold.release()
    with open(objects.path / LEASE) as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # somebody else looks as well
        assert not objects.held(LEASE)
    assert not objects.held("sess/nobody")


def test_locks_alone_do_not_count_on_network_file_systems(objects: LocalObjects) -> None:
    networked = LocalObjects(objects.path, networked=True)
    networked.hold(LEASE, b"lease").release()
    assert networked.held(LEASE)
    old = time.time() - 8 * 86_400
    os.utime(objects.path / LEASE, (old, old))
    assert not networked.held(LEASE)


# What a crash leaves in tmp/


def test_only_what_dead_writers_left_is_cleaned_away(objects: LocalObjects) -> None:
    old = time.time() - 3600
    for name in ("dead", "alive", "young"):
        (objects.path / "tmp" / name).write_bytes(b"part")
    for name in ("dead", "alive"):
        os.utime(objects.path / "tmp" / name, (old, old))
    with open(objects.path / "tmp" / "alive") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        objects.clean()
        assert sorted(left(objects)) == ["alive", "young"]
    objects.clean()
    assert left(objects) == ["young"]


def test_what_cannot_be_cleaned_away_is_in_nobodys_way(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = time.time() - 3600
    for name in ("a-locked", "b-closed", "d-dead"):
        (objects.path / "tmp" / name).touch()
    (objects.path / "tmp" / "c-directory").mkdir()
    (objects.path / "tmp" / "c-link").symlink_to("d-dead")
    for name in left(objects):
        os.utime(objects.path / "tmp" / name, (old, old), follow_symlinks=False)
    unlink, open_at_once = os.unlink, module.open_at_once

    def refused(path: Path, *rest: Any) -> Any:
        if path.name in ("a-locked", "b-closed"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return (open_at_once if rest else unlink)(path, *rest)

    monkeypatch.setattr(os, "unlink", refused)
    objects.clean()
    monkeypatch.setattr(module, "open_at_once", refused)
    objects.clean()
    assert sorted(left(objects)) == ["a-locked", "b-closed", "c-directory", "c-link"]
