"""Runs one command and says what it cost: wall and CPU time, peak memory of its process tree."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_MS = 20
SAMPLES_PER_SCAN = 5  # finding children reads all of /proc, so it is done less often than sampling


@dataclass(frozen=True)
class Command:
    """What to execute. `feed` is a second command, outside the measured tree, piped into stdin.
    `beside` are processes that work for it: what they take meanwhile counts too."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    feed: tuple[str, ...] | None = None
    beside: tuple[int, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Cost of one finished command. Memory is summed over the tree at each sample, then the peak
    is taken: anonymous is RssAnon, resident is VmRSS and so counts mapped files too."""

    wall_seconds: float
    cpu_seconds: float
    resident_bytes: int
    anonymous_bytes: int


class CommandFailed(RuntimeError):
    """A measured command ended with a status other than zero."""


def run(command: Command) -> Usage:
    """Execute `command` to its end; output is discarded, stderr is kept for the error."""
    feeder = _start_feeder(command)
    with tempfile.TemporaryFile() as stderr:
        before = sum(map(cpu_seconds, command.beside))
        started = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            cwd=command.cwd,
            stdin=feeder.stdout if feeder else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        if feeder and feeder.stdout:
            feeder.stdout.close()  # so that the feeder notices when the command dies
        try:
            resident, anonymous = _watch(process.pid, command.beside)
        except BaseException:  # interrupted: leave nothing running
            process.kill()
            raise
        wall = time.perf_counter() - started
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if feeder:
            feeder.wait()
        if process.returncode != 0:
            stderr.seek(0)
            text = stderr.read().decode(errors="replace")[-2000:]
            raise CommandFailed(f"{' '.join(command.argv)}: status {process.returncode}\n{text}")
    cpu = usage.ru_utime + usage.ru_stime + sum(map(cpu_seconds, command.beside)) - before
    return Usage(wall, cpu, resident, anonymous)


def _start_feeder(command: Command) -> subprocess.Popen[bytes] | None:
    if command.feed is None:
        return None
    return subprocess.Popen(command.feed, stdout=subprocess.PIPE)


def _watch(pid: int, beside: tuple[int, ...]) -> tuple[int, int]:
    """Sample until `pid` ends, without reaping it. A pidfd wakes us at its end, so that the
    sampling interval does not round the wall time."""
    handle = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        tree = [pid, *beside]
        resident = anonymous = count = 0
        while True:
            count += 1
            samples = [memory(member) for member in tree]
            resident = max(resident, sum(sample[0] for sample in samples))
            anonymous = max(anonymous, sum(sample[1] for sample in samples))
            if ended.poll(SAMPLE_MS):
                return resident, anonymous
            if count % SAMPLES_PER_SCAN == 1:
                tree = [*_descendants(pid), *beside]
    finally:
        os.close(handle)


def memory(pid: int | str) -> tuple[int, int]:
    """Resident and anonymous bytes of one process; zeros once it has ended."""
    resident = anonymous = 0
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    resident = int(line.split()[1]) * 1024
                elif line.startswith("RssAnon:"):
                    anonymous = int(line.split()[1]) * 1024
                    break
    except (FileNotFoundError, ProcessLookupError):
        pass
    return resident, anonymous


def cpu_seconds(pid: int) -> float:
    """CPU time that one process has taken; zero once it has ended."""
    fields = _stat(pid)
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def processes_at(home: Path) -> tuple[int, ...]:
    """All processes that have this home, such as those that a command left in the background."""
    wanted = b"HOME=" + os.fsencode(home)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                environment = Path("/proc", entry, "environ").read_bytes()
            except OSError:  # it has ended, or is somebody else's
                continue
            if wanted in environment.split(b"\0"):
                found.append(int(entry))
    return tuple(found)


def _descendants(root: int) -> list[int]:
    """`root` and every process below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            children.setdefault(_parent(int(entry)), []).append(int(entry))
    tree = [root]
    for pid in tree:  # grows while it is walked
        tree.extend(children.get(pid, ()))
    return tree


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """What the kernel tells of a process, from its state on; nothing once it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The command name is in parentheses and may hold spaces: split after the last one.
            return stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
