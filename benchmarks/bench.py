"""What a case works with: runs, turns, fresh places, and the record of every measurement."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measure import Command, CommandFailed, processes_at, run
from benchmarks.peers import PEERS, Peer, Place

REST_SECONDS = 3.5  # data changed less than 2 s before it is read is not trusted by a stat cache
UNMOUNT_SECONDS = 10  # after that it is taken away by force
REMOVAL_SECONDS = 90  # after removing many files ext4 creates new ones slowly for about a minute


@dataclass(frozen=True)
class Record:
    """One measurement: times in seconds, memory and sizes in bytes."""

    step: str
    tool: str
    run: int
    wall: float
    cpu: float = 0.0
    resident: int = 0
    anonymous: int = 0
    data: int = 0
    stored: int = 0
    derived: int = 0  # part of `stored` that is rebuilt from the rest: an index, a cache
    cached: int = 0  # what the tool keeps outside its store, in its home


@dataclass(frozen=True)
class Mounted:
    """A mounted snapshot: where the data is in it, and the processes that serve it."""

    path: Path
    servers: tuple[int, ...]


@dataclass
class Bench:
    """One case being measured. Folders live below `work`/runs until `sweep`."""

    case: str
    work: Path
    usable: frozenset[str]
    planned: int
    run: int = 0
    records: list[Record] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def runs(self) -> Iterator[int]:
        """Numbers of the runs. After each, stores go away; restored trees stay until `sweep`."""
        for number in range(self.planned):
            self.run = number
            yield number
            self._remove_stores()

    def turn(self, *names: str) -> list[Peer]:
        """The usable tools among `names`; each run starts with another one of them."""
        peers = [PEERS[name] for name in names if name in self.usable]
        first = self.run % len(peers) if peers else 0
        return peers[first:] + peers[:first]

    def place(self, peer: Peer) -> Place:
        """This run's place of a tool; a new one in every run."""
        return Place(self._folder / peer.name.replace(" ", ""))

    def shared_place(self, peer: Peer) -> Place:
        """A tool's place for all runs of the case."""
        return Place(self.work / "runs" / self.case / "shared" / peer.name.replace(" ", ""))

    def target(self, peer: Peer, step: str) -> Path:
        """A new empty folder to restore into."""
        target = self._folder / f"{peer.name.replace(' ', '')}-{step.replace(' ', '-')}"
        target.mkdir(parents=True)
        return target

    @property
    def _folder(self) -> Path:
        return self.work / "runs" / self.case / str(self.run)

    def prepare(self, command: Command | None) -> None:
        """Execute without measuring; a failure shows again in the step that needed it."""
        if command:
            try:
                run(command)
            except CommandFailed as error:
                self._failed("preparation", error)

    @contextlib.contextmanager
    def mount_point(self, peer: Peer, place: Place) -> Iterator[Path]:
        """An empty folder to mount on. Whatever is mounted there in the end is unmounted."""
        point = place.root / "mount"
        point.mkdir(parents=True, exist_ok=True)
        try:
            yield point
        finally:
            self._unmount(peer, place, point)

    @contextlib.contextmanager
    def mounted(
        self, peer: Peer, place: Place, source: Path, name: str = "first"
    ) -> Iterator[Mounted | None]:
        """A snapshot of `source`, mounted without measuring; None when that failed."""
        with self.mount_point(peer, place) as point:
            try:
                run(peer.mount(place, point, name))
            except CommandFailed as error:
                self._failed(f"mount, {peer.name}", error)
                yield None
            else:
                yield Mounted(peer.shown(point, source, name), processes_at(place.home))

    def measure(
        self,
        step: str,
        peer: Peer,
        command: Command,
        *,
        data: int = 0,
        place: Place | None = None,
        cold: bool = False,
    ) -> None:
        """Execute and record. With `place`, the size of its store afterwards is recorded too; with
        `cold`, nothing is in the kernel's caches before."""
        self.settle()
        if cold:
            drop_caches()
        try:
            usage = run(command)
        except CommandFailed as error:
            self._failed(f"{step}, {peer.name}", error)
            return
        record = Record(
            *(step, peer.name, self.run, usage.wall_seconds, usage.cpu_seconds),
            *(usage.resident_bytes, usage.anonymous_bytes, data),
        )
        if place:
            derived = peer.derived(place)
            record = replace(
                record,
                stored=allocated(place.store),
                derived=allocated(derived) if derived else 0,
                cached=allocated(place.home),
            )
        self.add(record)

    def add(self, record: Record) -> None:
        self.records.append(record)
        figures = [
            f"{label}{figure(value):>9} {unit}"
            for label, value, unit in (
                ("", record.wall, "s"),
                ("cpu", record.cpu, "s"),
                ("anonymous", record.anonymous / 1e6, "MB"),
                ("store", record.stored / 1e6, "MB"),
            )
            if value  # else it was not measured
        ]
        head = f"  {record.run + 1}/{self.planned} {record.step:20} {record.tool:11}"
        print(head, "  ".join(figures), flush=True)

    def check_restored(self, peer: Peer, source: Path, target: Path) -> None:
        """Report a restored tree that is not equal to its source."""
        found = [path for path in (target, *target.rglob(source.name)) if path.name == source.name]
        compare = ("rsync", "-rlpn", "--checksum", "--delete", "--itemize-changes")
        argv = (*compare, f"{source}/", f"{found[0] if found else target}/")
        self._expect_nothing("restore", peer, argv)

    def check_tree(self, step: str, peer: Peer, source: Path, live: Path) -> None:
        """Report a tree that is not equal to its source, in content, modes and times."""
        compare = ("rsync", "-an", "--checksum", "--delete", "--itemize-changes")
        self._expect_nothing(step, peer, (*compare, f"{source}/", f"{live}/"))

    def check_file(self, step: str, peer: Peer, source: Path, live: Path, mtime_ns: int) -> None:
        """Report a file that is not equal to its source, or has another time."""
        self._expect_nothing(step, peer, ("cmp", str(source), str(live)))
        if live.stat().st_mtime_ns != mtime_ns:
            self._failed(f"{step}, {peer.name}", ValueError("it has another time"))

    def _expect_nothing(self, step: str, peer: Peer, argv: tuple[str, ...]) -> None:
        """A comparison that prints what is different."""
        done = subprocess.run(argv, capture_output=True, text=True)
        differences = done.stdout + done.stderr
        if differences or done.returncode:
            few = "\n".join(differences.splitlines()[:5])
            self._failed(f"{step}, {peer.name}", ValueError(f"not equal to its source:\n{few}"))

    def rest(self) -> None:
        """Let freshly written data reach the disk and grow old enough to be trusted."""
        self.settle()
        time.sleep(REST_SECONDS)

    def settle(self) -> None:
        """Write back what came before, so that it is not paid for by what comes next."""
        self.work.mkdir(parents=True, exist_ok=True)
        subprocess.run(("sync", "-f", str(self.work)), check=True)

    def _unmount(self, peer: Peer, place: Place, point: Path) -> None:
        """Returns once nothing is mounted and no server is left, in the worst case by force."""
        deadline = time.monotonic() + UNMOUNT_SECONDS
        problem: Exception = TimeoutError("its process does not end")
        while (mounted := is_mounted(point)) or processes_at(place.home):
            if time.monotonic() > deadline:
                self._failed(f"unmount, {peer.name}", problem)
                _unmount_by_force(place, point)
                return
            if mounted:
                try:
                    run(peer.unmount(place, point))
                except CommandFailed as error:  # in use, or gone meanwhile
                    problem = error
            time.sleep(0.05)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures.append(what)
        print(f"  FAILED {what}: {error}", flush=True)

    def _remove_stores(self) -> None:
        for peer in PEERS.values():
            if not peer.many_files:
                shutil.rmtree(self.place(peer).root, ignore_errors=True)


def figure(value: float) -> str:
    """Three figures, and no fewer than the whole part."""
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(places, 0)}f}"


def allocated(path: Path) -> int:
    """Bytes on disk of a file or of a folder and all in it."""
    if not path.exists():
        return 0
    inside = path.rglob("*") if path.is_dir() else ()
    return sum(each.lstat().st_blocks * 512 for each in (path, *inside))


def _unmount_by_force(place: Place, point: Path) -> None:
    """The servers first: one of them may be just about to mount."""
    for server in processes_at(place.home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    if is_mounted(point):
        subprocess.run(("umount", "-l", str(point)), check=False)


def is_mounted(point: Path) -> bool:
    """Also where the server has died, so that nothing there can be looked at."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return str(point).replace(" ", "\\040") in (line.split()[4] for line in lines)


def drop_caches() -> None:
    """Let the kernel forget what it read. What is not yet written stays: sync before."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise RuntimeError("a cold cache needs root (/proc/sys/vm/drop_caches)") from error


def sweep(work: Path) -> None:
    """Remove everything that cases left behind, and remember when."""
    shutil.rmtree(work / "runs", ignore_errors=True)
    (work / "removed").touch()


def await_calm(work: Path) -> None:
    """Wait until the last removal of many files no longer slows the creation of new ones."""
    removed = work / "removed"
    if removed.exists():
        left = removed.stat().st_mtime + REMOVAL_SECONDS - time.time()
        if left > 0:
            print(f"waiting {left:.0f} s after the last removal of many files", flush=True)
            time.sleep(left)
