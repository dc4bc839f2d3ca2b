"""`snap cat`."""

import sys

import click

from snapstore.cli import left_out
from snapstore.cli.errors import Usage
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store


@declare(
    "cat",
    examples="""
    snap cat latest:/etc/hosts
    snap cat before-upgrade:/srv/app/dump.sql.gz | zcat | head
    """,
)
@click.argument("refs", nargs=-1, required=True, metavar="REF:PATH...")
@click.pass_obj
def command(settings: Settings, /, refs: tuple[str, ...]) -> None:
    """Print files of a snapshot.

    Contents are written to standard output one after the other, byte for byte, each piece verified
    before it is written.
    """
    if settings.json:
        raise Usage("cat prints files, which are no JSON", "ls --json tells about them")
    with open_store(settings, "r") as store, left_out.passed_over(store, settings, *refs):
        sys.stdout.flush()
        for ref in refs:
            for piece in store.read(ref):
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
