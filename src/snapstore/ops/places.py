"""Places: which root of a snapshot a path lies in, and where below it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import DamagedObject, PathNotFound
from snapstore.model.snapshot import Root, Snapshot


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a snapshot: `below` its root, relative, empty for the root itself."""

    root: Root
    below: bytes
    entry: "_native.Entry"

    @property
    def path(self) -> bytes:
        """As recorded: the root's path and the path below it."""
        return join(self.root.path, self.below)


def join(root: bytes, below: bytes) -> bytes:
    """The recorded path of something `below` a root."""
    return root.rstrip(b"/") + b"/" + below if below else root


def find(reader: "_native.Reader", snapshot: Snapshot, path: bytes) -> Place:
    """The place of a path: absolute as recorded, or relative to a root. PathNotFound."""
    for root, below in candidates(snapshot.roots, path):
        entry = walk(reader, root, below)
        if entry is not None:
            return Place(root, below, entry)
    raise PathNotFound(
        f"{to_text(path)} is not in snapshot {snapshot.short_id}",
        hint="ls shows what is in it",
        path=to_text(path),
        snapshot=snapshot.id,
    )


def walk(reader: "_native.Reader", root: Root, below: bytes) -> "_native.Entry | None":
    """The entry at a path below a root, following no links."""
    entry = reader.root(bytes.fromhex(root.id))
    for name in filter(None, below.split(b"/")):
        if entry.type != "directory":
            return None
        child = reader.child(entry, name)
        if child is None:
            return None
        entry = child
    return entry


def roots_below(snapshot: Snapshot, path: bytes) -> list[Root]:
    """Roots that lie strictly below a path which is in no root itself."""
    prefix = path.rstrip(b"/") + b"/"
    return [root for root in snapshot.roots if root.path.startswith(prefix)]


def candidates(roots: Sequence[Root], path: bytes) -> Iterator[tuple[Root, bytes]]:
    """Roots that a path may lie in, the longest first, with what is left of it."""
    for root in sorted(roots, key=lambda root: len(root.path), reverse=True):
        prefix = root.path.rstrip(b"/")
        if path.rstrip(b"/") == prefix:
            yield root, b""
        elif path.startswith(prefix + b"/"):
            yield root, _clean(path[len(prefix) :])
        elif not path.startswith(b"/"):
            yield root, _clean(path)


def _clean(path: bytes) -> bytes:
    return b"/".join(name for name in path.split(b"/") if name not in (b"", b"."))


def components(path: bytes) -> list[bytes]:
    """Names in a root's recorded path. DamagedObject for one that would lead out of a directory."""
    names = [name for name in path.split(b"/") if name]
    if any(name in (b".", b"..") or b"\0" in name or len(name) > 255 for name in names):
        raise DamagedObject(f"a snapshot records an impossible path: {to_text(path)}")
    return names
