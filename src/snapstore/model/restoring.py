"""Restoring in place: what a caller asks for, what is planned, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from snapstore.base.bytestext import path_fields, to_text
from snapstore.base.units import Duration

STRATEGIES = ("overwrite", "keep-original", "newer", "merge", "fail")
ON_ERROR = ("rollback", "keep-going", "stop")
HOOKS = ("before", "after", "failed", "finally")
STEPS = ("create", "replace", "patch", "metadata", "type", "delete")


@dataclass(frozen=True, slots=True)
class Side:
    """What one side of a conflict has. `type`: as in a listing, or `missing`."""

    type: str = "missing"
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        if self.type == "missing":
            return {"type": self.type}
        return {
            "type": self.type,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "mode": self.mode,
        }


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path that was changed both on disk and in the snapshot since the head that both came from.
    `taken`: `snapshot` or `live`, whose version counts.
    """

    path: bytes
    live: Side
    snapshot: Side
    head: Side
    taken: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **path_fields(self.path),
            "live": self.live.to_dict(),
            "snapshot": self.snapshot.to_dict(),
            "head": self.head.to_dict(),
            "taken": self.taken,
        }


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """Something that is done to a path: one of STEPS. `bytes`: content that is written for it; of
    what is deleted, that goes. A directory that comes new stands for all that is in it.
    """

    path: bytes
    action: str
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**path_fields(self.path), "action": self.action, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore in place is going to do.

    `counts`: (entries, bytes) by action. `steps`: at most 10,000 of `step_count`. `extras`: the
    topmost paths that the snapshot does not have and that stay, at most 10,000; `extra_count`
    counts what is below them too.
    """

    counts: dict[str, tuple[int, int]]
    steps: list[PlannedStep]
    step_count: int
    conflicts: list[Conflict]
    conflict_count: int
    extras: list[bytes]
    extra_count: int

    @property
    def deletes(self) -> int:
        """Entries that are deleted."""
        return self.counts.get("delete", (0, 0))[0]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.step_count == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "counts": {
                action: {"entries": self.counts[action][0], "bytes": self.counts[action][1]}
                for action in STEPS
                if action in self.counts
            },
            "steps": [step.to_dict() for step in self.steps],
            "step_count": self.step_count,
            "conflicts": [conflict.to_dict() for conflict in self.conflicts],
            "conflict_count": self.conflict_count,
            "extras": [path_fields(path) for path in self.extras],
            "extra_count": self.extra_count,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """A moment of a restore: `event` is `plan`, `progress`, `file`, `conflict`, `verified`, `done`
    or `failed`, `data` plain JSON types.
    """

    event: str
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"event": self.event, "data": self.data}


Resolver = Callable[[Conflict], str]
"""Decides a conflict: `snapshot` or `live`."""

Approve = Callable[[RestorePlan], bool]
"""Is shown a plan that deletes something or has conflicts; False ends the restore."""

Emit = Callable[[str, dict[str, Any]], None]


Command = Sequence[str] | str
"""A list is run as it is, a text by the shell."""


class Options(TypedDict, total=False):
    """How a restore in place is done.

    `delete`: what the snapshot does not have is removed, as far as a create with its rules would
    have taken it; with `delete_excluded` also what they leave out.

    `strategy`: who wins where both sides changed: `overwrite` (the snapshot), `keep-original` (what
    is there), `newer`, `merge` (what only one side changed is taken from it, true conflicts stay as
    they are), `fail` (nothing is done). `resolver` decides conflicts one by one: a function, or a
    command that gets each as JSON, and prints what it decides.

    `safety`: a snapshot of what is there is made first, for `undo`. `on_error`: `rollback`,
    `keep-going` (what cannot be done is listed), `stop` (the journal stays, for `resume` and
    `abort`). `time_limit`: after it everything is taken back. `force`: also over `/`, the home
    directory, mount points, and stores. `approve`: is asked before anything is deleted, and where
    there are conflicts.

    `hooks`: commands that are run `before` and `after` it, when it `failed`, and `finally`, which
    comes last in any case. When `before` fails, nothing is restored; other failures are warnings.
    They know SNAP_EVENT (which hook), SNAP_SNAPSHOT, SNAP_TARGET, SNAP_STATUS (`running`, `done`,
    `partial`, `failed`) and SNAP_ERROR, and what they print goes to standard error. With `dry_run`
    none is run.
    """

    delete: bool
    delete_excluded: bool
    strategy: str
    resolver: Resolver | Command | None
    safety: bool
    on_error: str
    force: bool
    dry_run: bool
    time_limit: Duration | None
    approve: Approve | None
    hooks: Mapping[str, Command] | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A restore whose journal was found. `state`: `staging` (nothing was changed yet), `ready`
    (some paths may be exchanged), `reverting`, `applied` (all are), `removing`, or `running`:
    another process works on it. `note`: what it was asked for.
    """

    path: bytes
    target: bytes
    state: str
    note: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **path_fields(self.path),
            **path_fields(self.target, "target"),
            "state": self.state,
            "snapshot": self.note.get("snapshot"),
        }

    def __str__(self) -> str:
        return f"{to_text(self.target)}: {self.state}"
