"""Selection: roots and rules out of what a caller names, lists and leaves out; and what they say of
one path.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snapstore import _native
from snapstore.base import bytestext
from snapstore.base.arguments import several
from snapstore.base.errors import InvalidArgument, SourceUnreadable
from snapstore.base.units import size_bytes
from snapstore.model.fields import take, take_bytes, take_int, take_list
from snapstore.model.patterns import any_case
from snapstore.model.results import Explanation
from snapstore.model.selection import PatternFile, Selection
from snapstore.repository.open import Repository

Line = tuple[bytes, bytes | None, int]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is left out. `lines`: (gitignore line, file it stands in, its number there)."""

    lines: tuple[Line, ...] = ()
    ignore_files: bool = True
    caches: bool = False
    markers: tuple[bytes, ...] = ()
    larger_than: int | None = None
    one_file_system: bool = False

    @classmethod
    def of(cls, selection: Selection) -> "Rules":
        """InvalidArgument, SourceUnreadable (a file of patterns)."""
        unknown = set(selection) - set(Selection.__annotations__)
        if unknown:
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        patterns = several("exclude", selection.get("exclude", ()))
        files = several("exclude_files", selection.get("exclude_files", ()))
        markers = several("exclude_if_present", selection.get("exclude_if_present", ()))
        larger_than = selection.get("exclude_larger_than")
        rules = cls(
            lines=tuple(_lines([*patterns, *map(PatternFile, files)])),
            ignore_files=selection.get("ignore_files", True),
            caches=selection.get("exclude_caches", False),
            markers=tuple(map(_marker, markers)),
            larger_than=None if larger_than is None else size_bytes(larger_than),
            one_file_system=selection.get("one_file_system", False),
        )
        rules.native([])  # whatever is wrong with them is said at once
        return rules

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> "Rules":
        """What `record` gave. Keys that this version does not know say nothing. DamagedObject,
        InvalidArgument (a pattern that has no meaning).
        """
        record = dict(record)
        limit = "exclude_larger_than"
        rules = cls(
            lines=tuple((line, None, 0) for line in _byte_strings(record, "exclude")),
            ignore_files=not take(record, "no_ignore_files", int, 0),
            caches=bool(take(record, "exclude_caches", int, 0)),
            markers=_byte_strings(record, "exclude_if_present"),
            larger_than=take_int(record, limit) if limit in record else None,
            one_file_system=bool(take(record, "one_file_system", int, 0)),
        )
        rules.native([])
        return rules

    def native(self, skip: Sequence[tuple[int, int]]) -> "_native.Selection":
        """For the core; `skip`: (device, inode) of directories never taken."""
        return _native.Selection(
            rules=self.lines,
            ignore_files=self.ignore_files,
            caches=self.caches,
            markers=self.markers,
            larger_than=self.larger_than,
            one_file_system=self.one_file_system,
            skip=skip,
        )

    def record(self) -> dict[str, Any]:
        """`rules` of a snapshot's record: what differs from a create without options."""
        record: dict[str, Any] = {
            "exclude": [bytestext.to_text(line) for line, _, _ in self.lines],
            "exclude_caches": int(self.caches),
            "exclude_if_present": [bytestext.to_text(marker) for marker in self.markers],
            "exclude_larger_than": self.larger_than,
            "no_ignore_files": int(not self.ignore_files),
            "one_file_system": int(self.one_file_system),
        }
        zero = "exclude_larger_than" if self.larger_than == 0 else None
        return {key: value for key, value in record.items() if value or key == zero}


@dataclass(frozen=True, slots=True)
class Place:
    """A path that becomes a root. `named`: paths below it that are taken whatever the rules say;
    unless `whole`, nothing else is.
    """

    path: bytes
    named: tuple[bytes, ...] = ()
    whole: bool = True

    @property
    def prefix(self) -> bytes:
        """How the paths below it begin."""
        return self.path.rstrip(b"/") + b"/"


def places(paths: Sequence[bytes], listed: Iterable[bytes]) -> list[Place]:
    """Roots for absolute paths: `paths` one by one; those `listed` below them, or else together
    below their deepest common directory.
    """
    named: dict[bytes, list[bytes]] = {path: [] for path in paths}
    others = []
    for path in dict.fromkeys(listed):
        root = _root_of(path, named) if paths else None
        if root is None:
            others.append(path)
        elif root != path:
            named[root].append(path)
    found = [_place(path, below, whole=True) for path, below in named.items()]
    if others:
        top = os.path.commonpath(others)
        below = [path for path in others if path != top]
        found.append(_place(top, below, whole=len(below) < len(others)))
    return found


def explain(
    places: Sequence[Place], rules: Rules, skip: Sequence[tuple[int, int]], path: bytes
) -> Explanation:
    """Why `path`, absolute, is taken or left out. Of several roots that hold it, one that takes it
    counts, else the deepest.
    """
    selection = rules.native(skip)
    around = [place for place in places if path == place.path or path.startswith(place.prefix)]
    explained = [
        _explain(place, selection, path)
        for place in sorted(around, key=lambda place: len(place.path), reverse=True)
    ]
    taken = (explanation for explanation in explained if explanation.taken)
    outside = Explanation(path, taken=False, reason="outside", decided_at=path)
    return next(taken, explained[0] if explained else outside)


def _explain(place: Place, selection: "_native.Selection", path: bytes) -> Explanation:
    said = _native.explain_path(
        place.path,
        path[len(place.prefix) :],
        selection=selection,
        named=place.named,
        whole=place.whole,
    )
    rule = said.why in ("rule", "cache", "marker")
    return Explanation(
        path,
        taken=said.taken,
        reason=said.why,
        root=place.path,
        decided_at=place.prefix + said.at if said.at else place.path,
        rule=said.text if rule else None,
        file=None if said.file is None else os.path.join(place.path, said.file),
        line=said.line or None,
        error=bytestext.to_text(said.text) if said.text and not rule else None,
        broken=tuple((place.prefix + path, why) for path, why in said.broken),
    )


def _root_of(path: bytes, roots: dict[bytes, list[bytes]]) -> bytes | None:
    """The deepest of `roots` that holds `path`."""
    while path not in roots:
        above = os.path.dirname(path)
        if above == path:
            return None
        path = above
    return path


def _place(path: bytes, below: Sequence[bytes], *, whole: bool) -> Place:
    length = len(Place(path).prefix)
    return Place(path, tuple(one[length:] for one in below), whole)


def listed_record(places: Sequence[Place]) -> dict[str, Any]:
    """What was listed below these roots, for `rules` of a snapshot's record."""
    record: dict[str, Any] = {}
    if listed := sum(len(place.named) for place in places):
        record["listed"] = listed
    for place in places:
        if not place.whole:
            record["only_listed"] = bytestext.to_text(place.path)
    return record


def own_directories(repository: Repository) -> list[tuple[int, int]]:
    """(device, inode) of the store and of what is derived from it: never taken."""
    found = []
    for path in (repository.path, repository.local):
        if path is not None:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found.append((status.st_dev, status.st_ino))
    return found


def _byte_strings(record: dict[str, Any], key: str) -> tuple[bytes, ...]:
    return tuple(take_bytes({key: text}, key) for text in take_list(record, key, str))


def _marker(name: str | bytes) -> bytes:
    marker = os.fsencode(name)
    if not marker or b"/" in marker or b"\0" in marker or marker in (b".", b".."):
        raise InvalidArgument(f"a marker cannot be called {name!r}", hint="name a file, no path")
    return marker


def _lines(patterns: Iterable[str | bytes | PatternFile]) -> Iterator[Line]:
    for pattern in patterns:
        if isinstance(pattern, PatternFile):
            file = os.path.abspath(os.fsencode(pattern.path))
            for line, number in _lines_of_file(file):
                yield any_case(line) if pattern.any_case else line, file, number
            continue
        line = os.fsencode(pattern)
        if not line.strip(b" \r"):
            raise InvalidArgument("a pattern cannot be empty")
        # Only in files does a # begin a comment.
        yield (b"\\" + line if line.startswith(b"#") else line), None, 0


def _lines_of_file(path: bytes) -> Iterator[tuple[bytes, int]]:
    try:
        with open(path, "rb") as file:
            text = file.read().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        name = bytestext.to_text(path)
        raise SourceUnreadable(
            f"cannot read the patterns in {name}: {error.strerror}", path=name
        ) from error
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if line.strip(b" ") and not line.startswith(b"#"):
            yield line, number
