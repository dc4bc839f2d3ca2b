"""`snap mount`."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from snapstore.cli import render
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import open_store
from snapstore.cli.values import PATH
from snapstore.model.mounting import TIME_FORMAT


@declare(
    "mount",
    examples="""
    snap mount /mnt/snap
    snap mount latest /mnt/snap
    snap mount nightly:/srv/app /mnt/app --daemon
    snap mount /mnt/snap --tag prod --time-format %Y/%m/%d/%H:%M
    snap umount /mnt/snap
    """,
)
@click.argument("ref_or_mountpoint", metavar="[REF[:PATH]] MOUNTPOINT")
@click.argument("mountpoint", required=False, type=PATH, metavar="")
@click.option("-d", "--daemon", is_flag=True, help="Mount in the background, once it can be used.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as far as modes allow it.")
@click.option("--uid", type=int, metavar="NUMBER", help="Show everything as this user's.")
@click.option("--gid", type=int, metavar="NUMBER", help="Show everything as this group's.")
@click.option(
    "--path-filter",
    "only",
    multiple=True,
    type=PATH,
    metavar="PATH",
    help="Show only this path of snapshots, with all below it (repeatable).",
)
@click.option(
    "--cache-size",
    "cache",
    default="128M",
    show_default=True,
    metavar="SIZE",
    help="Memory for what was read lately.",
)
@click.option(
    "--time-format",
    default=TIME_FORMAT,
    show_default=True,
    metavar="FORMAT",
    help="Names of times, as for strftime; / makes directories.",
)
@click.option("--all", is_flag=True, help="Show snapshots made by the system and for safety too.")
@click.option(
    "--partitions",
    is_flag=True,
    help="Show partitions of disk images as files, in IMAGE.partitions beside each image.",
)
@click.option("--name", multiple=True, metavar="GLOB", help="Only of this name (repeatable).")
@click.option("--tag", multiple=True, metavar="TAG[,TAG]", help="Only with this tag (repeatable).")
@click.option("--host", multiple=True, metavar="GLOB", help="Only of this host (repeatable).")
@click.option("--source", multiple=True, metavar="GLOB", help="Only this series (repeatable).")
@click.pass_obj
def command(
    settings: Settings,
    /,
    ref_or_mountpoint: str,
    mountpoint: str | None,
    daemon: bool,
    only: tuple[str, ...],
    cache: str,
    **options: Any,
) -> int:
    """Show snapshots as a file system, to look into them and copy out of them.

    Without REF all of them, by id, name, time, tag, host and source; with it that snapshot, or what
    is at PATH in it. It is only read, and shows everything as it was: owners, times, links, holes.
    Runs until Ctrl-C, or in the background with --daemon; `snap umount` ends it.
    """
    ref = None if mountpoint is None else ref_or_mountpoint
    place = Path(os.path.abspath(mountpoint or ref_or_mountpoint))
    filters: dict[str, Any] = {
        key: options.pop(key) or None for key in ("name", "tag", "host", "source")
    }
    logging.basicConfig(format="snap: %(message)s", level=logging.WARNING)

    def started(said: str | None) -> None:
        if settings.json:
            render.document(
                {"mountpoint": os.fspath(place), "reference": ref, "cleared": bool(said)}
            )
            sys.stdout.flush()
            return
        if said:
            render.note(f"snap: {said}")
        if not settings.quiet:
            what = "all snapshots" if ref is None else ref
            end = f"snap umount {place}" if daemon else "Ctrl-C"
            render.note(f"snap: {what} mounted at {render.name(str(place))}; {end} ends it")

    def run(begun: Callable[[str | None], None]) -> int:
        with open_store(settings, "rw") as store:
            store.mount(
                place, ref, only=only, cache_bytes=cache, started=begun, **filters, **options
            )
        return 0

    return _in_background(run, started) if daemon else run(started)


def _in_background(
    run: Callable[[Callable[[str | None], None]], int], started: Callable[[str | None], None]
) -> int:
    """Runs it in another process, from before anything is opened. This one waits until the mount
    can be used; when it cannot, the other has said why.
    """
    ready, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with open(ready, "rb") as answers:
            answer = answers.read()
        if not answer:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        started(answer[1:].decode() or None)
        return 0
    os.close(ready)

    def begun(said: str | None) -> None:
        from snapstore.mount import process

        os.setsid()  # not before: a password may have been asked for at the terminal
        os.write(write, b"+" + (said or "").encode())
        os.close(write)
        process.detach()

    return run(begun)
