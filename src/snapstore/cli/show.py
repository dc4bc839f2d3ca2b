"""`snap show`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from snapstore.cli import left_out, render
from snapstore.cli.pager import paged
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore import Root, Snapshot


@declare(
    "show",
    examples="""
    snap show latest
    snap show before-upgrade --json
    snap show 3f2a91c7
    snap show @2026-11-01
    """,
)
@click.argument("ref")
@click.pass_obj
def command(settings: Settings, /, ref: str) -> None:
    """Show everything that is recorded about a snapshot.

    REF is `latest`, a name, the beginning of an id, or @TIME for the newest before a time; with ~1
    behind it, the one before that.
    """
    with open_store(settings, "r") as store, left_out.passed_over(store, settings, ref):
        snapshot = store.get(ref)
    if settings.json:
        render.document({"snapshot": snapshot.to_dict()})
        return
    with paged(settings):
        render.pairs(_rows(snapshot))


def _rows(snapshot: "Snapshot") -> Iterator[tuple[str, str]]:
    yield "snapshot", snapshot.id
    if snapshot.status != "ready":
        yield "state", f"{snapshot.status}: {render.plain(snapshot.error or '')}"
    yield "name", render.plain(snapshot.name or "")
    if not snapshot.record:  # it could not be read: there is but the label
        yield from _label(snapshot)
        return
    yield "created", render.moment(snapshot.created_at)
    yield "host", render.plain(snapshot.host)
    yield "source", render.plain(snapshot.source)
    yield "kind", snapshot.kind
    yield "state", "partial: some files could not be read" if snapshot.partial else ""
    if snapshot.status == "ready" and snapshot.error:
        yield "label", f"not all of it can be read: {render.plain(snapshot.error)}"
    yield from _label(snapshot)
    yield from _several("parent", snapshot.parents)
    yield "size", render.size(snapshot.size_bytes)
    yield from _several("holds", (_root(root) for root in snapshot.roots))
    yield from _several("made with", _rules(snapshot))
    yield "tool", render.plain(snapshot.tool)
    yield from _several("unreadable", _unreadable(snapshot))
    yield from _several("changed", (render.name(path) for path in snapshot.changed))


def _label(snapshot: "Snapshot") -> Iterator[tuple[str, str]]:
    yield "tags", render.plain(", ".join(snapshot.tags))
    yield "description", render.plain(snapshot.description or "")
    yield from _several("metadata", (f"{key}={value}" for key, value in snapshot.metadata.items()))


def _several(label: str, values: "Iterator[str] | tuple[str, ...]") -> Iterator[tuple[str, str]]:
    """Rows for a field with several values: the label stands on the first."""
    for value in values:
        yield label, render.plain(value)
        label = ""


def _rules(snapshot: "Snapshot") -> Iterator[str]:
    for rule, value in snapshot.rules.items():
        if isinstance(value, list):
            yield from (f"{rule} {one}" for one in value)
        else:
            yield rule if value == 1 else f"{rule} {value}"


def _root(root: "Root") -> str:
    below = f", {render.amount(root.entries, 'entry', 'entries')}" if root.entries > 1 else ""
    return f"{render.name(root.path)}  ({root.kind}{below}, {render.size(root.bytes)})"


def _unreadable(snapshot: "Snapshot") -> Iterator[str]:
    for path, error in snapshot.unreadable:
        yield f"{render.name(path)}: {error}"
    unnamed = snapshot.unreadable_count - len(snapshot.unreadable)
    if unnamed:
        yield f"… and {unnamed:,} more"
