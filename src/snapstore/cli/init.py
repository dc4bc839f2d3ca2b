"""`snap init`."""

import click

from snapstore.cli import passwords, render
from snapstore.cli.errors import Usage
from snapstore.cli.key import UNLOCK_TIME
from snapstore.cli.settings import Settings, declare
from snapstore.cli.stores import cache_directory, named_store
from snapstore.cli.values import COMPRESSION, PATH


@declare(
    "init",
    examples="""
    snap init /backup/store
    snap init /backup/store --compression small
    snap init /mnt/usb/store --encrypt
    snap -s /backup/store init
    """,
)
@click.argument("directory", required=False, type=PATH)
@click.option("--compression", type=COMPRESSION, default="default", help="Default for creates.")
@click.option(
    "--block-bytes",
    type=int,
    metavar="N",
    help="Bytes compressed as one: more is smaller, less is quicker to read at random.",
)
@click.option("--encrypt", is_flag=True, help="Encrypt everything under a password.")
@UNLOCK_TIME
@click.option("--append-only", is_flag=True, help="Never let anything in it be deleted.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    directory: str | None,
    compression: str,
    block_bytes: int | None,
    encrypt: bool,
    unlock_time: float,
    append_only: bool,
) -> None:
    """Make an empty store.

    DIRECTORY must be missing or empty; without it, the store named by -s or SNAP_STORE is made.
    With --encrypt the password is asked for twice, or comes from SNAP_NEW_PASSWORD_FILE and its
    like, else from SNAP_PASSWORD_FILE and its like. Without the password, or a key that was
    exported and its password, nobody can read the store: not you either.
    """
    from snapstore import api

    path = directory or named_store(settings)
    if path is None:
        raise Usage("where should the store be?", "snap init DIRECTORY")
    password = _first_password(path) if encrypt else None
    with api.init(
        path,
        compression=compression,
        block_bytes=block_bytes,
        cache_dir=cache_directory() if encrypt else None,
        password=password,
        kdf=api.calibrated_kdf(unlock_time) if encrypt else None,
        append_only=append_only,
    ) as store:
        passwords.erase(password)
        if settings.json:
            made = {"path": str(store.path), "id": store.id, "encrypted": encrypt}
            render.document({"store": {**made, "append_only": append_only}})
        elif not settings.quiet:
            what = "made encrypted store" if encrypt else "made store"
            render.out(f"{what} {store.id[:8]} in {render.name(str(store.path))}")


def _first_password(path: str) -> bytearray:
    """A new password; the one that the store will be opened with, where only that is named."""
    if passwords.given() and not passwords.given(new=True):
        password = passwords.current(path, None)
        if password:
            return password
    return passwords.new(path, "the store")
