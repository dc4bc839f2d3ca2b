"""The golden vectors: the library and the independent reader find in each what is expected, and
with any byte of it flipped never anything else.
"""

import hashlib
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import mini_writer as mw
import pytest
from vector_files import NAMES, VECTORS, Vector, content, load, load_json, raw

import snapstore
from snapstore import SnapstoreError, Store, _native
from tree_scan import Facts, assert_same, differences, scan
from tree_store import facts_by_library, facts_by_rescue, rescue

PLAIN = [name for name in NAMES if name != "sealed"]
FLIPS_PER_FILE = 3
as_made = pytest.mark.needs("root", "mknod", "xattr", "holes")


@pytest.fixture(params=NAMES)
def vector(request: pytest.FixtureRequest) -> Vector:
    return load(request.param)


def opened(vector: Vector, path: Path | None = None, mode: Literal["r", "rw"] = "r") -> Store:
    return snapstore.open(path or vector.store, mode=mode, password=vector.password)


def reader_of(store: Store) -> _native.Reader:
    """A reader of everything in a store."""
    store._repository.synchronise()
    return store._repository.reader()


def copied(vector: Vector, place: Path) -> Path:
    """A copy of a vector's store that can be damaged."""
    path = place / "store"
    shutil.copytree(vector.store, path)
    for file in files_of(path):
        file.chmod(0o600)
    return path


def files_of(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def digest(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files_of(store)
    }


def test_no_vector_goes_untested() -> None:
    assert sorted(path.parent.name for path in VECTORS.glob("*/expected.json")) == sorted(NAMES)
    assert {path.name for path in VECTORS.glob("*.json")} == {"keys.json", "chunking.json"}


def test_the_vectors_have_all_kinds_of_nodes() -> None:
    """Kind and level of every node: sequences of one leaf and of more, but for the root."""
    found = set()
    for name in PLAIN:
        with opened(load(name)) as store:
            keys, reader = store._repository.keys, reader_of(store)
            for path in store.path.glob("meta/*/*"):
                id = bytes.fromhex(path.name)
                table = _native.read_pack_table(keys, os.fsencode(path), id, 2)
                found |= {tuple(reader.node(id)[:2]) for id, _ in table.records(1)}
    assert found == {(kind, level) for kind in (1, 2, 3, 4) for level in (0, 1)} | {(5, 0)}


# Read


def test_the_library_finds_what_is_expected(vector: Vector) -> None:
    before = digest(vector.store)
    with opened(vector) as store:
        assert not store.writable
        found = {snapshot.id: snapshot for snapshot in store.snapshots(all=True)}
        assert found.keys() == vector.snapshots.keys()
        for id, expected in vector.snapshots.items():
            snapshot = found[id]
            assert snapshot.status == "ready" and not snapshot.partial
            for key in ("name", "description", "metadata", "time_ns", "owners"):
                assert getattr(snapshot, key) == expected[key]
            assert list(snapshot.tags) == expected["tags"]
            assert list(snapshot.parents) == expected["parents"]
            assert [dict(stream) for stream in snapshot.streams] == expected["streams"]
            for root, as_expected in zip(snapshot.roots, expected["roots"], strict=True):
                assert (root.id, root.kind) == (as_expected["id"], as_expected["kind"])
                assert mw.text(root.path) == as_expected["path"]
                assert (root.entries, root.bytes) == (as_expected["entries"], as_expected["bytes"])
        for id, facts in vector.roots.items():
            assert_same(facts, facts_by_library(reader_of(store), id))
    assert digest(vector.store) == before


def test_the_library_finds_it_sound(vector: Vector) -> None:
    with opened(vector) as store:
        report = store.check(read_data=True)
    assert report.ok and report.complete and report.problems == []


def test_the_independent_reader_finds_what_is_expected(vector: Vector) -> None:
    store = rescue().Store(vector.store, vector.password)
    assert not list(store.check())
    found = store.snapshots()
    assert found.keys() == vector.snapshots.keys()
    for id, expected in vector.snapshots.items():
        assert found[id]["roots"] == expected["roots"]
        assert found[id]["time_ns"] == expected["time_ns"]
    for id, facts in vector.roots.items():
        assert_same(facts, facts_by_rescue(store, id))


@pytest.mark.parametrize("password", [None, b"", b"wrong"])
def test_a_sealed_vector_needs_its_password(password: bytes | None) -> None:
    with pytest.raises(snapstore.WrongPassword):
        snapstore.open(load("sealed").store, mode="r", password=password)
    with pytest.raises(rescue().WrongPassword):
        rescue().Store(load("sealed").store, password)


# Restored


def roots_of(vector: Vector, id: str, out: Path) -> Iterator[tuple[Path, Facts]]:
    """Where the roots of a snapshot are restored to, and what must be there."""
    roots = vector.snapshots[id]["roots"]
    for root in roots:
        path = os.fsdecode(raw(root["path"])).lstrip("/")
        if len(roots) > 1:
            place = out / path
        elif root["kind"] == "directory":
            place = out
        else:
            place = out / os.path.basename(path)
        yield place, vector.roots[root["id"]]


@as_made
def test_the_library_restores_what_is_expected(vector: Vector, tmp_path: Path) -> None:
    for id in vector.snapshots:
        out = tmp_path / id
        with opened(vector) as store:
            assert store.restore(id, target=out, verify=True).problems == []
        for place, facts in roots_of(vector, id, out):
            assert_same(facts, scan(place))


@as_made
def test_the_independent_reader_restores_what_is_expected(
    vector: Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if vector.password is not None:
        monkeypatch.setenv("SNAP_PASSWORD", vector.password.decode())
    for id in vector.snapshots:
        out = tmp_path / id
        assert rescue().main([str(vector.store), id, str(out)]) == 0
        for place, facts in roots_of(vector, id, out):
            assert_same(facts, scan(place))


@as_made
@pytest.mark.parametrize("name", ["tree", "paged"])
def test_taking_what_was_restored_gives_the_same_root(name: str, tmp_path: Path) -> None:
    """The writer cuts, encodes and splits as it did when the vector was made."""
    vector = load(name)
    for id, expected in vector.snapshots.items():
        out = tmp_path / id
        with opened(vector) as store:
            store.restore(id, target=out)
            chunk_bytes = store.config.chunk_bytes
        with snapstore.init(tmp_path / f"{id}.store", chunk_bytes=chunk_bytes) as store:
            snapshot = store.create(out).snapshot
            assert snapshot is not None
            assert [root.id for root in snapshot.roots] == [expected["roots"][0]["id"]]


def test_a_copy_can_be_written(vector: Vector, tmp_path: Path) -> None:
    path = copied(vector, tmp_path)
    (tmp_path / "file").write_bytes(b"new" * 1_000)
    with opened(vector, path, mode="rw") as store:
        assert store.writable
        result = store.create(tmp_path / "file")
        assert result.snapshot is not None
        assert len(store.snapshots(all=True)) == len(vector.snapshots) + 1
        assert store.check(read_data=True).problems == []
    assert digest(vector.store).items() <= digest(path).items()
    assert not list(rescue().Store(path, vector.password).check())


# Damaged


def assert_nothing_wrong_is_read(vector: Vector, path: Path) -> None:
    """Both readers, entry by entry: as expected, or a typed error."""
    by_library = read_by_library(vector, path)
    by_rescue = read_by_rescue(vector, path)
    for found in (by_library, by_rescue):
        for id, facts in found.items():
            expected = {name: vector.roots[id][name] for name in facts}
            assert not differences(expected, facts, ignore=["group"])


def read_by_library(vector: Vector, path: Path) -> dict[str, Facts]:
    try:
        with opened(vector, path) as store:
            for snapshot in store.snapshots(all=True):
                assert snapshot.id in vector.snapshots
                if snapshot.status == "ready":
                    expected = [root["id"] for root in vector.snapshots[snapshot.id]["roots"]]
                    assert [root.id for root in snapshot.roots] == expected
            reader = reader_of(store)
            return {id: facts_by_library(reader, id, (SnapstoreError,)) for id in vector.roots}
    except SnapstoreError:
        return {}


def read_by_rescue(vector: Vector, path: Path) -> dict[str, Facts]:
    try:
        store = rescue().Store(path, vector.password)
        assert store.snapshots().keys() <= vector.snapshots.keys()
    except rescue().StoreError:
        return {}
    skip = (rescue().StoreError,)
    return {id: facts_by_rescue(store, id, skip) for id in vector.roots}


def flip(path: Path, offset: int, bits: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def check_flips(vector: Vector, place: Path, offsets_of: Any) -> None:
    path = copied(vector, place)
    chance = random.Random(1)
    for file in files_of(path):
        for offset in offsets_of(file.stat().st_size, chance):
            bits = 1 << chance.randrange(8)
            flip(file, offset, bits)
            assert_nothing_wrong_is_read(vector, path)
            flip(file, offset, bits)
    assert digest(path) == digest(vector.store)


def test_a_flipped_byte_is_never_read_as_something_else(vector: Vector, tmp_path: Path) -> None:
    def some(size: int, chance: random.Random) -> list[int]:
        return [chance.randrange(size) for _ in range(FLIPS_PER_FILE)]

    check_flips(vector, tmp_path, some)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stream", "several-roots", "sealed"])
def test_no_flipped_byte_is_ever_read_as_something_else(name: str, tmp_path: Path) -> None:
    def many(size: int, chance: random.Random) -> list[int]:
        return sorted(chance.sample(range(size), min(size, 300)))

    check_flips(load(name), tmp_path, many)


# Tables


@pytest.fixture
def table() -> dict[str, Any]:
    found: dict[str, Any] = load_json("keys.json")
    return found


@pytest.fixture
def keys(table: dict[str, Any]) -> _native.Keys:
    """The keys of keys.json, in the core."""
    masters = {int(epoch): bytes.fromhex(key) for epoch, key in table["masters"].items()}
    return _native.Keys(
        bytes.fromhex(table["family"]), bytes.fromhex(table["family_secret"]), masters
    )


def test_keys_in_the_core(table: dict[str, Any], keys: _native.Keys) -> None:
    payload, nonce = bytes.fromhex(table["payload"]), bytes.fromhex(table["writer_nonce"])
    assert {name: key.hex() for name, key in keys.derived().items()} == table["keys"]
    unsealed = _native.Keys(keys.family).derived()
    assert {name: key.hex() for name, key in unsealed.items()} == table["unsealed_keys"]
    assert keys.snapshot_id(payload).hex() == table["snapshot_id"]
    assert keys.object_hash(nonce + payload)[:4].hex() == table["h8"]
    for name, expected in table["name_hash"].items():
        assert keys.object_hash(name.encode())[:16].hex() == expected


def test_sealed_objects_in_the_core(
    table: dict[str, Any], keys: _native.Keys, tmp_path: Path
) -> None:
    """What was sealed elsewhere opens: the keys of packs and frames are the same."""
    frame, pack = table["sealed_frame"], table["sealed_pack"]
    for coded in (frame["raw"], frame["zstd"]):
        nonce, payload = _native.read_frame(
            keys, frame["type"], frame["name"], bytes.fromhex(coded)
        )
        assert nonce.hex() == table["writer_nonce"]
        assert payload.hex() == frame["payload"]
    path = tmp_path / "pack"
    path.write_bytes(bytes.fromhex(pack["bytes"]))
    read = _native.read_pack_table(keys, os.fsencode(path), bytes.fromhex(pack["id"]), 1)
    lengths = {id.hex(): _native.location(where)[3] for id, where in read.records(1)}
    assert lengths == dict(pack["chunks"])


def test_keys_by_the_independent_writer(table: dict[str, Any]) -> None:
    masters = {int(epoch): bytes.fromhex(key) for epoch, key in table["masters"].items()}
    family = mw.Family(
        bytes.fromhex(table["family"]), bytes.fromhex(table["family_secret"]), masters
    )
    payload, salt = bytes.fromhex(table["payload"]), bytes.fromhex(table["salt"])
    contexts = {"chunk": "chunk id", "node": "node id", "snapshot": "snapshot id"}
    contexts |= {"object": "object name", "chunker": "chunker"}
    for name, context in contexts.items():
        assert family.key(context).hex() == table["keys"][name]
        assert mw.Family().key(context).hex() == table["unsealed_keys"][name]
    for epoch, expected in table["sealing"].items():
        for use in ("pack", "frame"):
            key, nonce_key = family.sealing(use, int(epoch), salt)
            assert (key.hex(), nonce_key.hex()) == (
                expected[f"{use} key"],
                expected[f"{use} nonce"],
            )
    chunker = family.key("chunker")
    assert mw.keyed(chunker, b"page seed")[:8].hex() == table["page_seed"]
    assert mw.blake3(mw.gear_table(chunker)).hexdigest() == table["gear_table"]
    assert mw.keyed(family.key("chunk id"), payload).hex() == table["chunk_id"]
    assert mw.keyed(family.key("node id"), payload).hex() == table["node_id"]


def test_keys_by_the_independent_reader(table: dict[str, Any]) -> None:
    masters = {int(epoch): bytes.fromhex(key) for epoch, key in table["masters"].items()}
    keys = rescue().Keys(
        bytes.fromhex(table["family"]), bytes.fromhex(table["family_secret"]), masters
    )
    for name in ("chunk", "node", "snapshot", "object"):
        assert getattr(keys, name).hex() == table["keys"][name]


def test_the_page_of_vectors_has_them_all(table: dict[str, Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "format" / "vectors.md").read_text()
    shown = set(re.findall(r"`([0-9a-f]+)`", page))
    frame = bytes.fromhex(table["sealed_frame"]["zstd"])
    associated = frame[:32] + bytes.fromhex(table["family"])
    parts = [associated, frame[68:80], frame[80:-24], frame[-24:-8], frame[-8:]]
    values = [*_values({k: v for k, v in table.items() if not k.startswith("sealed_")})]
    assert {*values, *(part.hex() for part in parts)} <= shown


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif isinstance(value, str) and re.fullmatch("[0-9a-f]{8,}", value):
        yield value


def test_the_wrapping_key(table: dict[str, Any]) -> None:
    """The core's Argon2id gives what another library gave."""
    wrapping = table["wrapping"]
    kdf = wrapping["memory_kib"], wrapping["passes"], wrapping["lanes"]
    password, salt = wrapping["password"].encode(), bytes.fromhex(wrapping["salt"])
    assert _native.derive_key(password, (*kdf, salt)).hex() == wrapping["key"]


CHUNKING = load_json("chunking.json")


@pytest.mark.parametrize("case", CHUNKING["cases"], ids=lambda case: case["name"])
def test_cut_points(case: dict[str, Any]) -> None:
    family, secret = bytes.fromhex(CHUNKING["family"]), bytes.fromhex(CHUNKING["family_secret"])
    data = content(case["parts"], case["patches"])
    cuts = _native.cut_points(data, case["chunk_bytes"], _native.Keys(family, secret))
    assert [[at, length, id and id.hex()] for at, length, id in cuts] == case["cuts"]


@pytest.mark.parametrize("case", CHUNKING["cases"], ids=lambda case: case["name"])
def test_cut_points_by_the_independent_writer(case: dict[str, Any]) -> None:
    keys = mw.Family(bytes.fromhex(CHUNKING["family"]), bytes.fromhex(CHUNKING["family_secret"]))
    data = content(case["parts"], case["patches"])
    assert mw.is_paged(data) == case["paged"]
    offset = 0
    parts = mw.cut(data, [], case["chunk_bytes"], keys.key("chunker"))
    for (length, chunk), expected in zip(parts, case["cuts"], strict=True):
        id = None if chunk is None else mw.keyed(keys.key("chunk id"), chunk).hex()
        assert [offset, length, id] == expected
        offset += length
    assert offset == len(data)
