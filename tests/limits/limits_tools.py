"""Running the command and the library in processes of their own, and places that are too small."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import snapstore
from snapstore.model.config import Config
from snapstore.repository.open import Repository, new_id

SNAP = [sys.executable, "-m", "snapstore.cli"]
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
MEMORY_KB = 300_000


@dataclass(frozen=True)
class Ended:
    """How a command ended; `error`: the kind that it told of."""

    status: int
    error: str | None
    text: str
    answer: Any


def snap(*arguments: str | bytes | Path, rights: bool = True, input: bytes = b"") -> Ended:
    """Runs `snap --json …`. Without `rights`, what root may do beyond others is given up."""
    prefix = [] if rights or os.geteuid() != 0 else WITHOUT_RIGHTS
    done = subprocess.run(
        [*prefix, *SNAP, *arguments, "--json"], input=input, capture_output=True, check=False
    )
    error = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(done.stderr[done.stderr.index(b"{\n") :])["error"]["kind"]
    answer = None
    with contextlib.suppress(ValueError):
        answer = json.loads(done.stdout)
    return Ended(done.returncode, error, done.stderr.decode(errors="replace"), answer)


@dataclass
class Watched:
    """A command under way."""

    process: subprocess.Popen[bytes]
    peak_kb: int = 0

    def interrupt(self) -> float:
        """Ctrl-C; how long it took to end, in seconds."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return time.monotonic() - start

    def wait(self) -> int:
        """Waits for the end, noting how much memory of its own the process has at most."""
        while self.process.poll() is None:
            self.peak_kb = max(self.peak_kb, anonymous_kb(self.process.pid))
            time.sleep(0.02)
        return self.process.returncode


@contextlib.contextmanager
def started(*arguments: str | bytes | Path) -> Iterator[Watched]:
    """`snap …` in the background."""
    output = subprocess.DEVNULL
    with subprocess.Popen([*SNAP, *arguments], stdout=output, stderr=output) as process:
        try:
            yield Watched(process)
        finally:
            process.kill()


def measured(*arguments: str | bytes | Path) -> int:
    """Runs a command that must succeed; its peak of anonymous memory in KB."""
    with started(*arguments) as watched:
        assert watched.wait() == 0
    return watched.peak_kb


def anonymous_kb(pid: int) -> int:
    """RssAnon of a process; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


def wait_for(what: Any, timeout_s: float = 30.0) -> None:
    """Waits until a call gives something true."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", place]
    subprocess.run(mount, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def init_with_small_packs(path: Path) -> None:
    """A store whose packs are as small as may be, so that many are finished soon."""
    config = replace(
        Config.new(new_id(), new_id(), "tests", compression="small"),
        data_pack_bytes=1 << 20,
        meta_pack_bytes=1 << 20,
    )
    Repository.init(path, config).close()


def assert_sound(path: Path, *, read_data: bool = True) -> None:
    with snapstore.open(path, mode="r") as store:
        report = store.check(read_data=read_data)
    assert report.ok, report.problems


def packs(path: Path) -> list[Path]:
    return list((path / "data").glob("*/*"))


def make_chain(top: Path, names: Sequence[bytes]) -> None:
    """Directories in each other, however long the path becomes, with a file in the last."""
    directory = os.open(top, os.O_RDONLY)
    try:
        for name in names:
            os.mkdir(name, dir_fd=directory)
            inner = os.open(name, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = inner
        file = os.open(b"end", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
        os.write(file, b"the end\n")
        os.close(file)
    finally:
        os.close(directory)


def read_chain(top: Path, names: Sequence[bytes]) -> bytes:
    """Content of the file at the end of a chain in which there is nothing else."""
    directory = os.open(top, os.O_RDONLY)
    try:
        for name in names:
            assert os.listdir(directory) == [os.fsdecode(name)]
            inner = os.open(name, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = inner
        file = os.open(b"end", os.O_RDONLY, dir_fd=directory)
        content = os.read(file, 100)
        os.close(file)
        return content
    finally:
        os.close(directory)


def remove(path: Path) -> None:
    """Removes a tree of any depth."""
    subprocess.run(["rm", "-rf", path], check=True)
