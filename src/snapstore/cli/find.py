"""`snap find`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from snapstore.cli import left_out, render
from snapstore.cli.pager import paged
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.model.entries import TYPES

if TYPE_CHECKING:
    from snapstore import FoundEntry


@declare(
    "find",
    examples="""
    snap find sshd_config
    snap find '*.sql' latest before-upgrade:/srv --larger-than 1G
    snap find --regex '/etc/.*\\.pem$' --newer-than now-2w
    """,
)
@click.argument("pattern")
@click.argument("refs", nargs=-1, metavar="[REF[:PATH]]...")
@click.option("--regex", is_flag=True, help="PATTERN is a regular expression, for any part.")
@click.option("-i", "--ignore-case", is_flag=True, help="Letters match in either case.")
@click.option("--larger-than", metavar="SIZE", help="Only larger files.")
@click.option("--smaller-than", metavar="SIZE", help="Only smaller files.")
@click.option("--newer-than", metavar="TIME", help="Only what was last changed after TIME.")
@click.option("--older-than", metavar="TIME", help="Only what was last changed before TIME.")
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice(TYPES),
    metavar="TYPE",
    help=f"Only this type: {', '.join(TYPES)}.",
)
@click.option("-l", "--long", is_flag=True, help="With mode, owner, group, size and time.")
@click.pass_obj
def command(
    settings: Settings, /, pattern: str, refs: tuple[str, ...], long: bool, **filters: Any
) -> int:
    """Find files by name, size, time and type in all snapshots.

    PATTERN is for the whole name; with a / in it for the path, or its end. Lines are REF:PATH, the
    newest snapshot first. With REF, only these snapshots are searched.
    """
    with (
        open_store(settings, "r") as store,
        left_out.noted(store, settings, of_all=not refs) as missed,
        left_out.passed_over(store, settings, *refs),
    ):
        found = store.find(pattern, *refs, **filters)
        if settings.json:
            head = {"left_out": left_out.as_json(missed)}
            render.streamed(head, "found", (one.to_dict() for one in found))
        else:
            with paged(settings):
                _print(found, long)
    return left_out.status(missed)


def _print(found: "Iterable[FoundEntry]", long: bool) -> None:
    if not long:
        render.paths(map(_reference, found))
        return
    for one in found:
        render.out(render.entry_line(_reference(one), one.entry, one.snapshot.owners))


def _reference(one: "FoundEntry") -> bytes:
    return b"%b:%b" % (one.snapshot.short_id.encode(), one.path)
