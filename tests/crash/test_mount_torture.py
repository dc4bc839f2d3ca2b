"""Eight processes read in a mount, snapshots are made beside, and the mount's process is stopped or
killed, its store damaged, its disk fails: no byte is wrong, no reader waits for what does not come,
and unmounting takes 5 s at most.
"""

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_disk import STANDS
from crash_client import assert_sound
from mount_mutant import MUTANTS
from mount_torture import (
    FAILED,
    LOST,
    PATIENCE_S,
    FailingDisk,
    Hangs,
    Known,
    Seen,
    failing_disk,
    make_known,
    snap_umount,
    torture,
    until,
)

import snapstore
from snapstore import MountRefused

pytestmark = pytest.mark.needs("fuse", "fusermount3", "xattr", "holes")
on_a_disk = pytest.mark.needs("root", "loop", "mount", "mkfs.ext4")

SHORT_S, LONG_S = 1.2, 60.0
ROUND_S = 6.0
OF_DAMAGE = ("zeros", "hangs", "another error")
QUICK = ("zeros", "hangs", "shifted", "name missing")
SETTLE_S = 0.3
"""For what was under way when something was mended."""
spans = pytest.mark.parametrize(
    "span_s", [SHORT_S, pytest.param(LONG_S, marks=pytest.mark.slow)], ids=["short", "long"]
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return make_known(tmp_path_factory.mktemp("known"))


@pytest.fixture
def disk(known: Known, tmp_path: Path) -> Iterator[FailingDisk]:
    with failing_disk(known, tmp_path) as disk:
        yield disk


def damage(store: Path) -> None:
    """A byte of every 64 KiB of what is larger than that."""
    for pack in store.glob("data/*/*"):
        size = pack.stat().st_size
        pack.chmod(0o600)
        with open(pack, "r+b") as file:
            for offset in range(1 << 15, size, 1 << 16):
                file.seek(offset)
                byte = file.read(1)[0]
                file.seek(offset)
                file.write(bytes([byte ^ 1]))


def rounds(span_s: float) -> range:
    return range(max(1, round(span_s / ROUND_S)))


def tell(what: str, span_s: float, seen: Seen, *unmounts_s: float) -> None:
    slowest_s = max(unmounts_s)
    print(f"{what}, {span_s} s: {seen}; unmounted in {slowest_s:.2f} s ({len(unmounts_s)} times)")


@spans
def test_a_server_that_is_stopped(known: Known, tmp_path: Path, span_s: float) -> None:
    """Whoever reads waits for it; once it is unmounted, nobody does any more."""
    total = Seen()
    with torture(known, tmp_path) as running:
        with running.readers() as readers:
            with running.creates() as outcomes:
                for _ in rounds(span_s):
                    time.sleep(min(span_s, ROUND_S) * 0.6)
                    running.signal(signal.SIGSTOP)
                    time.sleep(min(span_s, ROUND_S) * 0.4)
                    running.signal(signal.SIGCONT)
                    total.judge(readers.seen())
                running.signal(signal.SIGSTOP)
                unmounted = snap_umount(running.mounted)
            unmounted.judge()
            assert "did not answer" in unmounted.said
            total.judge(readers.seen(), LOST)
        assert not running.is_mounted()
        running.signal(signal.SIGCONT)
        running.server.wait(PATIENCE_S)
        assert outcomes and all(outcome.status == 0 for outcome in outcomes), outcomes
        assert_sound(running.store)
    tell("stopped", span_s, total, unmounted.seconds)


@spans
def test_a_server_that_is_killed(known: Known, tmp_path: Path, span_s: float) -> None:
    total, unmounts_s = Seen(), []
    with torture(known, tmp_path) as running, running.creates() as outcomes:
        for number in rounds(span_s):
            with running.readers() as readers:
                time.sleep(min(span_s, ROUND_S))
                total.judge(readers.seen())
                running.signal(signal.SIGKILL)
                total.judge(readers.seen(), LOST)
                unmounted = snap_umount(running.mounted, *["--lazy"] * (number % 2))
                unmounted.judge()
                unmounts_s.append(unmounted.seconds)
                total.judge(readers.seen(), LOST)
            assert not running.is_mounted()
            running.restart()
    assert total.errors["ENOTCONN"]
    assert outcomes and all(outcome.status == 0 for outcome in outcomes), outcomes
    tell("killed", span_s, total, *unmounts_s)


@spans
def test_a_store_that_is_damaged(known: Known, tmp_path: Path, span_s: float) -> None:
    total = Seen()
    with torture(known, tmp_path) as running:
        with running.readers() as readers, running.creates():
            time.sleep(span_s / 2)
            total.judge(readers.seen())
            damage(running.store)
            time.sleep(span_s / 2)
            total.judge(readers.seen(), FAILED)
            assert total.errors["EIO"]
        unmounted = snap_umount(running.mounted)
        unmounted.judge()
        assert running.server.wait(PATIENCE_S) == 0
    tell("damaged", span_s, total, unmounted.seconds)


@on_a_disk
@spans
def test_a_disk_that_fails(known: Known, disk: FailingDisk, tmp_path: Path, span_s: float) -> None:
    """What cannot be read is an error, until it can be read again. A mount that answers is not
    taken from those who read in it, unless that is asked for.
    """
    total = Seen()
    with torture(known, tmp_path, store=disk.store) as running:
        with running.readers() as readers, running.creates() as outcomes:
            for _ in rounds(span_s):
                time.sleep(min(span_s, ROUND_S) / 3)
                total.judge(readers.seen())
                with disk.failing("reads fail"):
                    time.sleep(min(span_s, ROUND_S) / 3)
                    total.judge(readers.seen(), FAILED)
                assert total.errors["EIO"]
                time.sleep(SETTLE_S)
                total.judge(readers.seen(), FAILED)
                time.sleep(min(span_s, ROUND_S) / 3)
                total.judge(readers.seen())
            with disk.failing("all fails"):
                time.sleep(SETTLE_S)
                total.judge(readers.seen(), FAILED)
                refused = snap_umount(running.mounted)
                assert refused.status == 14 and refused.seconds <= PATIENCE_S
                unmounted = snap_umount(running.mounted, "--lazy")
                total.judge(readers.seen(), FAILED)
            unmounted.judge()
        assert not running.is_mounted()
        assert running.server.wait(PATIENCE_S) == 0
    assert outcomes
    tell("disk fails", span_s, total, refused.seconds, unmounted.seconds)


@on_a_disk
@spans
def test_a_disk_that_stands_still(
    known: Known, disk: FailingDisk, tmp_path: Path, span_s: float
) -> None:
    """Whoever reads waits for it, also when the mount was let go; but not for a server that is
    killed then.
    """
    total = Seen()
    with torture(known, tmp_path, store=disk.store) as running:
        with running.readers() as readers, running.creates() as outcomes:
            for _ in rounds(span_s):
                time.sleep(min(span_s, ROUND_S) / 2)
                total.judge(readers.seen())
                with disk.failing(STANDS):
                    time.sleep(min(span_s, ROUND_S) / 2)
                total.judge(readers.seen())
            with disk.failing(STANDS):
                time.sleep(SETTLE_S)
                unmounted = snap_umount(running.mounted, "--lazy")
                unmounted.judge()
            cut_off = "did not answer" in unmounted.said  # it looked for snapshots just then
            total.judge(readers.seen(), LOST if cut_off else ())
            with disk.failing(STANDS):
                time.sleep(SETTLE_S)
                running.signal(signal.SIGKILL)
                total.judge(readers.seen(), LOST)
        assert not running.is_mounted()
    assert outcomes and all(outcome.status == 0 for outcome in outcomes), outcomes
    tell("disk stands still", span_s, total, unmounted.seconds)


# Mount points of servers that do not answer


def test_over_a_stopped_server_nothing_is_mounted(known: Known, tmp_path: Path) -> None:
    with torture(known, tmp_path) as running:
        running.signal(signal.SIGSTOP)
        start = time.monotonic()
        with snapstore.open(running.store) as store, pytest.raises(MountRefused, match="already"):
            store.mount(running.mounted)
        assert time.monotonic() - start < PATIENCE_S
        assert running.is_mounted()


def test_a_mount_of_the_library_ends_though_it_is_stopped(known: Known, tmp_path: Path) -> None:
    with snapstore.open(known.store) as store:
        entered = store.mounted(tmp_path)
        mounted = entered.__enter__()
        held = os.open(mounted, os.O_RDONLY)
        stopped = Path(f"/proc/{server_of(tmp_path)}")
        os.kill(int(stopped.name), signal.SIGSTOP)
        start = time.monotonic()
        entered.__exit__(None, None, None)
        assert time.monotonic() - start < PATIENCE_S
        os.close(held)
    assert not os.path.ismount(tmp_path)
    until(lambda: not stopped.exists(), "the server lives on")


def server_of(mounted: Path) -> int:
    """The child of this process that serves a mount."""
    (found,) = [
        int(name)
        for name in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        if "process.main" in Path(f"/proc/{name}/cmdline").read_text()
    ]
    return found


@on_a_disk
def test_a_mount_whose_store_cannot_be_read_is_not_cleared_away(
    known: Known, disk: FailingDisk, tmp_path: Path
) -> None:
    with torture(known, tmp_path, store=disk.store) as running:
        hidden = disk.store / "snap"
        hidden.rename(disk.store / "was")
        hidden.touch()  # neither listed nor missing
        with pytest.raises(OSError) as caught:
            os.statvfs(running.mounted)
        assert caught.value.errno == errno.EIO
        with snapstore.open(known.store) as store, pytest.raises(MountRefused, match="already"):
            store.mount(running.mounted)
        assert running.is_mounted()


# That all this would be seen


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in MUTANTS],
)
def test_a_mount_that_errs_is_seen(known: Known, tmp_path: Path, mutant: str) -> None:
    with torture(known, tmp_path, mutant=mutant) as running:
        if mutant in OF_DAMAGE:
            damage(running.store)
        with pytest.raises((AssertionError, Hangs)) as caught, running.readers() as readers:
            for _ in range(8):
                time.sleep(0.3)
                Seen().judge(readers.seen(1.0), FAILED if mutant in OF_DAMAGE else ())
        print(f"{mutant}: {str(caught.value)[:200]}")


def test_a_reader_that_is_not_answered_is_seen(known: Known, tmp_path: Path) -> None:
    with torture(known, tmp_path) as running, pytest.raises(Hangs), running.readers() as readers:
        running.signal(signal.SIGSTOP)
        readers.seen(0.5)
