"""Restoring in place on the command line: its options, its question, and what it prints."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from snapstore.cli import errors, render
from snapstore.cli.settings import Settings

if TYPE_CHECKING:
    from snapstore import Conflict, RestorePlan, RestoreResult, Unfinished

F = TypeVar("F", bound=Callable[..., Any])

_WORDS = {
    "create": "made anew",
    "replace": "replaced",
    "patch": "changed in part",
    "metadata": "attributes only",
    "type": "replaced by another type",
    "delete": "deleted",
}
_SHOWN = 20

_OPTIONS = (
    click.option("--dry-run", is_flag=True, help="Only show what would be done."),
    click.option("-y", "--yes", is_flag=True, help="Do not ask, even if something is deleted."),
    click.option(
        "--strategy",
        type=click.Choice(["overwrite", "keep-original", "newer", "merge", "fail"]),
        default="overwrite",
        show_default=True,
        help="Who wins where what is there was changed too.",
    ),
    click.option("--resolver", metavar="CMD", help="Asked of each conflict: snapshot or live?"),
    click.option("--no-safety", is_flag=True, help="Keep nothing to undo it with."),
    click.option(
        "--on-error",
        type=click.Choice(["rollback", "keep-going", "stop"]),
        default="rollback",
        show_default=True,
        help="What to do when something cannot be restored.",
    ),
    click.option("--time-limit", metavar="TIME", help="Take it back when it lasts longer (10m)."),
    click.option("--verify", is_flag=True, help="Read everything back and compare."),
    click.option("--hook-before", metavar="CMD", help="Run first; when it fails, do nothing."),
    click.option("--hook-after", metavar="CMD", help="Run when it is done."),
    click.option("--hook-failed", metavar="CMD", help="Run when it failed."),
    click.option("--hook-finally", metavar="CMD", help="Run last, in any case."),
)


def options(function: F) -> F:
    """Adds the options of whatever restores in place."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def arguments(
    settings: Settings,
    *,
    dry_run: bool,
    yes: bool,
    strategy: str,
    resolver: str | None,
    no_safety: bool,
    on_error: str,
    time_limit: str | None,
    verify: bool,
    **hooks: str | None,
) -> dict[str, Any]:
    """Those options as arguments of the library."""
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not yes
    return {
        "dry_run": dry_run,
        "strategy": strategy,
        "resolver": resolver,
        "safety": not no_safety,
        "on_error": on_error,
        "time_limit": time_limit,
        "verify": verify,
        "approve": _ask if asks else None,
        "hooks": {
            name.removeprefix("hook_"): command
            for name, command in hooks.items()
            if command is not None
        },
    }


def _ask(plan: "RestorePlan") -> bool:
    """On a terminal, before anything is lost."""
    if plan.deletes:
        render.note(f"snap: {render.amount(plan.deletes, 'entry', 'entries')} will be deleted:")
        doomed = [step.path for step in plan.steps if step.action == "delete"]
        _some([render.name(path) for path in doomed], plan.deletes)
    if plan.conflict_count:
        conflicts = render.amount(plan.conflict_count, "conflict")
        render.note(f"snap: {conflicts}, changed here and in the snapshot:")
        _some([_conflict(one) for one in plan.conflicts], plan.conflict_count)
    return click.confirm("Go on?", err=True)


def _some(lines: list[str], count: int) -> None:
    for line in lines[:_SHOWN]:
        render.note(f"  {line}")
    if count > _SHOWN:
        render.note(f"  … and {count - _SHOWN:,} more (--dry-run shows all)")


def _conflict(conflict: "Conflict") -> str:
    kept = {"snapshot": "the snapshot's is taken", "live": "stays as it is"}[conflict.taken]
    return f"{render.name(conflict.path)}  ({kept})"


def show(result: "RestoreResult", settings: Settings, *, headline: str) -> int:
    """Prints what was done; the answer is the exit status."""
    if settings.json:
        render.document(result.to_dict())
    else:
        if not settings.quiet:
            _print_summary(result, settings, headline)
        _print_troubles(result, settings)
    return status(result)


def status(result: "RestoreResult") -> int:
    """The exit status of a restore."""
    if result.conflicts_left:
        return errors.CONFLICTS
    return errors.OK if result.success else errors.PARTIAL


def _print_summary(result: "RestoreResult", settings: Settings, headline: str) -> None:
    plan = result.plan
    if plan is None:  # what was kept beside the target went back as it was
        render.out("dry run: nothing was changed" if result.dry_run else headline)
        return
    if result.dry_run:
        for step in plan.steps:
            size = render.size(step.bytes) if step.bytes else ""
            render.out(f"{step.action:<9} {size:>8}  {render.name(step.path)}")
        if plan.step_count > len(plan.steps):
            render.out(f"… and {plan.step_count - len(plan.steps):,} more")
        render.out("dry run: nothing was changed")
    else:
        render.out("nothing differs" if plan.is_empty else headline)
    rows = [(_WORDS[action], _count(plan, action)) for action in _WORDS if action in plan.counts]
    extras = render.amount(plan.extra_count, "path") if plan.extra_count else ""
    render.pairs(
        [
            *rows,
            ("not in it", f"{extras}, which stay{'s' * (plan.extra_count == 1)}" if extras else ""),
            ("conflicts", f"{plan.conflict_count:,}" if plan.conflict_count else ""),
            (
                "verified",
                render.amount(result.verified_files, "file") if result.verified_files else "",
            ),
            ("undo with", f"snap undo {render.name(result.target)}" if result.can_undo else ""),
            ("took", render.duration(result.elapsed_s)),
        ]
    )
    if settings.verbose:
        for path in plan.extras:
            render.out(f"not in the snapshot: {render.name(path)}")


def _count(plan: "RestorePlan", action: str) -> str:
    entries, size = plan.counts[action]
    text = render.amount(entries, "entry", "entries")
    return f"{text}; {render.size(size)}" if size else text


def _print_troubles(result: "RestoreResult", settings: Settings) -> None:
    plan = result.plan
    for warning in result.warnings:
        render.warning(warning)
    if plan is not None and plan.conflict_count:
        count = render.amount(plan.conflict_count, "path")
        were = "was" if plan.conflict_count == 1 else "were"
        render.warning(f"{count} {were} changed here and in the snapshot")
        _some([_conflict(one) for one in plan.conflicts], plan.conflict_count)
    if result.problem_count:
        render.warning(f"{render.amount(result.problem_count, 'thing')} could not be restored")
        problems = ((path, f"{what}: {reason}") for path, what, reason in result.problems)
        for line in render.grouped(problems, result.problem_count, full=settings.verbose):
            render.note(line)


def show_ended(found: "list[Unfinished]", settings: Settings, *, resumed: bool) -> int:
    """Prints what became of restores that were interrupted."""
    if settings.json:
        render.document({"restores": [one.to_dict() for one in found]})
        return errors.OK
    for one in found:
        where = render.name(one.target)
        if one.state == "staging":
            render.out(f"{where}: nothing had been changed yet; what was prepared is removed")
        elif resumed:
            render.out(f"{where}: the restore is finished")
        else:
            render.out(f"{where}: the restore is taken back")
    return errors.OK
