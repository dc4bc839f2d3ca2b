"""`snap reindex`."""

import click

from snapstore.cli import errors, render
from snapstore.cli.progress import reporter
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store


@declare(
    "reindex",
    examples="""
    snap reindex
    snap -s /backup/store reindex
    """,
)
@click.pass_obj
def command(settings: Settings, /) -> int:
    """Rebuild the local index from the store's objects.

    The index is derived: it can be deleted at any time and nothing is lost. Exit status 5 means
    that packs could not be read; they are listed on stderr, and `snap check` says what they hit.
    """
    with open_store(settings, "rw") as store, reporter(settings) as progress:
        result = store.reindex(progress=progress)
    if settings.json:
        render.document(result.to_dict())
    elif not settings.quiet:
        render.out(
            f"index rebuilt: {render.amount(result.chunks, 'chunk')}"
            f" in {render.amount(result.packs, 'pack')}, {render.duration(result.elapsed_s)}"
        )
    if not settings.json:
        for name, reason in result.unreadable:
            render.warning(f"left out {name}: {reason}")
    return errors.DAMAGED if result.unreadable else errors.OK
