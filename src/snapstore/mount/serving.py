"""Serving: a mount from its beginning to its end."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from snapstore.base.bytestext import to_text
from snapstore.base.errors import (
    InvalidArgument,
    MountUnavailable,
    PathNotFound,
    SnapshotNotFound,
)
from snapstore.model import references
from snapstore.model.mounting import MountOptions
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.mount import fuse, points
from snapstore.mount.layout import BY_ID, Current, Layout, lay_out, time_path
from snapstore.mount.names import AllSnapshots, OneSnapshot
from snapstore.repository.open import Repository
from snapstore.repository.view import Looks, View

_POLL_S = 1.0
_RECENT_NS = 2 * 10**9
_AGAIN_NS = 5 * 10**9
_BLOCK_BYTES = 4096
_READ_AHEAD_KIB = 4096


def serve(
    repository: Repository,
    mountpoint: Path,
    snapshot: Snapshot | None,
    below: bytes | None,
    options: MountOptions,
    started: Callable[[], None],
) -> None:
    """Shows one snapshot (or what is at a path in it) or all of them at `mountpoint`, until it is
    unmounted or a signal ends it. `started` is called when it can be used. A lease keeps what is
    shown from being collected, as far as the store can be written.
    MountRefused, MountUnavailable, DamagedObject, PathNotFound, InvalidArgument.
    """
    with repository.reading("mount"):
        owner = os.getuid(), os.getgid()
        looks = Looks(owner, options.uid, options.gid, options.only, options.partitions)
        view = View(repository, cache_bytes=options.cache_bytes, looks=looks)
        watch: _Watch | None = None
        names: fuse.Names
        if snapshot is not None:
            names = _one(view, snapshot, below)
        else:
            watch = _Watch(repository, view, options)
            names = watch.names

        def begin(kernel: fuse.Kernel) -> None:
            threading.Thread(target=_raise_read_ahead, args=(mountpoint,), daemon=True).start()
            if watch is not None:
                watch.start(kernel)
            started()

        try:
            fuse.mount(
                view.core,
                names,
                os.fsencode(mountpoint),
                _mount_options(repository, options),
                begin,
            )
        except MountUnavailable as error:
            raise points.refusal(mountpoint, options.allow_other) or error from None
        finally:
            if watch is not None:
                watch.stop()


def _mount_options(repository: Repository, options: MountOptions) -> dict[str, str | bool]:
    name = os.fspath(repository.path).replace("\\", "\\\\").replace(",", "\\,")
    return {
        "ro": True,
        "nosuid": True,
        "nodev": True,
        "default_permissions": True,
        "allow_other": options.allow_other,
        "fsname": name,
        "subtype": "snapstore",
    }


def _one(view: View, snapshot: Snapshot, below: bytes | None) -> OneSnapshot:
    require_ready(snapshot)
    view.show(b"", snapshot)
    if below:
        found = view.core.find(b"", below)
        if found is None:
            raise PathNotFound(
                f"{to_text(below)} is not in snapshot {snapshot.short_id}",
                hint="ls shows what is in it",
            )
        if not found.is_directory:
            raise InvalidArgument(f"{to_text(below)} is not a directory")
    return OneSnapshot(below or b"", _statfs(snapshot.size_bytes))


def _statfs(size_bytes: int) -> dict[str, int]:
    blocks = -(-size_bytes // _BLOCK_BYTES)
    return {"f_bsize": _BLOCK_BYTES, "f_frsize": _BLOCK_BYTES, "f_blocks": blocks, "f_namemax": 255}


class _Watch:
    """The names of all snapshots, and an eye on which there are."""

    def __init__(self, repository: Repository, view: View, options: MountOptions) -> None:
        time_path(0, options.time_format)
        self._repository = repository
        self._options = options
        self._stopped = threading.Event()
        self._unread = False
        self._current = Current(self._stamp, self._make)
        self.layout = self._current.get
        self.names = AllSnapshots(view, options.time_format, self)

    def _make(self) -> Layout:
        wanted = self._options.wanted
        hidden = () if self._options.all or wanted.kind is not None else ("system", "safety")
        found = self._repository.catalog.snapshots()
        shown = wanted.select(s for s in found if s.kind not in hidden)
        newest = None
        with contextlib.suppress(SnapshotNotFound):
            newest = references.resolve("latest", shown, self._repository.host)
        made = lay_out(shown, self._options.time_format, newest)
        self._unread = bool(made.unread)
        return made

    def _times_ns(self) -> list[int]:
        return [_mtime_ns(self._repository.path / name) for name in ("snap", "label")]

    def _stamp(self) -> object:
        times = self._times_ns()
        now = time.time_ns()
        # What changes again within the clock's tick would look as if it had not.
        recent = now // 10**8 if now - max(times) < _RECENT_NS else 0
        # What could not be read is tried again.
        return (*times, recent, now // _AGAIN_NS if self._unread else 0)

    def has_snapshots(self) -> bool:
        return bool(self._repository.catalog.ids())

    def changed_ns(self) -> int:
        return max(self._times_ns())

    def statfs(self) -> dict[str, int]:
        ready = self._current.get().ready.values()
        return _statfs(max((snapshot.size_bytes for snapshot in ready), default=0))

    def start(self, kernel: fuse.Kernel) -> None:
        """Begins to look, in a thread of its own."""
        threading.Thread(target=self._run, args=(kernel,), daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, kernel: fuse.Kernel) -> None:
        while not self._stopped.wait(_POLL_S):
            try:
                self._tell(kernel)
            except Exception:  # the store cannot be listed right now
                fuse.log.exception("the snapshots cannot be listed")

    def _tell(self, kernel: fuse.Kernel) -> None:
        """What is gone, and what has changed, is asked for anew."""
        changed = self._current.changed()
        ready = self._current.get().ready
        for path in changed:
            above, _, name = path.rpartition(b"/")
            if above == b"/" + BY_ID and name.decode("latin-1") not in ready:
                self.names.hide(name)
            kernel.forget(path)
            kernel.forget(above or b"/")


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _raise_read_ahead(mountpoint: Path) -> None:
    """The kernel asks for 128 KiB at once unless it may read further ahead, which root can say."""
    with contextlib.suppress(OSError):
        os.stat(mountpoint)  # answered once the kernel has settled what it will do by itself
        found = points.find_mount(mountpoint)
        if found is not None:
            knob = Path(f"/sys/class/bdi/{found.device}/read_ahead_kb")
            if int(knob.read_text()) < _READ_AHEAD_KIB:
                knob.write_text(str(_READ_AHEAD_KIB))
