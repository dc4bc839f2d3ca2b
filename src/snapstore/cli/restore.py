"""`snap restore`."""

import os
from typing import TYPE_CHECKING, Any

import click

from snapstore.cli import errors, events, left_out, render, restoring
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
    snap restore latest /etc/ssh
    snap restore before-upgrade --delete --dry-run
    snap restore latest --target /tmp/back
    snap restore before-upgrade:/etc/ssh --target /tmp/ssh --verify
    snap restore nightly:/vm/disk.img --target /dev/vg0/disk
    snap restore --abort /srv/app
    """,
)
@click.argument("ref", metavar="REF[:PATH]", required=False)
@click.argument("paths", nargs=-1, type=RecordedPath(), metavar="[PATH]…")
@click.option("--target", type=PATH, metavar="PATH", help="Where to, instead of in place.")
@click.option("--delete", is_flag=True, help="Remove what the snapshot does not have.")
@click.option("--delete-excluded", is_flag=True, help="The same, of what its rules leave out.")
@restoring.options
@click.option("--force", is_flag=True, help="Also over /, your home, mount points, stores.")
@click.option("--resume", metavar="TARGET", type=PATH, help="Finish an interrupted restore.")
@click.option("--abort", metavar="TARGET", type=PATH, help="Take an interrupted restore back.")
@click.option("--detach", is_flag=True, help="Print a job's id, and go on by itself (snap jobs).")
@click.option("--json-events", is_flag=True, help="Print what happens as lines of JSON.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    ref: str | None,
    paths: tuple[str, ...],
    target: str | None,
    delete: bool,
    delete_excluded: bool,
    force: bool,
    resume: str | None,
    abort: str | None,
    detach: bool,
    json_events: bool,
    **options: Any,
) -> int:
    """Put a snapshot, or part of it, back in place, or elsewhere.

    In place only what differs is changed: all of it, or nothing. What was there is kept in a
    safety snapshot, and `snap undo` brings it back. Paths that the snapshot does not have stay,
    but with --delete. With PATHs (as `snap ls` prints them), only those and what is below them.

    With --target, a snapshot of one path becomes the contents of that directory, which may be
    missing; of several, each keeps its path below it. One file becomes the content of a file or
    block device that is there.

    Exit status 3 means that something, such as an owner, could not be restored; each case is listed
    on stderr. 4: `--strategy merge` left conflicts.
    """
    if detach + json_events + (resume is not None or abort is not None) > 1:
        raise Usage("--detach, --json-events, --resume and --abort do not go together")
    if resume is not None or abort is not None:
        return _end(settings, resume, abort, ref)
    if ref is None:
        raise Usage("which snapshot? REF is missing", "snap list shows them")
    if delete_excluded and not delete:
        raise Usage("--delete-excluded is of use with --delete only")
    how = {
        "target": target,
        "paths": [os.fsencode(path) for path in paths],
        "delete": delete,
        "delete_excluded": delete_excluded,
        "force": force,
        **restoring.arguments(settings, **options),
    }
    if detach:
        return _detach(settings, ref, how)
    if json_events:
        return _stream(settings, ref, how)
    with (
        open_store(settings, "rw") as store,
        left_out.passed_over(store, settings, ref),
        reporter(settings) as progress,
    ):
        result = store.restore(ref, progress=progress, **how)
    headline = f"snapshot {result.snapshot[:8]} restored in {render.name(result.target)}"
    if result.in_place:
        return restoring.show(result, settings, headline=headline)
    return _show_new(result, settings)


def _detach(settings: Settings, ref: str, how: dict[str, Any]) -> int:
    """Leaves the restore to a process of its own; there is nobody to ask then."""
    with open_store(settings, "rw") as store, left_out.passed_over(store, settings, ref):
        job = store.restore_detached(ref, **{**how, "approve": None})
    if settings.json:
        render.document({"job": job.to_dict()})
        return errors.OK
    render.out(job.id)
    if not settings.quiet:
        render.note(f"snap: it goes on by itself; snap jobs {job.id} --follow shows how")
    return errors.OK


def _stream(settings: Settings, ref: str, how: dict[str, Any]) -> int:
    """Prints events. Nothing is asked: what reads them is a program."""
    settings.json = True  # then stderr holds nothing but an error
    with (
        open_store(settings, "rw") as store,
        left_out.passed_over(store, settings, ref),
        store.restore_stream(ref, **{**how, "approve": None}) as stream,
    ):
        try:
            events.as_lines(stream)
        except KeyboardInterrupt:
            stream.cancel()
            events.as_lines(stream)  # of which the last says that it is taken back
        if stream.error is not None:
            raise stream.error
        assert stream.result is not None
        return restoring.status(stream.result)


def _end(settings: Settings, resume: str | None, abort: str | None, ref: str | None) -> int:
    """Finishes, or takes back, a restore that was interrupted."""
    if resume is not None and abort is not None:
        raise Usage("a restore is either finished or taken back: --resume or --abort")
    if ref is not None:
        raise Usage("an interrupted restore knows its snapshot", "name its target only")
    with open_store(settings, "rw") as store, reporter(settings) as progress:
        if resume is not None:
            found = store.resume(resume, progress=progress)
        else:
            found = store.abort(str(abort), progress=progress)
    return restoring.show_ended(found, settings, resumed=resume is not None)


def _show_new(result: "RestoreResult", settings: Settings) -> int:
    if settings.json:
        render.document(result.to_dict())
    else:
        _print(result, settings)
    return errors.OK if result.success else errors.PARTIAL


def _print(result: "RestoreResult", settings: Settings) -> None:
    if not settings.quiet:
        _print_summary(result)
    for warning in result.warnings:
        render.warning(warning)
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
