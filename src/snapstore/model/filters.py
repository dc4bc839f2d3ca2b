"""Filters: which snapshots a list is about."""

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from snapstore.base.arguments import Path_
from snapstore.base.errors import InvalidArgument
from snapstore.base.units import Size, size_bytes
from snapstore.model import times
from snapstore.model.snapshot import KINDS, Snapshot

Texts = str | Sequence[str] | None
Paths = Path_ | Sequence[Path_] | None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a snapshot must be like. Each field holds for all, or is None.

    `source`, `host`, `name`: globs (`*`, `?`, `[a-z]`), one of which must match. `tag`: texts, one
    of which must match: `a,b` asks for both tags, an empty text for none at all. `path`: absolute,
    or a stream's name, taken by the snapshot itself or with a directory above it; or a glob that
    matches one of the snapshot's paths, `*` also across `/`. `since` is the first moment that
    counts, `until` the first that does not. `larger_than`, `smaller_than`: of
    `size_bytes`, both exclusive.
    Raises InvalidArgument for globs, kinds, times and sizes that are none.
    """

    source: Texts = None
    host: Texts = None
    name: Texts = None
    tag: Texts = None
    path: Paths = None
    kind: str | None = None
    partial: bool | None = None
    since: times.Time | None = None
    until: times.Time | None = None
    larger_than: Size | None = None
    smaller_than: Size | None = None

    def select(self, snapshots: Iterable[Snapshot]) -> list[Snapshot]:
        """Those that are as they must be, in their order."""
        demands = list(self._demands())
        return [s for s in snapshots if all(demand(s) for demand in demands)]

    def _demands(self) -> Iterable[Callable[[Snapshot], bool]]:
        if self.source is not None:
            matches_source = _globs(_several(self.source))
            yield lambda s: matches_source(s.source)
        if self.host is not None:
            matches_host = _globs(_several(self.host))
            yield lambda s: matches_host(s.host)
        if self.name is not None:
            matches_name = _globs(_several(self.name))
            yield lambda s: s.name is not None and matches_name(s.name)
        if self.tag is not None:
            wanted = _several(self.tag)
            yield lambda s: any(_has_tags(s, text) for text in wanted)
        if self.path is not None:
            took = _paths(self.path)
            yield lambda s: any(took(os.fsdecode(root.path)) for root in s.roots)
        if self.kind is not None:
            if self.kind not in KINDS:
                raise InvalidArgument(
                    f"there is no kind {self.kind!r}", hint=f"one of {', '.join(KINDS)}"
                )
            yield lambda s: s.kind == self.kind
        if self.partial is not None:
            yield lambda s: s.partial == self.partial
        yield from self._bounds()

    def _bounds(self) -> Iterable[Callable[[Snapshot], bool]]:
        if self.since is not None:
            since_ns = times.time_ns(self.since)
            yield lambda s: s.time_ns >= since_ns
        if self.until is not None:
            until_ns = times.time_ns(self.until)
            yield lambda s: s.time_ns < until_ns
        if self.larger_than is not None:
            least = size_bytes(self.larger_than)
            yield lambda s: s.size_bytes > least
        if self.smaller_than is not None:
            most = size_bytes(self.smaller_than)
            yield lambda s: s.size_bytes < most


def _several(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _has_tags(snapshot: Snapshot, wanted: str) -> bool:
    """Whether a snapshot has the tag, or all tags of a list with commas; with none wanted, has
    none.
    """
    if not wanted:
        return not snapshot.tags
    return wanted in snapshot.tags or set(wanted.split(",")) <= set(snapshot.tags)


def _globs(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a text is matched by one of the globs, upper and lower case being different."""
    compiled = [glob(pattern) for pattern in patterns]
    return lambda text: any(match(text) for match in compiled)


def glob(pattern: str) -> Callable[[str], object]:
    """What tells whether a text is matched by a shell's glob. InvalidArgument for one with a `[`
    that nothing closes.
    """
    rest = re.sub(r"\[!?\]?[^\]]*\]", "", pattern)
    if "[" in rest:
        raise InvalidArgument(f"not a glob: {pattern!r}", hint="close the [, or write it as [[]")
    return re.compile(fnmatch.translate(pattern)).match


def _paths(value: Path_ | Sequence[Path_]) -> Callable[[str], bool]:
    several = [value] if isinstance(value, str | bytes | os.PathLike) else value
    wanted = [os.fsdecode(path) for path in several]
    matches = _globs(wanted)
    return lambda root: matches(root) or any(_below(path, root) for path in wanted)


def _below(path: str, root: str) -> bool:
    """Whether a path is that of a root, or lies below it."""
    return (path.rstrip("/") + "/").startswith(root.rstrip("/") + "/")
