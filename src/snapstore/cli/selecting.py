"""Selection on the command line: patterns in the order they were given, lists of paths, and
explanations.
"""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from snapstore.base.errors import InvalidArgument, SourceUnreadable
from snapstore.cli import pathlist, render
from snapstore.cli.errors import Usage
from snapstore.cli.settings import Settings

if TYPE_CHECKING:
    from snapstore import Explanation, PatternFile, Selection


def arguments(options: dict[str, Any], order: Sequence[str | None]) -> "Selection":
    """The options that select, out of `options`, for the library. `order`: names of the options as
    they were given.
    """
    return {
        "exclude": list(_patterns(options, order)),
        "ignore_files": not options.pop("no_ignore_files"),
        "exclude_caches": options.pop("exclude_caches"),
        "exclude_if_present": options.pop("exclude_if_present"),
        "exclude_larger_than": options.pop("exclude_larger_than"),
        "one_file_system": options.pop("one_file_system"),
    }


_PATTERNS = ("exclude", "iexclude", "include", "exclude_files", "iexclude_files")


def _patterns(
    options: dict[str, Any], order: Sequence[str | None]
) -> "Iterator[str | bytes | PatternFile]":
    from snapstore import PatternFile, any_case

    values = {name: iter(options.pop(name)) for name in _PATTERNS}
    for name in order:
        if name == "exclude":
            yield next(values[name])
        elif name == "iexclude":
            yield any_case(next(values[name]))
        elif name == "include":
            pattern = next(values[name])
            if not pattern or pattern.startswith("!"):
                raise Usage(
                    f"--include: '{pattern}' is not a pattern", "write a ! in a name as \\!"
                )
            yield "!" + pattern
        elif name in ("exclude_files", "iexclude_files"):
            yield PatternFile(next(values[name]), any_case=name == "iexclude_files")


def warn_of_absolute(selection: "Selection", paths: Sequence[str]) -> None:
    """Other tools match patterns against absolute paths; here such a one would match nothing."""
    for pattern in selection.get("exclude", ()):
        if not isinstance(pattern, str):
            continue
        for path in map(os.path.abspath, paths):
            below = pattern.removeprefix("!").removeprefix(path)
            if path != "/" and below.startswith("/") and pattern.removeprefix("!") != below:
                option = "include" if pattern.startswith("!") else "exclude"
                render.warning(f"--{option} counts from {path}: write '{below}'")


def lists(options: dict[str, Any], *, stdin_is_taken: bool) -> list[tuple[str, bool]]:
    """(file, whether its paths end with NUL) of each list of paths."""
    found = [(file, False) for file in options.pop("files_from")]
    found += [(file, True) for file in options.pop("files_from0")]
    if [file for file, _ in found].count("-") + stdin_is_taken > 1:
        raise Usage("standard input can be read only once", "write one of the lists to a file")
    return found


def listed(lists: Iterable[tuple[str, bool]]) -> list[bytes]:
    """All paths in the lists."""
    paths: list[bytes] = []
    for file, nul in lists:
        try:
            paths += pathlist.split(_content(file), nul=nul)
        except InvalidArgument as error:
            raise InvalidArgument(f"{file}: {error.message}", hint=error.hint) from error
        except OSError as error:
            raise SourceUnreadable(
                f"cannot read the list {file}: {error.strerror}", path=file
            ) from error
    return paths


def _content(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    with open(file, "rb") as opened:
        return opened.read()


def show(explained: Sequence["Explanation"], settings: Settings) -> None:
    """Says of each path whether it would be taken, and why."""
    if settings.json:
        render.document({"explained": [explanation.to_dict() for explanation in explained]})
        return
    for explanation in explained:
        verdict = "in " if explanation.taken else "out"
        render.out(f"{verdict}  {render.name(explanation.path)}: {_why(explanation)}")
    for path, error in dict.fromkeys(one for said in explained for one in said.broken):
        render.warning(f"{render.name(path)}: {render.plain(error)}")


_WHY = {
    "default": "nothing leaves it out",
    "named": "it was named",
    "way": "something below it was named",
    "socket": "sockets cannot be taken",
    "store": "it is the store itself",
    "mount": "another file system (--one-file-system)",
    "size": "it is too large (--exclude-larger-than)",
    "unnamed": "it was not listed",
    "outside": "none of the paths to take leads there",
}


def _why(explanation: "Explanation") -> str:
    why = _WHY.get(explanation.reason) or _told(explanation)
    if explanation.decided_at != explanation.path and explanation.reason != "outside":
        return f"{render.name(explanation.decided_at)}: {why}"
    return why


def _told(explanation: "Explanation") -> str:
    if explanation.reason in ("missing", "unreadable"):
        return render.plain(explanation.error or explanation.reason)
    rule = render.name(explanation.rule or b"")
    if explanation.reason in ("cache", "marker"):
        option = "caches" if explanation.reason == "cache" else "if-present"
        return f"{rule} marks its directory (--exclude-{option})"
    if explanation.file is not None:
        return f"{rule} ({render.name(explanation.file)}, line {explanation.line})"
    if rule.startswith("!"):
        return f"--include {shlex.quote(rule[1:])}"
    return f"--exclude {shlex.quote(rule)}"
