"""`snap init`."""

from pathlib import Path

from cli_runner import Snap

import snapstore


def test_init(snap: Snap) -> None:
    assert str(snap("init", "new")) == "made store <short> in ~/new\n"
    assert (snap.home / "new" / "config").is_file()
    assert str(snap("list", "-s", "new")) == "--- stderr\nsnap: no snapshots yet\n"


def test_store_named_by_option_or_environment(snap: Snap) -> None:
    assert str(snap("init")) == "made store <short> in ~/store\n"
    assert str(snap("-s", "other", "init")) == "made store <short> in ~/other\n"


def test_nothing_named(snap: Snap) -> None:
    assert str(snap("init", SNAP_STORE=None)) == (
        "--- stderr\n"
        "snap: error: where should the store be?\n"
        "snap: hint: snap init DIRECTORY\n"
        "--- status 2\n"
    )


def test_quiet(snap: Snap) -> None:
    assert str(snap("init", "-q")) == ""


def test_store_exists(filled: Snap) -> None:
    run = filled("init")
    assert run.status == 1
    assert "~/store" in str(run)
    assert filled("list").stdout.count(b"first") == 1


def test_directory_in_use(snap: Snap, files: Path) -> None:
    before = sorted(files.rglob("*"))
    run = snap("init", files)
    assert run.status == 1
    assert "snap: error: " in str(run)
    assert sorted(files.rglob("*")) == before


def test_compression_is_kept(snap: Snap) -> None:
    assert snap("init", "--compression", "none").status == 0
    with snapstore.open(snap.store, mode="r") as store:
        assert store.config.compression == "none"


def test_block_size_out_of_bounds(snap: Snap) -> None:
    assert snap("init", "--block-bytes", "7").status == 2
    assert not (snap.store / "config").exists()
