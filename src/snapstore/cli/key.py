"""`snap key`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snapstore.cli import passwords, render
from snapstore.cli.render import Column
from snapstore.cli.settings import HelpMixin, Settings, declare
from snapstore.cli.stores import open_store, store_path
from snapstore.cli.values import PATH
from snapstore.model.keys import UNLOCK_S

if TYPE_CHECKING:
    from snapstore import Kdf, KeyInfo, Store

_COLUMNS = (
    Column("used"),
    Column("name", elastic=True),
    Column("key"),
    Column("made", rank=2),
    Column("argon2id", rank=1),
)
UNLOCK_TIME = click.option(
    "--unlock-time",
    type=click.FloatRange(0, 60),
    default=UNLOCK_S,
    show_default=True,
    metavar="SECONDS",
    help="How long this machine is to work on the password.",
)


class KeyGroup(HelpMixin, click.Group):
    """A group whose help lists its commands as they were declared."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(120)) for name, one in self.commands.items()]
            )
        super().format_options(ctx, formatter)


@declare(
    "key",
    cls=KeyGroup,
    examples="""
    snap key list
    snap key add laptop
    snap key passwd
    snap key remove laptop
    snap key export --paper key.html
    snap key import key.txt -s /backup/store
    """,
)
def command() -> None:
    """Passwords of an encrypted store: list, add, change, remove, export, import.

    Each opens the same keys, so that nothing is written anew for them. A password that is to be set
    is asked for twice, or comes from SNAP_NEW_PASSWORD_FILE, _COMMAND, _FD or SNAP_NEW_PASSWORD.
    """


def _verb(name: str, examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Declares a command of the group."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        declared: click.Command = declare(name, examples=examples)(click.pass_obj(function))
        command.add_command(declared)
        return declared

    return wrap


@_verb("list", "snap key list")
def list_keys(settings: Settings, /) -> None:
    """List the passwords, the oldest first."""
    with open_store(settings, "r") as store:
        keys = store.list_keys()
    if settings.json:
        render.document({"keys": [key.to_dict() for key in keys]})
    else:
        render.table(_COLUMNS, [_row(key) for key in keys])


def _row(key: "KeyInfo") -> list[str]:
    work = f"{key.kdf.memory_kib >> 10} MiB, {key.kdf.passes} passes"
    used = "*" if key.current else ""
    return [used, render.plain(key.name), key.id[:8], render.moment(key.created_at), work]


@_verb("add", "snap key add laptop\nSNAP_NEW_PASSWORD_FILE=/root/new snap key add offsite")
@click.argument("name")
@UNLOCK_TIME
def add(settings: Settings, /, name: str, unlock_time: float) -> None:
    """Add a password that opens the store, under a NAME.

    The NAME is shown by `key list`, and is no secret.
    """
    with open_store(settings, "rw") as store, _new_password(store, f"key {name}") as password:
        _tell(settings, "added", store.add_key(password, name, kdf=_kdf(unlock_time)))


@_verb("passwd", "snap key passwd\nsnap key passwd laptop")
@click.argument("key", required=False)
@UNLOCK_TIME
def passwd(settings: Settings, /, key: str | None, unlock_time: float) -> None:
    """Set another password in place of one, which ends.

    KEY is a name or the beginning of an id; without it, the password that is used now is changed.
    Whoever knows the old one and kept a copy of the store's key/ can still read the store.
    """
    with open_store(settings, "rw") as store, _new_password(store, key or "this key") as password:
        _tell(settings, "changed", store.change_password(password, key, kdf=_kdf(unlock_time)))


@_verb("remove", "snap key remove laptop")
@click.argument("key")
def remove(settings: Settings, /, key: str) -> None:
    """Remove a password; the last one stays.

    KEY is a name or the beginning of an id. Whoever knows the password and kept a copy of the
    store's key/ can still read the store.
    """
    with open_store(settings, "rw") as store:
        _tell(settings, "removed", store.remove_key(key))


@_verb("export", "snap key export > key.txt\nsnap key export laptop --paper key.html")
@click.argument("key", required=False)
@click.option("--paper", type=PATH, metavar="FILE", help="Write a page to print, with a QR code.")
@click.option("--qr", is_flag=True, help="Show a QR code on the terminal.")
def export(settings: Settings, /, key: str | None, paper: str | None, qr: bool) -> None:
    """Write a key as text for safekeeping; its password is needed to use it.

    KEY is a name or the beginning of an id, else the key that is used now. With it the store can be
    opened even if its own key/ is lost.
    """
    from snapstore.cli import paper as printing
    from snapstore.model.paper import qr_text, to_paper

    with open_store(settings, "r") as store:
        keys = store.list_keys()
        data = store.export_key(key)
    name = next((one.name for one in keys if key is None and one.current), key or "")
    if paper is not None:
        _write(paper, printing.as_html(data, store.id, name))
    if settings.json:
        render.document({"key": name, "store": store.id, "text": qr_text(data), "paper": paper})
    elif qr:
        render.out(printing.as_terminal_qr(qr_text(data)))
    elif paper is None:
        sys.stdout.write(to_paper(data, store=store.id, name=name))
    elif not settings.quiet:
        render.out(f"wrote {render.name(paper)}")


def _write(path: str, text: str) -> None:
    """Writes a new file that others cannot read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


@_verb("import", "snap key import key.txt -s /backup/store\nzbarcam --raw -1 | snap key import -")
@click.argument("file", type=PATH)
def import_key(settings: Settings, /, file: str) -> None:
    """Put an exported key back into a store, which may have lost all of its own.

    FILE is what `key export` wrote, what a QR code said, or a copy of a file of key/; - is standard
    input. It needs no password.
    """
    from snapstore import api
    from snapstore.model.paper import from_paper

    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    _tell(settings, "imported", api.import_key(store_path(settings), from_paper(data)))


@_verb("remember", "snap key remember")
@click.option("--forget", is_flag=True, help="Take it out again.")
def remember(settings: Settings, /, forget: bool) -> None:
    """Keep the password in the system's keyring, where commands look for it.

    Needs the extra `keyring`. The password is tried first.
    """
    from snapstore.cli import wallet

    with open_store(settings, "r") as store:
        if not store.config.sealed:
            store.list_keys()
        used = None if forget else passwords.current(str(store.path), store.id)
        done = wallet.forget(store.id) if forget else wallet.remember(store.id, used or b"")
    if not done:
        raise click.ClickException("there is no keyring that works, or nothing in it to forget")
    if not settings.quiet:
        render.out("the keyring has forgotten it" if forget else "the keyring keeps it")


# What they share


def _kdf(unlock_s: float) -> "Kdf":
    from snapstore import api

    return api.calibrated_kdf(unlock_s)


@contextlib.contextmanager
def _new_password(store: "Store", what: str) -> Iterator[bytearray]:
    """A password that is to be set, wiped afterwards."""
    store.list_keys()  # says so when there is nothing to set one for
    password = passwords.new(str(store.path), what)
    try:
        yield password
    finally:
        passwords.erase(password)


def _tell(settings: Settings, done: str, key: "KeyInfo") -> None:
    if settings.json:
        render.document({"key": key.to_dict()})
    elif not settings.quiet:
        render.out(f"{done} key {render.plain(key.name)} ({key.id[:8]})")
