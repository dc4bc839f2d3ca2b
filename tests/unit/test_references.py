"""References: names, ids and times, with steps back; and what is said of those to nothing."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapstore.base.errors import (
    AmbiguousReference,
    DamagedObject,
    InvalidArgument,
    SnapshotNotFound,
)
from snapstore.model import references, snapshot, times
from snapstore.model.snapshot import Label, Snapshot


def made(id: str, at: str, name: str | None = None, **changed: object) -> Snapshot:
    record = {
        "roots": [], "source": "s", "host": "here", "time_ns": times.time_ns(at + "+00:00"),
        "kind": "user", "parents": [], "created_by": {}, "session": "", "tool": "", "stats": {},
    }  # fmt: skip
    one = snapshot.decode(id.ljust(64, "0"), record, Label(name=name))
    return dataclasses.replace(one, **changed)


ALL = [
    made("aaaa1", "2026-11-01T00:00", "nightly"),
    made("aaaa2", "2026-11-02T00:00", "nightly"),
    made("bbbb1", "2026-11-03T00:00", "nightly~1"),
    made("cccc1", "2026-11-04T00:00", "before upgrade"),
    made("dddd1", "2026-11-05T00:00", "partial", unreadable_count=1),
    made("eeee1", "2026-11-06T00:00", "nightly", host="elsewhere"),
    made("ffff1", "2026-11-07T00:00", "other series", source="t"),
    made("abcd1", "2026-11-08T00:00", "@home"),
]


def find(reference: str) -> Snapshot:
    return references.resolve(reference, ALL, "here")


@pytest.mark.parametrize(
    ("reference", "id"),
    [
        ("latest~1", "ffff1"),
        ("latest~2", "cccc1"),  # partial ones are not counted
        ("nightly", "eeee1"),
        ("nightly~0", "eeee1"),
        ("nightly~1", "bbbb1"),  # a snapshot that is called so comes first
        ("nightly~2", "aaaa1"),
        ("nightly~1~1", None),
        ("cccc~1", "bbbb1"),
        ("cccc~2", "aaaa2"),
        ("ffff~1", None),  # of its series, the first
        ("@2026-11-02T00:00Z", "aaaa1"),  # before, not at
        ("@2026-11-02T00:00:01Z", "aaaa2"),
        ("@2026-11-07T12:00Z", "ffff1"),
        ("@2026-11-06T12:00+00:00", "cccc1"),
        ("@2026-11-06T12:00Z~1", "bbbb1"),
        ("@1793620800", "aaaa2"),
        ("@@1793620800", "aaaa2"),
        ("@now", "abcd1"),
        ("@home", "abcd1"),
        ("@2026-10-31", None),
        ("latest~99", None),
        ("nightly~99", None),
    ],
)
def test_references(reference: str, id: str | None) -> None:
    if id is None:
        with pytest.raises(SnapshotNotFound):
            find(reference)
    else:
        assert find(reference).id.startswith(id)


@pytest.mark.parametrize("reference", ["@yesterday", "@2026-13-45", "@now-2parsecs", "@2026-11~1"])
def test_what_is_no_time(reference: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        find(reference)
    assert "write it like" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("reference", "id", "path"),
    [
        ("@2026-11-06T12:00Z:/etc", "cccc1", b"/etc"),
        ("@2026-11-06T12:00:00+00:00", "cccc1", None),
        ("@2026-11-06:/a:b", "cccc1", b"/a:b"),
        ("nightly~2:/etc", "aaaa1", b"/etc"),
        ("cccc~1:", "bbbb1", b""),
    ],
)
def test_references_with_a_path(reference: str, id: str, path: bytes | None) -> None:
    found, got = references.split(reference, find)
    assert (found.id[:5], got) == (id, path)


def test_of_a_time_with_a_path_what_is_said_is_about_the_time() -> None:
    with pytest.raises(SnapshotNotFound, match="'@2020-01-01': this host has no complete"):
        references.split("@2020-01-01:/etc", find)


def test_an_empty_reference_is_to_nothing() -> None:
    with pytest.raises(SnapshotNotFound):
        references.split("", find)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("nightyl", ["nightly"]),
        ("Before-Upgrade", ["before upgrade"]),
        ("latst", ["latest"]),
        ("befor upgrade:/etc/passwd", ["before upgrade"]),
        ("cccc10001", ["cccc1000"]),
        ("entirely different", []),
    ],
)
def test_near_ones_are_suggested(typed: str, meant: list[str]) -> None:
    with pytest.raises(SnapshotNotFound) as caught:
        references.split(typed, find)
    assert caught.value.fields["suggestions"][:1] == meant
    assert all(repr(name) in str(caught.value.hint) for name in meant)
    assert "list shows" in str(caught.value.hint)


def test_few_digits_are_said_to_be_few() -> None:
    with pytest.raises(SnapshotNotFound) as caught:
        find("ccc")
    assert "4 digits" in str(caught.value.hint)


def test_an_empty_store_is_said_to_be_empty() -> None:
    with pytest.raises(SnapshotNotFound, match="no snapshots yet"):
        references.resolve("latest", [], "here")


def test_steps_beyond_the_end_say_how_many_there_are() -> None:
    with pytest.raises(SnapshotNotFound, match="only 2 are older than 'nightly'"):
        find("nightly~3")


def test_an_ambiguous_id_stays_ambiguous_with_steps() -> None:
    with pytest.raises(AmbiguousReference):
        find("aaaa~1")


def damaged(id: str, at: str | None, name: str | None = None) -> Snapshot:
    """One of which there is but the label; without a time, not even that."""
    time_ns = times.time_ns(at + "+00:00") if at else 0
    label = Label(name=name, time_ns=time_ns)
    return snapshot.damaged(id.ljust(64, "0"), DamagedObject("no record"), label)


def test_a_name_leads_to_its_newest_snapshot_whatever_became_of_it() -> None:
    some = [*ALL, damaged("9999", "2026-11-09T00:00", "nightly")]
    assert references.resolve("nightly", some, "here").id.startswith("9999")
    assert references.resolve("nightly~2", some, "here").id.startswith("aaaa2")


@pytest.mark.parametrize(
    ("reference", "ids"),
    [
        ("latest", ["9999", "7777"]),
        ("latest:/etc", ["9999", "7777"]),
        ("latest~1", ["9999", "8888", "7777"]),
        ("@2026-11-07T12:00Z:/a~1", ["9999", "8888", "7777"]),
        ("@2020-01-01", ["9999", "8888", "7777"]),  # there is none: they may be why
        ("@2020-01-01:/etc", ["9999", "8888", "7777"]),
        ("latest~99", ["9999", "8888", "7777"]),
        ("nightly~2", ["9999", "8888", "7777"]),
        ("nightly", []),
        ("abcd", []),
        ("nightly:/etc/a~1", []),
        ("nobody", []),
        ("latest-build", []),
        ("", []),
    ],
)
def test_what_references_pass_over(reference: str, ids: list[str]) -> None:
    some = [
        *ALL,
        damaged("7777", None),
        damaged("8888", "2026-11-07T12:00"),
        damaged("9999", "2026-11-09T00:00"),
    ]
    found = references.passed_over(reference, some, "here")
    assert [one.id[:4] for one in found] == ids
    assert not references.passed_over(reference, ALL, "here")
    assert references.counts(reference) or not ids


@given(st.text(max_size=40) | st.from_regex(r"(latest|nightly|cccc|@2026)?[~:@0-9a-f/]{0,12}"))
def test_any_text_gives_a_snapshot_or_one_of_three_errors(text: str) -> None:
    try:
        found, path = references.split(text, find)
    except (SnapshotNotFound, AmbiguousReference, InvalidArgument):
        return
    assert found in ALL
    assert path is None or text.encode("utf-8", "surrogateescape").endswith(path)
