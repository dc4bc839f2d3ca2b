"""Whoever can write to an encrypted store, but has no password, changes nothing of what is read:
it is as it was, or an error with a type, or said to be missing.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import (
    FRAME_TYPES,
    HEAD,
    PACKS,
    Attack,
    all_attacks,
    blocks,
    flipped,
    recheck,
    some_attacks,
    type_of,
)
from blake3 import blake3
from sealed_world import (
    PASSWORD,
    SECOND,
    THIRD,
    Answer,
    Ended,
    Reader,
    World,
    changed,
    faults,
    noticed,
)

import snapstore
from snapstore import _native
from snapstore.base import errors
from snapstore.model import names

PARTS = 8


@pytest.fixture(scope="module")
def model(world: World) -> Iterator[Answer]:
    """What is read of the store as it is."""
    reader = Reader()
    try:
        yield reader.look(world.path, world.cache)
    finally:
        reader.close()


def _attack(world: World, model: Answer, attacks: list[Attack]) -> None:
    reader, undetected, unnoticed = Reader(), [], []
    sound = {way: model[way] for way in model}
    for attack in attacks:
        with changed(world.path, world.objects, attack.changes):
            try:
                answer = reader.look(world.path, world.cache, attack.ways)
            except Ended as ended:
                undetected.append(f"{attack.name}: {ended}")
                reader.close()
                reader = Reader()
                continue
        undetected += [f"{attack.name}: {fault}" for fault in faults(sound, answer, attack.changes)]
        if not noticed(sound, answer):
            unnoticed.append(attack)
    reader.close()
    print(f"{len(attacks)} attacks, {len(unnoticed)} of them without any effect")
    assert not undetected, "\n".join(undetected)
    silent = [one.name for one in unnoticed if not one.is_idle(world.objects)]
    assert not silent, "nobody noticed:\n" + "\n".join(silent)


def test_the_store_that_is_attacked(world: World, model: Answer) -> None:
    """It has objects of every type that there is, packs of several blocks, and all can be read."""
    types = {type_of(name) for name in world.objects}
    assert types >= {"config", "key", "data", "meta", "snap", "label", "refs", "ref", "gc", "sess"}
    for way in ("warm", "cold"):
        value = model[way]["value"]
        assert value["check"]["value"]["ok"] and len(value["read"]["value"]) == 4
        assert all(len(s["restored"]["files"]) >= 5 for s in value["read"]["value"].values())
    assert len(model["rescue"]["value"]["read"]) == 4
    assert not model["rescue"]["value"]["check"]["value"]
    assert faults(model, model, {}) == []


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_else_is_ever_read(world: World, model: Answer, part: int) -> None:
    attacks = some_attacks(world, 1)
    random.Random(0).shuffle(attacks)
    _attack(world, model, attacks[part :: 4 * PARTS])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_else_is_ever_read_whatever_is_done(world: World, model: Answer, part: int) -> None:
    attacks = all_attacks(world, seed=int(os.environ.get("SNAP_SEED", "1")))
    random.Random(0).shuffle(attacks)
    _attack(world, model, attacks[part::PARTS])


def _every_bit(world: World, step: int) -> int:
    """Reads each small object, and each pack's table, with single bits changed and checksums that
    are right again; how many bits.
    """
    tried = 0
    with _opened(world, mode="r") as store:
        keys, read = store._repository.keys, 0
        for name, data in world.objects.items():
            type = type_of(name)
            if type in PACKS:
                continue
            for bit in range(tried % step, (len(data) - 8) * 8, step):
                tried += 1
                forged = recheck(name, flipped(data, bit // 8, bit % 8))
                try:
                    _native.read_frame(keys, FRAME_TYPES[type], name, forged)
                except (errors.DamagedObject, errors.StoreTooNew):
                    continue
                read += 1
                # What is not sealed is named by its content, or bound by the key.
                assert type in ("config", "key"), f"bit {bit} of {name}"
        assert read
    return tried


def _every_bit_of_tables(world: World, place: Path, step: int) -> int:
    """The same of packs' headers, footers and ends, under the name that the new bytes ask for."""
    tried = 0
    with _opened(world, mode="r") as store:
        keys = store._repository.keys
        for name, data in world.objects.items():
            if type_of(name) not in PACKS:
                continue
            kind, id = names.parse_pack(name) or (0, b"")
            (place / "pack").write_bytes(data)
            path = os.fsencode(place / "pack")
            sound = _native.read_pack_table(keys, path, id, kind).records(1)
            places = blocks(data)
            bits = [*range(HEAD * 8), *range(places[-1][0] * 8, len(data) * 8)]
            for bit in bits[tried % step :: step]:
                tried += 1
                forged = recheck(name, flipped(data, bit // 8, bit % 8), places)
                if forged == data:
                    continue
                (place / "pack").write_bytes(forged)
                new = blake3(forged).digest()
                try:
                    table = _native.read_pack_table(keys, path, new, kind)
                except (errors.DamagedObject, errors.StoreTooNew):
                    continue
                assert 64 <= bit // 8 < 80, f"bit {bit} of {name}"  # its session
                assert table.records(1) == sound
    return tried


def test_single_bits(world: World, quick_path: Path) -> None:
    assert _every_bit(world, 19) > 1000
    assert _every_bit_of_tables(world, quick_path, 19) > 500


@pytest.mark.slow
def test_every_bit(world: World, quick_path: Path) -> None:
    small, tables = _every_bit(world, 1), _every_bit_of_tables(world, quick_path, 1)
    print(f"{small} bits of small objects, {tables} bits of packs' tables")


# What the harness found


def _opened(world: World, **more: object) -> snapstore.Store:
    return snapstore.open(world.path, password=PASSWORD, **more)  # type: ignore[arg-type]


def test_a_label_that_cannot_be_read_is_said(world: World) -> None:
    """Else a name or a tag goes, or one that was taken back comes again, without a word."""
    label = sorted(name for name in world.objects if name.startswith("label/"))[0]
    data = world.objects[label]
    other = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    with (
        changed(world.path, world.objects, {label: other}),
        _opened(world, mode="r") as store,
    ):
        (hit,) = [one for one in store.snapshots(all=True) if one.error]
        assert hit.id == label[6:70] and hit.status == "ready"
        assert hit.error is not None and label in hit.error


def test_an_object_that_was_tampered_with_is_not_called_damaged(world: World) -> None:
    first, second = sorted(name for name in world.objects if name.startswith("snap/"))[:2]
    with (
        changed(world.path, world.objects, {first: world.objects[second]}),
        _opened(world, mode="r") as store,
        pytest.raises(errors.TamperedObject) as raised,
    ):
        list(store.ls(first[5:]))
    assert raised.value.exit_code == 19


@pytest.mark.parametrize("type", ["key", "ref", "gc"])
def test_a_check_reads_what_no_snapshot_needs(world: World, type: str) -> None:
    name = next(name for name in world.objects if type_of(name) == type)
    password = PASSWORD
    if type == "key":
        with snapstore.open(world.path, password=PASSWORD) as store:
            password = SECOND if store.list_keys()[0].id == name[4:] else PASSWORD
    with (
        changed(world.path, world.objects, {name: world.objects[name][:-1] + b"?"}),
        snapstore.open(world.path, password=password) as store,
    ):
        problems = store.check().problems
    hit = [one for one in problems if one.kind == "object"]
    assert [one.name for one in hit] == [name], problems


def test_keys_that_are_handed_over_are_of_no_other_store(world: World, tmp_path: Path) -> None:
    from snapstore.repository.open import Repository

    with _opened(world, mode="r") as store:
        keys = store._repository.keys
        plain = tmp_path / "plain"
        snapstore.init(plain).close()
        with pytest.raises(errors.StoreDowngraded):
            Repository.open(plain, handed=keys)
        other = tmp_path / "other"
        how = {"kdf": snapstore.Kdf(memory_kib=8192, passes=1, lanes=1)}
        snapstore.init(other, password=PASSWORD, **how).close()  # type: ignore[arg-type]
        with pytest.raises(errors.TamperedObject):
            Repository.open(other, handed=keys)


# What is not promised (docs/design/006-encryption.md)


def test_the_name_of_a_password_is_not_sealed(world: World) -> None:
    """It can be told before a password is known, and be changed by whoever can write."""
    with _opened(world, mode="r") as store:
        id = next(key.id for key in store.list_keys() if key.current)
    changes = next(
        attack.changes
        for attack in all_attacks(world)
        if attack.name == f"downgrade: key: another name, renamed, key/{id}"
    )
    with changed(world.path, world.objects, changes), _opened(world, mode="r") as store:
        assert "xpassword" in [key.name for key in store.list_keys()]


def test_a_password_that_was_removed_opens_a_store_into_which_its_key_is_put_back(
    world: World,
) -> None:
    """The keys behind it are the same: who kept the object `key/` can put it back."""
    with pytest.raises(errors.WrongPassword):
        snapstore.open(world.path, password=THIRD)
    back = {n: d for n, d in world.earlier.items() if n.startswith("key/")}
    kept = {name: data for name, data in back.items() if name not in world.objects}
    with changed(world.path, world.objects, {**kept}):
        snapstore.open(world.path, password=THIRD, mode="r").close()


def test_a_state_that_was_put_back_is_not_noticed_where_nothing_is_remembered(
    world: World,
) -> None:
    gone = dict.fromkeys(world.objects.keys() - world.earlier.keys())
    with changed(world.path, world.objects, {**gone, **world.earlier}):
        with _opened(world, mode="r") as store:
            assert store.warnings == () and len(store.snapshots()) == 2
        with _opened(world, mode="r", cache_dir=world.cache) as store:
            assert store.warnings
