"""The power fails during a restore over a living tree: the writes of the file system below it are
recorded, block by block, with the flushes between them, and cut off at some place. Before the cut
all blocks are there, or those that were flushed and any of the others.

After each cut the file system is mounted, and the restore finished or taken back: the tree is
exactly the wanted or the former one, but for the time of its top, which may not have been written
any more.
"""

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_disk import Write, read_log, recorded
from restore_client import (
    RESTORE,
    STAGING,
    WAYS,
    Judge,
    Operations,
    Outcome,
    Scene,
    build_trap,
    remove,
)

pytestmark = pytest.mark.needs("root", "mount", "loop", "fuse", "mkfs.ext4", "seccomp", "cc")

BLOCK = 4096
IMAGE_BYTES = 80 << 20


def run(*command: str | Path) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    run("mount", "-o", "loop,noatime", image, place)
    try:
        yield
    finally:
        run("umount", place)


class Cuts(Judge):
    """What is found after power cuts."""

    def may_miss_time(self, outcome: Outcome) -> bool:
        return True


class Recording:
    """A restore on a file system of its own, write by write."""

    def __init__(self, scene: Scene, place: Path, forgotten: str = "") -> None:
        self.scene, self.place = scene, place
        self.base, self.cut = place / "base", place / "cut"
        self.mount = place / "scene"
        remove(self.mount)
        self.mount.mkdir()
        with open(self.base, "wb") as file:
            file.truncate(IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", self.base)
        with mounted(self.base, self.mount):
            run("cp", "-a", f"{scene.saved}/.", self.mount)
        image, log = place / "image", place / "log"
        run("cp", "--sparse=always", self.base, image)
        with (
            recorded(place / "disk", image, log) as disk,
            mounted(disk, self.mount),
            Operations(build_trap(place)) as operations,
        ):
            outcome = operations.run(
                scene.store, "restore", scene.id, options=RESTORE, forgotten=forgotten
            )
            end = log.stat().st_size
        assert outcome.error is None, outcome.message
        self.outcome = outcome
        self.writes: list[Write | None] = []
        for write in read_log(log, end):
            pieces = range(0, len(write.data), BLOCK) if write else ()
            self.writes += [
                Write(write.offset + at, write.data[at : at + BLOCK]) for at in pieces
            ] or [None]

    def cut_at(self, at: int, chance: random.Random | None) -> None:
        """The image as it was when `at` blocks were written; with `chance`, not all of those since
        the last flush.
        """
        before = self.writes[:at]
        flushed = max((i for i, write in enumerate(before) if write is None), default=0)
        run("cp", "--sparse=always", self.base, self.cut)
        with open(self.cut, "r+b") as file:
            for number, write in enumerate(before):
                if write and (number < flushed or chance is None or chance.random() < 0.5):
                    file.seek(write.offset)
                    file.write(write.data)

    def look(self, at: int, chance: random.Random | None, way: str, judge: Cuts) -> None:
        self.cut_at(at, chance)
        # What was not said to be done has been killed.
        status = 0 if at == len(self.writes) else -9
        outcome = Outcome(status, 0, [f"{at} of {len(self.writes)} blocks"])
        with mounted(self.cut, self.mount):
            judge.judge(outcome, way, f"cut at {at}" + (", in any order" if chance else ""))


def sweep_cuts(recording: Recording, cuts: int, seed: int) -> Cuts:
    """Cuts spread over the whole, each other one with blocks in any order."""
    judge = Cuts(recording.scene)
    chance = random.Random(seed)
    end = len(recording.writes)
    for number in range(cuts):
        at = end - number * end // cuts
        way = WAYS[number // 2 % 2]
        recording.look(at, chance if number % 2 else None, way, judge)
    print(f"seed {seed}, {end} blocks and flushes, {cuts} cuts")
    return judge


@pytest.fixture
def scene(quick_path: Path) -> Iterator[Scene]:
    with Scene(quick_path) as scene:
        yield scene


def test_power_cuts(scene: Scene, quick_path: Path) -> None:
    judge = sweep_cuts(Recording(scene, quick_path), cuts=30, seed=21)
    judge.verdict()
    assert {"none", "staging", "ready"} <= set(judge.states)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [22, 23])
def test_many_power_cuts(scene: Scene, quick_path: Path, seed: int) -> None:
    sweep_cuts(Recording(scene, quick_path), cuts=500, seed=seed).verdict()


@pytest.mark.slow
def test_a_forgotten_flush_is_seen(scene: Scene, quick_path: Path) -> None:
    """That what is staged is not flushed before the journal says that it is ready."""
    recording = Recording(scene, quick_path, forgotten="syncfs")
    assert any(line.startswith("syncfs") for line in recording.outcome.log)
    assert any(STAGING in line for line in recording.outcome.log)
    assert sweep_cuts(recording, cuts=200, seed=24).faults
