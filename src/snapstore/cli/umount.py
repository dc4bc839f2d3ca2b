"""`snap umount`."""

import os

import click

from snapstore.cli import render
from snapstore.cli.settings import Settings, declare
from snapstore.cli.values import PATH


@declare(
    "umount",
    examples="""
    snap umount /mnt/snap
    snap umount /mnt/snap --lazy
    """,
)
@click.argument("mountpoint", type=PATH)
@click.option("-l", "--lazy", is_flag=True, help="As soon as nobody uses it any more.")
@click.pass_obj
def command(settings: Settings, /, mountpoint: str, lazy: bool) -> int:
    """End a mount of snapshots.

    One that is in use is refused, unless --lazy: then its names are gone at once, and it ends with
    the last file that is open in it. When its process does not answer, it ends in any case.
    """
    from snapstore import api

    said = api.unmount(mountpoint, lazy=lazy)
    if settings.json:
        render.document({"mountpoint": os.path.abspath(mountpoint), "lost": said is not None})
        return 0
    if said:
        render.note(f"snap: {said}")
    if not settings.quiet:
        render.note(f"snap: {render.name(mountpoint)} is no longer mounted")
    return 0
