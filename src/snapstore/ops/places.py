"""Places: which root of a snapshot a path lies in, and where below it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import DamagedObject, PathNotFound
from snapstore.model.snapshot import Root, Snapshot

IN_PLACE_BYTES = 256
"""A file of so many bytes may have its content in the tree, and no chunks."""
_LOOKED_AT = 10_000
"""Names in a directory, for near ones."""


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


def find(
    reader: "_native.Reader", snapshot: Snapshot, path: bytes, *, suggest: bool = False
) -> Place:
    """The place of a path: absolute as recorded, or relative to a root. PathNotFound; to `suggest`
    near paths in it takes time.
    """
    for root, below in candidates(snapshot.roots, path):
        entry = walk(reader, root, below)
        if entry is not None:
            return Place(root, below, entry)
    near = [to_text(other) for other in _near(reader, snapshot, path)] if suggest else []
    hint = "ls shows what is in it"
    raise PathNotFound(
        f"{to_text(path)} is not in snapshot {snapshot.short_id}",
        hint=f"did you mean {' or '.join(near)}? {hint}" if near else hint,
        path=to_text(path),
        snapshot=snapshot.id,
        suggestions=near,
    )


def _near(reader: "_native.Reader", snapshot: Snapshot, path: bytes) -> list[bytes]:
    """Paths there are that are spelt much as one that there is not; of the first name that is not
    there, its neighbours are looked at.
    """
    for root, below in candidates(snapshot.roots, path):
        try:
            return _near_below(reader, root, below)
        except DamagedObject:
            return []
    return _close(path, (root.path for root in snapshot.roots))


def _near_below(reader: "_native.Reader", root: Root, below: bytes) -> list[bytes]:
    above, entry = root.path, reader.root(bytes.fromhex(root.id))
    for name in filter(None, below.split(b"/")):
        if entry.type != "directory":
            return [above]
        child = reader.child(entry, name)
        if child is None:
            names = (one.name for one in islice(reader.children(entry), _LOOKED_AT))
            return [join(above, other) for other in _close(name, names)]
        above, entry = join(above, name), child
    return []


def _close(name: bytes, others: Iterable[bytes]) -> list[bytes]:
    from difflib import get_close_matches

    known = [os.fsdecode(other) for other in others]
    return [os.fsencode(text) for text in get_close_matches(os.fsdecode(name), known, n=3)]


def walk(reader: "_native.Reader", root: Root, below: bytes) -> "_native.Entry | None":
    """The entry at a path below a root, following no links."""
    return descend(reader, reader.root(bytes.fromhex(root.id)), below)


def descend(
    reader: "_native.Reader", entry: "_native.Entry", below: bytes
) -> "_native.Entry | None":
    """The entry at a path below another, following no links."""
    for name in filter(None, below.split(b"/")):
        if entry.type != "directory":
            return None
        child = reader.child(entry, name)
        if child is None:
            return None
        entry = child
    return entry


def same(reader: "_native.Reader", one: "_native.Entry", other: "_native.Entry") -> bool:
    """Whether two entries, and all below them, differ in nothing but their names."""
    return _what(reader, one) == _what(reader, other)


def _what(reader: "_native.Reader", entry: "_native.Entry") -> list[object]:
    """All that an entry is but its name; the node of a directory stands for what is in it."""
    what: list[object] = [entry.type, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size]
    what += [entry.target, entry.device, entry.node, reader.xattrs(entry)]
    if entry.type == "file":
        what += [reader.chunks(entry), reader.holes(entry)]
        what.append(reader.read(entry, 0, min(entry.size, IN_PLACE_BYTES)))
    return what


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
