"""Targets: which place on disk each part of a snapshot is restored to, and which are refused."""

import os
import pwd
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from snapstore import _native
from snapstore.base.bytestext import to_text
from snapstore.base.errors import InvalidArgument, TargetDenied, TargetInvalid, TargetRefused
from snapstore.model.snapshot import Root, Snapshot
from snapstore.ops import places
from snapstore.ops.places import Place
from snapstore.repository.open import Repository


@dataclass(frozen=True, slots=True)
class Step:
    """A root (or these paths of it, or what is at `strip` in it) and the path that it becomes.

    `only`: of what is there, these paths below `target` alone are compared. `extras`: what becomes
    of those that the snapshot does not have, where that is not the caller's choice.
    """

    root: Root
    target: bytes
    paths: tuple[bytes, ...] | None = None
    strip: bytes | None = None
    only: tuple[bytes, ...] | None = None
    extras: str | None = None


def at_target(
    reader: "_native.Reader",
    snapshot: Snapshot,
    target: bytes,
    within: bytes | None,
    paths: Sequence[bytes],
) -> list[Step]:
    """Steps that restore below or as `target`; every path is looked up before anything is written.

    PathNotFound.
    """
    if within and paths:
        raise InvalidArgument("paths cannot be chosen inside a path")
    if within:
        place = places.find(reader, snapshot, within, suggest=True)
        return [_single(place, target)]
    chosen = _chosen(reader, snapshot, paths)
    roots = list(chosen) if paths else list(snapshot.roots)
    below = dict.fromkeys(roots, target)
    if len(snapshot.roots) > 1:
        below = {root: b"/".join([target, *places.components(root.path)]) for root in roots}
    steps = []
    for root in sorted(roots, key=lambda root: root.path):
        at = below[root]
        if at == target and root.kind != "directory" and not _is_content_target(target):
            at = target + b"/" + places.components(root.path)[-1]
        steps.append(Step(root, at, _paths(chosen, root)))
    _check_types(reader, steps)
    return steps


def _check_types(reader: "_native.Reader", steps: Sequence[Step]) -> None:
    """TargetInvalid where a file was named and a directory is to be restored: that is a mistake."""
    for step in steps:
        if os.path.lexists(step.target) and not os.path.isdir(step.target):
            entry = places.walk(reader, step.root, step.strip or b"")
            if entry is not None and entry.type == "directory":
                raise TargetInvalid(
                    f"the target {to_text(step.target)} is not a directory",
                    hint="name a directory, or a file of the snapshot (REF:PATH)",
                )


def in_place(
    reader: "_native.Reader", snapshot: Snapshot, within: bytes | None, paths: Sequence[bytes]
) -> list[Step]:
    """Steps that restore to where everything was taken. PathNotFound, TargetRefused."""
    if within and paths:
        raise InvalidArgument("paths cannot be chosen inside a path")
    chosen = _chosen(reader, snapshot, [within] if within else paths)
    roots = list(chosen) if chosen else list(snapshot.roots)
    steps = []
    for root in sorted(roots, key=lambda root: root.path):
        if not root.path.startswith(b"/") or root.kind == "stream":
            raise TargetRefused(
                f"{to_text(root.path)} was taken from a stream, which has no place on disk",
                hint="name a target (--target)",
            )
        steps.append(Step(root, root.path, _paths(chosen, root)))
    return steps


def apart(reader: "_native.Reader", steps: Sequence[Step]) -> list[Step]:
    """Without steps whose place another one restores as well. TargetRefused where these two would
    put different things into one place.
    """
    kept = []
    for step in steps:
        around = next((other for other in steps if _is_below(step, other)), None)
        held = None
        if around is not None:
            rest = step.target[len(around.target.rstrip(b"/")) + 1 :]
            below = b"/".join(filter(None, [around.strip or b"", rest]))
            held = places.walk(reader, around.root, below)
        if held is None:
            kept.append(step)
            continue
        own = places.walk(reader, step.root, step.strip or b"")
        if own is None or not places.same(reader, held, own):
            raise TargetRefused(
                f"the snapshot has {to_text(step.target)} twice, and not the same",
                hint="restore one of them: name its path",
            )
    return kept


def _is_below(step: Step, other: Step) -> bool:
    inside = step.target.startswith(other.target.rstrip(b"/") + b"/")
    return inside and step.target != other.target and other.paths is None


def _chosen(
    reader: "_native.Reader", snapshot: Snapshot, paths: Sequence[bytes]
) -> dict[Root, list[bytes]]:
    chosen: dict[Root, list[bytes]] = defaultdict(list)
    for path in paths:
        place = places.find(reader, snapshot, path, suggest=True)
        chosen[place.root].append(place.below)
    return chosen


def _paths(chosen: dict[Root, list[bytes]], root: Root) -> tuple[bytes, ...] | None:
    whole = not chosen or b"" in chosen[root]
    return None if whole else tuple(chosen[root])


def _single(place: Place, target: bytes) -> Step:
    """A subtree becomes the contents of `target`; what is no directory becomes a file or device
    that is there, or keeps its name below it.
    """
    if place.entry.type == "directory" or (
        place.entry.type == "file" and _is_content_target(target)
    ):
        return Step(place.root, target, strip=place.below or None)
    if not place.below:
        return Step(place.root, target + b"/" + places.components(place.root.path)[-1])
    above = place.below.rpartition(b"/")[0]
    return Step(place.root, target, paths=(place.below,), strip=above or None)


def _is_content_target(path: bytes) -> bool:
    """Whether a file or block device is there, which takes the content of another."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


# What is refused


def check_not_store(repository: Repository, target: bytes) -> None:
    """TargetInvalid for the store itself and what is in it."""
    store = os.path.realpath(os.fsencode(repository.path))
    if (os.path.realpath(target) + b"/").startswith(store + b"/"):
        raise TargetInvalid(f"the target {to_text(target)} is inside the store")


def check_host(repository: Repository, snapshot: Snapshot) -> None:
    """TargetRefused unless the snapshot was taken on this machine."""
    if snapshot.host != repository.host:
        raise TargetRefused(
            f"snapshot {snapshot.short_id} was taken on {snapshot.host}, and this is"
            f" {repository.host}",
            hint="name a target (--target)",
        )


def check_steps(steps: Sequence[Step], *, force: bool) -> None:
    """TargetRefused for places over which nobody restores by accident; TargetInvalid where the
    directory around a place is missing.
    """
    for step in steps:
        if not force and step.paths is None:
            check_place(step.target)
        above = os.path.dirname(step.target)
        try:
            if not stat.S_ISDIR(os.lstat(above).st_mode):
                raise TargetInvalid(f"{to_text(above)} is not a directory")
        except FileNotFoundError:
            raise TargetInvalid(
                f"{to_text(above)}, in which {to_text(step.target)} was, is missing",
                hint="make it, or name a target (--target)",
            ) from None
        except PermissionError as error:
            raise TargetDenied(f"{to_text(above)} cannot be read") from error


def real_place(path: bytes) -> bytes:
    """A place with the links on the way to it followed, but not one that is there."""
    above, name = os.path.split(path)
    return os.path.join(os.path.realpath(above), name) if name else path


def check_place(path: bytes) -> None:
    """TargetRefused for a place over which nobody restores by accident."""
    for why in _refusals(path):
        raise TargetRefused(f"{to_text(path)} is {why}", hint="--force does it anyway")


def _home() -> bytes | None:
    try:
        return os.path.realpath(os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir))
    except KeyError:
        return None


def _refusals(path: bytes) -> Iterator[str]:
    if path == b"/":
        yield "the whole system"
    if path == _home():
        yield "your home directory"
    if path != b"/" and os.path.ismount(path):
        yield "a mount point"
    if all(os.path.exists(os.path.join(path, name)) for name in (b"config", b"snap", b"tmp")):
        yield "a store"
