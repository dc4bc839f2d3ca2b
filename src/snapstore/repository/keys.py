"""Keys: what opens a family, and the objects `key/<id>` that hold it under a password each."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from blake3 import blake3

from snapstore import _native
from snapstore.base.errors import (
    DamagedObject,
    InvalidArgument,
    KeyDamaged,
    KeyMissing,
    KeyNotFound,
    PasswordNeeded,
    SnapstoreError,
    StorageError,
    StoreDowngraded,
    StoreFailed,
    StoreTooNew,
    TamperedObject,
    WrongPassword,
)
from snapstore.base.hardening import harden
from snapstore.model import names
from snapstore.model.config import Config
from snapstore.model.keys import UNLOCK_S, Kdf, KeyInfo, KeyRecord, Password, key_name, new_password
from snapstore.repository.frames import NO_NONCE, Frames, FrameType

_LEAST = Kdf(memory_kib=65_536, passes=3, lanes=4)
"""What RFC 9106 recommends where memory is limited."""
_MOST_KIB = 131_072
"""Opening a store stays below the bound on memory."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The keys of a store, and the id of the object that gave them; None without one."""

    keys: "_native.Keys"
    slot: str | None


def open_keys(
    frames: Frames,
    config: Config,
    payload: bytes,
    password: Password | None,
    *,
    first: str | None = None,
) -> Opened:
    """The keys of a store; `payload` is that of its config, `first` the slot to be tried first.

    PasswordNeeded, WrongPassword, KeyMissing, KeyDamaged, TamperedObject (the config is another
    one), StoreDowngraded (a password for a store that is not encrypted).
    """
    if not config.sealed:
        if password is not None and not callable(password):
            raise StoreDowngraded(
                "a password was given, but the store is not encrypted",
                hint="where that is as it should be, give none",
            )
        return Opened(_native.Keys(config.family), None)
    slots, damaged = read_slots(frames)
    if not slots and not damaged:
        raise KeyMissing("none of the store's keys is left")
    given = password() if callable(password) else password
    if given is None:
        raise PasswordNeeded("the store is encrypted, and no password was given")
    # What costs most comes last: somebody may have put it there to hinder.
    order = sorted(slots.items(), key=lambda item: (item[0] != first, item[1].kdf.work))
    for id, slot in order:
        try:
            keys = _open_slot(slot, config, payload, given)
        except TamperedObject:
            raise
        except (DamagedObject, StoreFailed) as error:
            damaged.append(error)
            continue
        if keys is not None:
            return Opened(keys, id)
    if damaged:
        raise KeyDamaged(
            f"the password opens none of the store's {len(slots)} intact keys, and {len(damaged)} "
            f"cannot be used: {damaged[0]}"
        )
    raise WrongPassword(
        "the password opens none of the store's keys",
        hint="see how it is spelt, and whether it is that of this store",
    )


def fitting(handed: "_native.Keys", config: Config) -> "_native.Keys":
    """Keys that another process had of the store when it opened it, if they are those of the config
    that is there now. StoreDowngraded, TamperedObject.
    """
    if handed.sealed and not config.sealed:
        raise StoreDowngraded("the store was encrypted a moment ago, and is not any more")
    if handed.family != config.family:
        raise TamperedObject(
            "another store is in place of the one that was opened", object="config"
        )
    return handed


@contextlib.contextmanager
def handed_over(keys: "_native.Keys") -> Iterator[list[int]]:
    """Descriptors by which a process that is started in the block gets the keys of an encrypted
    store; none for a store that has none.
    """
    descriptors = [keys.hand_over()] if keys.sealed else []
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def taken_over(descriptor: int | None) -> "_native.Keys | None":
    """The keys that come from such a descriptor, in a process that keeps them to itself."""
    if descriptor is None:
        return None
    harden()
    return _native.Keys.take_over(descriptor)


def read_slots(frames: Frames) -> tuple[dict[str, KeyRecord], list[SnapstoreError]]:
    """All objects `key/<id>` that can be read, by id, and what is wrong with the others."""
    slots: dict[str, KeyRecord] = {}
    damaged: list[SnapstoreError] = []
    for name in frames.objects.list("key/"):
        id = names.parse_key(name)
        if id is None:
            continue
        try:
            payload = frames.read(FrameType.KEY, name)
            if payload is not None:
                slots[id] = _checked(id, payload)
        except (DamagedObject, StorageError, StoreTooNew) as error:
            damaged.append(error)
    return slots, damaged


def _checked(id: str, payload: bytes) -> KeyRecord:
    if blake3(payload).hexdigest() != id:
        raise DamagedObject(f"key/{id} is not what its name says", object=f"key/{id}")
    return KeyRecord.decode(payload)


def _open_slot(
    slot: KeyRecord, config: Config, payload: bytes, password: bytes | bytearray
) -> "_native.Keys | None":
    """The keys in a slot; None when the password is not its."""
    return _native.Keys.unwrap(
        config.family,
        blake3(payload).digest(),
        password,
        slot.kdf.with_salt(slot.salt),
        slot.nonce,
        slot.wrapped,
    )


def wrap(
    keys: "_native.Keys", config: Config, password: bytes | bytearray, name: str, kdf: Kdf
) -> tuple[str, bytes]:
    """(id, payload) of an object `key/<id>` that holds these keys under a password."""
    salt, nonce = os.urandom(32), os.urandom(12)
    hash = blake3(config.encode()).digest()
    wrapped = keys.wrap(hash, new_password(password), kdf.with_salt(salt), nonce)
    payload = KeyRecord(key_name(name), kdf, salt, nonce, wrapped, time.time_ns()).encode()
    return blake3(payload).hexdigest(), payload


def calibrated(unlock_s: float = UNLOCK_S) -> Kdf:
    """Parameters by which this machine works on a password for about so long, and never less than
    RFC 9106 recommends. Memory first: it is what guessing on special hardware has least of.
    """
    lanes = max(1, min(4, os.cpu_count() or 1))
    memory_kib, passes = _LEAST.memory_kib, _LEAST.passes
    taken_s = _pass_s(memory_kib, lanes)
    while memory_kib < _MOST_KIB and 2 * taken_s * passes <= unlock_s:
        memory_kib, taken_s = memory_kib * 2, taken_s * 2
    return Kdf(memory_kib, max(passes, min(64, int(unlock_s / taken_s))), lanes)


def _pass_s(memory_kib: int, lanes: int) -> float:
    begun = time.perf_counter()
    _native.derive_key(b"measured", (memory_kib, 1, lanes, bytes(16)))
    return max(time.perf_counter() - begun, 1e-3)


class KeyRing:
    """The passwords of an open, encrypted store. `current`: the id of the one that opened it."""

    def __init__(
        self, frames: Frames, config: Config, keys: "_native.Keys", current: str | None
    ) -> None:
        self._frames = frames
        self._config = config
        self._keys = keys
        self._current = current

    def list(self) -> list[KeyInfo]:
        """All that can be read, the oldest first."""
        slots, _ = read_slots(self._frames)
        infos = [self._info(id, slot) for id, slot in slots.items()]
        return sorted(infos, key=lambda info: (info.created_ns, info.id))

    def _info(self, id: str, slot: KeyRecord) -> KeyInfo:
        return KeyInfo(id, slot.name, slot.created_ns, slot.kdf, id == self._current)

    def find(self, key: str) -> KeyInfo:
        """The one of a name, or of an id or its beginning (4 digits or more). KeyNotFound."""
        infos = self.list()
        found = [info for info in infos if info.name == key]
        found = found or [info for info in infos if len(key) >= 4 and info.id.startswith(key)]
        if len(found) != 1:
            what = "no key answers" if not found else "several keys answer"
            raise KeyNotFound(f"{what} to {key!r}", candidates=[info.id for info in found])
        return found[0]

    def current(self) -> KeyInfo:
        """The one that opened the store. KeyNotFound when it is gone, or keys were handed over."""
        for info in self.list():
            if info.current:
                return info
        raise KeyNotFound("the key that opened the store is not in it any more", hint="name one")

    def add(self, password: bytes | bytearray, name: str, kdf: Kdf) -> KeyInfo:
        """One more password. InvalidArgument when there is one of that name."""
        if any(info.name == name for info in self.list()):
            raise InvalidArgument(f"there is a key of the name {name!r}", hint="choose another one")
        return self._write(password, name, kdf)

    def _write(self, password: bytes | bytearray, name: str, kdf: Kdf) -> KeyInfo:
        id, payload = wrap(self._keys, self._config, password, name, kdf)
        self._frames.write(FrameType.KEY, names.key(id), payload)
        return self._info(id, _checked(id, payload))

    def change(self, info: KeyInfo, password: bytes | bytearray, kdf: Kdf) -> KeyInfo:
        """Another password in place of one: the new one is durable before the old one goes."""
        new = self._write(password, info.name, kdf)
        self._frames.objects.delete(names.key(info.id))
        return replace(new, current=info.current)

    def remove(self, info: KeyInfo) -> None:
        """Takes a password away. InvalidArgument for the last one."""
        if len(self.list()) < 2:
            raise InvalidArgument(
                "the last key is not removed: nobody could open the store any more",
                hint="key passwd changes its password",
            )
        self._frames.objects.delete(names.key(info.id))

    def _payload(self, id: str) -> bytes:
        payload = self._frames.read(FrameType.KEY, names.key(id))
        if payload is None:
            raise KeyNotFound(f"the key {id[:8]} is gone")
        return payload

    def export(self, info: KeyInfo) -> bytes:
        """The object of a key, which its password protects: what `put_back` takes."""
        payload = self._payload(info.id)
        return self._frames.encode(FrameType.KEY, names.key(info.id), NO_NONCE, payload)


def put_back(frames: Frames, data: bytes) -> KeyInfo:
    """Writes a key that was exported into a store again; one that is there stays as it is. Whether
    it is this store's turns out when its password is given. InvalidArgument.
    """
    try:
        payload = frames.decode(FrameType.KEY, "the exported key", data)[1]
        id = blake3(payload).hexdigest()
        record = _checked(id, payload)
    except DamagedObject as error:
        raise InvalidArgument(f"this is no key that was exported: {error}") from error
    if id not in read_slots(frames)[0]:
        frames.objects.delete(names.key(id))  # what is there cannot be read
        frames.write(FrameType.KEY, names.key(id), payload)
    return KeyInfo(id, record.name, record.created_ns, record.kdf, False)
