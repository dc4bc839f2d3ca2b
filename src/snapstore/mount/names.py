"""What stands above the snapshots in a mount: nothing, or the names of all snapshots."""

import logging
import os
import threading
from functools import partial
from typing import Protocol

from snapstore import _native
from snapstore.base.errors import SnapstoreError
from snapstore.mount.fuse import Link
from snapstore.mount.layout import (
    BY_ID,
    LATEST,
    TOP_NAMES,
    VERSIONS,
    Folder,
    Layout,
    free_name,
    time_path,
)
from snapstore.repository.view import View

MIN_ID_DIGITS = 4
MAX_VERSIONS_KEPT = 256

_ID_DIGITS = 64
_IDS = b"/" + BY_ID + b"/"
_VERSIONS = b"/" + VERSIONS

log = logging.getLogger("snapstore.mount")


class OneSnapshot:
    """The mount is one snapshot, or what is at one path in it."""

    def __init__(self, below: bytes, statfs: dict[str, int]) -> None:
        self.below: bytes | None = below.rstrip(b"/")
        self._statfs = statfs

    def show(self, id: bytes) -> bool:
        return False

    def find(self, path: bytes) -> dict[bytes, bool] | Link | None:
        return None

    def mtime_ns(self, path: bytes) -> int:
        return 0

    def statfs(self) -> dict[str, int]:
        return self._statfs


class Source(Protocol):
    """Where all snapshots come from."""

    def layout(self) -> Layout:
        """Their names as they are now."""

    def has_snapshots(self) -> bool:
        """Whether there is any; quick."""

    def changed_ns(self) -> int:
        """When one came or went last; quick."""

    def statfs(self) -> dict[str, int]:
        """Fields of statvfs."""


class AllSnapshots:
    """The mount is all snapshots, under several names each. Thread-safe."""

    def __init__(self, view: View, time_format: str, source: Source) -> None:
        self._view = view
        self._time_format = time_format
        self._source = source
        self._current = source.layout
        self.statfs = source.statfs
        self._versions = _Versions(self)

    below: bytes | None = None

    def show(self, id: bytes) -> bool:
        layout, name = self._current(), id.decode("latin-1")
        snapshot = layout.ready.get(name) or layout.unread.get(name)
        if snapshot is not None:  # one that cannot be read is an error
            self._view.show(id, snapshot)
        return snapshot is not None

    def hide(self, name: bytes) -> None:
        """A snapshot is no longer there."""
        self._view.hide(name)

    # The names above them

    def find(self, path: bytes) -> dict[bytes, bool] | Link | None:
        if path == b"/":
            # Many only look whether it is there: for that, no snapshot has to be read.
            newest = {LATEST: True} if self._source.has_snapshots() else {}
            return dict.fromkeys(TOP_NAMES, False) | newest
        layout = self._current()
        if path.startswith(_IDS):
            return _by_prefix(layout, path[len(_IDS) :])
        if path.startswith(_VERSIONS + b"/"):
            return self._versions.find(layout, path[len(_VERSIONS) :])
        if path == _VERSIONS:
            return self._versions.find(layout, b"")
        found = _look_up(layout.top, path)
        if isinstance(found, Folder):
            links = path != _IDS[:-1]
            return {
                name: links and not isinstance(what, Folder) for name, what in found.below.items()
            }
        return None if found is None else Link(found)

    def mtime_ns(self, path: bytes) -> int:
        if path == b"/":
            return self._source.changed_ns()
        found = _look_up(self._current().top, path)
        return found.mtime_ns if isinstance(found, Folder) else self._current().top.mtime_ns

    def versions_of(
        self, layout: Layout, path: bytes
    ) -> "tuple[dict[bytes, bool] | None, dict[bytes, Link], bool]":
        """Names that are in a directory at `path` in any snapshot, None where there never was one;
        links to each version of what is no directory there; and whether all of these could be read.
        """
        whole = True
        names: dict[bytes, bool] | None = None
        links: dict[bytes, Link] = {}
        seen: set[bytes] = set()
        depth = path.count(b"/") + 1
        for id, snapshot in layout.ready.items():
            try:
                name = id.encode()
                self._view.show(name, snapshot)
                found = self._view.core.find(name, path)
                if found is None or (key := found.identity()) in seen:
                    continue
                seen.add(key)
                if found.is_directory:
                    names = {**(names or {}), **dict.fromkeys(_names_in(found), False)}
                    continue
            except SnapstoreError as error:
                log.error("%s in snapshot %s: %s", os.fsdecode(path), snapshot.short_id, error)
                whole = False
                continue
            time = b"_".join(time_path(snapshot.time_ns, self._time_format))
            links[free_name(links, time)] = Link(b"../" * depth + BY_ID + b"/" + name + path)
        return names, links, whole


def _names_in(directory: "_native.Shown") -> list[bytes]:
    names: list[bytes] = []
    start = 0
    while True:
        found, start = directory.list(start, 10_000)
        if not found:
            return names
        names += [name for name, _ in found]


def _look_up(top: Folder, path: bytes) -> Folder | bytes | None:
    here: Folder | bytes | None = top
    for name in filter(None, path.split(b"/")):
        if not isinstance(here, Folder):
            return None
        here = here.below.get(name)
    return here


def _by_prefix(layout: Layout, digits: bytes) -> Link | None:
    """The first digits of an id are a link to it, which is not listed."""
    if not MIN_ID_DIGITS <= len(digits) < _ID_DIGITS:
        return None
    text = digits.decode("latin-1")
    found = [id for id in layout.ready if id.startswith(text)]
    return Link(found[0].encode()) if len(found) == 1 else None


class _Versions:
    """The directory `versions`: what was found last is kept until the snapshots change; unless a
    snapshot could not be read, which may have passed when it is asked for again.
    """

    def __init__(self, names: AllSnapshots) -> None:
        self._names = names
        self._lock = threading.Lock()
        self._layout: Layout | None = None
        self._kept: dict[bytes, tuple[dict[bytes, bool] | None, dict[bytes, Link]]] = {}

    def find(self, layout: Layout, path: bytes) -> dict[bytes, bool] | Link | None:
        """`path` begins with a slash, or is empty."""
        names, links = self._at(layout, path)
        if names is not None or links:
            return {**(names or {}), **dict.fromkeys(links, True)}
        above, _, name = path.rpartition(b"/")
        return self._at(layout, above)[1].get(name) if path else {}

    def _at(
        self, layout: Layout, path: bytes
    ) -> tuple[dict[bytes, bool] | None, dict[bytes, Link]]:
        make = partial(self._names.versions_of, layout, path)
        with self._lock:
            if layout is not self._layout:
                self._layout, self._kept = layout, {}
            if path in self._kept:
                return self._kept[path]
        names, links, whole = make()
        with self._lock:
            if whole and layout is self._layout:
                if len(self._kept) >= MAX_VERSIONS_KEPT:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[path] = names, links
        return names, links
