"""View: snapshots as a file system that is only read, without any mount.

The core keeps what was read lately: decoded blocks in a reader of the view's own, decoded tree
nodes beside them.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapstore import _native
from snapstore.model.mounting import CACHE_BYTES
from snapstore.model.snapshot import Snapshot, require_ready

if TYPE_CHECKING:
    from snapstore.repository.open import Repository

_NODES_SHARE = 4
_AHEAD_BYTES = 8 << 20
_MAX_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Looks:
    """How things look: who owns directories that are in no tree, an owner for everything instead
    of those recorded, which paths are shown (all when empty), and whether partitions of disk images
    are files too.
    """

    owner: tuple[int, int] = (0, 0)
    uid: int | None = None
    gid: int | None = None
    only: Sequence[bytes] = ()
    partitions: bool = False


class View:
    """Snapshots, each shown under a name once it is asked for. Thread-safe."""

    def __init__(
        self,
        repository: "Repository",
        *,
        cache_bytes: int = CACHE_BYTES,
        looks: Looks | None = None,
    ) -> None:
        looks = looks or Looks()
        block_bytes = repository.config.block_bytes
        node_bytes = cache_bytes // _NODES_SHARE
        decoded_bytes = cache_bytes - node_bytes
        self._repository = repository
        self._lock = threading.Lock()
        self._shown: dict[bytes, str] = {}
        self._reader = _native.Reader(
            os.fsencode(repository.path),
            repository.keys,
            repository.index(),
            cache_bytes=decoded_bytes,
        )
        self.core = _native.View(
            self._reader,
            node_bytes=node_bytes,
            ahead_blocks=min(min(_AHEAD_BYTES, decoded_bytes // 4) // block_bytes, _MAX_AHEAD),
            owner=looks.owner,
            all_uid=looks.uid,
            all_gid=looks.gid,
            only=[os.path.normpath(path) for path in looks.only],
            partitions=looks.partitions,
        )

    def show(self, name: bytes, snapshot: Snapshot) -> None:
        """Shows a snapshot under a name. DamagedObject, StoreTooNew when it cannot be read."""
        with self._lock:
            if self._shown.get(name) == snapshot.id:
                return
            require_ready(snapshot)
            refs = self._repository.cover_snapshot(snapshot)
            if (
                refs is not None
            ):  # asking the index for every file would take longer than reading it
                self._reader.preload([(pack.kind, pack.id) for pack in refs.packs])
            roots = [(root.path, bytes.fromhex(root.id)) for root in snapshot.roots]
            self.core.add(name, snapshot.id, roots, snapshot.time_ns)
            self._shown[name] = snapshot.id

    def hide(self, name: bytes) -> None:
        """Shows nothing under this name any more."""
        with self._lock:
            self._shown.pop(name, None)
            self.core.remove(name)
