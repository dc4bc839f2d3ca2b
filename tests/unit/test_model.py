"""Records, names, references and times: pure values."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapstore.base.errors import (
    AmbiguousReference,
    DamagedObject,
    InvalidArgument,
    SnapshotNotFound,
    StorageError,
    StoreTooNew,
)
from snapstore.model import canonical, names, records, references, snapshot, times
from snapstore.model.config import Config
from snapstore.model.ids import new_ulid, ulid_bytes, ulid_text
from snapstore.model.refs import PackRef, Refs
from snapstore.model.snapshot import Label, Root, Snapshot

# Canonical JSON

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_canonical_json_is_json_with_one_form(value: Any) -> None:
    data = canonical.encode(value)
    assert json.loads(data) == value
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


def test_canonical_form() -> None:
    value = {"b": [1, -2, None], "a": 'q"\\\n\x1f\x7f/ü', "😀": True, "\uffff": False}
    text = '{"a":"q\\"\\\\\\u000a\\u001f\x7f/ü","b":[1,-2,null],"\uffff":false,"😀":true}'
    assert canonical.encode(value) == text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":"\\n"}',
        b'{"a":"\\u000A"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\n"}',
        b'{"a":9223372036854775808}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":"\xff"}',
        b"1" * 5000,
        b"[" * 100_000 + b"]" * 100_000,
        b"\xef\xbb\xbf{}",
        b"{} ",
    ],
)
def test_json_in_any_other_form_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedObject):
        canonical.decode(data)


@pytest.mark.parametrize("value", [1.5, 1 << 63, "\ud800", {1: 2}, b"x", object()])
def test_what_a_record_cannot_hold(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        canonical.encode({"a": value})


# Ids and names


@given(st.integers(0, (1 << 128) - 1))
def test_ulids(value: int) -> None:
    text = ulid_text(value)
    assert len(text) == 26
    assert ulid_bytes(text) == value.to_bytes(16, "big")


def test_ulids_are_ordered_by_time() -> None:
    assert new_ulid()[:8] <= new_ulid()[:8]


@pytest.mark.parametrize("text", ["", "8" + "0" * 25, "0" * 25, "0" * 25 + "u", "0" * 25 + "A"])
def test_what_is_no_ulid(text: str) -> None:
    with pytest.raises(ValueError, match="ULID"):
        ulid_bytes(text)


def test_names_both_ways() -> None:
    id = bytes(range(32))
    assert names.pack(2, id) == f"meta/00/{id.hex()}"
    assert names.parse_pack(names.pack(1, id)) == (1, id)
    for name in (
        names.Versioned(id.hex(), 7, "0a1b2c3d", "label"),
        names.Versioned(id.hex(), 99_999_999, "ffffffff", "refs"),
    ):
        assert names.parse_versioned(name.name) == name
    lease = names.LeaseName(new_ulid(), 12)
    assert names.parse_lease(lease.name) == lease
    for state in ("", "sweep", "done"):
        generation = names.GenerationName(3, "ab" * 16, state)
        assert names.parse_generation(generation.name) == generation


@pytest.mark.parametrize(
    "name",
    [
        "data/00/" + "01" * 32,
        "data/AA/" + "AA" * 32,
        "snap/" + "g" * 64,
        "snap/" + "0" * 63,
        "label/" + "0" * 64 + "-1-00000000",
        "sess/" + "u" * 26 + "-0000",
        "gc/00000001-" + "0" * 32 + "-over",
        "config2",
        "README",
    ],
)
def test_names_that_mean_nothing(name: str) -> None:
    assert not names.known(name)


# Config


def config(**changes: Any) -> dict[str, Any]:
    payload = Config.new(bytes(16), bytes(16), "test 1").encode()
    return canonical.decode_object(payload) | changes


def test_a_config_survives() -> None:
    made = Config.new(b"s" * 16, b"f" * 16, "test 1", compression="small", block_bytes=1 << 18)
    assert Config.decode(made.encode()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_bytes": 4096},
        {"block_bytes": 1 << 30},
        {"store": "00"},
        {"store": "0" * 31 + "G"},
        {"sealed": 1},
        {"features": []},
        {"features": {"required": "x"}},
        {"format": "1"},
        {"tool": None},
    ],
)
def test_a_config_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DamagedObject):
        Config.decode(canonical.encode(config(**change)))


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"features": {"required": ["warp"], "optional": []}}]
)
def test_a_newer_config_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StoreTooNew):
        Config.decode(canonical.encode(config(**change)))


def test_an_optional_feature_bars_writers_only() -> None:
    payload = canonical.encode(config(features={"required": [], "optional": ["warp"]}, later=1))
    assert Config.decode(payload).unknown_optional == ("warp",)


@pytest.mark.parametrize(
    "parameters", [{"chunk_bytes": 3000}, {"block_bytes": 1}, {"compression": "best"}]
)
def test_impossible_parameters(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Config.new(bytes(16), bytes(16), "test", **parameters)


# Refs


@given(
    st.lists(
        st.builds(
            PackRef,
            st.binary(min_size=32, max_size=32),
            st.sampled_from([1, 2]),
            st.integers(0, 134_217_728),
        ),
        unique_by=lambda pack: pack.id,
    ),
    st.booleans(),
)
def test_refs_survive(packs: list[PackRef], exact: bool) -> None:
    refs = Refs(tuple(sorted(packs)), exact)
    payload = Refs(tuple(packs), exact).encode()
    assert Refs.decode(payload) == refs
    for wrong in (payload[:-1], payload + b"\0", b"\2" + payload[1:]):
        with pytest.raises(DamagedObject):
            Refs.decode(wrong)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\1",
        b"\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\1\x80\x00",
        b"\1\1" + bytes(32) + b"\3\0",
        b"\1\2" + bytes(64) + b"\1\1\0\0",
        b"\1\1" + bytes(32) + b"\1" + b"\x81\x80\x80\x40",
    ],
)
def test_damaged_refs(payload: bytes) -> None:
    with pytest.raises(DamagedObject):
        Refs.decode(payload)


# Leases and generations


def test_leases_and_generations_survive() -> None:
    lease = records.Lease(new_ulid(), 3, "create", "host", 42, 1)
    assert records.Lease.decode(lease.encode()) == lease
    generation = records.Generation(2, frozenset([b"a" * 32, b"b" * 32]), 5)
    assert records.Generation.decode(generation.encode()) == generation


def test_a_generation_with_a_short_id_is_damaged() -> None:
    with pytest.raises(DamagedObject):
        records.Generation.decode(b'{"condemned":["00"],"generation":1,"started_ns":0}')


# Snapshots


def record(**changes: Any) -> bytes:
    root = Root(b"/srv/\xff", "directory", "ab" * 32, 3, 1000)
    fields: dict[str, Any] = {
        "roots": [root],
        "source": "s",
        "host": "h",
        "time_ns": 1_700_000_000_123_456_789,
        "kind": "user",
        "parents": ["cd" * 32],
        "created_by": {"type": "user", "id": "me"},
        "session": new_ulid(),
        "tool": "test 1",
        "stats": {"files": 1},
    }
    return snapshot.encode(**(fields | changes))


def parse(id: str, payload: bytes, label: Label) -> Snapshot:
    return snapshot.decode(id, canonical.decode_object(payload), label)


def decoded(**changes: Any) -> Snapshot:
    return parse("ef" * 32, record(**changes), Label("n", None, ("t",), {"k": 1}))


def test_a_snapshot_survives() -> None:
    got = decoded(
        unreadable=[(b"/srv/\xff/x", "denied")],
        unreadable_count=5,
        changed=[b"/srv/log"],
        skipped={"sockets": 2, "mounts": 0},
        rules={"one_file_system": 1},
    )
    assert got.roots == (Root(b"/srv/\xff", "directory", "ab" * 32, 3, 1000),)
    assert (got.name, got.tags, got.metadata) == ("n", ("t",), {"k": 1})
    assert got.unreadable == ((b"/srv/\xff/x", "denied"),)
    assert (got.partial, got.unreadable_count, got.changed) == (True, 5, (b"/srv/log",))
    assert got.to_dict()["changed"] == [{"path": "/srv/log"}]
    assert got.skipped == {"sockets": 2}
    assert got.created_at == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert (got.short_id, got.size_bytes, got.status) == ("efefefef", 1000, "ready")
    shown = json.loads(json.dumps(got.to_dict()))
    assert shown["roots"][0]["path"] == "/srv/%FF"
    assert shown["created_at"] == "2023-11-14T22:13:20.123456+00:00"


def test_lists_of_very_long_paths_are_cut_short() -> None:
    long = [b"/" + b"d" * 1_000_000 + str(n).encode() for n in range(10)]
    got = decoded(unreadable=[(path, "") for path in long], unreadable_count=10, changed=long)
    assert (len(got.unreadable), got.unreadable_count, len(got.changed)) == (4, 10, 4)


def test_optional_keys_are_left_out_when_empty() -> None:
    keys = set(canonical.decode_object(record(skipped={"sockets": 0})))
    assert keys == {
        *("roots", "source", "host", "time_ns", "kind", "parents"),
        *("created_by", "session", "tool", "stats"),
    }


def test_keys_that_are_not_known_are_kept() -> None:
    payload = canonical.encode(canonical.decode_object(record()) | {"later": {"x": 1}})
    assert parse("00" * 32, payload, Label()).record["later"] == {"x": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"time_ns": "now"},
        {"roots": [{}]},
        {"roots": "x"},
        {"parents": [1]},
        {"unreadable": [{"path": "%zz", "error": ""}]},
        {"stats": []},
    ],
)
def test_a_snapshot_with_wrong_fields_is_damaged(change: dict[str, Any]) -> None:
    payload = canonical.encode(canonical.decode_object(record()) | change)
    with pytest.raises(DamagedObject):
        parse("00" * 32, payload, Label())


def test_any_time_can_be_shown() -> None:
    for time_ns in (-(1 << 63), 0, (1 << 63) - 1):
        json.dumps(decoded(time_ns=time_ns).to_dict())


def test_a_snapshot_that_cannot_be_read_stays_visible_but_gives_nothing() -> None:
    label = Label("n", "text", ("t",), {"k": 1}, 7)
    damaged = snapshot.damaged("ab" * 32, StorageError("no"), label)
    assert (damaged.status, damaged.name, damaged.tags) == ("damaged", "n", ("t",))
    assert (damaged.description, damaged.metadata, damaged.time_ns) == ("text", {"k": 1}, 7)
    json.dumps(damaged.to_dict())
    with pytest.raises(DamagedObject, match="no"):
        snapshot.require_ready(damaged)
    with pytest.raises(StoreTooNew):
        snapshot.require_ready(snapshot.damaged("ab" * 32, StoreTooNew("later"), Label()))


def test_needs_that_are_not_known() -> None:
    payload = canonical.encode(canonical.decode_object(record()) | {"needs": ["delta"]})
    later = parse("00" * 32, payload, Label())
    assert later.status == "too-new"
    with pytest.raises(StoreTooNew, match="delta"):
        snapshot.require_ready(later)


# Labels


def fold(payloads: list[bytes]) -> Label:
    lists = [snapshot.operations(canonical.decode_object(payload)) for payload in payloads]
    return snapshot.fold(operation for operations in lists for operation in operations)


def label(*operations: Any) -> bytes:
    return snapshot.encode_label(list(operations), "me", 1)


def test_labels_add_up_in_their_order() -> None:
    first = snapshot.encode_label(
        snapshot.label_operations("a", "text", ["x", "y", "x"], {"k": [1], "l": 2}), "me", 1
    )
    assert fold([first]) == Label("a", "text", ("x", "y"), {"k": [1], "l": 2})
    second = label(
        ["set", "name", "b"],
        ["set", "description", None],
        ["untag", "x"],
        ["untag", "never"],
        ["tag", "z"],
        ["meta", "k", None],
        ["meta", "m", {"deep": True}],
        ["set", "colour", "red"],
        ["paint", 1, 2, 3],
        ["tag", 7],
        [],
    )
    folded = fold([first, second])
    assert folded == Label("b", None, ("y", "z"), {"l": 2, "m": {"deep": True}})


def test_metadata_that_json_cannot_hold() -> None:
    with pytest.raises(InvalidArgument):
        snapshot.encode_label(snapshot.label_operations(None, None, [], {"k": 1.5}), "me", 1)


# References


def made(id: str, **changes: Any) -> Snapshot:
    name = changes.pop("name", None)
    return parse(id, record(**changes), Label(name=name))


SNAPSHOTS = [
    made("aaaa1" + "0" * 59, time_ns=1, host="here", name="deploy"),
    made("aaaa2" + "0" * 59, time_ns=2, host="here", name="deploy"),
    made("bbbb1" + "0" * 59, time_ns=3, host="there"),
    made("cccc1" + "0" * 59, time_ns=4, host="here", unreadable_count=1, unreadable=[(b"/x", "")]),
    made("dddd1" + "0" * 59, time_ns=5, host="here", kind="safety"),
    made("eeee1" + "0" * 59, time_ns=0, host="here", name="bbbb"),
    made("ffff1" + "0" * 59, time_ns=0, host="here", name="a:b"),
]


@pytest.mark.parametrize(
    ("reference", "id"),
    [
        ("latest", "aaaa2"),
        ("latest~0", "aaaa2"),
        ("latest~1", "aaaa1"),
        ("deploy", "aaaa2"),
        ("aaaa1", "aaaa1"),
        ("bbbb1", "bbbb1"),
        ("bbbb", "eeee1"),
        ("cccc", "cccc1"),
        ("dddd1" + "0" * 59, "dddd1"),
    ],
)
def test_references(reference: str, id: str) -> None:
    assert references.resolve(reference, SNAPSHOTS, "here").id.startswith(id)


@pytest.mark.parametrize("reference", ["", "nobody", "latest~9", "latest~", "bbb", "AAAA1", "9999"])
def test_references_to_nothing(reference: str) -> None:
    with pytest.raises(SnapshotNotFound):
        references.resolve(reference, SNAPSHOTS, "here")


def test_latest_of_a_host_without_snapshots_says_so() -> None:
    with pytest.raises(SnapshotNotFound) as caught:
        references.resolve("latest", SNAPSHOTS, "elsewhere")
    assert "other hosts" in str(caught.value.hint)


def test_an_ambiguous_prefix_names_the_candidates() -> None:
    with pytest.raises(AmbiguousReference) as caught:
        references.resolve("aaaa", SNAPSHOTS, "here")
    assert [id[:5] for id in caught.value.fields["candidates"]] == ["aaaa2", "aaaa1"]


@pytest.mark.parametrize(
    ("reference", "id", "path"),
    [
        ("deploy", "aaaa2", None),
        ("deploy:/etc", "aaaa2", b"/etc"),
        ("deploy:", "aaaa2", b""),
        ("a:b", "ffff1", None),
        ("a:b:c:d", "ffff1", b"c:d"),
        ("deploy:/a:b", "aaaa2", b"/a:b"),
        ("latest~1:x\udcff", "aaaa1", b"x\xff"),
    ],
)
def test_references_with_a_path(reference: str, id: str, path: bytes | None) -> None:
    found, got = references.split(
        reference, lambda name: references.resolve(name, SNAPSHOTS, "here")
    )
    assert (found.id[:5], got) == (id, path)


def test_a_reference_with_a_path_to_nothing_names_the_whole() -> None:
    with pytest.raises(SnapshotNotFound, match="no:thing:here"):
        references.split("no:thing:here", lambda n: references.resolve(n, SNAPSHOTS, "here"))


# Times

NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("now", NOW),
        ("now-2d", NOW - 172_800 * 10**9),
        ("now-1h30m", NOW - 5400 * 10**9),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.000001+00:00", 1000),
        ("@1700000000", NOW),
        ("@-1", -(10**9)),
        (12345, 12345),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
    ],
)
def test_times(text: times.Time, ns: int) -> None:
    assert times.time_ns(text, NOW) == ns


def test_a_time_without_zone_is_local() -> None:
    local = datetime(2026, 11, 20, 12)
    assert times.time_ns("2026-11-20T12:00") == times.time_ns(local.astimezone(UTC))


@pytest.mark.parametrize("text", ["", "yesterday", "now+1d", "now-", "2026-13-01", 1 << 70, "@x"])
def test_what_is_no_time(text: times.Time) -> None:
    with pytest.raises(InvalidArgument):
        times.time_ns(text, NOW)
