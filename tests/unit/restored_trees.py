"""A tree that was taken and then changed, for tests of what restores it."""

import os
from dataclasses import dataclass
from pathlib import Path

from snapstore import Store

Facts = dict[str, tuple[int, bytes]]


def facts(top: Path) -> Facts:
    """What is below a directory: modes, and contents of files."""
    return {
        str(path.relative_to(top)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(top.rglob("*"))
    }


@dataclass(frozen=True)
class Changed:
    """A tree at `top`: the snapshot `first` has it as it was `before`; now it is as in `after`."""

    top: Path
    before: Facts
    after: Facts

    @property
    def is_before(self) -> bool:
        return facts(self.top) == self.before

    @property
    def is_after(self) -> bool:
        return facts(self.top) == self.after


def make(store: Store, top: Path) -> Changed:
    """Makes such a tree: a file was changed, one removed, one added."""
    (top / "sub").mkdir(parents=True)
    for number in range(20):
        (top / "sub" / f"file-{number}").write_bytes(os.urandom(3000))
    (top / "kept").write_bytes(b"kept")
    store.create(top, name="first")
    before = facts(top)
    (top / "sub" / "file-1").write_bytes(b"changed")
    (top / "sub" / "file-2").unlink()
    (top / "added").write_bytes(b"added")
    return Changed(top, before, facts(top))
