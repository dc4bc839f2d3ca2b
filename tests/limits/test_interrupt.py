"""Ctrl-C: it ends soon, what was finished stays, and the next run goes on from there."""

import os
import random
import time
from pathlib import Path

import pytest
from limits_tools import (
    assert_sound,
    init_with_small_packs,
    packs,
    snap,
    started,
    wait_for,
)

import snapstore
from snapstore.base.errors import Cancelled

ANSWER_S = 1.0
"""Half a second is what is meant; the machine may be busy."""
TEXT_BYTES = 100_000_000


@pytest.fixture
def slow_source(quick_path: Path) -> Path:
    """Text that takes a while to be compressed well."""
    source = quick_path / "source"
    source.mkdir()
    chance = random.Random(1)
    for number in range(10):
        data = chance.randbytes(TEXT_BYTES // 20).hex()
        (source / f"text{number}").write_text(data)
    return source


def test_create_is_interrupted(quick_path: Path, slow_source: Path) -> None:
    store = quick_path / "store"
    init_with_small_packs(store)
    with started("create", slow_source, "--store", store) as create:
        wait_for(lambda: len(packs(store)) >= 8)
        answer_s = create.interrupt()
        assert create.process.returncode == 130
    kept = len(packs(store))
    print(f"answered after {answer_s:.2f} s, {kept} packs stay")
    assert answer_s < ANSWER_S
    assert kept >= 8
    assert os.listdir(store / "sess") == []
    assert os.listdir(store / "tmp") == []
    with snapstore.open(store) as opened:
        assert opened.snapshots() == []
        kept_bytes = sum(path.stat().st_size for path in packs(store))
        result = opened.create(slow_source)
        assert result.stored_bytes < TEXT_BYTES / 2 * 1.1 - kept_bytes * 0.8
        assert opened.check(read_data=True).ok


def test_restore_is_interrupted(quick_path: Path) -> None:
    source, store, target = (quick_path / name for name in ("source", "store", "target"))
    for directory in range(60):
        (source / str(directory)).mkdir(parents=True)
        for number in range(500):
            (source / str(directory) / str(number)).write_bytes(b"%d" % number * 300)
    with snapstore.init(store) as made:
        made.create(source)
    with started("restore", "latest", "--target", target, "--store", store) as restore:
        wait_for(lambda: target.exists() and len(os.listdir(target)) > 1)
        answer_s = restore.interrupt()
        status = restore.process.returncode
    print(f"answered after {answer_s:.2f} s")
    assert status == 130
    assert answer_s < ANSWER_S
    assert os.listdir(store / "sess") == []
    assert_sound(store)
    again = quick_path / "again"
    assert snap("restore", "latest", "--target", again, "--store", store).status == 0


def test_stream_is_interrupted(quick_path: Path) -> None:
    """While nothing comes from a command, which is ended too."""
    store = quick_path / "store"
    snapstore.init(store).close()
    mark = quick_path / "mark"
    command = f"slow=echo begun; touch {mark}; exec sleep 60"
    with started("create", "--stdin-from", command, "--store", store) as create:
        wait_for(mark.exists)
        answer_s = create.interrupt()
        assert create.process.returncode == 130
    assert answer_s < ANSWER_S
    with snapstore.open(store) as opened:
        assert opened.snapshots() == []


def test_interrupt_in_the_observer(quick_path: Path, slow_source: Path) -> None:
    """In a program, Ctrl-C arrives while its own code runs."""

    def stop(progress: snapstore.Progress) -> None:
        if progress.stored_bytes > 1_000_000:
            raise KeyboardInterrupt

    store = quick_path / "store"
    init_with_small_packs(store)
    with snapstore.open(store) as opened:
        with pytest.raises(Cancelled) as caught:
            opened.create(slow_source, progress=stop)
        assert caught.value.exit_code == 130
        assert opened.snapshots() == []
        assert opened.create(slow_source / "text0").snapshot


def test_interrupts_at_any_moment(quick_path: Path) -> None:
    """From the start of the interpreter to its end: exit 130 or a snapshot, never a traceback."""
    source, store = quick_path / "source", quick_path / "store"
    source.mkdir()
    for number in range(300):
        (source / str(number)).write_bytes(random.Random(number).randbytes(3_000))
    snapstore.init(store).close()
    chance = random.Random(2)
    for _ in range(12):
        (source / "changed").write_bytes(chance.randbytes(50_000))
        with started("create", source, "--store", store) as create:
            time.sleep(chance.uniform(0.15, 0.5))
            create.interrupt()
            assert create.process.returncode in (0, 130, -2), create.process.returncode
        assert os.listdir(store / "tmp") == []
    assert os.listdir(store / "sess") == []
    assert_sound(store)
