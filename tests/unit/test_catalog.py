"""The catalog: what is kept of snapshots counts only while the objects are those that were read."""

import errno
import os
import time
from pathlib import Path

import pytest

import snapstore
from snapstore import Store
from snapstore.model.names import Versioned
from snapstore.model.snapshot import encode_label
from snapstore.repository import catalog as module
from snapstore.repository.catalog import Catalog
from snapstore.repository.frames import Frames, FrameType


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(module, "SPARE", 1)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("x")
    store = snapstore.init(tmp_path / "store")
    for number in range(4):
        store.create(tmp_path / "source", name=f"n{number}", tags=["t"])
    return store


def another(store: Store) -> Catalog:
    """The catalog as a new process has it."""
    repository = store._repository
    return Catalog(repository.objects, repository.frames, repository.local)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    decode = Frames.decode

    def counting(self: Frames, type: FrameType, name: str, data: bytes) -> tuple[bytes, bytes]:
        read.append(name)
        return decode(self, type, name, data)

    monkeypatch.setattr(Frames, "decode", counting)
    return read


def test_what_is_kept_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = store.snapshots()
    read = count_reads(monkeypatch)
    assert another(store).snapshots() == sorted(expected, key=lambda s: s.id)
    assert read == ["local/catalog"]
    newest = another(store).newest(expected[0].source, expected[0].host)
    assert newest == expected[0]


def test_a_changed_object_is_read_again(store: Store) -> None:
    first = store.snapshots()[0]
    path = store.path / "snap" / first.id
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    damaged = {s.id: s.status for s in another(store).snapshots()}
    assert damaged.pop(first.id) == "damaged"
    assert set(damaged.values()) == {"ready"}
    path.unlink()
    assert first.id not in {s.id for s in another(store).snapshots()}


def test_fresh_means_from_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_reads(monkeypatch)
    assert len(another(store).snapshots(fresh=True)) == 4
    assert len([name for name in read if name.startswith(("snap/", "label/"))]) == 8


def test_later_labels_count(store: Store) -> None:
    first = store.snapshots()[0]
    frames = store._repository.frames
    later = encode_label([["set", "name", "new"], ["untag", "t"]], "me", 1)
    name = frames.write_versioned(FrameType.LABEL, first.id, 2, later)
    for catalog in (store._repository.catalog, another(store)):
        found = {s.id: (s.name, s.tags) for s in catalog.snapshots()}
        assert found[first.id] == ("new", ())
    os.unlink(store.path / name)
    assert {s.name for s in another(store).snapshots()} == {"n0", "n1", "n2", "n3"}


def test_a_damaged_label_costs_only_itself(store: Store) -> None:
    first = store.snapshots()[0]
    wrong = Versioned(first.id, 2, "0" * 8, "label")
    (store.path / wrong.name).write_bytes(b"nonsense")
    assert next(s for s in another(store).snapshots() if s.id == first.id).name == first.name


def test_a_damaged_snapshot_keeps_its_label(store: Store) -> None:
    first = store.snapshots()[0]
    path = store.path / "snap" / first.id
    path.chmod(0o600)
    path.write_bytes(b"nonsense")
    for fresh in (False, True):
        found = {s.id: s for s in another(store).snapshots(fresh=fresh)}[first.id]
        assert (found.status, found.name, found.tags) == ("damaged", first.name, ("t",))
        assert 0 < found.time_ns <= time.time_ns()
    for label in (store.path / "label").glob(f"{first.id}*"):
        label.unlink()
    found = {s.id: s for s in another(store).snapshots()}[first.id]
    assert (found.status, found.name, found.time_ns) == ("damaged", None, 0)


def test_a_medium_that_becomes_read_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    expected = store.snapshots()
    (store.path / "local" / "catalog").unlink()
    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert another(store).snapshots() == sorted(expected, key=lambda s: s.id)


def test_what_killed_writers_left_is_removed(store: Store) -> None:
    file = store.path / "local" / "catalog"
    old, new = (file.with_name(f"catalog-{digit * 16}") for digit in "01")
    for left in (old, new):
        left.write_bytes(b"some of it")
    os.utime(old, (0, 0))
    file.unlink()
    another(store).snapshots()
    assert file.exists()
    assert [path.name for path in file.parent.glob("catalog-*")] == [new.name]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_no_matter(store: Store, damage: bytes | None) -> None:
    file = store.path / "local" / "catalog"
    if damage is None:
        flipped = bytearray(file.read_bytes())
        flipped[len(flipped) // 2] ^= 4
        damage = bytes(flipped)
    file.write_bytes(damage)
    assert another(store).snapshots() == sorted(store.snapshots(), key=lambda s: s.id)
    assert not list(file.parent.glob("catalog-*"))
