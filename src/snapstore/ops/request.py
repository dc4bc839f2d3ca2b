"""Request: what a restore in place is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snapstore.base.errors import InvalidArgument
from snapstore.base.progress import Observer
from snapstore.model.restoring import ON_ERROR, STRATEGIES, Approve, Command, Emit, Resolver
from snapstore.model.snapshot import Snapshot
from snapstore.ops.targets import Step

_MAX_STEPS = 1_000


def silent(event: str, data: dict[str, Any]) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Request:
    """A restore in place. `extras`: `keep`, `delete`, or `delete-known` (what the base has)."""

    snapshot: Snapshot
    steps: Sequence[Step]
    base: Snapshot | None
    """The head: what both sides come from."""
    source: str
    tool: str
    user: dict[str, Any]
    target: bytes
    extras: str = "keep"
    excluded: bool = False
    """What the rules leave out counts like everything else."""
    strategy: str = "overwrite"
    resolver: Resolver | None = None
    safety: bool = True
    on_error: str = "rollback"
    verify: bool = False
    force: bool = False
    dry_run: bool = False
    approve: Approve | None = None
    time_limit_s: float | None = None
    stop: Callable[[], None] | None = None
    """Raises when the restore is to end."""
    emit: Emit = silent
    settle: Callable[[], None] = lambda: None
    """Called when everything is exchanged and told; raises when it is to be taken back."""
    observer: Observer | None = None
    moves_head: str | None = None
    """The head afterwards; None: as it was, or none where a restore is taken back."""
    was_head: str | None = None
    """The head before, which an undo goes back to."""
    undoes: bool = False
    hooks: Mapping[str, Command] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidArgument(
                f"there is no strategy {self.strategy!r}", hint=f"one of {', '.join(STRATEGIES)}"
            )
        if self.on_error not in ON_ERROR:
            raise InvalidArgument(
                f"on_error is one of {', '.join(ON_ERROR)}, not {self.on_error!r}"
            )
        if len(self.steps) > _MAX_STEPS:
            raise InvalidArgument("too many roots to restore at once", hint="restore fewer of them")

    @property
    def is_watched(self) -> bool:
        """Whether somebody is told what happens."""
        return self.emit is not silent

    @property
    def goes_on(self) -> bool:
        """Whether what cannot be restored is left out."""
        return self.on_error == "keep-going"
