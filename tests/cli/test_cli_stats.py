"""`snap stats`, `snap reindex`, and stores that are unusual."""

import json
import shutil
from pathlib import Path

import pytest
from cli_runner import Snap


def test_stats(filled: Snap, files: Path) -> None:
    filled("create", files)
    lines = str(filled("stats")).splitlines()
    assert lines[0] == "store        ~/store"
    assert lines[1] == "snapshots    2"
    assert lines[2] == "from         <time> to <time>"
    assert lines[3] == "all files    200 KiB, counted in every snapshot"
    labels = [line.split("  ")[0] for line in lines[4:]]
    assert labels == ["distinct", "stored", "saving", "index"]


def test_stats_of_an_empty_store(snap: Snap) -> None:
    snap("init")
    assert "snapshots    0\n" in str(snap("stats"))
    assert json.loads(snap("stats", "--json").stdout)["snapshots"] == 0


def test_reindex(filled: Snap) -> None:
    shutil.rmtree(filled.store / "local")
    assert str(filled("reindex")).startswith("index rebuilt: ")
    assert filled("check", "--read-data").status == 0
    assert str(filled("reindex", "-q")) == ""
    assert json.loads(filled("reindex", "--json").stdout)["packs"] == 2


def test_store_of_a_newer_version(filled: Snap) -> None:
    """The byte behind the magic is the version (docs/format/frame.md)."""
    config = filled.store / "config"
    data = bytearray(config.read_bytes())
    data[4] += 1
    config.chmod(0o600)
    config.write_bytes(data)
    run = filled("list")
    assert run.status == 1
    assert "newer" in str(run)
    assert json.loads(filled("list", "--json").stderr)["error"]["kind"] == "store-too-new"


@pytest.mark.needs("root", "mount")
def test_read_only_store(filled: Snap, files: Path) -> None:
    import subprocess

    subprocess.run(["mount", "--bind", filled.store, filled.store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", filled.store], check=True)
        assert filled("list").status == 0
        assert filled("check", "--read-data").status == 0
        assert filled("restore", "first", "--target", "back").status == 0
        run = filled("create", files)
        assert run.status == 14, str(run)
        assert "snap: error: " in str(run)
    finally:
        subprocess.run(["umount", filled.store], check=True)
