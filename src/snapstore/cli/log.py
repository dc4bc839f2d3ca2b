"""`snap log`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from snapstore.base.errors import PathNotFound
from snapstore.cli import left_out, render
from snapstore.cli.pager import paged
from snapstore.cli.render import Column
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import PATH

if TYPE_CHECKING:
    from snapstore import PathVersion, Store


@declare(
    "log",
    examples="""
    snap log /etc/ssh/sshd_config
    snap log /srv/app --host web1 --json
    """,
)
@click.argument("path", type=PATH)
@click.option("--host", help="Only snapshots of this host.")
@click.option("--source", help="Only snapshots of this series.")
@click.pass_obj
def command(settings: Settings, /, path: str, host: str | None, source: str | None) -> int:
    """Show all versions of one path.

    The newest comes first. SINCE is the time of the first snapshot that has the version, REF the
    newest one; `snap cat REF:PATH` prints it. A relative PATH is meant from here, or else from a
    path that a snapshot took.
    """
    with open_store(settings, "r") as store, left_out.noted(store, settings) as missed:
        versions = _versions(store, path, host=host, source=source)
        if settings.json:
            found = [version.to_dict() for version in versions]
            render.document({"versions": found, "left_out": left_out.as_json(missed)})
        else:
            with paged(settings):
                _print(versions)
    return left_out.status(missed)


def _versions(store: "Store", path: str, **chosen: str | None) -> "list[PathVersion]":
    try:
        return store.log(os.path.abspath(path), **chosen)
    except PathNotFound:
        if path.startswith("/"):
            raise
    return store.log(path, **chosen)


_COLUMNS = (
    Column("REF"),
    Column("SINCE", rank=1),
    Column("SNAPSHOTS", right=True, rank=3),
    Column("SIZE", right=True, rank=2),
    Column("HOST", elastic=True, rank=4),
    Column("CHANGE", elastic=True),
)


def _print(versions: Sequence["PathVersion"]) -> None:
    several_hosts = len({version.host for version in versions}) > 1
    render.table(_COLUMNS, [_row(version, several_hosts) for version in versions])


def _row(version: "PathVersion", with_host: bool) -> list[str]:
    entry = version.entry
    return [
        version.snapshots[0].short_id,
        render.moment(version.since, seconds=False),
        f"{len(version.snapshots):,}",
        "" if entry is None else render.size(entry.bytes or entry.size),
        render.plain(version.host) if with_host else "",
        version.change + (f": {', '.join(version.fields)}" if version.fields else ""),
    ]
