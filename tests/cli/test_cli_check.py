"""`snap check`."""

import json
import os
from pathlib import Path

import pytest
from cli_runner import Snap

from snapstore import CheckProblem, CheckReport
from snapstore.cli import check
from snapstore.cli.settings import Settings


def flip(path: Path, offset: int) -> None:
    """Inverts one byte of an object."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


@pytest.fixture
def damaged(filled: Snap) -> Snap:
    """A byte in the middle of the only block of data is wrong."""
    packs = [path for path in (filled.store / "data").rglob("*") if path.is_file()]
    assert len(packs) == 1
    flip(packs[0], packs[0].stat().st_size // 3)
    return filled


def test_sound(filled: Snap) -> None:
    text = str(filled("check"))
    assert "; contents not read (--read-data)\n" in text
    assert text.endswith("no damage found\n")
    text = str(filled("check", "--read-data"))
    assert text.startswith("snapshots    1 checked\ntrees        ")
    assert "; contents read and verified\n" in text
    assert text.endswith("no damage found\n")


def test_references(filled: Snap) -> None:
    assert filled("check", "first", "--read-data").status == 0
    assert filled("check", "--read-data", "first").status == 0
    assert filled("check", "nothing").status == 13


@pytest.mark.parametrize("share", ["100%", "50%", "1/3", "0.5%"])
def test_share(filled: Snap, share: str) -> None:
    assert filled("check", f"--read-data={share}").status == 0


@pytest.mark.parametrize("share", ["", "0%", "101%", "3/2", "1/0", "all", "10"])
def test_share_without_meaning(filled: Snap, share: str) -> None:
    run = filled("check", f"--read-data={share}")
    assert run.status == 2
    assert "is not a share" in str(run)


def test_time_limit(filled: Snap) -> None:
    assert filled("check", "--read-data", "--time-limit", "10m").status == 0
    assert filled("check", "--read-data", "--time-limit", "soon").status == 2


def test_time_limit_that_comes_first_is_told(filled: Snap, files: Path) -> None:
    (files / "more.bin").write_bytes(os.urandom(1 << 22))
    filled("create", files)
    run = filled("check", "--read-data", "--time-limit", "0s")
    assert run.status == 0
    assert "\nno damage found in what was checked\n" in str(run)
    assert "snap: warning: the time limit came first: not everything was checked\n" in str(run)


def test_damage(damaged: Snap, files: Path) -> None:
    run = damaged("check", "--read-data")
    assert run.status == 5
    text = str(run)
    assert text.startswith("pack ")
    assert "  hits <short>:~/files/data.bin\n" in text
    assert "; 1 file hit in 1 snapshot\n" in text
    assert text.endswith("--- stderr\nsnap: error: the store is damaged\n--- status 5\n")


def test_damage_beyond_what_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    report = CheckReport(
        snapshots=1,
        packs=1,
        bytes=1,
        nodes=1,
        chunks=1,
        problems=[CheckProblem("tree", "00", "lost", (("ab" * 32, b"/x"),))],
        problem_count=123_457,
        complete=True,
        elapsed_s=1.0,
    )
    check._print(report, Settings(), 0.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["tree 00: lost", "  hits abababab:/x", "… and 123,456 more"]
    assert lines[-1] == "123,457 problems; at least 1 file hit in 1 snapshot"


def test_damage_as_json(damaged: Snap, files: Path) -> None:
    run = damaged("check", "--read-data", "--json")
    assert run.status == 5
    assert run.stderr == b""
    document = json.loads(run.stdout)
    assert document["ok"] is False
    hit = [file["path"] for problem in document["problems"] for file in problem["affected"]]
    assert hit == [f"{files}/data.bin"]


def test_damaged_content_is_not_restored(damaged: Snap, files: Path) -> None:
    run = damaged("restore", "first", "--target", "back")
    assert run.status == 3
    restored = damaged.home / "back" / "data.bin"
    assert not restored.exists() or restored.read_bytes() == (files / "data.bin").read_bytes()


def test_a_damaged_snapshot_is_not_restored(filled: Snap) -> None:
    (record,) = (filled.store / "snap").iterdir()
    flip(record, 60)
    assert filled("restore", record.name, "--target", "back").status == 5


def test_missing_pack(filled: Snap) -> None:
    for pack in (filled.store / "data").rglob("*"):
        if pack.is_file():
            pack.unlink()
    run = filled("check")
    assert run.status == 5
    assert "~/files/data.bin" in str(run)
