"""The live tree: what of what is there is taken before a restore over it."""

import os
import stat
from dataclasses import replace
from typing import Any

from snapstore import _native
from snapstore.base.bytestext import from_text, to_text
from snapstore.base.errors import InvalidArgument, TargetInvalid
from snapstore.model.snapshot import Snapshot
from snapstore.ops import create as creating
from snapstore.ops import places
from snapstore.ops.request import Request
from snapstore.ops.selection import Place, Rules
from snapstore.ops.targets import Step
from snapstore.repository.open import Repository

_MAX_LISTED = 1_000_000

Missed = dict[int, list[bytes]]
"""By the number of a step: paths below it that the rules leave out by now, and the snapshot has."""


def taking(
    repository: Repository, reader: "_native.Reader", request: Request, missed: Missed, *, dry: bool
) -> creating.Plan:
    """The create that takes what is there, and with it the paths that it missed before."""
    rules = Rules(ignore_files=False) if request.excluded else rules_of(request.snapshot)
    found: dict[bytes, Place] = {}
    images, below, parts = [], {}, []
    for number, step in enumerate(request.steps):
        if is_image(step):
            images.append(step.target)
            parts.append(_part_record(step, Place(step.target)))
            continue
        wanted = _place(reader, request, step, missed.get(number, []))
        parts.append(_part_record(step, wanted))
        place = _there(wanted)
        if place.path in found:
            place = replace(place, named=(*found[place.path].named, *place.named))
        found[place.path] = place
        if step.strip and place.path == step.target:
            below[place.path] = step.strip
    record: dict[str, Any] = {"type": "restore", **request.user, "parts": parts}
    record["snapshot"] = request.snapshot.id
    if request.was_head is not None:
        record["head"] = request.was_head
    return creating.Plan(
        places=tuple(found.values()),
        parent=request.base,
        images=tuple(images),
        streams=(),
        source=request.source,
        host=repository.host,
        kind="safety",
        tool=request.tool,
        label=[],
        created_by=record,
        rules=rules,
        below=below,
        dry_run=dry,
        keep_nodes=dry,
    )


def _place(reader: "_native.Reader", request: Request, step: Step, missed: list[bytes]) -> Place:
    """What is taken for a step: all of it, or only what can be compared."""
    if step.only is not None:
        return Place(step.target, step.only, whole=False)
    if not os.path.lexists(step.target):
        above, name = os.path.split(step.target)
        return Place(above, (name,), whole=False)
    named = list(step.paths or ())
    if step.strip:
        named = [path[len(step.strip) + 1 :] for path in named]
    whole = step.paths is None
    if is_listed(request, step) and whole:
        named, whole = _listed(reader, step), False
    named += missed
    return Place(step.target, tuple(dict.fromkeys(named)), whole=whole)


def is_listed(request: Request, step: Step) -> bool:
    """Whether only listed paths of a root were taken: of others nothing is known."""
    listed = request.snapshot.rules.get("only_listed")
    return step.only is None and listed == to_text(step.root.path)


def rules_of(snapshot: Snapshot) -> Rules:
    """What was left out of a snapshot."""
    return Rules.recorded(snapshot.rules)


def is_image(step: Step) -> bool:
    """Whether the content of a device is replaced, rather than the device."""
    return step.root.kind in ("image", "file", "stream") and _is_device(step.target)


def journal(repository: Repository) -> bytes:
    """Where the journal of a device's restore is kept: a device has no place for one."""
    if repository.local is None:
        raise TargetInvalid(
            "there is no place for the journal of a device: the store cannot be written, and no"
            " directory for what is derived is at hand",
            hint="name one that can be written as the cache",
        )
    return os.path.realpath(os.fsencode(repository.local))


def _is_device(path: bytes) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def is_directory(repository: Repository, step: Step) -> bool:
    """Whether what a step restores is a directory."""
    reader = repository.reader()
    entry = places.walk(reader, step.root, step.strip or b"")
    return entry is not None and entry.type == "directory"


def _listed(reader: "_native.Reader", step: Step) -> list[bytes]:
    """Paths of all but filled directories in a root of which only listed paths were taken."""
    top = places.walk(reader, step.root, step.strip or b"")
    found: list[bytes] = []
    if top is None or top.type != "directory":
        return found
    for batch in _native.TreeWalk(reader, top, b"", recursive=True):
        found += [path for path, entry in batch if entry.type != "directory" or not entry.entries]
        if len(found) > _MAX_LISTED:
            raise InvalidArgument(
                "too many listed paths to restore in place", hint="choose some of them"
            )
    return found


def _there(place: Place) -> Place:
    """Without names at which nothing is: they are not missing."""
    named = tuple(path for path in place.named if os.path.lexists(place.prefix + path))
    return replace(place, named=named)


def _part_record(step: Step, place: Place) -> dict[str, Any]:
    """What a safety snapshot says of a step: what was taken of which place, and what came there."""
    record: dict[str, Any] = {"path": to_text(place.path)}
    if not place.whole:
        record["only"] = [to_text(path) for path in place.named]
    if place.path == step.target:
        record |= {"root": step.root.id, "below": to_text(step.strip or b"")}
    return record


def undone(safety: Snapshot, step: Step) -> tuple[bytes, bytes] | None:
    """What came to the place of a step by the restore for which `safety` was made."""
    parts = safety.created_by.get("parts")
    for part in parts if isinstance(parts, list) else []:
        match part:
            case {"path": str(path), "root": str(root), "below": str(below)}:
                if path == to_text(step.target):
                    return bytes.fromhex(root), from_text(below)
    return None
