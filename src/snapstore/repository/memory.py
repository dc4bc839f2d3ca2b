"""Memory: what this machine knows of an encrypted store, so that none is exchanged or rolled back
without a word.

It is kept where what is derived goes, never in the store. Where it cannot be written nothing is
remembered; what it holds is no secret: ids and names of objects in a keyed form.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from snapstore.base.errors import StoreDowngraded
from snapstore.model.config import Config
from snapstore.repository.objects import ObjectStore, write_all

_WATCHED = ("snap/", "label/", "ref/", "gc/")
"""Prefixes of objects that say what the store's state is."""
_MARK_BYTES = 16


@dataclass(frozen=True, slots=True)
class Place:
    """What was at a path when it was last opened."""

    store: str
    key: str | None


class Memory:
    """What is known of the store at `path`. `root`: the directory for all that is derived; None:
    nothing is remembered.
    """

    def __init__(self, root: Path | None, path: Path, config: Config) -> None:
        self._config = config
        self._place = None if root is None else _place_file(root, path)
        self._before = _read_place(self._place)
        self._seen = None if root is None else root / config.store.hex() / "seen"
        self._known: set[bytes] | None = None

    # The place

    def check_place(self) -> str | None:
        """What is to be said when another store is here than before. StoreDowngraded when that one
        was encrypted and this one is not.
        """
        before = self._before
        if before is None:
            return None
        if not self._config.sealed:
            raise StoreDowngraded(
                "an encrypted store was here before, and this one is not encrypted",
                hint="if you put it there yourself: snap doctor --trust",
                store=before.store,
            )
        if before.store == self._config.store.hex():
            return None
        return (
            f"another encrypted store was here before ({before.store[:8]}, now "
            f"{self._config.store.hex()[:8]}); if you put it there yourself: snap doctor --trust"
        )

    def last_key(self) -> str | None:
        """The id of the key that opened this store last."""
        before = self._before
        return before.key if before and before.store == self._config.store.hex() else None

    def keep_place(self, key: str | None) -> None:
        """Remembers an encrypted store, and by which key it was opened."""
        if self._place is None or not self._config.sealed:
            return
        before = self._before
        if before is not None and before.store != self._config.store.hex():
            return  # until somebody says that it is right
        if before is None or (key is not None and before.key != key):
            self._before = Place(self._config.store.hex(), key)
            _write(self._place, json.dumps(asdict(self._before)).encode())

    # The state

    def missing(self, objects: ObjectStore) -> int:
        """How many objects of its state the store no longer has that were seen in it; what is new
        is remembered.
        """
        if self._seen is None or not self._config.sealed:
            return 0
        found = {_mark(name) for prefix in _WATCHED for name in _names(objects, prefix)}
        known = self._load()
        self._append(found - known)
        return len(known - found)

    def note(self, written: Iterable[str]) -> None:
        """Remembers objects that were just written."""
        if self._seen is not None and self._config.sealed:
            self._append({_mark(name) for name in written} - self._load())

    def trust(self, objects: ObjectStore) -> None:
        """Takes what is here now for what should be here."""
        for file in (self._place, self._seen):
            if file is not None:
                file.unlink(missing_ok=True)
        self._before = self._known = None
        self.missing(objects)

    def _load(self) -> set[bytes]:
        if self._known is None:
            data = b""
            if self._seen is not None:
                with contextlib.suppress(OSError):
                    data = self._seen.read_bytes()
            ends = range(_MARK_BYTES, len(data) + 1, _MARK_BYTES)
            self._known = {data[end - _MARK_BYTES : end] for end in ends}
        return self._known

    def _append(self, marks: set[bytes]) -> None:
        if not marks or self._seen is None:
            return
        self._load().update(marks)
        with contextlib.suppress(OSError):
            self._seen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self._seen, flags, 0o600)
            try:
                write_all(descriptor, b"".join(sorted(marks)))
            finally:
                os.close(descriptor)


def forget_place(root: Path, path: Path) -> None:
    """Forgets which store was at a path."""
    _place_file(root, path).unlink(missing_ok=True)


def _place_file(root: Path, path: Path) -> Path:
    return root / "places" / blake3(os.fsencode(path)).hexdigest()[:32]


def _read_place(file: Path | None) -> Place | None:
    if file is None:
        return None
    try:
        record = json.loads(file.read_bytes())
        return Place(str(record["store"]), record.get("key"))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _names(objects: ObjectStore, prefix: str) -> list[str]:
    if prefix != "ref/":
        return objects.list(prefix)
    return [name for kind in objects.list(prefix) for name in objects.list(f"{kind}/")]


def _mark(name: str) -> bytes:
    """What stands for an object: its name has its content's keyed hash in it."""
    return blake3(name.encode()).digest(_MARK_BYTES)


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}-{os.urandom(4).hex()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(new, path)
    with contextlib.suppress(OSError):
        new.unlink(missing_ok=True)
