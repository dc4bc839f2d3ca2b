"""Catalog: the snapshots of a store with their labels and refs, as its objects have them.

What was read once is kept in one file, `local/catalog`, so that thousands of snapshots can be
listed without opening each object. A kept payload counts only while its object's file is the one
that was read. The file is a frame, sealed in a sealed store.
"""

import contextlib
import json
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from snapstore.base.errors import UNREAD, DamagedObject, SnapstoreError
from snapstore.model import canonical, names, snapshot
from snapstore.model.fields import take_int
from snapstore.model.names import Versioned
from snapstore.model.refs import Refs
from snapstore.model.snapshot import Label, Snapshot
from snapstore.repository.frames import Frames, FrameType
from snapstore.repository.objects import LocalObjects, Stamp

SPARE = 32
"""So many objects that are not in the file are read one by one rather than writing it again."""

_LEFT_S = 3600
"""A new file that is older has no writer any more."""
_NAME = "local/catalog"


class Catalog:
    """The snapshots of one store. Thread-safe."""

    def __init__(self, objects: LocalObjects, frames: Frames, local: Path | None) -> None:
        self._objects = objects
        self._frames = frames
        self._file = None if local is None else local / "catalog"
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Stamp, bytes]] | None = None
        self._unsaved = 0
        self.whole: bool | None = None
        """Whether every record could be read when they were last listed."""

    def snapshots(self, *, fresh: bool = False) -> list[Snapshot]:
        """All snapshots. One that cannot be read has another status than `ready`, and an `error`.

        `fresh`: every object is read from the store again.
        """
        with self._lock:
            labels = self._labels()
            found = []
            for name, stamp in self._objects.stamps("snap/").items():
                id = names.parse_snapshot(name)
                if id is not None:
                    read = self._snapshot(id, stamp, labels.get(id, {}), fresh)
                    if read is not None:
                        found.append(read)
            self.whole = all(one.record for one in found)
            self._save()
        return found

    def snapshot(self, id: str) -> Snapshot | None:
        """One snapshot, read from the store; None when there is no such."""
        with self._lock:
            stamp = self._objects.stamps("snap/").get(names.snapshot(id))
            if stamp is None:
                return None
            return self._snapshot(id, stamp, self._labels().get(id, {}), True)

    def newest(self, source: str, host: str) -> Snapshot | None:
        """The newest snapshot of a series and host, complete or partial, that can be read. What was
        taken before a restore does not count: nothing on disk comes from it.
        """
        mark = b'"source":' + canonical.encode(source)  # most snapshots are of other series
        best: tuple[int, str] | None = None
        with self._lock:
            for name, stamp in self._objects.stamps("snap/").items():
                id = names.parse_snapshot(name)
                if id is None:
                    continue
                with contextlib.suppress(*UNREAD):
                    payload = self._payload(id, name, stamp)
                    if payload is None or mark not in payload:
                        continue
                    record = json.loads(payload)
                    is_ours = (record["source"], record["host"]) == (source, host)
                    if is_ours and record["kind"] != "safety":
                        best = max(best or (record["time_ns"], id), (record["time_ns"], id))
            self._save()
        return None if best is None else self.snapshot(best[1])

    def ids(self) -> set[str]:
        """Ids of all snapshots."""
        return {id for name in self._objects.list("snap/") if (id := names.parse_snapshot(name))}

    def refs(self, id: str) -> Refs | None:
        """The packs that a snapshot needs; None when no object says so. DamagedObject."""
        parsed = map(names.parse_versioned, self._objects.list("refs/"))
        found = sorted(name for name in parsed if name and name.snapshot == id)
        if not found:
            return None
        payload = self._frames.read_versioned(FrameType.REFS, found[-1])
        return None if payload is None else Refs.decode(payload)

    def usable_refs(self, id: str) -> Refs | None:
        """The same, and None also when the object is damaged: it is derived."""
        try:
            return self.refs(id)
        except UNREAD:
            return None

    # Reading

    def _labels(self) -> dict[str, dict[Versioned, Stamp]]:
        """Labels of each snapshot."""
        found: dict[str, dict[Versioned, Stamp]] = defaultdict(dict)
        for name, stamp in self._objects.stamps("label/").items():
            label = names.parse_versioned(name)
            if label is not None:
                found[label.snapshot][label] = stamp
        return found

    def _snapshot(
        self, id: str, stamp: Stamp, labels: dict[Versioned, Stamp], fresh: bool
    ) -> Snapshot | None:
        if fresh:
            self._forget(names.snapshot(id), *(label.name for label in labels))
        label = self._label(labels)
        try:
            payload = self._payload(id, names.snapshot(id), stamp)
            if payload is None:
                return None
            return snapshot.decode(id, json.loads(payload), label)
        except UNREAD as error:
            return snapshot.damaged(id, error, label)

    def _payload(self, id: str, name: str, stamp: Stamp) -> bytes | None:
        """A snapshot's payload, known to be canonical and to have this id."""
        kept = self._load().get(name)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        payload = self._frames.read(FrameType.SNAPSHOT, name)
        if payload is None:
            return None
        if self._frames.snapshot_id(payload) != id:
            raise DamagedObject(f"{name} is not what its name says", object=name)
        canonical.decode_object(payload)
        self._keep(name, stamp, payload)
        return payload

    def _label(self, labels: dict[Versioned, Stamp]) -> Label:
        operations: list[Any] = []
        times_ns: list[int] = []
        unread: str | None = None
        for label, stamp in sorted(labels.items()):
            kept = self._load().get(label.name)
            try:
                if kept is not None and kept[0] == stamp:
                    payload = kept[1]
                else:
                    read = self._frames.read_versioned(FrameType.LABEL, label)
                    if read is None:
                        continue
                    canonical.decode_object(payload := read)
                    self._keep(label.name, stamp, payload)
                record = json.loads(payload)
                operations += snapshot.operations(record)
                times_ns.append(take_int(record, "time_ns"))
            except UNREAD as error:
                unread = unread or str(error)
        return snapshot.fold(operations, times_ns[0] if times_ns else 0, unread)

    # What is kept

    def _keep(self, name: str, stamp: Stamp, payload: bytes) -> None:
        self._load()[name] = stamp, payload
        self._unsaved += 1

    def _forget(self, *forgotten: str) -> None:
        for name in forgotten:
            self._load().pop(name, None)

    def _load(self) -> dict[str, tuple[Stamp, bytes]]:
        if self._kept is None:
            self._kept = {}
            if self._file is not None:
                with contextlib.suppress(OSError, SnapstoreError, ValueError):
                    data = self._file.read_bytes()
                    self._kept = _unpack(self._frames.decode(FrameType.LABEL, _NAME, data)[1])
        return self._kept

    def _save(self) -> None:
        """Writes the file again once enough has been read that is not in it."""
        kept = self._load()
        if self._file is None or self._unsaved < SPARE + len(kept) // 16:
            return
        self._unsaved = 0
        there = {*self._objects.list("snap/"), *self._objects.list("label/")}
        self._kept = {name: entry for name, entry in kept.items() if name in there}
        new = self._file.with_name(f"catalog-{os.urandom(8).hex()}")
        with contextlib.suppress(OSError, SnapstoreError):
            nonce = os.urandom(16)
            new.write_bytes(self._frames.encode(FrameType.LABEL, _NAME, nonce, _pack(self._kept)))
            os.replace(new, self._file)
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            _sweep(self._file.parent)


def _sweep(local: Path) -> None:
    """Removes what writers that were killed left of new files."""
    for left in local.glob("catalog-*"):
        if time.time() - left.stat().st_mtime > _LEFT_S:
            left.unlink()


def _pack(kept: dict[str, tuple[Stamp, bytes]]) -> bytes:
    """A table of contents as JSON, its length before it, and the payloads."""
    table = [[name, *stamp, len(payload)] for name, (stamp, payload) in kept.items()]
    head = json.dumps(table).encode()
    return b"".join(
        [len(head).to_bytes(8, "little"), head, *(payload for _, payload in kept.values())]
    )


def _unpack(data: bytes) -> dict[str, tuple[Stamp, bytes]]:
    at = 8 + int.from_bytes(data[:8], "little")
    kept: dict[str, tuple[Stamp, bytes]] = {}
    for name, size, mtime_ns, inode, length in json.loads(data[8:at]):
        kept[name] = (size, mtime_ns, inode), data[at : at + length]
        at += length
    return kept
