"""`snap diff`."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from snapstore.base.errors import SnapshotNotFound
from snapstore.cli import errors, left_out, render
from snapstore.cli.errors import Usage
from snapstore.cli.pager import paged
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore import Change, Store

DIFFERENT = 1
TROUBLE = 2

# Those of snapstore.model.findings; importing that is for when a store is opened.
_FIELDS = ("content", "holes", "target", "device", "mode", "owner", "mtime", "xattrs")
_LETTERS = {
    "added": "+",
    "removed": "-",
    "content": "M",
    "metadata": "U",
    "type": "T",
    "renamed": "R",
    "unreadable": "?",
}


@declare(
    "diff",
    examples="""
    snap diff latest~1 latest
    snap diff before-upgrade latest /etc --stat
    snap diff latest ~/work
    snap diff latest:/etc /mnt/other/etc --ignore mtime --ignore owner
    """,
)
@click.argument("old", metavar="REF[:PATH]")
@click.argument("new", metavar="REF[:PATH]|DIR")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--stat", is_flag=True, help="Only how many, and how many bytes.")
@click.option("--name-only", is_flag=True, help="Only the paths; in a pipe byte for byte.")
@click.option(
    "--ignore",
    multiple=True,
    type=click.Choice(_FIELDS),
    metavar="FIELD",
    help=f"What makes no difference: {', '.join(_FIELDS)}.",
)
@click.option("--no-renames", is_flag=True, help="Show what was renamed as removed and added.")
@click.option(
    "--content", is_flag=True, help="With DIR: compare contents even where size and time agree."
)
@click.option(
    "--all", is_flag=True, help="With DIR: compare what the snapshot's rules leave out, too."
)
@click.pass_obj
def command(
    settings: Settings,
    /,
    old: str,
    new: str,
    paths: tuple[str, ...],
    stat: bool,
    name_only: bool,
    **options: Any,
) -> int:
    """Show what is different between snapshots, or on disk.

    Two snapshots are compared, or a snapshot with a directory: the second is one when no snapshot
    answers to it; ./NAME always is. Lines begin with + added, - removed, M other content, U other
    metadata, T other type, R renamed, ? unreadable. What the snapshot's rules leave out is not
    added.

    The exit status is 0 when there is no difference, 1 when there is, 2 when they could not be
    compared, 3 when something on disk could not be read.
    """
    settings.failed = TROUBLE
    kinds: set[str] = set()
    refs = [ref for ref in (old, new) if not _is_path(ref)]
    with open_store(settings, "r") as store, left_out.passed_over(store, settings, *refs):
        found = _changes(store, old, new, paths, **options)
        changes = _noted(found, kinds)
        if settings.json:
            _print_json(old, new, changes, lambda: _unfinished(found), listed=not stat)
        else:
            with paged(settings):
                _print(changes, stat=stat, name_only=name_only)
            for path in _unfinished(found):
                render.warn_of_unfinished(path, "what is there")
    if "unreadable" in kinds:
        return errors.PARTIAL
    return DIFFERENT if kinds else errors.OK


def _changes(
    store: "Store",
    old: str,
    new: str,
    paths: Sequence[str],
    *,
    ignore: Sequence[str],
    no_renames: bool,
    content: bool,
    all: bool,
) -> "Iterator[Change]":
    if not _is_directory(store, new):
        if content or all:
            raise Usage(f"--{'content' if content else 'all'} is for a directory on disk")
        return store.diff(old, new, paths=paths, ignore=ignore, renames=not no_renames)
    if paths:
        raise Usage("a directory is compared as a whole", f"say which part: {old}:PATH {new}/PATH")
    return store.diff_directory(old, new, ignore=ignore, content=content, all=all)


def _unfinished(changes: "Iterator[Change]") -> "list[bytes]":
    """Staging directories that were met on disk."""
    found: list[bytes] = getattr(changes, "unfinished", [])
    return found


def _is_directory(store: "Store", name: str) -> bool:
    """Whether a name means something on disk: it must not name a snapshot."""
    if _is_path(name):
        return True
    try:
        store.resolve(name)
    except SnapshotNotFound:
        if os.path.lexists(name):
            return True
        raise
    return False


def _is_path(name: str) -> bool:
    return name.startswith((".", "/"))


def _noted(changes: "Iterable[Change]", kinds: set[str]) -> "Iterator[Change]":
    for change in changes:
        kinds.add(change.kind)
        yield change


def _print(changes: "Iterable[Change]", *, stat: bool, name_only: bool) -> None:
    if stat:
        render.pairs(_stat_rows(changes))
    elif name_only:
        render.paths(change.path for change in changes)
    else:
        render.lines(map(_line, changes))


def _line(change: "Change") -> str:
    kind, path, old_path, _, new, fields, error = change
    line = f"{_LETTERS[kind]}  {render.name(path)}"
    if old_path is not None:
        line = f"{_LETTERS[kind]}  {render.name(old_path)} -> {render.name(path)}"
    elif new is not None and new.type == "directory" and not path.endswith(b"/"):
        line += "/"
    if error is not None:
        line += f": {render.plain(error)}"
    return line + _told(fields)


@functools.cache
def _told(fields: tuple[str, ...]) -> str:
    """What differs, behind a path; that content does is said in front."""
    told = ", ".join(field for field in fields if field != "content")
    return f"  ({told})" if told else ""


def _stat_rows(changes: "Iterable[Change]") -> Iterator[tuple[str, str]]:
    from snapstore import DiffStat

    counts = DiffStat.of(changes)
    sizes = {
        "added": counts.added_bytes,
        "removed": counts.removed_bytes,
        "content": counts.content_bytes,
    }
    for kind in _LETTERS:
        count = getattr(counts, kind)
        size = f", {render.size(sizes[kind])}" if kind in sizes else ""
        yield kind, f"{count:,}{size}" if count else ""


def _print_json(
    old: str,
    new: str,
    changes: "Iterable[Change]",
    unfinished: "Callable[[], list[bytes]]",
    *,
    listed: bool,
) -> None:
    from snapstore import DiffStat
    from snapstore.base.bytestext import path_fields

    counts = DiffStat()

    def shown() -> Iterator[dict[str, Any]]:
        for change in changes:
            counts.add(change)
            if listed:
                yield change.to_dict()

    def tail() -> dict[str, Any]:
        return {
            "stat": counts.to_dict(),
            "unfinished": [path_fields(path) for path in unfinished()],
        }

    render.streamed({"old": old, "new": new}, "changes", shown(), tail)
