"""`snap export`."""

import sys
from typing import TYPE_CHECKING

import click

from snapstore.cli import errors, left_out, render
from snapstore.cli.errors import Usage
from snapstore.cli.progress import reporter
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import PATH

if TYPE_CHECKING:
    from snapstore import ExportResult


@declare(
    "export",
    examples="""
    snap export latest -o app.tar
    snap export before-upgrade:/etc | ssh other tar -C /tmp/etc -xf -
    snap export latest --format zip -o app.zip
    """,
)
@click.argument("ref", metavar="REF[:PATH]")
@click.option(
    "-o", "--output", type=PATH, default="-", metavar="FILE", help="Where to (else stdout)."
)
@click.option(
    "--format",
    type=click.Choice(["pax", "gnu", "zip"]),
    default="pax",
    help="pax (the default) keeps everything; gnu and zip lose some of it.",
)
@click.pass_obj
def command(settings: Settings, /, ref: str, output: str, format: str) -> int:
    """Write a snapshot, or a part of it, as a tar or zip archive.

    A single directory's contents stand at the top of the archive; several paths keep their names
    without the leading slash. FILE appears when it is whole. Exit status 3 means that something was
    left out because the format cannot hold it.
    """
    to_stdout = output == "-"
    if to_stdout and settings.json:
        raise Usage("an archive and JSON cannot both go to stdout", "name a file with -o FILE")
    if to_stdout and sys.stdout.isatty():
        raise Usage(
            "an archive is not written to a terminal", "name a file with -o FILE, or use a pipe"
        )
    sys.stdout.flush()
    file = sys.stdout.fileno() if to_stdout else output
    with (
        open_store(settings, "r") as store,
        left_out.passed_over(store, settings, ref),
        reporter(settings) as progress,
    ):
        result = store.export(ref, file, format=format, progress=progress)
    if settings.json:
        render.document(result.to_dict())
    elif not to_stdout and not settings.quiet:
        _print(result, output)
    if not result.omitted_count:
        return errors.OK
    entries = render.amount(result.omitted_count, "entry", "entries")
    render.warning(f"{entries} left out: a {format} archive has no FIFOs and devices")
    problems = ((path, "left out") for path in result.omitted)
    for line in render.grouped(problems, result.omitted_count, full=settings.verbose):
        render.note(line)
    return errors.PARTIAL


def _print(result: "ExportResult", output: str) -> None:
    contents = [
        render.amount(result.files, "file"),
        render.amount(result.directories, "directory", "directories"),
    ]
    if result.others:
        contents.append(render.amount(result.others, "other entry", "other entries"))
    render.out(f"snapshot {result.snapshot[:8]} exported to {render.name(output)}")
    render.pairs(
        [
            ("contents", f"{', '.join(contents)}; {render.size(result.bytes)}"),
            ("written", render.size(result.written_bytes)),
            ("took", render.duration(result.elapsed_s)),
        ]
    )
