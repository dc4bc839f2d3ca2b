"""Progress: what a long call tells its observer about ten times a second, in its own thread."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snapstore.base.bytestext import path_fields


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a long call. Totals are 0 while they are unknown."""

    phase: str
    """`create`, `restore`, `export`, `check`, `reindex`, `du`."""
    files_done: int = 0
    bytes_done: int = 0
    files_total: int = 0
    bytes_total: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    errors: int = 0
    current: bytes = b""
    """A path (or an object's name) being worked on."""
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `current` in percent form."""
        return {
            "phase": self.phase,
            "files_done": self.files_done,
            "bytes_done": self.bytes_done,
            "files_total": self.files_total,
            "bytes_total": self.bytes_total,
            "new_bytes": self.new_bytes,
            "stored_bytes": self.stored_bytes,
            "errors": self.errors,
            **path_fields(self.current, "current"),
            "elapsed_s": round(self.elapsed_s, 3),
        }


Observer = Callable[[Progress], None]
