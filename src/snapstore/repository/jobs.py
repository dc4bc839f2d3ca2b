"""Jobs: restores that run on by themselves, as far as their files tell.

local/ > jobs/ > ULID/: `job`, what was asked for, in JSON; `lock`, which the job's process holds
for as long as it lives, with its number in it; `events`, a JSON object a line; `end`, the last
event, once there is one; `output`, what its hooks printed. Like all of `local/` it may vanish.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snapstore.base.bytestext import from_text, path_fields
from snapstore.base.errors import JobNotFound
from snapstore.model.ids import new_ulid
from snapstore.model.restoring import Event

FORGOTTEN_S = 30 * 86_400
"""Jobs that ended longer ago are removed when a new one is made."""
INTERVAL_S = 0.1
_NAME = re.compile("[0-9a-hjkmnp-tv-z]{26}")
_NEW = "new-"


class Job:
    """A restore that runs on by itself, in a process of its own."""

    def __init__(self, place: Path, record: dict[str, Any]) -> None:
        self.place = place
        self.id: str = place.name
        self.record = record

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.state}>"

    @property
    def snapshot(self) -> str:
        """Id of what is restored."""
        return str(self.record["snapshot"])

    @property
    def target(self) -> bytes:
        """Where to; of several places what is around them."""
        return from_text(self.record["target"])

    @property
    def started_at(self) -> datetime:
        """When it was started."""
        return datetime.fromtimestamp(self.record["started_ns"] / 1e9, UTC)

    @property
    def ended_at(self) -> datetime | None:
        """When it ended; None unless it is done, or failed."""
        try:
            return datetime.fromtimestamp((self.place / "end").stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    @property
    def state(self) -> str:
        """`running`; `done` or `failed`; `died`: its process is gone, and said nothing."""
        if self.end is None and self.is_alive:
            return "running"
        end = self.end  # which may have come meanwhile
        return end.event if end is not None else "died"

    @property
    def end(self) -> Event | None:
        """The last event, once there is one: `done` with the result, `failed` with the error."""
        try:
            record = json.loads((self.place / "end").read_text("utf-8"))
            return Event(record["event"], record["data"])
        except FileNotFoundError:
            return None

    @property
    def is_alive(self) -> bool:
        """Whether its process is there."""
        try:
            with open(self.place / "lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    @property
    def pid(self) -> int | None:
        """Number of its process while it is at work."""
        if self.end is not None:
            return None
        try:
            number = int((self.place / "lock").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return None
        return number if self.is_alive else None

    @property
    def output(self) -> str:
        """What its hooks printed."""
        try:
            return (self.place / "output").read_text("utf-8", "backslashreplace")
        except FileNotFoundError:
            return ""

    def events(self, *, follow: bool = False) -> Iterator[Event]:
        """Its events so far; with `follow`, also those that come, until it ends."""
        with contextlib.suppress(FileNotFoundError), open(self.place / "events", "rb") as file:
            rest = b""
            while True:
                goes_on = follow and self.state == "running"
                while line := file.readline():
                    rest += line
                    if rest.endswith(b"\n"):
                        record = json.loads(rest)
                        rest = b""
                        yield Event(record["event"], record["data"])
                if not goes_on:
                    return
                time.sleep(INTERVAL_S)

    def wait(self, timeout_s: float | None = None) -> str:
        """Waits until it has ended, or for so long; gives its state."""
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while (state := self.state) == "running":
            if limit is not None and time.monotonic() >= limit:
                break
            time.sleep(INTERVAL_S)
        return state

    def cancel(self) -> bool:
        """Asks it to take everything back and to end; whether there was somebody to ask. A restore
        that is all but finished ends as `done` all the same.
        """
        while self.state == "running":
            pid = self.pid
            if pid is None:  # it is only just beginning
                time.sleep(INTERVAL_S)
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                return True
        return False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        end = self.end
        ended_at = self.ended_at
        return {
            "id": self.id,
            "state": self.state,
            "pid": self.pid,
            "snapshot": self.snapshot,
            **path_fields(self.target, "target"),
            "started_at": self.started_at.isoformat(),
            "ended_at": ended_at.isoformat() if ended_at is not None else None,
            "success": end.data.get("success", False) if end is not None else None,
            "error": end.data if end is not None and end.event == "failed" else None,
        }

    # For its process

    def began(self) -> None:
        """Notes which process works on it: the one that holds the lock."""
        (self.place / "lock").write_text(str(os.getpid()), "ascii")

    def ended(self, last: Event) -> None:
        """Notes the last event, durably."""
        new = self.place / "end.new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(last.to_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.place / "end")


class Jobs:
    """The jobs below one `local/`."""

    def __init__(self, local: Path) -> None:
        self._directory = local / "jobs"

    def make(self, record: dict[str, Any]) -> tuple[Job, int]:
        """A new job, and its lock as a descriptor, for whoever works on it. Jobs that ended long
        ago are removed.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self.clean()
        id = new_ulid()
        new = self._directory / f"{_NEW}{id}"
        new.mkdir(mode=0o700)
        for name in ("events", "output"):
            (new / name).touch(mode=0o600)
        with open(new / "job", "w", encoding="utf-8") as file:
            json.dump(record, file)
        lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = self._directory / id
            os.rename(new, place)
        except BaseException:
            os.close(lock)
            raise
        return Job(place, record), lock

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        try:
            names = sorted(os.listdir(self._directory), reverse=True)
        except FileNotFoundError:
            return []
        found = (read(self._directory / name) for name in names if _NAME.fullmatch(name))
        return [job for job in found if job is not None]

    def find(self, id: str) -> Job:
        """The job of an id, or of the end or beginning of one. JobNotFound."""
        wanted = id.lower()
        jobs = self.all()
        found = [job for job in jobs if job.id == wanted]
        if not found and len(wanted) >= 4:
            found = [job for job in jobs if job.id.endswith(wanted) or job.id.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise JobNotFound(
                f"{len(found)} jobs answer to '{id}'",
                hint="the end of an id tells them apart",
                candidates=[job.id for job in found],
            )
        raise JobNotFound(f"there is no job '{id}'")

    def clean(self) -> None:
        """Removes jobs that ended long ago, and what was never begun."""
        before = time.time() - FORGOTTEN_S
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                place = Path(entry.path)
                if not _NAME.fullmatch(entry.name.removeprefix(_NEW)):
                    continue
                with contextlib.suppress(OSError):
                    if _touched(place) < before and not Job(place, {}).is_alive:
                        shutil.rmtree(place, ignore_errors=True)


def read(place: Path) -> Job | None:
    """The job in a directory; None for none, and for one that cannot be one."""
    try:
        record = json.loads((place / "job").read_text("utf-8"))
        job = Job(place, record)
        valid = bool(job.snapshot and job.target and job.started_at)
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return job if valid else None


def _touched(place: Path) -> float:
    """When something was last written in a job's directory."""
    with os.scandir(place) as files:
        times = [file.stat(follow_symlinks=False).st_mtime for file in files]
    return max([place.stat().st_mtime, *times])
