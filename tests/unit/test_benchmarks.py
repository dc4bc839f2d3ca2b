"""Figures of the benchmarks as they are shown, how targets judge, and the data of rollbacks."""

from pathlib import Path

import pytest
from benchmarks import datasets, targets
from benchmarks.bench import Bench, Record, figure
from benchmarks.cases import CASES
from benchmarks.datasets import PIECE_BYTES, Dataset
from benchmarks.measure import CommandFailed, run
from benchmarks.peers import PEERS, Place, _from_mount, _shell


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.000_123_4, "0.000123"),
        (0.064_1, "0.0641"),
        (0.13, "0.130"),
        (2.187, "2.19"),
        (71.62, "71.6"),
        (143_793.4, "143793"),
        (-2.8, "-2.80"),
        (0, "0"),
    ],
)
def test_a_figure_has_three_digits_that_mean_something(value: float, shown: str) -> None:
    assert figure(value) == shown


def _run(**walls: float) -> targets.Run:
    """One run's records; `rollback_restic` is a step and a tool."""
    records = {}
    for name, wall in walls.items():
        step, tool = name.split("_")
        records[step, tool] = Record(step, tool, 0, wall)
    return records


def test_a_peer_that_takes_two_steps_is_judged_by_both() -> None:
    run = _run(rollback_snap=2, rollback_borg=10, safety_borg=8)
    assert targets.faster_with("safety", "rollback", "borg", 8).value(run) == 9
    assert targets.faster("rollback", "borg", 8).value(run) == 5


def test_a_step_is_judged_by_another_of_ours() -> None:
    target = targets.within_own("restore", "again", 1.5)
    value = target.value(_run(restore_snap=0.6, again_snap=0.5))
    assert value == pytest.approx(1.2)
    assert target.met(value)


def test_a_run_without_a_tool_does_not_count() -> None:
    target = targets.faster_with("safety", "rollback", "borg", 8)
    assert targets.median([_run(rollback_snap=2, rollback_borg=10)], target.value) is None


def test_cases_have_names_of_their_own_and_tools_that_are_known() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {tool for case in CASES for tool in case.tools} <= set(PEERS)


def _image(path: Path, changed: range) -> Path:
    """40 pieces and a bit, some of them other than in the rest."""
    content = bytearray(40 * PIECE_BYTES + 7)
    for piece in changed:
        content[piece * PIECE_BYTES + 5] = 1
    path.write_bytes(content)
    return path


def test_a_share_of_what_differs_is_changed(tmp_path: Path) -> None:
    old, new = _image(tmp_path / "old", range(0)), _image(tmp_path / "new", range(3, 20))
    pieces = datasets.changes(old, new, 0.1)
    assert len(pieces) == 4
    assert pieces == sorted(set(pieces)) == datasets.changes(old, new, 0.1)
    assert all(3 <= at // PIECE_BYTES < 20 and at % PIECE_BYTES == 0 for at in pieces)

    inode = old.stat().st_ino
    datasets.change(old, new, pieces)
    assert old.stat().st_ino == inode
    assert old.stat().st_size == new.stat().st_size
    assert [at for at, byte in enumerate(old.read_bytes()) if byte] == [at + 5 for at in pieces]


def test_data_that_differs_too_little_is_refused(tmp_path: Path) -> None:
    old, new = _image(tmp_path / "old", range(0)), _image(tmp_path / "new", range(3, 5))
    with pytest.raises(RuntimeError, match="only 2 pieces"):
        datasets.changes(old, new, 0.1)


def _versions(root: Path) -> Dataset:
    for version, text in (("v1", "one"), ("v2", "another")):
        (root / version / "below").mkdir(parents=True)
        (root / version / "below" / "file").write_text(text)
        (root / version / "same").write_text("same")
    (root / "v2" / "extra").write_text("extra")
    return Dataset(root, root / "tree", {})


@pytest.mark.needs("rsync")
def test_rsync_rolls_a_tree_and_a_file_back(tmp_path: Path) -> None:
    data = _versions(tmp_path).copy(tmp_path / "live")
    peer, place = PEERS["rsync"], Place(tmp_path / "place")
    bench = Bench("none", tmp_path, frozenset({"rsync"}), 1)
    run(peer.create(place, data.live, "first"))
    data.switch(2)
    bench.check_tree("before", peer, data.root / "v1", data.live)
    run(peer.rollback(place, data.live, "first"))
    bench.check_tree("after", peer, data.root / "v1", data.live)
    assert bench.failures == ["before, rsync"]

    file, place = tmp_path / "disk", Place(tmp_path / "other")
    file.write_text("as it was")
    mtime = file.stat().st_mtime_ns
    run(peer.create(place, file, "first"))
    first = tmp_path / "other" / "store" / "copy"
    file.write_text("otherwise by now")  # rsync looks at sizes and seconds
    bench.check_file("changed", peer, first, file, mtime)
    run(peer.rollback(place, file, "first"))
    bench.check_file("after", peer, first, file, mtime)
    assert bench.failures[1:] == ["changed, rsync", "changed, rsync"]


def test_a_mount_that_fails_is_a_failure(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    command = _from_mount(_shell("exit 7"), mount, mount / "snapshot", tmp_path / "live")
    with pytest.raises(CommandFailed):
        run(command)
