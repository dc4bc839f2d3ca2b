"""Selection: what a create leaves out, as the caller says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from snapstore.base.arguments import Path_


@dataclass(frozen=True, slots=True)
class PatternFile:
    """A file of patterns in gitignore syntax, relative to each root; it may have comments. With
    `any_case`, each means what `any_case` makes of it.
    """

    path: Path_
    any_case: bool = False


class Selection(TypedDict, total=False):
    """Arguments of `Store.create` and `Store.explain` that say what is left out of directories.
    What was named, or listed, is always taken.
    """

    exclude: Sequence[str | bytes | PatternFile]
    """Patterns in gitignore syntax, relative to each root, and files of them. Of those that match,
    the last decides; one that begins with `!` takes back. A `#` has no meaning but in a file.
    `any_case(pattern)` gives one that matches in upper and lower case."""
    exclude_files: Sequence[Path_]
    """Files of patterns that come after `exclude`."""
    ignore_files: bool
    """Heed `.snapignore` in directories (the default). `exclude` takes precedence."""
    exclude_caches: bool
    """Of a directory with a CACHEDIR.TAG that has its signature, only that is taken."""
    exclude_if_present: Sequence[str | bytes]
    """Of a directory with an entry of one of these names, only that is taken."""
    exclude_larger_than: int | str | None
    """Leave out files that are larger: bytes, or text such as `1.5G`."""
    one_file_system: bool
    """Do not descend into other mounts."""
