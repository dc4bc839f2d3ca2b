"""`snap undo`."""

from typing import Any

import click

from snapstore.cli import render, restoring
from snapstore.cli.progress import reporter
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import PATH


@declare(
    "undo",
    examples="""
    snap undo
    snap undo /srv/app --dry-run
    """,
)
@click.argument("target", required=False, type=PATH)
@restoring.options
@click.pass_obj
def command(settings: Settings, /, target: str | None, **options: Any) -> int:
    """Take back the last restore.

    That of TARGET, or the last of all. Everything is as it was before it, what it deleted and what
    it replaced included. What was changed since counts as a conflict (--strategy). Undoing an undo
    restores again.
    """
    with open_store(settings, "rw") as store, reporter(settings) as progress:
        result = store.undo(target, progress=progress, **restoring.arguments(settings, **options))
    return restoring.show(result, settings, headline=f"{render.name(result.target)} is as it was")
