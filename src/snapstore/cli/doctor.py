"""`snap doctor`."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from snapstore.cli import errors, render
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import (
    cache_directory,
    default_store,
    named_store,
    open_store,
    password_of,
    store_path,
)

if TYPE_CHECKING:
    from snapstore import Finding

_STYLES = {"ok": "good", "note": "warning", "wrong": "error"}


@declare(
    "doctor",
    examples="""
    snap doctor
    snap doctor -s /backup/store
    snap doctor --json
    """,
)
@click.option(
    "--trust", is_flag=True, help="Take an encrypted store, as it is now, for what it should be."
)
@click.pass_obj
def command(settings: Settings, /, trust: bool) -> int:
    """Look whether this machine and the store have what is needed.

    Looks at the native core, the store, the file system below its index, free space, the clock,
    FUSE, and whose program `snap` is: others have one too. Nothing of the store is changed. A note
    hinders nothing that this version does; exit status 1 means that something is wrong.

    This machine remembers what it saw of an encrypted store, and warns when an older state of it,
    or another store, is in its place; --trust ends that, when you know why it is so.
    """
    from snapstore import api

    if trust:
        return _trust(settings)
    path = _store(settings)
    with password_of(path) if path else contextlib.nullcontext() as password:
        health = api.examine(
            path,
            cache_dir=cache_directory(),
            password=password,
            search_path=os.get_exec_path(),
            running=sys.argv[0],
        )
    if settings.json:
        render.document(health.to_dict())
    else:
        for finding in health.findings:
            if not (settings.quiet and finding.level == "ok"):
                _print(finding)
        if not settings.quiet and health.ok:
            render.out("nothing is wrong")
    return errors.OK if health.ok else errors.FAILED


def _trust(settings: Settings) -> int:
    from snapstore import api

    api.forget_place(store_path(settings), cache_dir=cache_directory())
    with open_store(settings, "r") as store:
        store.trust()
    if not settings.quiet:
        render.out(f"what is in {render.name(str(store.path))} now is taken for what it should be")
    return errors.OK


def _store(settings: Settings) -> Path | None:
    """The store that is meant; None when none is named and there is none of one's own."""
    named = named_store(settings)
    if named is not None:
        return Path(named)
    own = default_store()
    return own if os.path.exists(own) else None


def _print(finding: "Finding") -> None:
    level = render.styled(f"{finding.level:<5}", _STYLES[finding.level], sys.stdout)
    render.out(f"{level}  {finding.name:<8}  {render.plain(finding.message)}")
    if finding.hint:
        render.out(f"{'':<17}{render.plain(finding.hint)}")
