"""Passwords of encrypted stores, append-only stores, and what a machine remembers of them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snapstore
from snapstore import Kdf, Store
from snapstore.base import errors
from snapstore.model.keys import KeyRecord
from snapstore.repository import keys

CHEAP = Kdf(memory_kib=8192, passes=1, lanes=1)
FIRST, SECOND = b"the first password", b"the second one"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An encrypted store."""
    path = tmp_path / "store"
    snapstore.init(path, password=FIRST, kdf=CHEAP).close()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_bytes(b"content of it" * 100)
    return path


def opened(place: Path, password: bytes = FIRST, **more: object) -> Store:
    return snapstore.open(place, password=password, **more)  # type: ignore[arg-type]


def slots(place: Path) -> list[Path]:
    return sorted((place / "key").iterdir())


# Passwords


def test_each_password_opens_the_same_keys(place: Path, source: Path) -> None:
    with opened(place) as store:
        store.create(source, name="mine")
        added = store.add_key(SECOND, "second", kdf=CHEAP)
        assert [key.name for key in store.list_keys()] == ["password", "second"]
        assert [key.current for key in store.list_keys()] == [True, False]
        assert added in store.list_keys()
    with opened(place, SECOND) as store:
        assert store.get("mine").name == "mine"
        assert [key.current for key in store.list_keys()] == [False, True]


def test_a_changed_password_ends(place: Path) -> None:
    with opened(place) as store:
        before = store.list_keys()
        changed = store.change_password(bytearray(SECOND), kdf=CHEAP)
        assert store.list_keys() == [changed]
        assert changed.current and changed.id != before[0].id and changed.name == before[0].name
        store.change_password(b"a third one", kdf=CHEAP)
    with pytest.raises(errors.WrongPassword):
        opened(place)
    with pytest.raises(errors.WrongPassword):
        opened(place, SECOND)
    opened(place, b"a third one").close()


def test_a_key_is_found_by_name_and_id(place: Path) -> None:
    with opened(place) as store:
        second = store.add_key(SECOND, "second", kdf=CHEAP)
        for key in ("third", "", second.id[:3], "f" * 64):
            with pytest.raises(errors.KeyNotFound):
                store.remove_key(key)
        assert store.remove_key(second.id[:8]) == second
        assert len(slots(place)) == 1


def test_the_last_key_stays(place: Path) -> None:
    with opened(place) as store:
        with pytest.raises(errors.InvalidArgument, match="last"):
            store.remove_key("password")
        store.add_key(SECOND, "second", kdf=CHEAP)
        store.remove_key("password")
        with pytest.raises(errors.KeyNotFound):  # the one that it was opened with
            store.export_key()
        with pytest.raises(errors.InvalidArgument, match="last"):
            store.remove_key("second")
    opened(place, SECOND).close()


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65, " a"])
def test_names_of_keys(place: Path, name: str) -> None:
    with opened(place) as store, pytest.raises(errors.InvalidArgument, match="name"):
        store.add_key(SECOND, name, kdf=CHEAP)
    assert len(slots(place)) == 1


def test_a_name_is_taken_once(place: Path) -> None:
    with opened(place) as store, pytest.raises(errors.InvalidArgument, match="there is a key"):
        store.add_key(SECOND, "password", kdf=CHEAP)


@pytest.mark.parametrize("password", [b"", b"x" * 4097])
def test_passwords_that_cannot_be_set(place: Path, password: bytes) -> None:
    with opened(place) as store, pytest.raises(errors.InvalidArgument) as raised:
        store.add_key(password, "second", kdf=CHEAP)
    assert "xxxx" not in str(raised.value)


def test_a_store_that_is_not_encrypted_has_no_keys(tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        calls: list[Callable[[], object]] = [
            store.list_keys,
            store.export_key,
            lambda: store.add_key(FIRST, "first"),
            lambda: store.remove_key("first"),
            lambda: store.change_password(FIRST),
        ]
        for call in calls:
            with pytest.raises(errors.InvalidArgument, match="not encrypted"):
                call()
        with pytest.raises(errors.InvalidArgument, match="not encrypted"):
            snapstore.import_key(store.path, b"SNAP")


# What is wrong has an error of its own


def test_no_password_wrong_password_damaged_key_and_missing_key(place: Path) -> None:
    with pytest.raises(errors.PasswordNeeded):
        snapstore.open(place)
    with pytest.raises(errors.PasswordNeeded):
        snapstore.open(place, password=lambda: None)
    with pytest.raises(errors.WrongPassword) as wrong:
        opened(place, SECOND)
    assert type(wrong.value) is errors.WrongPassword
    (slot,) = slots(place)
    whole = slot.read_bytes()
    slot.chmod(0o600)
    slot.write_bytes(whole[:-1] + b"?")
    with pytest.raises(errors.KeyDamaged, match="0 intact keys, and 1"):
        opened(place)
    slot.unlink()
    with pytest.raises(errors.KeyMissing):
        opened(place)


def test_a_damaged_key_does_not_hinder_another(place: Path) -> None:
    with opened(place) as store:
        store.add_key(SECOND, "second", kdf=CHEAP)
        first = store.list_keys()[0]
    path = place / "key" / first.id
    path.chmod(0o600)
    path.write_bytes(b"")
    with opened(place, SECOND) as store:
        assert [key.name for key in store.list_keys()] == ["second"]
    with pytest.raises(errors.KeyDamaged):
        opened(place)


def test_the_key_that_opened_last_is_tried_first(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(place, cache_dir=tmp_path / "cache") as store:
        for number in range(5):
            store.add_key(b"password %d" % number, f"key {number}", kdf=CHEAP)
    with opened(place, b"password 3", cache_dir=tmp_path / "cache"):
        pass
    tried = []
    real = keys._open_slot

    def noting(slot: KeyRecord, *rest: Any) -> Any:
        tried.append(slot.name)
        return real(slot, *rest)

    monkeypatch.setattr(keys, "_open_slot", noting)
    with opened(place, b"password 3", cache_dir=tmp_path / "cache"):
        assert tried == ["key 3"]


def test_a_key_that_asks_for_too_much_hinders_no_other(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to the store can put one there, within the format's bounds: what costs most
    is tried last, and when there is not so much memory, the others are tried all the same.
    """
    with opened(place) as store:
        for number in range(4):
            dear = Kdf(memory_kib=16_384, passes=1, lanes=1)
            store.add_key(b"password %d" % number, f"dear {number}", kdf=dear)
    tried = []
    real = keys._open_slot

    def failing(slot: KeyRecord, *rest: Any) -> Any:
        tried.append(slot.name)
        if slot.name == "dear 0":
            raise errors.StoreFailed("no key can be made of the password: out of memory")
        return real(slot, *rest)

    monkeypatch.setattr(keys, "_open_slot", failing)
    opened(place).close()
    assert tried == ["password"]
    for number in range(1, 4):
        opened(place, b"password %d" % number).close()
    with pytest.raises(errors.KeyDamaged, match="out of memory"):
        opened(place, b"password 0")


# Exports


def test_an_exported_key_opens_a_store_that_lost_its_own(place: Path, source: Path) -> None:
    with opened(place) as store:
        store.create(source, name="mine")
        exported = store.export_key()
    assert FIRST not in exported
    for slot in slots(place):
        slot.unlink()
    info = snapstore.import_key(place, exported)
    assert (info.name, slots(place)[0].name) == ("password", info.id)
    snapstore.import_key(place, exported)
    assert len(slots(place)) == 1
    with opened(place) as store:
        assert store.get("mine")


def test_a_damaged_key_is_replaced_by_its_export(place: Path) -> None:
    with opened(place) as store:
        exported = store.export_key("password")
    (slot,) = slots(place)
    slot.chmod(0o600)
    slot.write_bytes(b"damaged")
    snapstore.import_key(place, exported)
    opened(place).close()


@pytest.mark.parametrize("data", [b"", b"SNAP", b"x" * 500])
def test_what_is_no_key_is_not_put_back(place: Path, data: bytes) -> None:
    with pytest.raises(errors.InvalidArgument, match="no key"):
        snapstore.import_key(place, data)
    with opened(place) as store:
        exported = bytearray(store.export_key())
    exported[-20] ^= 1
    with pytest.raises(errors.InvalidArgument, match="no key"):
        snapstore.import_key(place, bytes(exported))


def test_a_key_of_another_family_opens_nothing(place: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "other", password=SECOND, kdf=CHEAP) as other:
        snapstore.import_key(place, other.export_key())
    with pytest.raises(errors.WrongPassword):
        opened(place, SECOND)
    opened(place).close()


# Work on a password


def test_work_is_never_less_than_recommended() -> None:
    least = keys.calibrated(0)
    assert (least.memory_kib, least.passes) == (65_536, 3)
    more = keys.calibrated(1.5)
    assert more.memory_kib * more.passes > least.memory_kib * least.passes
    assert more.memory_kib <= 131_072 and more.passes <= 64


# Append-only


def test_nothing_is_deleted_from_an_append_only_store(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "store"
    with snapstore.init(path, password=FIRST, kdf=CHEAP, append_only=True) as store:
        store.create(source)
        store.add_key(SECOND, "second", kdf=CHEAP)
        with pytest.raises(errors.StoreAppendOnly) as raised:
            store.remove_key("second")
        assert raised.value.exit_code == 20
        with pytest.raises(errors.StoreAppendOnly):
            store.change_password(b"another one", kdf=CHEAP)
    with opened(path, SECOND) as store:
        assert store.config.append_only
        assert len(store.list_keys()) == 2


def test_a_store_is_opened_append_only(place: Path, source: Path) -> None:
    with opened(place, mode="append") as store:
        store.create(source)
        store.add_key(SECOND, "second", kdf=CHEAP)
        with pytest.raises(errors.StoreAppendOnly, match="opened as append-only"):
            store.remove_key("second")
    with opened(place) as store:
        store.remove_key("second")


# Memory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_store_that_was_rolled_back_is_noticed(place: Path, source: Path, cache: Path) -> None:
    with opened(place, cache_dir=cache) as store:
        store.create(source, name="old")
    shutil.copytree(place, place.with_name("before"))
    with opened(place, cache_dir=cache) as store:
        store.create(source, name="new")
        assert store.warnings == ()
    with opened(place, cache_dir=cache) as store:
        assert store.warnings == ()
    shutil.rmtree(place)
    place.with_name("before").rename(place)
    for _ in range(2):
        with opened(place, mode="r", cache_dir=cache) as store:
            assert len(store.warnings) == 1
            assert store.warnings[0].startswith("2 objects that this machine saw")
    with opened(place, cache_dir=cache) as store:
        store.trust()
        assert store.warnings == ()
    with opened(place, cache_dir=cache) as store:
        assert store.warnings == ()
        store.create(source, name="after")
    with opened(place, cache_dir=cache) as store:
        assert store.warnings == ()


def test_what_another_machine_wrote_is_remembered_too(
    place: Path, source: Path, cache: Path
) -> None:
    opened(place, cache_dir=cache).close()
    with opened(place) as store:  # remembers nothing
        snapshot = store.create(source).snapshot
    with opened(place, cache_dir=cache) as store:
        assert store.warnings == ()
    (place / "snap" / snapshot.id).unlink()
    with opened(place, cache_dir=cache) as store:
        assert store.warnings[0].startswith("1 objects")


@pytest.mark.parametrize("password", [FIRST, None])
def test_an_encrypted_store_is_not_exchanged_for_one_that_is_not(
    place: Path, cache: Path, password: bytes | None
) -> None:
    opened(place, cache_dir=cache).close()
    shutil.rmtree(place)
    snapstore.init(place).close()
    with pytest.raises(errors.StoreDowngraded):
        snapstore.open(place, cache_dir=cache, password=password)
    snapstore.forget_place(place, cache_dir=cache)
    if password is None:
        snapstore.open(place, cache_dir=cache).close()


def test_a_password_is_never_ignored(tmp_path: Path) -> None:
    snapstore.init(tmp_path / "store").close()
    with pytest.raises(errors.StoreDowngraded):
        snapstore.open(tmp_path / "store", password=FIRST)
    snapstore.open(tmp_path / "store", password=lambda: FIRST).close()  # if it is needed


def test_another_encrypted_store_in_its_place_is_said(place: Path, cache: Path) -> None:
    opened(place, cache_dir=cache).close()
    shutil.rmtree(place)
    snapstore.init(place, password=FIRST, kdf=CHEAP).close()
    with opened(place, cache_dir=cache) as store:
        assert store.warnings[0].startswith("another encrypted store was here before")
    snapstore.forget_place(place, cache_dir=cache)
    with opened(place, cache_dir=cache) as store:
        assert store.warnings == ()


@pytest.mark.parametrize("damage", [b"", b"\xff" * 37, b"{}"])
def test_a_memory_that_cannot_be_read_hinders_nothing(
    place: Path, source: Path, cache: Path, damage: bytes
) -> None:
    with opened(place, cache_dir=cache) as store:
        store.create(source)
    for file in (*(cache / "places").iterdir(), *cache.glob("*/seen")):
        file.write_bytes(damage)
    with opened(place, cache_dir=cache) as store:
        store.create(source)
    with opened(place, cache_dir=cache):
        pass


def test_what_is_remembered_is_for_its_user_alone(place: Path, source: Path, cache: Path) -> None:
    before = os.umask(0)
    try:
        with opened(place, cache_dir=cache) as store:
            store.create(source)
    finally:
        os.umask(before)
    for path in (cache / "places", *(cache / "places").iterdir(), *cache.glob("*/seen")):
        assert not path.stat().st_mode & 0o077, path


# Other processes


def test_a_job_gets_the_keys_of_an_encrypted_store(
    place: Path, source: Path, cache: Path, tmp_path: Path
) -> None:
    with opened(place, cache_dir=cache) as store:
        store.create(source, name="mine")
        job = store.restore_detached("mine", target=tmp_path / "out")
        job.wait()
        assert job.state == "done", job.output
    assert (tmp_path / "out" / "file").read_bytes() == (source / "file").read_bytes()
