"""Results: what the calls of the library give back, as plain values with `to_dict`."""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from snapstore.base.bytestext import path_fields
from snapstore.base.errors import InvalidArgument
from snapstore.model.restoring import Command, Conflict, RestorePlan
from snapstore.model.snapshot import Snapshot

PathBytes = bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream to be taken as a file called `name`.

    Either `fd` (a descriptor or an object with `fileno()`, read to its end) or `command`: a list is
    run as it is, a text by the shell. A command that exits with anything but 0 fails the create.
    """

    name: str | bytes
    fd: Any = None
    command: Command | None = None

    def __post_init__(self) -> None:
        if (self.fd is None) == (self.command is None):
            raise InvalidArgument("a stream is either a descriptor or a command")


def _plain(value: Any) -> Any:
    """A field of a result as plain JSON types."""
    if isinstance(value, Snapshot):
        return value.to_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return round(value, 6)
    return value


class _Result:
    """`to_dict` of a dataclass whose fields are plain but for those in `_listed`."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        names = [item.name for item in fields(self)]  # type: ignore[arg-type]
        return {name: _plain(getattr(self, name)) for name in names}


@dataclass(frozen=True, slots=True)
class CreateResult(_Result):
    """What a create did. Counts are files of this run, sizes are bytes.

    `snapshot` is None after a dry run; with `skipped` (nothing had changed) it is the existing one.
    `new_bytes`: plain bytes that the store did not have; `stored_bytes`: what they take in it.
    """

    snapshot: Snapshot | None
    skipped: bool
    dry_run: bool
    parent: str | None
    files: int
    directories: int
    new_files: int
    changed_files: int
    unchanged_files: int
    bytes: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    unreadable: list[tuple[PathBytes, str]]
    unreadable_count: int
    changed: list[PathBytes]
    sockets: int
    excluded: int
    mounts: int
    elapsed_s: float
    unfinished: list[PathBytes] = field(default_factory=list)
    """Staging directories of restores that are under way, or were interrupted."""

    @property
    def partial(self) -> bool:
        """Whether something could not be read."""
        return self.unreadable_count > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **_Result.to_dict(self),
            "unreadable": [{**path_fields(path), "error": why} for path, why in self.unreadable],
            "changed": [path_fields(path) for path in self.changed],
            "unfinished": [path_fields(path) for path in self.unfinished],
            "partial": self.partial,
        }


@dataclass(frozen=True, slots=True)
class ExportResult(_Result):
    """What an export wrote. `others`: links, FIFOs, devices; `bytes`: contents of the files.

    `omitted`: paths of what the format cannot hold (a zip: FIFOs and devices), at most 10,000.
    """

    snapshot: str
    format: str
    files: int
    directories: int
    others: int
    bytes: int
    written_bytes: int
    omitted: list[PathBytes]
    omitted_count: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **_Result.to_dict(self),
            "omitted": [path_fields(path) for path in self.omitted],
        }


@dataclass(frozen=True, slots=True)
class Explanation(_Result):
    """Why a create takes a path, or leaves it out.

    `reason`, a word that does not change: `default` (nothing speaks against it), `named`, `way`
    (something below it was named), `rule`, `cache` (CACHEDIR.TAG), `marker`, `socket`, `store`,
    `mount`, `size`, `unnamed` (only listed paths are taken there), `missing`, `unreadable`,
    `outside` (no root holds it). `decided_at`: the path, or one above it that decided. `rule`: the
    pattern or marker; `file` and `line`: where it stands, None for one that was given by itself.
    `broken`: (path, error) of ignore files on the way that cannot be read or have a bad line.
    """

    path: PathBytes
    taken: bool
    reason: str
    decided_at: PathBytes
    root: PathBytes | None = None
    rule: PathBytes | None = None
    file: PathBytes | None = None
    line: int | None = None
    error: str | None = None
    broken: tuple[tuple[PathBytes, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        fields: dict[str, Any] = {**_Result.to_dict(self), **path_fields(self.path)}
        fields["broken"] = [{**path_fields(path), "error": why} for path, why in self.broken]
        for name in ("decided_at", "root", "rule", "file"):
            value = getattr(self, name)
            if value is not None:
                fields.update(path_fields(value, name))
        return fields


@dataclass(frozen=True, slots=True)
class RestoreResult(_Result):
    """What a restore did. `problems`: (path, what, reason), at most 100,000 of all.

    `files`, `directories`, `others`: what was written anew, `bytes` its content. In place,
    `read_bytes` is what was read to see what is there, `plan` what was done (with `dry_run`: what
    would be), and `safety_snapshot` what `undo` goes back to. An undo in a target beside which the
    replaced was kept (the store was read-only) has neither plan nor snapshot.
    """

    snapshot: str
    target: PathBytes
    files: int
    directories: int
    others: int
    bytes: int
    problems: list[tuple[PathBytes, str, str]]
    problem_count: int
    verified_files: int
    elapsed_s: float
    in_place: bool = False
    dry_run: bool = False
    safety_snapshot: str | None = None
    plan: RestorePlan | None = None
    warnings: list[str] = field(default_factory=list)
    read_bytes: int = 0
    strategy: str = "overwrite"

    @property
    def success(self) -> bool:
        """Whether nothing failed, and `merge` left no conflict."""
        return self.problem_count == 0 and not self.conflicts_left

    @property
    def can_undo(self) -> bool:
        """Whether `undo` takes this restore back."""
        return self.safety_snapshot is not None

    @property
    def restored_from(self) -> str:
        """The snapshot's id."""
        return self.snapshot

    @property
    def conflicts(self) -> list[Conflict]:
        """At most 10,000 of those found."""
        return self.plan.conflicts if self.plan is not None else []

    @property
    def conflicts_left(self) -> int:
        """Conflicts that `merge` left as they were, for a person to settle."""
        if self.plan is None or self.strategy != "merge":
            return 0
        named = self.plan.conflicts
        left = sum(conflict.taken == "live" for conflict in named)
        return left + self.plan.conflict_count - len(named)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        fields: dict[str, Any] = {
            **_Result.to_dict(self),
            **path_fields(self.target, "target"),
            "problems": [
                {**path_fields(path), "what": what, "reason": reason}
                for path, what, reason in self.problems
            ],
            "success": self.success,
            "restored_from": self.snapshot,
            "conflicts": [conflict.to_dict() for conflict in self.conflicts],
        }
        fields["plan"] = self.plan.to_dict() if self.plan is not None else None
        return fields


@dataclass(frozen=True, slots=True)
class CheckProblem:
    """Something wrong. `kind`: `pack`, `snapshot`, `tree`, `index`, `config`, `object` (a key, a
    ref or a collector's record); `foreign` (a note, not an error).

    `name`: of the object; `affected`: (snapshot id, path) of what it hits.
    """

    kind: str
    name: str
    message: str
    affected: tuple[tuple[str, bytes], ...] = ()

    @property
    def error(self) -> bool:
        """Whether it means damage."""
        return self.kind != "foreign"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "kind": self.kind,
            "name": self.name,
            "message": self.message,
            "error": self.error,
            "affected": [{"snapshot": id, **path_fields(path)} for id, path in self.affected],
        }


@dataclass(frozen=True, slots=True)
class CheckReport(_Result):
    """What a check found. `complete` is False when its time limit ended it early.

    `problems`: at most 100,000 of the packs and as many of the trees; `problem_count`: of all.
    `bytes`: sizes of the packs checked, whether their contents were read or not.
    """

    snapshots: int
    packs: int
    bytes: int
    nodes: int
    chunks: int
    problems: list[CheckProblem]
    problem_count: int
    complete: bool
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        listed = any(problem.error for problem in self.problems)
        return not listed and self.problem_count == len(self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "ok": self.ok,
            **_Result.to_dict(self),
            "problems": [problem.to_dict() for problem in self.problems],
        }


@dataclass(frozen=True, slots=True)
class StoreStats(_Result):
    """What a store holds. Sizes in bytes.

    `stored_bytes` = `data_bytes` + `meta_bytes` + `other_bytes`, without the index.
    `logical_bytes`: sum of the sizes of all snapshots; `plain_bytes`: distinct chunks and nodes
    before compression.
    """

    snapshots: int
    packs: int
    data_bytes: int
    meta_bytes: int
    other_bytes: int
    chunks: int
    plain_bytes: int
    logical_bytes: int
    index_bytes: int
    oldest: datetime | None
    newest: datetime | None

    @property
    def stored_bytes(self) -> int:
        """Everything in the store but what is derived."""
        return self.data_bytes + self.meta_bytes + self.other_bytes

    @property
    def deduplication_ratio(self) -> float:
        """Logical bytes per distinct byte; 0 for an empty store."""
        return self.logical_bytes / self.plain_bytes if self.plain_bytes else 0.0

    @property
    def compression_ratio(self) -> float:
        """Distinct bytes per byte in packs; 0 for an empty store."""
        packed = self.data_bytes + self.meta_bytes
        return self.plain_bytes / packed if packed else 0.0

    @property
    def total_ratio(self) -> float:
        """Logical bytes per stored byte; 0 for an empty store."""
        return self.logical_bytes / self.stored_bytes if self.stored_bytes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **_Result.to_dict(self),
            "stored_bytes": self.stored_bytes,
            "deduplication_ratio": round(self.deduplication_ratio, 3),
            "compression_ratio": round(self.compression_ratio, 3),
            "total_ratio": round(self.total_ratio, 3),
        }


@dataclass(frozen=True, slots=True)
class ReindexResult(_Result):
    """What a reindex read. `unreadable`: (name, reason) of packs that were left out."""

    packs: int
    chunks: int
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **_Result.to_dict(self),
            "unreadable": [{"name": name, "reason": why} for name, why in self.unreadable],
        }
