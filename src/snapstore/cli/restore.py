"""`snap restore`."""

import os
from typing import TYPE_CHECKING

import click

from snapstore.cli import errors, left_out, render
from snapstore.cli.errors import Usage
from snapstore.cli.progress import reporter
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import PATH, RecordedPath

if TYPE_CHECKING:
    from snapstore import RestoreResult


@declare(
    "restore",
    examples="""
    snap restore latest --target /tmp/back
    snap restore before-upgrade:/etc/ssh --target /tmp/ssh --verify
    snap restore latest /srv/app/a.conf /srv/app/b.conf --target /tmp/two
    """,
)
@click.argument("ref", metavar="REF[:PATH]")
@click.argument("paths", nargs=-1, type=RecordedPath(), metavar="[PATH]…")
@click.option("--target", type=PATH, metavar="DIR", help="A new or empty directory.")
@click.option("--verify", is_flag=True, help="Read everything back and compare.")
@click.pass_obj
def command(
    settings: Settings, /, ref: str, paths: tuple[str, ...], target: str | None, verify: bool
) -> int:
    """Restore a snapshot, or part of it, to a new or empty directory.

    A snapshot of one path becomes the contents of DIR; of several, each keeps its path below DIR.
    With PATHs (as `snap ls` prints them), only those and what is below them. Exit status 3 means
    that something, such as an owner, could not be restored; each case is listed on stderr.
    """
    if target is None:
        raise Usage(
            "where to? --target is missing",
            "name a new or empty directory; restoring in place is not in this version yet",
        )
    with (
        open_store(settings, "rw") as store,
        left_out.passed_over(store, settings, ref),
        reporter(settings) as progress,
    ):
        result = store.restore(
            ref,
            target=target,
            paths=[os.fsencode(path) for path in paths],
            verify=verify,
            progress=progress,
        )
    if settings.json:
        render.document(result.to_dict())
    else:
        _print(result, settings)
    return errors.OK if result.success else errors.PARTIAL


def _print(result: "RestoreResult", settings: Settings) -> None:
    if not settings.quiet:
        _print_summary(result)
    if result.success:
        return
    render.warning(f"{render.amount(result.problem_count, 'thing')} could not be restored")
    problems = ((path, f"{what}: {reason}") for path, what, reason in result.problems)
    for line in render.grouped(problems, result.problem_count, full=settings.verbose):
        render.note(line)


def _print_summary(result: "RestoreResult") -> None:
    restored = [
        render.amount(result.files, "file"),
        render.amount(result.directories, "directory", "directories"),
    ]
    if result.others:
        restored.append(render.amount(result.others, "other entry", "other entries"))
    verified = render.amount(result.verified_files, "file") if result.verified_files else ""
    render.out(f"snapshot {result.snapshot[:8]} restored to {render.name(result.target)}")
    render.pairs(
        [
            ("contents", f"{', '.join(restored)}; {render.size(result.bytes)}"),
            ("verified", verified),
            ("took", render.duration(result.elapsed_s)),
        ]
    )
