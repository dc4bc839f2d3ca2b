"""`snap doctor`."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Snap

import snapstore
from snapstore import _native
from snapstore.base import libfuse
from snapstore.ops import examine


def findings(
    snap: Snap, status: int = 0, *, rights: bool = True, **environment: str
) -> dict[str, dict[str, Any]]:
    run = snap("doctor", "--json", rights=rights, **environment)
    assert run.status == status, str(run)
    told = json.loads(run.stdout)
    assert told["ok"] == (status == 0)
    return {finding["name"]: finding for finding in told["findings"]}


@pytest.fixture
def healthy(filled: Snap) -> Snap:
    """With a `snap` of ours first on PATH."""
    program(filled.home / "ours" / "snap", "exec python -m snapstore.cli")
    filled.environment["PATH"] = f"{filled.home / 'ours'}:{filled.environment['PATH']}"
    return filled


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_all_is_well(healthy: Snap) -> None:
    found = findings(healthy)
    assert list(found) == ["core", "store", "index", "space", "clock", "fuse", "command"]
    assert found["store"]["message"] == f"{healthy.store}, 1 snapshot"
    text = str(healthy("doctor"))
    assert re.search(r"^ok     core      version \d", text)
    assert text.endswith("nothing is wrong\n")


def test_quiet_says_what_is_not_well_only(healthy: Snap) -> None:
    for line in str(healthy("doctor", "-q")).splitlines():
        assert line.startswith(("note", "     "))


def test_without_a_store(snap: Snap) -> None:
    assert "store" not in findings(snap, SNAP_STORE="")


def test_a_store_that_is_none(snap: Snap, files: Path) -> None:
    found = findings(snap, 1, SNAP_STORE=str(files))
    assert found["store"]["level"] == "wrong"
    assert found["store"]["hint"]
    assert "index" not in found
    assert snap("doctor", SNAP_STORE=str(files)).status == 1


def test_a_store_with_a_damaged_snapshot(healthy: Snap) -> None:
    for path in (healthy.store / "snap").iterdir():
        path.write_bytes(b"damaged")
    assert "1 snapshot, of which 1 cannot be read" in findings(healthy, 1)["store"]["message"]


def test_a_store_with_a_snapshot_of_a_newer_version(healthy: Snap) -> None:
    """The byte behind the magic is the version (docs/format/frame.md)."""
    (path,) = (healthy.store / "snap").iterdir()
    data = bytearray(path.read_bytes())
    data[4] += 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert "1 snapshot, of which 1 cannot be read" in findings(healthy, 1)["store"]["message"]


@pytest.mark.needs("unprivileged")
@pytest.mark.parametrize("mode", [0o000, 0o100], ids=["closed", "unlisted"])
@pytest.mark.parametrize("name", ["", "store"], ids=["itself", "below"])
def test_a_place_that_may_not_be_looked_at(snap: Snap, mode: int, name: str) -> None:
    place = snap.home / "place"
    place.mkdir()
    place.chmod(mode)
    store = str(place / name)
    try:
        assert findings(snap, 1, rights=False, SNAP_STORE=store)["store"]["level"] == "wrong"
        told = json.loads(snap("list", "--json", rights=False, SNAP_STORE=store).stderr)["error"]
    finally:
        place.chmod(0o700)
    assert told["kind"] not in ("io", "internal")


def test_a_store_that_cannot_be_listed(healthy: Snap) -> None:
    (healthy.store / "snap").rename(healthy.store / "snap-away")
    (healthy.store / "snap").write_bytes(b"no directory")
    assert findings(healthy, 1)["store"]["level"] == "wrong"


def test_a_clock_that_is_behind_the_snapshots(healthy: Snap, files: Path) -> None:
    healthy("create", files, "--time", "2099-01-01")
    found = findings(healthy, 1)["clock"]
    assert "this host has a snapshot of 2099-01-01T" in found["message"]


@pytest.mark.parametrize("now_ns", [0, 1 << 62])
def test_a_clock_that_cannot_be_right(now_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    health = snapstore.examine()
    assert {finding.name for finding in health.findings if finding.level == "wrong"} == {"clock"}


def test_a_core_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "VERSION", "0.0.9")
    (core, *_) = snapstore.examine().findings
    assert (core.level, "0.0.9" in core.message) == ("wrong", True)


@pytest.mark.parametrize(
    ("free_blocks", "free_inodes", "level"),
    [(1 << 30, 10, "ok"), (1 << 12, 10, "wrong"), (1 << 17, 10, "note"), (1 << 30, 0, "wrong")],
)
def test_space(
    free_blocks: int, free_inodes: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = (4096, 4096, 1 << 31, free_blocks, free_blocks, 100, free_inodes, free_inodes, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda place: os.statvfs_result(state))
    found = {finding.name: finding for finding in snapstore.examine(tmp_path / "none").findings}
    assert found["space"].level == level


def test_an_index_on_a_network_file_system(filled: Snap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapstore.repository.medium.network_kind", lambda path: "nfs")
    (found,) = [f for f in _examined(filled, filled.home / "cache") if f.name == "index"]
    assert (found.level, "network" in found.message) == ("wrong", True)
    (found,) = [f for f in _examined(filled, None) if f.name == "index"]
    assert (found.level, "made anew" in found.message) == ("note", True)


def _examined(snap: Snap, cache: Path | None) -> tuple[snapstore.Finding, ...]:
    return snapstore.examine(snap.store, cache_dir=cache).findings


def test_whose_the_command_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def level(*directories: str) -> tuple[str, str]:
        path = [str(tmp_path / name) for name in directories]
        found = snapstore.examine(search_path=path).findings[-1]
        assert found.name == "command"
        return found.level, found.message

    program(tmp_path / "ours" / "snap", "exec python -m snapstore.cli")
    program(tmp_path / "both" / "snapstore", "exec python -m snapstore.cli")
    program(tmp_path / "other" / "snap", "exec something-else")
    assert level("ours", "other") == ("ok", f"snap is ours: {tmp_path}/ours/snap")
    assert level("other", "ours")[0] == "wrong"
    assert level("other", "both")[0] == "note"
    assert level("both")[0] == "note"
    assert level()[0] == "note"
    started = str(tmp_path / "other" / "snap")
    finding = snapstore.examine(search_path=[str(tmp_path / "other")], running=started).findings[-1]
    assert finding.level == "ok"


def test_what_fuse_needs_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libfuse, "_loads", lambda library: False)
    (fuse,) = [finding for finding in snapstore.examine().findings if finding.name == "fuse"]
    assert (fuse.level, fuse.hint) == ("note", "install the package fuse3")
    assert "libfuse" in fuse.message


def test_the_type_of_a_file_system(tmp_path: Path) -> None:
    assert examine.file_system(Path("/proc")) == "proc"
    assert examine.file_system(tmp_path / "missing") is None
