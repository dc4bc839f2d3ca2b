"""`snap du`."""

from typing import TYPE_CHECKING

import click

from snapstore.cli import progress, render
from snapstore.cli.render import Column
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore.api import DiskUse


@declare(
    "du",
    examples="""
    snap du
    snap du before-upgrade
    snap du latest:/var/lib --json
    """,
)
@click.argument("ref", required=False, metavar="[REF[:PATH]]")
@click.pass_obj
def command(settings: Settings, /, ref: str | None) -> None:
    """Show what snapshots take, and what each alone holds.

    SIZE adds up the sizes of files. UNIQUE is what no other snapshot needs: content and trees
    before compression, each piece counted once. Deleting one snapshot changes what others share,
    and so their UNIQUE.
    """
    with open_store(settings, "r") as store, progress.reporter(settings) as report:
        used = store.du(ref, report)
    if settings.json:
        render.document({"snapshots": [one.to_dict() for one in used]})
    elif used:
        render.table(_COLUMNS, [_row(one) for one in used])
    elif not settings.quiet:
        render.note("snap: no snapshots yet")


_COLUMNS = (
    Column("ID"),
    Column("CREATED"),
    Column("NAME", elastic=True),
    Column("ENTRIES", right=True),
    Column("SIZE", right=True),
    Column("UNIQUE", right=True),
    Column("PATH", elastic=True),
)


def _row(one: "DiskUse") -> list[str]:
    return [
        one.snapshot.short_id,
        render.moment(one.snapshot.created_at, seconds=False),
        render.plain(one.snapshot.name or ""),
        f"{one.entries:,}",
        render.size(one.logical_bytes),
        render.size(one.unique_bytes),
        "" if one.path is None else render.name(one.path),
    ]
