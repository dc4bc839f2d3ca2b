"""`snap ls`."""

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from snapstore.cli import render
from snapstore.cli.pager import paged
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore.api import ListedEntry, Snapshot


@declare(
    "ls",
    examples="""
    snap ls latest
    snap ls -l before-upgrade:/etc/ssh
    snap ls -R latest | grep sshd
    """,
)
@click.argument("ref", metavar="REF[:PATH]")
@click.option("-l", "--long", is_flag=True, help="With mode, owner, group, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="With everything below.")
@click.pass_obj
def command(settings: Settings, /, ref: str, long: bool, recursive: bool) -> None:
    """List the files of a snapshot.

    Without PATH, the paths that the snapshot took. Names are printed in full and, on a terminal,
    escaped as in the shell's $'…'; in a pipe, `snap ls` without -l prints them byte for byte.
    """
    with open_store(settings, "r") as store:
        snapshot, path = store.resolve(ref)
        entries = store.ls(snapshot.id, path or b"", recursive=recursive)
        if settings.json:
            _print_json(snapshot, entries)
            return
        with paged(settings):
            if long:
                _print_long(snapshot, entries)
            else:
                _print_names(entries)


def _print_json(snapshot: "Snapshot", entries: Iterable["ListedEntry"]) -> None:
    """One document, written as the entries come: a listing may be larger than memory."""
    head = json.dumps({"snapshot": snapshot.id})
    sys.stdout.write(head[:-1] + ', "entries": [')
    separator = "\n  "
    for entry in entries:
        sys.stdout.write(separator + json.dumps(entry.to_dict()))
        separator = ",\n  "
    sys.stdout.write("\n]}\n")


def _print_names(entries: Iterable["ListedEntry"]) -> None:
    if render.escapes():
        for listed in entries:
            render.out(render.name(listed.path))
        return
    sys.stdout.flush()
    for listed in entries:
        sys.stdout.buffer.write(listed.path + b"\n")


def _print_long(snapshot: "Snapshot", entries: Iterable["ListedEntry"]) -> None:
    users = snapshot.owners.get("users", {})
    groups = snapshot.owners.get("groups", {})
    for listed in entries:
        entry = listed.entry
        user = render.plain(users.get(str(entry.uid), str(entry.uid)))
        group = render.plain(groups.get(str(entry.gid), str(entry.gid)))
        time = render.moment(_time(entry.mtime_ns))
        what = f"{entry.device[0]}, {entry.device[1]}" if entry.device else f"{entry.size}"
        target = f" -> {render.name(entry.target)}" if entry.target is not None else ""
        render.out(
            f"{render.mode(entry.type, entry.mode)} {user:<8} {group:<8} {what:>12} {time}"
            f" {render.name(listed.path)}{target}"
        )


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC)
