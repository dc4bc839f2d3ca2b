"""Mounts that are read by many while snapshots are made and everything below them fails: the tree,
the processes, and what may be said of them.
"""

import contextlib
import ctypes
import json
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from block_disk import recorded
from crash_client import Creates, Outcome
from mount_reader import MAPPED, noise

import snapstore

READERS = 8
PATIENCE_S = 5.0
"""In this time everything ends that is to end: readers whose mount is gone, and unmounting."""
START_S = 30.0
CACHE = "8M"
HERE = Path(__file__).parent
SNAP = Path(sys.executable).with_name("snap")

FAILED = {"EIO", MAPPED}
"""What reading may come to when the store cannot be read."""
LOST = {"ENOTCONN", "ECONNABORTED", *FAILED}
"""And when the mount has lost its process. ECONNABORTED: the kernel's answer to what was under way
then; EIO: what was being read ahead for it.
"""


def make_tree(top: Path, chance: random.Random) -> None:
    """What is known; and, beside it, a directory in which something will change."""
    known = top / "known"
    (known / "deep/er").mkdir(parents=True)
    (known / "many").mkdir()
    (top / "new").mkdir()
    (top / "new/0-1000").write_bytes(noise("0-1000"))
    (known / "large").write_bytes(chance.randbytes(6 << 20))
    (known / "text").write_bytes(b"".join(b"line %d of many\n" % n for n in range(100_000)))
    with open(known / "sparse", "wb") as file:
        file.truncate(9 << 20)
        for offset in (0, 3 << 20, (9 << 20) - 5_000):
            os.pwrite(file.fileno(), chance.randbytes(5_000), offset)
    for number in range(300):
        (known / f"many/name-{number}").write_bytes(chance.randbytes(chance.randrange(3_000)))
    for number in range(40):
        path = known / f"deep/er/file{number}"
        path.write_bytes(chance.randbytes(chance.choice([0, 50, 20_000, 200_000])))
        os.setxattr(path, "user.number", b"%d" % number)
    os.link(known / "large", known / "deep/large again")
    (known / "link").symlink_to("deep/er/file1")


@dataclass
class Known:
    """A tree and a store with a snapshot of it, from which others are copied."""

    top: Path
    store: Path

    def change(self, number: int) -> None:
        """Something new to be taken, and something gone."""
        size = random.Random(number).choice([300, 40_000, 300_000])
        name = f"{number}-{size}"
        (self.top / "new" / name).write_bytes(noise(name))
        for path in list((self.top / "new").iterdir()):
            if int(path.name.partition("-")[0]) < number - 4:
                path.unlink()


def make_known(place: Path) -> Known:
    known = Known(place / "top", place / "store")
    make_tree(known.top, random.Random(7))
    with snapstore.init(known.store) as store:
        store.create(known.top, name="first")
    return known


# Processes


class Hangs(AssertionError):
    """A process that should have said something did not."""


@dataclass
class Seen:
    """What readers came to."""

    calls: dict[str, int] = field(default_factory=Counter)
    errors: dict[str, int] = field(default_factory=Counter)
    bytes: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, more: "Seen") -> None:
        self.calls = Counter(self.calls) + Counter(more.calls)
        self.errors = Counter(self.errors) + Counter(more.errors)
        self.bytes += more.bytes
        self.wrong += more.wrong
        self.slowest_s = max(self.slowest_s, more.slowest_s)

    def judge(self, more: "Seen", allowed: Collection[str] = ()) -> None:
        """Adds what came after this; nothing of that is wrong, and no error is another."""
        self.add(more)
        assert not more.wrong, more.wrong[:5]
        assert more.errors.keys() <= set(allowed), f"{more.errors}, where {allowed} may be"

    def __str__(self) -> str:
        calls, errors = sum(self.calls.values()), dict(self.errors)
        return f"{calls} calls, {self.bytes / 1e6:.0f} MB compared, {errors or 'no error'}"


class Readers:
    """Processes that read in a mount."""

    def __init__(self, mounted: Path, top: Path, count: int = READERS) -> None:
        command = [sys.executable, HERE / "mount_reader.py", mounted, top]
        self._all = [
            subprocess.Popen(
                [*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
            for seed in range(count)
        ]
        try:
            for line in self._lines(START_S):
                assert line == b"ready", line
        except BaseException:
            self.kill()
            raise

    def _lines(self, patience_s: float) -> Iterator[bytes]:
        """A line of each."""
        waiting = {one.stdout: b"" for one in self._all}
        end = time.monotonic() + patience_s
        with selectors.DefaultSelector() as selector:
            for stdout in waiting:
                selector.register(stdout, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready:
                    raise Hangs(f"{len(selector.get_map())} of {len(self._all)} readers hang")
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    assert data, "a reader ended"
                    waiting[key.fileobj] += data
                    if data.endswith(b"\n"):
                        selector.unregister(key.fileobj)
                        yield waiting[key.fileobj].rstrip()

    def seen(self, patience_s: float = PATIENCE_S) -> Seen:
        """What they came to since this was asked last. Hangs when one is stuck."""
        for one in self._all:
            one.stdin.write(b"\n")
        found = Seen()
        for line in self._lines(patience_s):
            found.add(Seen(**json.loads(line)))
        return found

    def end(self) -> None:
        for one in self._all:
            one.stdin.close()
        end = time.monotonic() + PATIENCE_S
        for one in self._all:
            try:
                assert one.wait(max(0.0, end - time.monotonic())) == 0
            except subprocess.TimeoutExpired:
                raise Hangs("a reader does not end") from None
            one.stdout.close()

    def kill(self) -> None:
        for one in self._all:
            one.kill()
            one.wait(PATIENCE_S)
            one.stdin.close()
            one.stdout.close()


class Writer:
    """Creates, one after the other, until it is told to stop."""

    def __init__(self, known: Known, store: Path) -> None:
        self.outcomes: list[Outcome] = []
        self._known, self._store = known, store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with Creates() as creates:
            number = 0
            while not self._stop.is_set():
                number += 1
                self._known.change(number)
                self.outcomes.append(creates.run(self._store, self._known.top, f"new{number}"))

    def end(self) -> list[Outcome]:
        self._stop.set()
        self._thread.join()
        return self.outcomes


@dataclass
class Unmounted:
    status: int
    seconds: float
    said: str

    def judge(self) -> None:
        assert self.status == 0, self.said
        assert self.seconds <= PATIENCE_S, self


def snap_umount(mounted: Path, *more: str) -> Unmounted:
    """`snap umount`. Hangs when it does not end in good time."""
    start = time.monotonic()
    command = [SNAP, "umount", mounted, *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = process.communicate(timeout=2 * PATIENCE_S)[1]
    except subprocess.TimeoutExpired:
        raise Hangs("snap umount does not end") from None
    return Unmounted(process.returncode, time.monotonic() - start, said)


class Torture:
    """A mount of a copy of the known store, with readers in it and creates beside it."""

    def __init__(self, known: Known, place: Path, store: Path, mutant: str | None = None) -> None:
        self.known, self.store, self.mounted = known, store, place / "mnt"
        self.mounted.mkdir(exist_ok=True)
        self.mutant = mutant
        self._start()

    def _start(self) -> None:
        mutant = self.mutant
        run = [SNAP] if mutant is None else [sys.executable, HERE / "mount_mutant.py", mutant]
        arguments = ["-s", self.store, "mount", self.mounted, "--cache-size", CACHE]
        self.server = subprocess.Popen([*run, *arguments], stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_S
        while not self.is_mounted():
            assert self.server.poll() is None and time.monotonic() < end, "it cannot be mounted"
            time.sleep(0.02)

    def is_mounted(self) -> bool:
        """Says so of a mount that has lost its process too, and asks none."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return any(line.split()[4] == os.fspath(self.mounted) for line in lines)

    @contextlib.contextmanager
    def readers(self) -> Iterator[Readers]:
        readers = Readers(self.mounted, self.known.top)
        try:
            yield readers
            readers.end()
        except BaseException:
            self.cut_off()  # what waits for an answer cannot be killed before
            readers.kill()
            raise

    @contextlib.contextmanager
    def creates(self) -> Iterator[list[Outcome]]:
        """How they ended, afterwards."""
        writer, outcomes = Writer(self.known, self.store), list[Outcome]()
        try:
            yield outcomes
        finally:
            outcomes += writer.end()

    def restart(self) -> None:
        """Mounts again what was unmounted."""
        self.server.wait(PATIENCE_S)
        self._start()

    def signal(self, number: int) -> None:
        self.server.send_signal(number)

    def cut_off(self) -> None:
        """Ends the kernel's connection with the server, whatever state that is in."""
        ctypes.CDLL(None).umount2(os.fsencode(self.mounted), 1 | 2)  # MNT_FORCE, MNT_DETACH

    def end(self) -> None:
        while self.is_mounted():
            self.cut_off()
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        self.server.kill()
        self.server.wait(START_S)


@contextlib.contextmanager
def torture(
    known: Known, place: Path, *, store: Path | None = None, mutant: str | None = None
) -> Iterator[Torture]:
    """In `place`, with a store that is there already, or else with a copy of the known one."""
    if store is None:
        store = place / "store"
        shutil.copytree(known.store, store)
    running = Torture(known, place, store, mutant)
    try:
        yield running
    finally:
        running.end()


# The disk


class FailingDisk:
    """A file system with a store, on a disk that fails when it is told to."""

    def __init__(self, mounted: Path, fault: Path) -> None:
        self.store = mounted / "store"
        self._fault = fault
        self._stop = threading.Event()

    def set(self, fault: str) -> None:
        self._fault.write_text(fault)

    @contextlib.contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """What is in memory of the store is read anew meanwhile, but for the index."""
        stop = threading.Event()
        thread = threading.Thread(target=self._forget, args=(stop,))
        self.set(fault)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            self.set("")
            thread.join()

    def _forget(self, stop: threading.Event) -> None:
        kinds = ("data/*/*", "meta/*/*", "snap/*", "refs/*", "label/*")
        objects = [path for kind in kinds for path in self.store.glob(kind)]
        handles = [os.open(path, os.O_RDONLY) for path in objects]
        while not stop.wait(0.05):
            for handle in handles:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        for handle in handles:
            os.close(handle)


def run(*command: str | Path) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@contextlib.contextmanager
def failing_disk(known: Known, place: Path) -> Iterator[FailingDisk]:
    """A disk that fails, with a copy of the known store."""
    image, mounted, fault = place / "image", place / "disk-mnt", place / "fault"
    fault.touch()
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", image)
    with recorded(place / "raw", image, Path(os.devnull), fault) as raw:
        device = run("losetup", "--find", "--show", "--direct-io=on", raw)
        try:
            run("mount", "-o", "noatime", device, mounted)
            try:
                shutil.copytree(known.store, mounted / "store")
                run("sync", "-f", mounted)
                disk = FailingDisk(mounted, fault)
                try:
                    yield disk
                finally:
                    disk.set("")
            finally:
                run("umount", mounted)
        finally:
            run("losetup", "--detach", device)


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)
