"""`snap list`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from snapstore.cli import render
from snapstore.cli.render import Column
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore.api import Snapshot


@declare(
    "list",
    examples="""
    snap list
    snap list --tag prod --limit 10
    snap list --host web1 --json
    """,
)
@click.option("--name", help="Only snapshots with this name.")
@click.option("--tag", help="Only snapshots with this tag.")
@click.option("--source", help="Only this series.")
@click.option("--host", help="Only this host.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most the newest N.")
@click.option("--all", is_flag=True, help="Also those made by the system and for safety.")
@click.pass_obj
def command(settings: Settings, /, **filters: Any) -> None:
    """List snapshots, the newest first."""
    with open_store(settings, "r") as store:
        snapshots = store.snapshots(**filters)
    if settings.json:
        render.document({"snapshots": [snapshot.to_dict() for snapshot in snapshots]})
    elif snapshots:
        _print(snapshots)
    elif not settings.quiet:
        render.note("snap: no snapshots" + (" match" if any(filters.values()) else " yet"))


_COLUMNS = (
    Column("ID"),
    Column("CREATED"),
    Column("NAME", elastic=True),
    Column("SIZE", right=True),
    Column("STATE"),
    Column("HOST", elastic=True),
    Column("TAGS", elastic=True),
    Column("PATHS", elastic=True),
)


def _print(snapshots: Sequence["Snapshot"]) -> None:
    several_hosts = len({snapshot.host for snapshot in snapshots}) > 1
    render.table(_COLUMNS, [_row(snapshot, several_hosts) for snapshot in snapshots])


def _row(snapshot: "Snapshot", with_host: bool) -> list[str]:
    return [
        snapshot.short_id,
        render.moment(snapshot.created_at, seconds=False) if snapshot.status == "ready" else "",
        render.plain(snapshot.name or ""),
        render.size(snapshot.size_bytes),
        _state(snapshot),
        render.plain(snapshot.host) if with_host else "",
        render.plain(", ".join(snapshot.tags)),
        " ".join(render.name(root.path) for root in snapshot.roots),
    ]


def _state(snapshot: "Snapshot") -> str:
    if snapshot.status != "ready":
        return snapshot.status
    kind = "" if snapshot.kind == "user" else snapshot.kind
    return " ".join(filter(None, [kind, "partial" if snapshot.partial else ""]))
