"""`snap list`."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from snapstore.cli import left_out, render
from snapstore.cli.pager import paged
from snapstore.cli.render import Column
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import PATH

if TYPE_CHECKING:
    from snapstore import Snapshot, Store

# Filters for what stands in a snapshot's record; what others ask for stands in its label.
_OF_RECORD = ("path", "host", "source", "since", "until", "larger_than", "smaller_than")

# What `--sort` takes, and the order that it means: the newest and the largest first.
_ORDERS = {
    "time": "-created_at",
    "size": "-size_bytes",
    "name": "name",
    "source": "source",
    "host": "host",
}


@declare(
    "list",
    examples="""
    snap list --tag prod --limit 10
    snap list --name 'before-*' --since now-7d
    snap list --path /srv/app --sort size
    snap list --since 2026-11-01 --until 2026-12-01 --json
    snap list --format '{id} {name:<20} {size:>10}'
    """,
)
@click.option("--name", multiple=True, metavar="GLOB", help="Only of this name (repeatable).")
@click.option(
    "--tag",
    multiple=True,
    metavar="TAG[,TAG]",
    help="Only with this tag; with all of several; '' for none (repeatable).",
)
@click.option(
    "--path",
    multiple=True,
    type=PATH,
    metavar="PATH",
    help="Only those that took it (repeatable).",
)
@click.option("--host", multiple=True, metavar="GLOB", help="Only of this host (repeatable).")
@click.option("--source", multiple=True, metavar="GLOB", help="Only this series (repeatable).")
@click.option("--since", metavar="TIME", help="Only from then on: 2026-11-01, now-7d.")
@click.option("--until", metavar="TIME", help="Only from before then.")
@click.option("--larger-than", metavar="SIZE", help="Only of more than this: 10G.")
@click.option("--smaller-than", metavar="SIZE", help="Only of less than this.")
@click.option("--all", is_flag=True, help="Also those made by the system and for safety.")
@click.option("--sort", type=click.Choice(list(_ORDERS)), default="time", help="What orders them.")
@click.option("-r", "--reverse", is_flag=True, help="In the opposite order.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most the first N.")
@click.option("--format", "template", metavar="TEMPLATE", help="A line for each, with {field}s.")
@click.pass_obj
def command(
    settings: Settings, /, sort: str, reverse: bool, template: str | None, **options: Any
) -> int:
    """List snapshots, the newest first.

    A snapshot is listed when it passes every filter given; of one that is repeated, any value will
    do. GLOB is matched as by the shell. PATH is one that the snapshot took, itself or with a
    directory above it, or a GLOB of such. -v shows whole ids, hosts and sources.
    """
    show = _shower(settings, template)
    order = _ORDERS[sort]
    if reverse:
        order = order[1:] if order.startswith("-") else f"-{order}"
    filters = {name: value or None for name, value in options.items()}
    filters["path"] = list(_paths(options["path"])) or None
    with open_store(settings, "r") as store:
        snapshots = store.snapshots(order=order, **{**filters, "all": options["all"]})
        asked = any(filters[name] for name in _OF_RECORD)
        missed = _missed(store, snapshots) if asked else []
    if settings.json:
        found = [snapshot.to_dict() for snapshot in snapshots]
        render.document({"snapshots": found, "left_out": left_out.as_json(missed)})
    elif snapshots:
        with paged(settings):
            show(snapshots)
    elif not settings.quiet:
        render.note("snap: no snapshots" + (" match" if any(filters.values()) else " yet"))
    left_out.warn(missed, settings)
    return left_out.status(missed)


def _missed(store: "Store", listed: Sequence["Snapshot"]) -> list["Snapshot"]:
    """Snapshots that are not listed, and of which nobody can tell whether they would pass."""
    ids = {snapshot.id for snapshot in listed}
    return [one for one in store.unreadable_snapshots() if not one.record and one.id not in ids]


def _paths(given: Sequence[str]) -> Iterator[str]:
    """Paths as they may be recorded: those of files absolute, names of streams as they are."""
    for path in given:
        yield path
        if not path.startswith("/"):
            yield os.path.abspath(path)


def _shower(settings: Settings, text: str | None) -> Callable[[Sequence["Snapshot"]], None]:
    """What prints the snapshots."""
    if text is None:
        return lambda snapshots: _print(snapshots, settings.verbose)
    from snapstore.cli.template import Template

    template = Template(text, FIELDS)

    def show(snapshots: Sequence["Snapshot"]) -> None:
        for snapshot in snapshots:
            template.print(_values(snapshot))

    return show


# Fields of --format

FIELDS: dict[str, Callable[["Snapshot"], str]] = {
    "id": lambda s: s.id,
    "short_id": lambda s: s.short_id,
    "name": lambda s: s.name or "",
    "description": lambda s: s.description or "",
    "tags": lambda s: ",".join(s.tags),
    "metadata": lambda s: ",".join(f"{key}={value}" for key, value in s.metadata.items()),
    "source": lambda s: s.source,
    "host": lambda s: s.host,
    "paths": lambda s: " ".join(os.fsdecode(root.path) for root in s.roots),
    "kind": lambda s: s.kind,
    "state": lambda s: _state(s) or "complete",
    "created": lambda s: render.moment(s.created_at),
    "created_at": lambda s: s.created_at.isoformat(),
    "time_ns": lambda s: str(s.time_ns),
    "size": lambda s: render.size(s.size_bytes),
    "size_bytes": lambda s: str(s.size_bytes),
    "entries": lambda s: str(sum(root.entries for root in s.roots)),
    "parent": lambda s: s.parents[0] if s.parents else "",
    "unreadable": lambda s: str(s.unreadable_count),
    "tool": lambda s: s.tool,
}


def _values(snapshot: "Snapshot") -> dict[str, str]:
    return {name: value(snapshot) for name, value in FIELDS.items()}


# The table

_COLUMNS = (
    Column("ID"),
    Column("CREATED", rank=1),
    Column("NAME", elastic=True),
    Column("SIZE", right=True, rank=3),
    Column("STATE", rank=2),
    Column("HOST", elastic=True, rank=5),
    Column("SOURCE", elastic=True, rank=7),
    Column("TAGS", elastic=True, rank=6),
    Column("PATHS", elastic=True, rank=4),
)


def _print(snapshots: Sequence["Snapshot"], verbose: bool) -> None:
    hosts = verbose or len({snapshot.host for snapshot in snapshots}) > 1
    render.table(_COLUMNS, [_row(snapshot, hosts, verbose) for snapshot in snapshots])


def _row(snapshot: "Snapshot", with_host: bool, verbose: bool) -> list[str]:
    return [
        snapshot.id if verbose else snapshot.short_id,
        render.moment(snapshot.created_at, seconds=verbose) if snapshot.status == "ready" else "",
        render.plain(snapshot.name or ""),
        render.size(snapshot.size_bytes),
        _state(snapshot),
        render.plain(snapshot.host) if with_host else "",
        render.plain(snapshot.source) if verbose else "",
        render.plain(", ".join(snapshot.tags)),
        " ".join(render.name(root.path) for root in snapshot.roots),
    ]


def _state(snapshot: "Snapshot") -> str:
    if snapshot.status != "ready":
        return snapshot.status
    kind = "" if snapshot.kind == "user" else snapshot.kind
    label = "label damaged" if snapshot.error else ""
    return ", ".join(filter(None, [kind, "partial" if snapshot.partial else "", label]))
