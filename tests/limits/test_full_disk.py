"""The disk is full, read-only, or of another machine: what was there stays, reading goes on."""

import ctypes
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from limits_tools import assert_sound, packs, small_disk, snap

import snapstore
from snapstore.base.errors import NoSpace, OperationDenied, SnapstoreError
from snapstore.repository import medium

MIB = 1 << 20


def _noise(path: Path, size: int, seed: int) -> None:
    path.write_bytes(random.Random(seed).randbytes(size))


def _ids(store: Path) -> set[str]:
    with snapstore.open(store, mode="r") as opened:
        return {snapshot.id for snapshot in opened.snapshots()}


@pytest.fixture
def source(quick_path: Path) -> Path:
    top = quick_path / "source"
    top.mkdir()
    _noise(top / "small", 100_000, 1)
    return top


@pytest.fixture
def disk(quick_path: Path, require: Callable[..., None]) -> Iterator[Path]:
    require("mount")
    with small_disk(quick_path / "disk", "24m") as place:
        yield place


def test_full_while_creating(quick_path: Path, disk: Path, source: Path) -> None:
    store = disk / "store"
    with snapstore.init(store) as made:
        first = made.create(source).snapshot.id
    _noise(source / "large", 40 * MIB, 2)
    ended = snap("create", source, "--store", store)
    assert (ended.status, ended.error) == (1, "no-space"), ended
    assert "Traceback" not in ended.text
    assert _ids(store) == {first}
    assert_sound(store)
    assert list((store / "tmp").iterdir()) == []

    (source / "large").unlink()
    _noise(source / "some", 2 * MIB, 3)
    assert snap("create", source, "--store", store).status == 0
    assert_sound(store)
    assert snap("restore", "latest", "--target", quick_path / "back", "--store", store).status == 0
    assert (quick_path / "back" / "some").read_bytes() == (source / "some").read_bytes()


def test_every_level_of_free_space(quick_path: Path, disk: Path, source: Path) -> None:
    """A ballast leaves less and less room. Each create succeeds or says that there is none."""
    store = disk / "store"
    with snapstore.init(store) as made:
        known = {made.create(source).snapshot.id}
    ends = []
    for step, free in enumerate([9_000, 3_000, 1_000, 400, 120, 60, 28, 12, 4, 0]):
        place = os.statvfs(disk)
        ballast = max(0, place.f_bavail * place.f_frsize - free * 1024)
        with (disk / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, ballast or 1)
        _noise(source / "changed", 700_000, step)
        ended = snap("create", source, "--store", store)
        ends.append((free, ended.error))
        assert ended.status == 0 or (ended.status, ended.error) == (1, "no-space"), ended
        now = _ids(store)
        assert known <= now
        assert len(now - known) == (ended.status == 0)
        known = now
        assert_sound(store)
        back = quick_path / f"back{step}"
        assert snap("restore", "latest", "--target", back, "--store", store).status == 0
        (disk / "ballast").unlink()
    print(ends)
    assert snap("create", source, "--store", store).status == 0
    assert_sound(store)


def test_full_while_making_a_store(quick_path: Path, require: Callable[..., None]) -> None:
    require("mount")
    with small_disk(quick_path / "tiny", "4k") as place:
        (place / "ballast").write_bytes(b"x" * 4_096)
        ended = snap("init", place / "store")
        assert (ended.status, ended.error) == (1, "no-space"), ended
        assert os.listdir(place) == ["ballast"]


def test_full_while_restoring(quick_path: Path, disk: Path, source: Path) -> None:
    store = quick_path / "store"
    _noise(source / "large", 30 * MIB, 2)
    with snapstore.init(store) as made:
        made.create(source)
    ended = snap("restore", "latest", "--target", disk / "back", "--store", store)
    assert (ended.status, ended.error) == (1, "no-space"), ended
    assert_sound(store)
    assert snap("restore", "latest", "--target", quick_path / "ok", "--store", store).status == 0


def test_read_only_medium(quick_path: Path, disk: Path, source: Path) -> None:
    store = disk / "store"
    with snapstore.init(store) as made:
        made.create(source, name="first")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for command in (["list"], ["show", "first"], ["ls", "first"], ["stats"], ["check"]):
        ended = snap(*command, "--store", store)
        assert ended.status == 0, ended
    assert snap("check", "--read-data", "--store", store).status == 0
    ended = snap("restore", "first", "--target", quick_path / "back", "--store", store)
    assert ended.status == 0, ended
    assert (quick_path / "back" / "small").read_bytes() == (source / "small").read_bytes()
    ended = snap("create", source, "--store", store)
    assert (ended.status, ended.error) == (14, "read-only"), ended
    with snapstore.open(store) as opened:
        assert not opened.writable
        with pytest.raises(OperationDenied):
            opened.create(source)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert os.listdir(store / "sess") == []
    assert snap("create", source, "--store", store).status == 0


def test_medium_that_becomes_read_only(disk: Path, source: Path) -> None:
    """As it does after an I/O error, while the store is open for writing."""
    store = disk / "store"
    with snapstore.init(store) as opened:
        opened.create(source, name="first")
        subprocess.run(["mount", "-o", "remount,ro,force", disk], check=False)
        try:
            if not os.access(disk, os.W_OK):
                with pytest.raises(SnapstoreError):
                    opened.create(source)
                assert opened.get("first")
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert_sound(store)


# Network file systems


class _Statfs:
    """A libc in which statfs gives one type."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def statfs(self, path: bytes, buffer: Any) -> int:
        ctypes.c_ulong.from_buffer(buffer).value = self.kind
        return 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (0x6969, "nfs"),
        (0xFF534D42, "cifs"),
        (0x65735546, "fuse"),
        (0xEF53, None),
        (0x01021994, None),
    ],
)
def test_network_file_systems_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, name: str | None
) -> None:
    monkeypatch.setattr(medium.ctypes, "CDLL", lambda *_, **__: _Statfs(kind))
    assert medium.network_kind(tmp_path) == name


@pytest.mark.parametrize("cached", [True, False], ids=["with a cache", "without"])
def test_store_on_a_network(
    quick_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """Nothing derived is put there, and a lease that was not locked may be alive elsewhere."""
    monkeypatch.setattr(medium, "network_kind", lambda path: "nfs")
    cache = quick_path / "cache"
    options = {"cache_dir": cache} if cached else {}
    store = quick_path / "store"
    with snapstore.init(store, **options) as made:
        made.create(source, name="first")
    assert list((store / "local").iterdir()) == []
    assert cache.exists() == cached
    elsewhere = store / "sess" / "01jd0000000000000000000000-0000"
    elsewhere.write_bytes(b"of another machine")
    with snapstore.open(store, **options) as opened:
        assert opened.create(source).new_bytes == 0
        assert opened.restore("first", target=quick_path / "back").success
        assert opened.check(read_data=True).ok
        assert elsewhere.exists()
        os.utime(elsewhere, (0, 0))
        opened.create(source)
        assert not elsewhere.exists()


# A store that goes away


def test_store_removed_while_open(quick_path: Path, source: Path) -> None:
    store = quick_path / "store"
    with snapstore.init(store) as opened:
        opened.create(source, name="first")
        subprocess.run(["rm", "-rf", store], check=True)
        for call in (
            lambda: opened.create(source),
            lambda: opened.get("first"),
            lambda: opened.restore("first", target=quick_path / "back"),
        ):
            with pytest.raises(SnapstoreError):
                call()
        with pytest.raises(SnapstoreError):
            snapstore.open(store)


def test_store_removed_while_creating(quick_path: Path, source: Path) -> None:
    _noise(source / "large", 60 * MIB, 2)
    for delay_s in (0.0, 0.02, 0.05):
        store = quick_path / f"store{delay_s}"
        with snapstore.init(store) as opened:
            removal = ["sh", "-c", f"sleep {delay_s}; rm -rf {store}"]
            remover = threading.Thread(target=subprocess.run, args=(removal,))
            remover.start()
            try:
                opened.create(source)
            except SnapstoreError as error:
                assert error.kind != "internal", error
            remover.join()


def test_no_space_is_told_from_trouble(quick_path: Path, disk: Path, source: Path) -> None:
    """The library raises NoSpace, with what to do, wherever the store was when it was full."""
    _noise(source / "large", 40 * MIB, 2)
    with snapstore.init(disk / "store") as store:
        with pytest.raises(NoSpace) as caught:
            store.create(source)
        assert caught.value.exit_code == 1
        (source / "large").unlink()
        assert store.create(source).snapshot
        assert packs(disk / "store")
