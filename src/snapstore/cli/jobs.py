"""`snap jobs`."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from snapstore.cli import errors, events, render
from snapstore.cli.errors import Usage
from snapstore.cli.progress import reporter
from snapstore.cli.render import Column
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import JobId

if TYPE_CHECKING:
    from snapstore import Job

_COLUMNS = (
    Column("job"),
    Column("state"),
    Column("started", rank=2),
    Column("snapshot", rank=1),
    Column("target", elastic=True),
)


@declare(
    "jobs",
    examples="""
    snap jobs
    snap jobs 01m7yxegh1vw121kte2y5h92z7 --follow
    id=$(snap restore nightly --detach -q)
    snap jobs "$id" --cancel
    """,
)
@click.argument("job", required=False, type=JobId(), metavar="[ID]")
@click.option("-f", "--follow", is_flag=True, help="Tell its events until it ends.")
@click.option("--cancel", is_flag=True, help="Have it take everything back, and end.")
@click.pass_obj
def command(settings: Settings, /, job: str | None, follow: bool, cancel: bool) -> int:
    """List restores that run on by themselves, or show one.

    They were started with `snap restore --detach`. A job is running, done, failed, or died: then
    its process is gone without a word. The end of an ID will do. With --follow the exit status is
    that of the restore. Jobs that have ended are forgotten after 30 days.
    """
    if job is None and (follow or cancel):
        raise Usage("which job? ID is missing", "snap jobs lists them")
    with open_store(settings, "r") as store:
        if job is None:
            _list(store.jobs(), settings)
            return errors.OK
        found = store.job(job)
    if cancel:
        found.cancel()
        found.wait()
    if follow:
        return _follow(found, settings)
    _show(found, settings)
    return errors.OK


def _list(jobs: "list[Job]", settings: Settings) -> None:
    if settings.json:
        render.document({"jobs": [job.to_dict() for job in jobs]})
    elif jobs:
        render.table(_COLUMNS, [_row(job) for job in jobs])
    elif not settings.quiet:
        render.note("snap: no jobs")


def _row(job: "Job") -> list[str]:
    started = render.moment(job.started_at)
    return [job.id, job.state, started, job.snapshot[:8], render.name(job.target)]


def _show(job: "Job", settings: Settings) -> None:
    if settings.json:
        end = job.end
        result = end.data if end is not None and end.event == "done" else None
        render.document({"job": job.to_dict(), "result": result, "output": job.output})
    else:
        render.pairs(_facts(job))


def _facts(job: "Job") -> Iterator[tuple[str, str]]:
    state, ended, pid, end = job.state, job.ended_at, job.pid, job.end
    yield "job", job.id
    yield "state", state + (f" (process {pid})" if pid is not None else "")
    yield "snapshot", job.snapshot
    yield "target", render.name(job.target)
    yield "started", render.moment(job.started_at)
    yield "ended", render.moment(ended) if ended is not None else ""
    if end is not None and end.event == "failed":
        yield "error", render.plain(end.data["message"])
        yield "hint", render.plain(end.data["hint"] or "")
    if end is not None and end.event == "done":
        problems = end.data["problem_count"]
        yield "problems", f"{problems:,} (--json lists them)" if problems else ""
        for warning in end.data["warnings"]:
            yield "warning", render.plain(warning)
    label = "output"
    for line in job.output.splitlines():
        yield label, render.plain(line)
        label = ""


def _follow(job: "Job", settings: Settings) -> int:
    """Tells what happens until it ends; gives the exit status that the restore would have had."""
    found = job.events(follow=True)
    if settings.json:
        events.as_lines(found)
    else:
        with reporter(settings) as progress:
            events.in_words(found, progress)
    end = job.end
    if end is None:
        raise click.ClickException(
            f"the job {job.id} died: its process is gone; the next restore into"
            f" {render.name(job.target)} says whether there is something to finish"
        )
    if not settings.json:
        _print_end(job)
    if end.event == "failed":
        return int(end.data["exit_code"])
    if end.data["success"]:
        return errors.OK
    return errors.PARTIAL if end.data["problem_count"] else errors.CONFLICTS


def _print_end(job: "Job") -> None:
    end = job.end
    assert end is not None
    sys.stdout.flush()
    if end.event == "failed":
        render.note(render.complaint("error", end.data["message"]))
        if end.data["hint"]:
            render.note(render.complaint("hint", end.data["hint"]))
        return
    for warning in end.data["warnings"]:
        render.warning(warning)
    if end.data["problem_count"]:
        count = render.amount(end.data["problem_count"], "thing")
        render.warning(f"{count} could not be restored")
    render.out("done")
