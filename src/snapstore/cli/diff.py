"""`snap diff`."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from snapstore.base.errors import SnapshotNotFound
from snapstore.cli import errors, render
from snapstore.cli.errors import Usage
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore.api import Change, DiffStat, Store

DIFFERENT = 1

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

    Two snapshots are compared, or a snapshot with a directory. Lines begin with + added, - removed, M other content, U other metadata, T other type, R renamed,
    ? unreadable. The second is a directory when no snapshot answers to it; ./NAME is always one.

    The exit status is 0 when there is no difference, 1 when there is, 3 when something on disk
    could not be read.
    """
    from snapstore.api import DiffStat

    counts = DiffStat()
    with open_store(settings, "r") as store:
        changes = _counted(_changes(store, old, new, paths, **options), counts)
        if settings.json:
            _print_json(old, new, changes, counts, listed=not stat)
        elif stat:
            for _ in changes:
                pass
            render.pairs(_stat_rows(counts))
        elif name_only:
            render.paths(change.path for change in changes)
        else:
            for change in changes:
                render.out(_line(change))
    if counts.unreadable:
        return errors.PARTIAL
    return DIFFERENT if counts.changes else errors.OK


def _changes(
    store: "Store",
    old: str,
    new: str,
    paths: Sequence[str],
    *,
    ignore: Sequence[str],
    no_renames: bool,
    content: bool,
) -> "Iterator[Change]":
    if not _is_directory(store, new):
        if content:
            raise Usage("--content is for a directory on disk")
        return store.diff(old, new, paths=paths, ignore=ignore, renames=not no_renames)
    if paths:
        raise Usage("a directory is compared as a whole", f"say which part: {old}:PATH {new}/PATH")
    return store.diff_directory(old, new, ignore=ignore, content=content)


def _is_directory(store: "Store", name: str) -> bool:
    """Whether a name means something on disk: it must not name a snapshot."""
    if name.startswith((".", "/")):
        return True
    try:
        store.resolve(name)
    except SnapshotNotFound:
        if os.path.lexists(name):
            return True
        raise
    return False


def _counted(changes: "Iterable[Change]", counts: "DiffStat") -> "Iterator[Change]":
    for change in changes:
        counts.add(change)
        yield change


def _line(change: "Change") -> str:
    path = render.name(change.path)
    if change.old_path is not None:
        path = f"{render.name(change.old_path)} -> {path}"
    elif change.new is not None and change.new.type == "directory":
        path += "/" if not path.endswith("/") else ""
    if change.error is not None:
        path += f": {render.plain(change.error)}"
    told = [field for field in change.fields if field != "content"]
    return f"{_LETTERS[change.kind]}  {path}" + (f"  ({', '.join(told)})" if told else "")


def _stat_rows(counts: "DiffStat") -> Iterator[tuple[str, str]]:
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
    old: str, new: str, changes: "Iterable[Change]", counts: "DiffStat", *, listed: bool
) -> None:
    """One document, written as the changes come."""
    head = json.dumps({"old": old, "new": new})
    sys.stdout.write(head[:-1] + ', "changes": [')
    separator = "\n  "
    for change in changes:
        if listed:
            sys.stdout.write(separator + json.dumps(change.to_dict()))
            separator = ",\n  "
    sys.stdout.write('\n], "stat": ' + json.dumps(counts.to_dict()) + "}\n")
