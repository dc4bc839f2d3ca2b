"""Filters of a list, and the sizes that they take."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapstore.base.errors import InvalidArgument
from snapstore.base.units import size_bytes
from snapstore.model.filters import Filter, glob
from snapstore.model.snapshot import Label, Root, Snapshot, damaged


def made(name: str | None, *paths: str, bytes: int = 0, **fields: object) -> Snapshot:
    roots = tuple(Root(os.fsencode(path), "directory", "00" * 32, 1, bytes) for path in paths)
    blank = damaged("00" * 32, InvalidArgument(), Label())
    given = {"name": name, "roots": roots, "kind": "user", "status": "ready", **fields}
    return dataclasses.replace(blank, **given)


A = made("nightly", "/srv/app", bytes=100, time_ns=10, host="web1", tags=("eu", "prod"), source="s")
B = made("Nightly [2]", "/srv", "/etc", bytes=200, time_ns=20, host="web2", tags=("prod",))
C = made(None, "app.sql", bytes=300, time_ns=30, host="db", kind="system", tags=("a,b",))
D = made("x\ny", "/", time_ns=40, unreadable_count=1)
ALL = [A, B, C, D]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ALL),
        ({"name": "nightly"}, [A]),
        ({"name": "*ightly*"}, [A, B]),
        ({"name": "?ightly [[]2]"}, [B]),
        ({"name": "[!N]ightly"}, [A]),
        ({"name": ["nightly", "x*"]}, [A, D]),
        ({"name": []}, []),
        ({"name": "*"}, [A, B, D]),
        ({"host": "web*"}, [A, B]),
        ({"host": ["db", "web1"]}, [A, C]),
        ({"source": "s"}, [A]),
        ({"tag": "prod"}, [A, B]),
        ({"tag": "prod,eu"}, [A]),
        ({"tag": ["eu", "a,b"]}, [A, C]),
        ({"tag": ""}, [D]),
        ({"tag": ["", "eu"]}, [A, D]),
        ({"path": "/srv/app"}, [A, B, D]),
        ({"path": "/srv/app/"}, [A, B, D]),
        ({"path": "/srv/application"}, [B, D]),
        ({"path": b"/srv"}, [B, D]),
        ({"path": "/srv/*"}, [A, B, D]),
        ({"path": "*app"}, [A]),
        ({"path": "app.sql"}, [C]),
        ({"path": ["app.sql", "/etc/passwd"]}, [B, C, D]),
        ({"kind": "system"}, [C]),
        ({"partial": True}, [D]),
        ({"since": 20}, [B, C, D]),
        ({"until": 20}, [A]),
        ({"since": 20, "until": 40}, [B, C]),
        ({"larger_than": 299}, [B, C]),
        ({"larger_than": "0.2k", "smaller_than": 301}, [C]),
        ({"smaller_than": 1}, [D]),
        ({"tag": "prod", "host": "web2"}, [B]),
    ],
)
def test_filters(wanted: dict[str, object], found: list[Snapshot]) -> None:
    assert Filter(**wanted).select(ALL) == found


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": "night[ly"},
        {"host": "["},
        {"path": "/srv/[!"},
        {"since": "yesterday"},
        {"until": "2026-02-30"},
        {"larger_than": "much"},
        {"smaller_than": -1},
        {"kind": "usre"},
    ],
)
def test_what_has_no_meaning_is_said_to_have_none(wanted: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        Filter(**wanted).select([])


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_text_with_its_signs_in_brackets_matches_itself_alone(text: str, other: str) -> None:
    pattern = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)
    assert glob(pattern)(text)
    assert bool(glob(pattern)(other)) == (other == text)


@given(st.lists(st.sampled_from(["", "a", "b", "a,b"]), max_size=3))
def test_each_further_tag_can_only_let_more_through(tags: list[str]) -> None:
    fewer = Filter(tag=tags[:-1]).select(ALL)
    more = Filter(tag=tags).select(ALL)
    assert all(one in more for one in fewer)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (0, 0),
        ("4096", 4096),
        ("4096b", 4096),
        ("10k", 10240),
        ("10 KiB", 10240),
        ("1.5M", 3 << 19),
        ("2mb", 2 << 20),
        ("1 TiB", 1 << 40),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes(text: int | str, count: int) -> None:
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "k", "1 x", "-1", "1e3", "1.", "٣", "9e", "8E", "inf", -1])
def test_no_sizes(text: int | str) -> None:
    with pytest.raises(InvalidArgument):
        size_bytes(text)
