"""`snap man`."""

from pathlib import Path

import click

from snapstore.cli import render
from snapstore.cli.settings import Settings, declare
from snapstore.cli.values import PATH


@declare(
    "man",
    examples="""
    snap man ~/.local/share/man       # then: man snap-create
    snap man /usr/local/share/man
    """,
)
@click.argument("directory", type=PATH)
@click.pass_context
def command(context: click.Context, /, directory: str) -> None:
    """Write the manual pages of all commands.

    They go to DIRECTORY/man1, which is made if need be: snap.1, and a page for each command. They
    say what --help says; pages of an earlier version are replaced.
    """
    from snapstore.cli import manual
    from snapstore.cli.main import snap

    settings = context.ensure_object(Settings)
    place = Path(directory) / "man1"
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in manual.pages(snap):
        (place / name).write_text(text, "ascii")
        written.append(name)
    if settings.json:
        render.document({"directory": str(place), "pages": written})
    elif not settings.quiet:
        pages = render.amount(len(written), "page")
        render.out(f"{pages} written to {render.name(str(place))}")
