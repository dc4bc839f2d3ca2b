"""`snap ls`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from snapstore.cli import left_out, render
from snapstore.cli.pager import paged
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore import ListedEntry, Snapshot


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
    with open_store(settings, "r") as store, left_out.passed_over(store, settings, ref):
        snapshot, path = store.resolve(ref)
        entries = store.ls(snapshot.id, path or b"", recursive=recursive)
        if settings.json:
            found = (listed.to_dict() for listed in entries)
            render.streamed({"snapshot": snapshot.id}, "entries", found)
            return
        with paged(settings):
            if long:
                _print_long(snapshot, entries)
            else:
                render.paths(listed.path for listed in entries)


def _print_long(snapshot: "Snapshot", entries: Iterable["ListedEntry"]) -> None:
    for listed in entries:
        render.out(render.entry_line(listed.path, listed.entry, snapshot.owners))
