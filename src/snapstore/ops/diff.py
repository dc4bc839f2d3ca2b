"""Diff: what is different between two snapshots, or a snapshot and what is on disk."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import DamagedObject, InvalidArgument, PathNotFound, SourceNotFound
from snapstore.model.findings import FIELDS, Change
from snapstore.model.snapshot import Snapshot, require_ready
from snapstore.ops import places, unfinished
from snapstore.ops.selection import Rules, own_directories
from snapstore.repository.open import Repository

Side = tuple[bytes, "_native.Entry"]
Pair = tuple[Side | None, Side | None]


def diff(
    repository: Repository,
    old: Snapshot,
    new: Snapshot,
    *,
    old_path: bytes | None,
    new_path: bytes | None,
    paths: Sequence[bytes],
    ignore: Sequence[str],
    renames: bool,
) -> Iterator[Change]:
    """Differences between two snapshots, or between a path in each; of `paths` only. What several
    of these, or several roots, lead to is compared once.

    PathNotFound for a path that is in neither; InvalidArgument.
    """
    require_ready(old)
    require_ready(new)
    if paths and (old_path or new_path):
        raise InvalidArgument("paths cannot be chosen inside a path")
    reader = repository.reader_of_all([old, new])
    pairs: list[Pair] = []
    limits: Sequence[bytes | None] = paths or [None]
    for path in limits:
        before = _sides(reader, old, path or old_path or new_path)
        after = _sides(reader, new, path or new_path or old_path)
        if not before and not after:
            raise _not_found(path or old_path or new_path or b"", old, new)
        pairs += _pairs(before, after)
    pairs = _apart(reader, pairs)
    return _changes(
        _native.TreeDiff(reader, pairs, ignore=_known_fields(ignore), renames=renames),
    )


def diff_directory(
    repository: Repository,
    snapshot: Snapshot,
    within: bytes | None,
    directory: bytes,
    *,
    ignore: Sequence[str],
    content: bool,
    all: bool,
) -> "DirectoryChanges":
    """Differences of what is on disk from a snapshot, or from a path in it; `all`: those too that
    its rules leave out.

    PathNotFound, SourceNotFound, InvalidArgument.
    """
    require_ready(snapshot)
    reader = repository.reader(snapshot)
    ignore = _known_fields(ignore)
    if not os.path.lexists(directory):
        raise SourceNotFound(f"there is no {to_text(directory)}")
    rules = Rules(ignore_files=False) if all else _rules(snapshot)
    selection = rules.native(own_directories(repository))
    listed = None if all else snapshot.rules.get("only_listed")
    steps: list[_native.DirectoryDiff | _native.TreeDiff] = []
    for place, path in _counterparts(reader, snapshot, within, directory):
        shown, entry, below = place.path, place.entry, place.below
        if not os.path.lexists(path):
            steps.append(_native.TreeDiff(reader, [((shown, entry), None)], ignore=ignore))
            continue
        steps.append(
            _native.DirectoryDiff(
                reader,
                shown,
                entry,
                path,
                below=below,
                root=path[: -len(below)] if below and path.endswith(b"/" + below) else None,
                selection=selection,
                whole=to_text(place.root.path) != listed,
                ignore=ignore,
                content=content,
            )
        )
    found = unfinished.find(repository, [os.path.realpath(directory)])
    return DirectoryChanges(steps, [one.path for one in found])


class DirectoryChanges(Iterator[Change]):
    """Differences of what is on disk from a snapshot. `unfinished`: the staging directories of
    restores that are not finished there, so that what is on disk may be mixed; those that are
    further down are known when all differences were read.
    """

    def __init__(
        self,
        steps: "Sequence[_native.DirectoryDiff | _native.TreeDiff]",
        unfinished: Iterable[bytes],
    ) -> None:
        self.unfinished = list(unfinished)
        self._changes = itertools.chain.from_iterable(map(self._step, steps))

    def __next__(self) -> Change:
        return next(self._changes)

    def _step(self, step: "_native.DirectoryDiff | _native.TreeDiff") -> Iterator[Change]:
        yield from _changes(step)
        if isinstance(step, _native.DirectoryDiff):
            self.unfinished += [path for path in step.unfinished if path not in self.unfinished]


def _rules(snapshot: Snapshot) -> Rules:
    """The rules by which a snapshot was made."""
    try:
        return Rules.recorded(snapshot.rules)
    except (DamagedObject, InvalidArgument) as error:
        raise InvalidArgument(
            f"the rules of snapshot {snapshot.short_id} have no meaning: {error.message}",
            hint="compare without them (--all)",
        ) from error


def _counterparts(
    reader: "_native.Reader", snapshot: Snapshot, within: bytes | None, directory: bytes
) -> list[tuple[places.Place, bytes]]:
    """What of the snapshot is compared with which path on disk.

    What is at a path that the snapshot took, with its own; else as restore would put it: a single
    root is the directory itself, several are at their paths below it.
    """
    path = os.path.abspath(directory)
    if within:
        place = places.find(reader, snapshot, within)
        return [(place, _followed(path, place.entry))]
    try:
        place = places.find(reader, snapshot, path)
        return [(place, _followed(path, place.entry))]
    except PathNotFound:
        roots = snapshot.roots
    found = [places.Place(root, b"", reader.root(bytes.fromhex(root.id))) for root in roots]
    if len(found) == 1:
        return [(found[0], _followed(path, found[0].entry))]
    top = os.path.realpath(path)
    return [(place, os.path.join(top, place.path.lstrip(b"/"))) for place in found]


def _followed(path: bytes, entry: "_native.Entry") -> bytes:
    """A directory may be named by a link to it."""
    return os.path.realpath(path) if entry.type == "directory" else path


def _sides(reader: "_native.Reader", snapshot: Snapshot, path: bytes | None) -> list[Side]:
    """What is at a path, or the roots below it; all roots without a path."""
    roots = list(snapshot.roots)
    if path:
        try:
            place = places.find(reader, snapshot, path)
            return [(place.path, place.entry)]
        except PathNotFound:
            roots = places.roots_below(snapshot, path)
    return [(root.path, reader.root(bytes.fromhex(root.id))) for root in roots]


def _pairs(before: Sequence[Side], after: Sequence[Side]) -> list[Pair]:
    """What has the same path; where each has but one, these."""
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    old, new = dict(before), dict(after)
    pairs: list[Pair] = []
    for path in old.keys() | new.keys():
        sides = [(path, side[path]) if path in side else None for side in (old, new)]
        pairs.append((sides[0], sides[1]))
    return pairs


def _apart(reader: "_native.Reader", pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs in the order of their paths, a directory before what is in it; without those that
    lie in another, which tells all that they would.
    """
    kept: list[Pair] = []
    around: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: _path(pair).split(b"/")):
        while around and _below(_path(pair), _path(around[-1])) is None:
            around.pop()
        if not any(_tells(reader, other, pair) for other in around):
            kept.append(pair)
            around.append(pair)
    return kept


def _tells(reader: "_native.Reader", outer: Pair, inner: Pair) -> bool:
    """Whether each side of a pair is held by that of another. One that is not there is: what the
    other has in its place is what is there.
    """
    return all(
        held is None or (holder is not None and _holds(reader, holder, held))
        for holder, held in zip(outer, inner, strict=True)
    )


def _holds(reader: "_native.Reader", outer: Side, inner: Side) -> bool:
    below = _below(inner[0], outer[0])
    held = None if below is None else places.descend(reader, outer[1], below)
    return held is not None and places.same(reader, held, inner[1])


def _path(pair: Pair) -> bytes:
    """The path under which differences are shown."""
    old, new = pair
    return (new or old or (b"",))[0]


def _below(path: bytes, above: bytes) -> bytes | None:
    """What is left of a path below another; empty when they are the same, None when it is not
    there.
    """
    prefix = above.rstrip(b"/") + b"/"
    return path[len(prefix) :] if path == above or path.startswith(prefix) else None


def _changes(batches: "_native.TreeDiff | _native.DirectoryDiff") -> Iterator[Change]:
    for batch in batches:
        yield from map(Change._make, batch)


def _known_fields(ignore: Sequence[str]) -> list[str]:
    for field in ignore:
        if field not in FIELDS:
            raise InvalidArgument(
                f"there is no field {field!r} to ignore", hint=f"there are {', '.join(FIELDS)}"
            )
    return list(ignore)


def _not_found(path: bytes, old: Snapshot, new: Snapshot) -> PathNotFound:
    return PathNotFound(
        f"{to_text(path)} is in neither of the snapshots {old.short_id} and {new.short_id}",
        hint="ls shows what is in them",
        path=to_text(path),
    )
