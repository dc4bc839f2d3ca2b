"""`snap init`."""

import click

from snapstore.cli import render
from snapstore.cli.errors import Usage
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import named_store
from snapstore.cli.values import COMPRESSION, PATH


@declare(
    "init",
    examples="""
    snap init /backup/store
    snap init /backup/store --compression small
    snap -s /backup/store init
    """,
)
@click.argument("directory", required=False, type=PATH)
@click.option("--compression", type=COMPRESSION, default="default", help="Default for creates.")
@click.option(
    "--block-bytes",
    type=int,
    metavar="N",
    help="Bytes compressed as one: more is smaller, less is quicker to read at random.",
)
@click.pass_obj
def command(
    settings: Settings, /, directory: str | None, compression: str, block_bytes: int | None
) -> None:
    """Make an empty store.

    DIRECTORY must be missing or empty; without it, the store named by -s or SNAP_STORE is made.
    """
    from snapstore import api

    path = directory or named_store(settings)
    if path is None:
        raise Usage("where should the store be?", "snap init DIRECTORY")
    with api.init(path, compression=compression, block_bytes=block_bytes) as store:
        if settings.json:
            render.document({"store": {"path": str(store.path), "id": store.id}})
        elif not settings.quiet:
            render.out(f"made store {store.id[:8]} in {render.name(str(store.path))}")
