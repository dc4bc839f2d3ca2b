"""`snap du`."""

from typing import TYPE_CHECKING

import click

from snapstore.cli import left_out, progress, render
from snapstore.cli.pager import paged
from snapstore.cli.render import Column
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore import DiskUse


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
def command(settings: Settings, /, ref: str | None) -> int:
    """Show what snapshots take, and what each alone holds.

    SIZE adds up the sizes of files. UNIQUE is what no other snapshot needs: content and trees
    before compression, each piece counted once. Deleting one snapshot changes what others share,
    and so their UNIQUE.
    """
    with open_store(settings, "r") as store, left_out.noted(store, settings) as missed:
        with progress.reporter(settings) as report:
            used = store.du(ref, report)
        if settings.json:
            found = [one.to_dict() for one in used]
            render.document({"snapshots": found, "left_out": left_out.as_json(missed)})
        elif used:
            with paged(settings):
                render.table(_COLUMNS, [_row(one) for one in used])
        elif not settings.quiet:
            render.note("snap: no snapshots yet")
    return left_out.status(missed)


_COLUMNS = (
    Column("ID"),
    Column("CREATED", rank=4),
    Column("NAME", elastic=True, rank=2),
    Column("ENTRIES", right=True, rank=5),
    Column("SIZE", right=True, rank=1),
    Column("UNIQUE", right=True),
    Column("PATH", elastic=True, rank=3),
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
