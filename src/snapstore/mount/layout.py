"""Layout: the names above the snapshots, under which they are found: by id, name, time, tag, host,
source, and the versions of each path.

Everything whose meaning can change is a symbolic link; only `by-id` has the snapshots themselves.
"""

import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from snapstore.base.errors import InvalidArgument
from snapstore.model.snapshot import Snapshot

BY_ID = b"by-id"
VERSIONS = b"versions"
LATEST = b"latest"
TOP_NAMES = (BY_ID, b"by-name", b"by-time", b"by-tag", b"by-host", b"by-source", VERSIONS)

_MAX_NAME = 255


@dataclass(slots=True)
class Folder:
    """A directory of names."""

    below: "dict[bytes, Folder | bytes]" = field(default_factory=dict)
    """Folders, and targets of links."""
    mtime_ns: int = 0

    def at(self, path: Iterable[bytes], mtime_ns: int) -> "Folder":
        """The folder at a path, made where it is missing."""
        here = self
        here.mtime_ns = max(here.mtime_ns, mtime_ns)
        for name in path:
            there = here.below.setdefault(name, Folder())
            if not isinstance(there, Folder):  # a time has this name: both cannot be had
                there = here.below[name] = Folder()
            here = there
            here.mtime_ns = max(here.mtime_ns, mtime_ns)
        return here


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of some snapshots. `ready`: by id, those that can be read; `unread`: the others, of
    which only the ids are shown.
    """

    top: Folder
    ready: dict[str, Snapshot]
    unread: dict[str, Snapshot] = field(default_factory=dict)

    def paths(self) -> set[bytes]:
        """Every path in it, with a slash before it."""
        return set(_paths(self.top, b""))


def _paths(folder: Folder, path: bytes) -> Iterator[bytes]:
    for name, what in folder.below.items():
        yield path + b"/" + name
        if isinstance(what, Folder):
            yield from _paths(what, path + b"/" + name)


def lay_out(snapshots: Iterable[Snapshot], time_format: str, newest: Snapshot | None) -> Layout:
    """The names of these snapshots. `newest`: what `latest` means."""
    ready, unread = list[Snapshot](), list[Snapshot]()
    for snapshot in sorted(snapshots, key=lambda s: (s.time_ns, s.id)):
        (ready if snapshot.status == "ready" else unread).append(snapshot)
    top = Folder()
    for name in TOP_NAMES:
        top.at([name], 0)
    for snapshot in [*ready, *unread]:
        top.at([BY_ID], snapshot.time_ns).below[snapshot.id.encode()] = b""
    for snapshot in ready:
        times = _Times(snapshot, time_format)
        times.add(top, [b"by-time"])
        times.add(top, [b"by-host", _file_name(snapshot.host)])
        source = [_file_name(part) for part in snapshot.source.split("/") if part]
        times.add(top, [b"by-source", *(source or [b"%2F"])])
        for tag in snapshot.tags:
            times.add(top, [b"by-tag", _file_name(tag)])
        if snapshot.name:
            names = top.at([b"by-name"], snapshot.time_ns)
            names.below[_file_name(snapshot.name)] = _link(1, snapshot.id)
    if newest is not None:
        top.below[LATEST] = _link(0, newest.id)
    return Layout(top, *({one.id: one for one in some} for some in (ready, unread)))


class _Times:
    """A snapshot's links under its time."""

    def __init__(self, snapshot: Snapshot, time_format: str) -> None:
        self.snapshot = snapshot
        self.path = time_path(snapshot.time_ns, time_format)

    def add(self, top: Folder, path: list[bytes]) -> None:
        """Into the folder at `path`: under its time, and as the latest (older ones came before)."""
        *above, name = [*path, *self.path]
        folder = top.at(above, self.snapshot.time_ns)
        folder.below[free_name(folder.below, name)] = _link(len(above), self.snapshot.id)
        top.at(path, 0).below[LATEST] = _link(len(path), self.snapshot.id)


def time_path(time_ns: int, time_format: str) -> list[bytes]:
    """A time, in the zone of this machine, as names."""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC).astimezone()
    names = [os.fsencode(part) for part in moment.strftime(time_format).split("/") if part]
    if not names or any(name in (b".", b"..") or len(name) > _MAX_NAME for name in names):
        raise InvalidArgument(f"{time_format!r} makes no names of times")
    return names


def free_name(taken: Container[bytes], name: bytes) -> bytes:
    """The name, or the name with the first number that is free."""
    number, free = 1, name
    while free in taken:
        free, number = name + b"-%d" % number, number + 1
    return free


def _link(depth: int, id: str) -> bytes:
    return b"../" * depth + BY_ID + b"/" + id.encode()


def _file_name(text: str) -> bytes:
    """Text as the name of a file: slashes and NUL as in URLs."""
    name = os.fsencode(text).replace(b"/", b"%2F").replace(b"\0", b"%00")
    if name in (b"", b".", b".."):
        name = b"%" + name.replace(b".", b"2E")
    return name[:_MAX_NAME]


class Current:
    """The layout as it is now: made anew when the snapshots have changed. Thread-safe."""

    def __init__(self, stamp: Callable[[], object], make: Callable[[], Layout]) -> None:
        self._stamp = stamp
        self._make = make
        self._lock = threading.Lock()
        self._known: object = None
        self._layout: Layout | None = None
        self._changed: set[bytes] = set()

    def get(self) -> Layout:
        """The layout."""
        with self._lock:
            stamp = self._stamp()
            if self._layout is None or stamp != self._known:
                before, self._layout, self._known = self._layout, self._make(), stamp
                if before is not None:
                    self._changed |= before.paths() ^ self._layout.paths()
            return self._layout

    def changed(self) -> set[bytes]:
        """Paths that came or went since this was asked last, and may have done so several times."""
        self.get()
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed
