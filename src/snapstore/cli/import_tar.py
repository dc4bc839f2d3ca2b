"""`snap import-tar`."""

import sys
from typing import Any

import click

from snapstore.cli import errors, render
from snapstore.cli.create import print_result, recorded
from snapstore.cli.errors import Usage
from snapstore.cli.progress import reporter
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_or_make_store
from snapstore.cli.values import COMPRESSION, PATH


@declare(
    "import-tar",
    examples="""
    snap import-tar app.tar.gz --as /srv/app --name from-the-old-server
    borg export-tar /backup::monday - | snap import-tar - --as /home --time 2026-11-16
    docker export web | snap import-tar - --as web
    """,
)
@click.argument("file", type=PATH, metavar="FILE|-")
@click.option(
    "--as", "root", metavar="PATH", help="Record the tree as PATH (else the archive's name)."
)
@recorded
@click.option("--skip-if-unchanged", is_flag=True, help="No snapshot if nothing has changed.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be taken; write nothing.")
@click.option("--compression", type=COMPRESSION, help="For this run instead of the store's.")
@click.pass_obj
def command(
    settings: Settings, /, file: str, metadata: tuple[tuple[str, str], ...], **options: Any
) -> int:
    """Take a snapshot of what a tar archive holds.

    FILE may be compressed with gzip, bzip2, xz or zstd; - is standard input. Nothing is unpacked:
    the tree goes into the store as if it had been taken from disk. An archive that is cut off,
    damaged or hostile leaves no snapshot. Exit status 3 means that an ACL had to be left out.
    """
    if file == "-" and sys.stdin.isatty():
        raise Usage("an archive is not read from a terminal", "name a file, or use a pipe")
    opened = open_or_make_store(settings, dry_run=options["dry_run"])
    with opened as store, reporter(settings) as progress:
        result = store.import_tar(
            sys.stdin.fileno() if file == "-" else file,
            metadata=dict(metadata),
            progress=progress,
            **options,
        )
    if settings.json:
        render.document(result.to_dict())
    else:
        print_result(result, settings)
    return errors.PARTIAL if result.partial else errors.OK
