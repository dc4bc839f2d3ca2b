"""Undo: taking back the last restore, by restoring what was there before it."""

import os
from collections.abc import Iterable

from snapstore.base.bytestext import from_text, to_text
from snapstore.base.errors import NothingToUndo
from snapstore.model.restoring import Unfinished
from snapstore.model.snapshot import Snapshot
from snapstore.ops import unfinished
from snapstore.ops.targets import Step
from snapstore.repository.heads import Head
from snapstore.repository.open import Repository


def last(repository: Repository, target: bytes | None) -> tuple[Snapshot, Head | None]:
    """The safety snapshot of the last restore (into `target`, or anywhere), and the head that it
    moved. NothingToUndo.
    """
    heads = repository.heads.all() if repository.heads is not None else []
    about = [head for head in heads if target is None or _concerns(head.paths, target)]
    if about:
        head = about[0]
        if head.safety is None:
            raise NothingToUndo(
                f"the last restore of {head.paths[0]} kept nothing to go back to",
                hint="restore with a safety snapshot (without --no-safety) to be able to",
            )
        found = repository.catalog.snapshot(head.safety)
        if found is None:
            raise NothingToUndo(
                f"the safety snapshot {head.safety[:8]} is not in the store any more",
                hint="list --all shows those that are",
            )
        return found, head
    for snapshot in _newest_first(repository.catalog.snapshots()):
        is_ours = snapshot.kind == "safety" and snapshot.host == repository.host
        if is_ours and (target is None or _concerns(_paths(snapshot), target)):
            return snapshot, None
    where = f" into {to_text(target)}" if target is not None else ""
    raise NothingToUndo(f"no restore{where} is known", hint="list --all shows safety snapshots")


def kept(repository: Repository, target: bytes | None) -> Unfinished | None:
    """The last restore (into `target`, or the one known last), where what it replaced was kept
    beside the target: its store could not be written.
    """
    if target is not None:
        return unfinished.kept(repository, [target])
    heads = repository.heads.all() if repository.heads is not None else []
    if not heads or heads[0].safety is not None:
        return None
    return unfinished.kept(repository, [from_text(path) for path in heads[0].paths])


def _newest_first(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    ready = (snapshot for snapshot in snapshots if snapshot.status == "ready")
    return sorted(ready, key=lambda snapshot: snapshot.time_ns, reverse=True)


def _paths(snapshot: Snapshot) -> list[str]:
    return [to_text(root.path) for root in snapshot.roots]


def _concerns(paths: Iterable[str], target: bytes) -> bool:
    """Whether one of these paths is the target, or in it, or around it."""
    wanted = target.rstrip(b"/") + b"/"
    raw = (from_text(path).rstrip(b"/") + b"/" for path in paths)
    return any(path.startswith(wanted) or wanted.startswith(path) for path in raw)


def steps(safety: Snapshot) -> list[Step]:
    """What a restore of a safety snapshot puts back: of the same places the same paths. What came
    there with the restore goes.
    """
    found = []
    parts = safety.created_by.get("parts")
    records = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    for root in safety.roots:
        about = [part for part in records if part.get("path") == to_text(root.path)]
        whole = any("root" in part for part in about)
        only: list[str] | None = [path for part in about for path in part.get("only", ())]
        if not about or any("only" not in part for part in about):
            only = None
        found.append(
            Step(
                root,
                root.path,
                only=None if only is None else tuple(map(from_text, dict.fromkeys(only))),
                extras="delete-known" if whole else "delete",
            )
        )
    return found


def undone(safety: Snapshot) -> str | None:
    """The snapshot that was the head before the restore."""
    head = safety.created_by.get("head")
    return head if isinstance(head, str) else None


def restored(repository: Repository, safety: Snapshot) -> Snapshot | None:
    """The snapshot that was restored, if it is still there."""
    id = safety.created_by.get("snapshot")
    found = repository.catalog.snapshot(id) if isinstance(id, str) else None
    return found if found is not None and found.status == "ready" else None


def target_of(safety: Snapshot) -> bytes:
    """What a person calls the place of a safety snapshot."""
    paths = [root.path for root in safety.roots]
    return paths[0] if len(paths) == 1 else os.path.commonpath(paths)
