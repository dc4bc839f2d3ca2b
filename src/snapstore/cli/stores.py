"""Which store a command means, and opening it."""

import contextlib
import os
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from snapstore.base.errors import SnapstoreError, StoreExists, StoreNotFound, WrongPassword
from snapstore.cli import render
from snapstore.cli.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from snapstore import Store
    from snapstore.model.keys import Password


def named_store(settings: Settings) -> str | None:
    """The store that the user named, by option or by environment."""
    return settings.store or os.environ.get("SNAP_STORE") or None


def default_store() -> Path:
    """The user's own store, used when none is named."""
    return _own("XDG_DATA_HOME", ".local/share") / "snapstore" / "store"


def store_path(settings: Settings) -> Path:
    """Where the store is that is meant. Raises StoreNotFound with all the ways to name one."""
    path = named_store(settings)
    if path is not None:
        return Path(path)
    own = default_store()
    if not own.exists():
        raise StoreNotFound(
            "no store is named, and you have none of your own yet",
            hint=f"name one with -s DIR or SNAP_STORE; `snap create PATH` makes your own in {own}",
        )
    if settings.verbose:
        render.note(f"snap: using your own store, {render.name(str(own))}")
    return own


def open_store(settings: Settings, mode: Literal["r", "rw"]) -> "Store":
    """Opens the store that is meant, with the password that is to be had if it is encrypted, and
    says what is not as it was.
    """
    from snapstore import api

    path = store_path(settings)
    chosen: Literal["r", "append", "rw"] = mode
    if mode == "rw" and os.environ.get("SNAP_APPEND_ONLY", "") not in ("", "0"):
        chosen = "append"
    with password_of(path) as password:
        store = api.open(path, mode=chosen, cache_dir=cache_directory(), password=password)
    for warning in store.warnings:
        render.warning(warning)
    return store


@contextmanager
def password_of(path: Path) -> "Iterator[Password]":
    """The password as `api.open` takes it, erased afterwards. One that the environment names must
    be of use; else it is looked for when it is needed.
    """
    from snapstore.cli import passwords

    found: list[bytearray] = []

    def needed() -> bytearray | None:
        # Only the keyring asks for the id.
        password = passwords.current(str(path), None if passwords.given() else _id(path))
        found.extend([password] if password is not None else [])
        return password

    try:
        yield (passwords.given() and needed()) or needed
    except WrongPassword as error:
        if passwords.origin() == "keyring":
            error.hint = "the one in the keyring is not right: snap key remember --forget"
        raise
    finally:
        for password in found:
            passwords.erase(password)


def _id(path: Path) -> str | None:
    """The store's id, as far as it can be told without opening it."""
    from snapstore import api

    with contextlib.suppress(SnapstoreError):
        return api.store_id(path)
    return None


def open_or_make_store(settings: Settings, *, dry_run: bool) -> "AbstractContextManager[Store]":
    """As `open_store` for writing, but makes the user's own store when none is named and there is
    none yet; for a dry run one that is gone after the block.
    """
    try:
        return open_store(settings, "rw")
    except StoreNotFound:
        if named_store(settings) is not None:
            raise
    return _passing_store() if dry_run else _make_own(settings)


@contextmanager
def _passing_store() -> "Iterator[Store]":
    from tempfile import TemporaryDirectory

    from snapstore import api

    with TemporaryDirectory(prefix="snap-dry-run-") as place, api.init(place) as store:
        yield store


def _make_own(settings: Settings) -> "Store":
    from snapstore import api

    own = default_store()
    own.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        made = api.init(own, cache_dir=cache_directory())
    except StoreExists:  # another first create was faster
        return open_store(settings, "rw")
    if not settings.quiet:
        render.note(f"snap: made a store of your own, {render.name(str(own))}")
    return made


def cache_directory() -> Path:
    """Where what is derived goes when it cannot be in the store."""
    return _own("XDG_CACHE_HOME", ".cache") / "snapstore"


def _own(variable: str, usual: str) -> Path:
    """A directory of the XDG specification, for which a relative one in a variable is none."""
    named = os.environ.get(variable, "")
    return Path(named) if named.startswith("/") else Path.home() / usual
