"""`snap stats`."""

from typing import TYPE_CHECKING

import click

from snapstore.cli import left_out, render
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore import StoreStats


@declare(
    "stats",
    examples="""
    snap stats
    snap stats --json
    """,
)
@click.pass_obj
def command(settings: Settings, /) -> int:
    """Show how much the store holds and saves."""
    with open_store(settings, "r") as store, left_out.noted(store, settings) as missed:
        stats = store.stats()
        if settings.json:
            render.document({**stats.to_dict(), "left_out": left_out.as_json(missed)})
        else:
            render.pairs([("store", render.name(str(store.path))), *_rows(stats)])
    return left_out.status(missed)


def _rows(stats: "StoreStats") -> list[tuple[str, str]]:
    span = ""
    if stats.oldest and stats.newest:
        span = f"{render.moment(stats.oldest)} to {render.moment(stats.newest)}"
    parts = (
        f"content {render.size(stats.data_bytes)}, trees {render.size(stats.meta_bytes)},"
        f" other {render.size(stats.other_bytes)}"
    )
    return [
        ("snapshots", f"{stats.snapshots:,}"),
        ("from", span),
        ("all files", f"{render.size(stats.logical_bytes)}, counted in every snapshot"),
        ("distinct", f"{render.size(stats.plain_bytes)} in {render.amount(stats.chunks, 'chunk')}"),
        (
            "stored",
            f"{render.size(stats.stored_bytes)} in {render.amount(stats.packs, 'pack')} ({parts})",
        ),
        ("saving", _saving(stats)),
        ("index", f"{render.size(stats.index_bytes)}, derived"),
    ]


def _saving(stats: "StoreStats") -> str:
    if not stats.logical_bytes:
        return ""
    return f"{stats.total_ratio:.1f} times smaller than the files"
