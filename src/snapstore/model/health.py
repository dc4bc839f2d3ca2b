"""Health: what an examination of a machine and a store found."""

from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found. `note`: something is missing or unusual, but all that this version does
    works; `wrong`: something does not, or soon will not. `hint`: what to do about it.
    """

    name: str
    level: Level
    message: str
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name,
            "level": self.level,
            "message": self.message,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Health:
    """All findings of an examination, in the order of the looks."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.level != "wrong" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"ok": self.ok, "findings": [finding.to_dict() for finding in self.findings]}
