"""`snap check`."""

from typing import TYPE_CHECKING

import click

from snapstore.cli import errors, left_out, render
from snapstore.cli.progress import reporter
from snapstore.cli.settings import HelpMixin, Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import share

if TYPE_CHECKING:
    from snapstore import CheckProblem, CheckReport


class OptionalShare(HelpMixin):
    """Takes the value of --read-data from behind `=` only, so that a REF may follow the bare
    option.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx,
            ["--read-data=100%" if argument == "--read-data" else argument for argument in args],
        )


@declare(
    "check",
    cls=OptionalShare,
    examples="""
    snap check
    snap check --read-data
    snap check --read-data=10% --time-limit 30m
    snap check latest before-upgrade --read-data
    """,
)
@click.argument("refs", nargs=-1, metavar="[REF]…")
@click.option(
    "--read-data",
    type=share,
    metavar="[=SHARE]",
    help="Read and verify all content, or a share: 10% or 1/7.",
)
@click.option("--time-limit", metavar="DURATION", help="Stop after this: 90s, 10m, 2h.")
@click.pass_obj
def command(
    settings: Settings, /, refs: tuple[str, ...], read_data: float | None, time_limit: str | None
) -> int:
    """Check the store, and name the files that damage hits.

    Without REF, everything; else what those snapshots need. Without --read-data, that all trees can
    be read and that every pack is there and knows its contents. Exit status 5 means damage; 0 that
    none was found, which after --time-limit is said of what was checked.
    """
    with (
        open_store(settings, "r") as store,
        left_out.passed_over(store, settings, *refs),
        reporter(settings) as progress,
    ):
        report = store.check(
            *refs, read_data=read_data or False, time_limit=time_limit, progress=progress
        )
    if settings.json:
        render.document(report.to_dict())
    else:
        _print(report, settings, read_data or 0.0)
    return errors.OK if report.ok else errors.DAMAGED


def _print(report: "CheckReport", settings: Settings, share: float) -> None:
    for problem in report.problems:
        _print_problem(problem)
    more = report.problem_count - len(report.problems)
    if more:
        render.out(f"… and {more:,} more")
    if not settings.quiet:
        render.pairs(
            [
                ("snapshots", f"{report.snapshots:,} checked"),
                ("trees", f"{render.amount(report.nodes, 'node')} read"),
                ("packs", _packs(report, share)),
                ("took", render.duration(report.elapsed_s)),
            ]
        )
        render.out(_verdict(report))
    if not report.complete:
        render.warning("the time limit came first: not everything was checked")
    if not report.ok:
        render.note(render.complaint("error", "the store is damaged"))


def _packs(report: "CheckReport", share: float) -> str:
    if share == 0:
        read = "contents not read (--read-data)"
    elif share == 1:
        read = "contents read and verified"
    else:
        read = f"contents of {100 * share:.3g}% of them read and verified"
    return f"{report.packs:,} checked, {render.size(report.bytes)}; {read}"


def _verdict(report: "CheckReport") -> str:
    if report.ok:
        return "no damage found" if report.complete else "no damage found in what was checked"
    damage = [problem for problem in report.problems if problem.error]
    hit = {file for problem in damage for file in problem.affected}
    snapshots = {snapshot for snapshot, _ in hit}
    unlisted = report.problem_count - len(report.problems)
    found = render.amount(len(damage) + unlisted, "problem")
    if not hit:
        return f"{found}, no file hit"
    files = ("at least " if unlisted else "") + render.amount(len(hit), "file")
    return f"{found}; {files} hit in {render.amount(len(snapshots), 'snapshot')}"


def _print_problem(problem: "CheckProblem") -> None:
    render.out(f"{problem.kind} {render.plain(problem.name)}: {render.plain(problem.message)}")
    for snapshot, path in problem.affected:
        render.out(f"  hits {snapshot[:8]}:{render.name(path)}")
