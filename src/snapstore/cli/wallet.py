"""Wallet: passwords of stores in the system's keyring (extra `keyring`).

They are kept under the service `snapstore`, with the store's id for the user. The keyring is a
convenience: without the library, a backend or an answer there is no password in it, and only `-v`
says why.
"""

from collections.abc import Callable
from typing import TypeVar

import click

from snapstore.cli import render
from snapstore.cli.settings import Settings

SERVICE = "snapstore"

T = TypeVar("T")


def recall(id: str) -> bytearray | None:
    """The password of the store with this id; None where the keyring has none."""

    def get() -> bytearray | None:
        import keyring

        found = keyring.get_password(SERVICE, id)
        return None if found is None else bytearray(found, "utf-8", "surrogateescape")

    return _tried(get)


def remember(id: str, password: bytearray | bytes) -> bool:
    """Puts a password, which must be text (UTF-8), into the keyring. Whether it did."""

    def put() -> bool:
        import keyring

        keyring.set_password(SERVICE, id, bytes(password).decode())
        return True

    return _tried(put) or False


def forget(id: str) -> bool:
    """Takes a password out of the keyring. Whether one was there."""

    def drop() -> bool:
        import keyring

        keyring.delete_password(SERVICE, id)
        return True

    return _tried(drop) or False


def _tried(action: Callable[[], T]) -> T | None:
    """What it gives; None where it fails. Backends raise what they like, and may put what they were
    given into it: only its class is told.
    """
    try:
        return action()
    except Exception as error:
        context = click.get_current_context(silent=True)
        settings = context.find_object(Settings) if context is not None else None
        if settings is not None and settings.verbose:
            reason = "not installed" if _is_missing(error) else type(error).__name__
            render.note(f"snap: the keyring was not used ({reason})")
        return None


def _is_missing(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == "keyring"
