"""`snap list`."""

import json
import re
from pathlib import Path

import pytest
from cli_runner import Snap


@pytest.fixture
def three(filled: Snap, files: Path) -> Snap:
    filled("create", files, "--name", "second", "--tag", "prod", "--tag", "eu")
    filled("create", files / "docs", "--name", "third", "--host", "other", "--tag", "prod")
    return filled


def names(snap: Snap, *options: str) -> list[str]:
    document = json.loads(snap("list", "--json", *options).stdout)
    return [snapshot["name"] for snapshot in document["snapshots"]]


def test_one(filled: Snap) -> None:
    head, row = filled("list").stdout.decode().replace(str(filled.home), "~").splitlines()
    assert head == "ID        CREATED                  NAME      SIZE  PATHS"
    assert re.fullmatch(
        r"[0-9a-f]{8}  \d{4}-\d\d-\d\d \d\d:\d\d \+00:00  first  100 KiB  ~/files", row
    )


def test_newest_first(three: Snap) -> None:
    lines = str(three("list")).splitlines()
    assert lines[0].split() == ["ID", "CREATED", "NAME", "SIZE", "HOST", "TAGS", "PATHS"]
    assert [line.split()[2] for line in lines[1:]] == ["third", "second", "first"]
    assert "eu" in lines[2]
    assert lines[1].endswith("~/files/docs")


def test_filters(three: Snap) -> None:
    assert names(three) == ["third", "second", "first"]
    assert names(three, "--tag", "prod") == ["third", "second"]
    assert names(three, "--tag", "prod", "--limit", "1") == ["third"]
    assert names(three, "--host", "other") == ["third"]
    assert names(three, "--name", "first") == ["first"]
    assert names(three, "--source", "nobody's") == []


def test_nothing_matches(filled: Snap) -> None:
    assert str(filled("list", "--tag", "x")) == "--- stderr\nsnap: no snapshots match\n"
    assert str(filled("list", "--tag", "x", "-q")) == ""


def test_json_of_an_empty_store(snap: Snap) -> None:
    snap("init")
    assert json.loads(snap("list", "--json").stdout) == {"snapshots": [], "left_out": []}


def test_texts_from_a_snapshot_are_escaped(filled: Snap, files: Path) -> None:
    filled("create", files, "--tag", "\x1b[31mred", "--name", "a\nb")
    shown = filled("list").stdout
    assert b"\x1b" not in shown
    assert rb"\x1b[31mred" in shown
    assert rb"a\nb" in shown


# Filters and order


@pytest.fixture
def dated(snap: Snap, files: Path) -> Snap:
    """Three snapshots of known times, of which the second is the largest."""
    snap("init", snap.store)
    (files.parent / "large").write_bytes(bytes(range(256)) * 4000)
    for name, time, source in (
        ("nightly", "2026-11-01T03:00", files),
        ("before-upgrade", "2026-11-02T12:00", files.parent / "large"),
        ("nightly", "2026-11-03T03:00", files),
    ):
        snap("create", source, "--name", name, "--time", time)
    return snap


def test_globs(dated: Snap) -> None:
    assert names(dated, "--name", "before-*") == ["before-upgrade"]
    assert names(dated, "--name", "n*", "--name", "b*", "--limit", "2") == [
        "nightly",
        "before-upgrade",
    ]
    assert names(dated, "--host", "*") == names(dated, "--source", "*:*") == names(dated)


def test_tags(three: Snap) -> None:
    assert names(three, "--tag", "prod,eu") == ["second"]
    assert names(three, "--tag", "eu", "--tag", "") == ["second", "first"]


def test_paths(dated: Snap) -> None:
    assert names(dated, "--path", "files/docs") == ["nightly", "nightly"]
    assert names(dated, "--path", str(dated.home / "large")) == ["before-upgrade"]
    assert names(dated, "--path", "*/lar?e") == ["before-upgrade"]
    assert names(dated, "--path", "/nowhere") == []


def test_times(dated: Snap) -> None:
    assert names(dated, "--since", "2026-11-02") == ["nightly", "before-upgrade"]
    assert names(dated, "--until", "2026-11-02T12:00") == ["nightly"]
    assert names(dated, "--since", "2026-11-02T12:00", "--until", "2026-11-03") == [
        "before-upgrade"
    ]


def test_sizes(dated: Snap) -> None:
    assert names(dated, "--larger-than", "500k") == ["before-upgrade"]
    assert names(dated, "--smaller-than", "500k") == ["nightly", "nightly"]


def test_order(dated: Snap) -> None:
    assert names(dated, "--sort", "size")[0] == "before-upgrade"
    assert names(dated, "--sort", "name") == ["before-upgrade", "nightly", "nightly"]
    assert names(dated, "--sort", "name", "-r", "--limit", "1") == ["nightly"]
    assert names(dated, "--reverse") == ["nightly", "before-upgrade", "nightly"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--since", "yesterday"), "not a time: 'yesterday'"),
        (("--until", "2026-02-30"), "not a time: '2026-02-30'"),
        (("--name", "[a"), "not a glob: '[a'"),
        (("--larger-than", "big"), "not a size: 'big'"),
        (("--sort", "colour"), "'colour' is not one of"),
        (("--limit", "0"), "0 is not in the range"),
    ],
)
def test_options_without_a_meaning(filled: Snap, options: tuple[str, ...], said: str) -> None:
    run = filled("list", *options)
    assert run.status == 2
    assert said in str(run)
    assert "snap: hint: " in str(run)


def test_references_by_time_and_steps(dated: Snap) -> None:
    def first(reference: str) -> str:
        found = json.loads(dated("show", reference, "--json").stdout)["snapshot"]["created_at"]
        assert isinstance(found, str)
        return found[:10]

    assert first("nightly") == first("latest") == first("@now") == "2026-11-03"
    assert first("nightly~1") == first("@2026-11-02") == first("latest~2") == "2026-11-01"
    assert dated("ls", f"@2026-11-02:{dated.home}/files/docs").status == 0
    assert dated("show", "@2026-11-01").status == 13
    assert str(dated("show", "@yesterday")) == (
        "--- stderr\n"
        "snap: error: not a time: 'yesterday'\n"
        "snap: hint: write it like 2026-11-20T12:00 or now-2d\n"
        "--- status 2\n"
    )


def test_a_typo_in_a_reference_suggests_the_near_one(dated: Snap) -> None:
    assert str(dated("restore", "befor-upgrade:/etc", "--target", "x")) == (
        "--- stderr\n"
        "snap: error: no snapshot answers to 'befor-upgrade:/etc'\n"
        "snap: hint: did you mean 'before-upgrade'? list shows the snapshots of a store\n"
        "--- status 13\n"
    )


# --format


def lines(snap: Snap, template: str, *options: str) -> list[str]:
    return snap("list", "--format", template, *options).stdout.decode().splitlines()


def test_format(dated: Snap) -> None:
    assert lines(dated, "{name}|{size:>8}|{state}") == [
        "nightly| 100 KiB|complete",
        "before-upgrade|1000 KiB|complete",
        "nightly| 100 KiB|complete",
    ]
    assert lines(dated, r"{time_ns}\t{{{name:<9}}}", "--limit", "1") == [
        "1793674800000000000\t{nightly  }"
    ]
    assert dated("list", "--format", r"{name}\0").stdout.count(b"\0") == 3


def test_every_field_can_be_shown(dated: Snap) -> None:
    from snapstore.cli.list import FIELDS

    for line in lines(dated, "|".join(f"{{{field}}}" for field in FIELDS)):
        assert line.count("|") == len(FIELDS) - 1


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{nmae}", "did you mean {name}? "),
        ("{}", "there is no field {}"),
        ("{name.__class__}", "there is no field {name.__class__}"),
        ("{name!r}", "cannot be shown"),
        ("{size:>99999}", "cannot be shown"),
        ("{name:{name}}", "cannot be shown"),
        ("{name", "expected '}' before end of string"),
        ("}", "Single '}' encountered"),
    ],
)
def test_templates_without_a_meaning(filled: Snap, template: str, said: str) -> None:
    run = filled("list", "--format", template)
    assert run.status == 2
    assert said in str(run)


def test_format_in_a_pipe_is_as_the_snapshot_has_it(filled: Snap, files: Path) -> None:
    odd = files.parent / "odd\n\x1b[31m\udcff"
    odd.mkdir()
    filled("create", odd, "--name", "odd")
    shown = filled("list", "--name", "odd", "--format", "{paths}").stdout
    assert shown.endswith(b"odd\n\x1b[31m\xff\n")
