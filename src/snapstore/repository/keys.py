"""Keys: what opens a family, and the objects `key/<id>` that hold it under a password."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from snapstore import _native
from snapstore.base.errors import DamagedObject, SnapstoreError, WrongPassword
from snapstore.model import canonical, names
from snapstore.model.config import Config
from snapstore.model.fields import take, take_hex, take_int
from snapstore.repository.frames import Frames, FrameType

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Password = bytes | Callable[[], bytes]

KEY_CONTEXT = b"snapstore v1 key"
KDF = {"memory_kib": 65_536, "passes": 3, "lanes": 4}


def open_keys(
    frames: Frames, config: Config, payload: bytes, password: Password | None
) -> "_native.Keys":
    """The keys of a store; `payload` is that of its config. WrongPassword for a sealed one that
    `password` does not open.
    """
    if not config.sealed:
        return _native.Keys(config.family)
    if password is None:
        raise WrongPassword("the store is sealed", hint="give its password")
    given = password() if callable(password) else password
    damaged: SnapstoreError | None = None
    for name in frames.objects.list("key/"):
        id = names.parse_key(name)
        if id is None:
            continue
        try:
            keys = _open_slot(frames, name, id, config, payload, given)
        except DamagedObject as error:
            damaged = error
            continue
        if keys is not None:
            return keys
    raise damaged or WrongPassword("the password opens none of the store's keys")


def make_sealed(
    config: Config, password: bytes, *, name: str = "password", kdf: dict[str, int] | None = None
) -> tuple["_native.Keys", str, bytes]:
    """New random keys for a family: (keys, id, payload) with the payload of the object `key/<id>`
    that opens them.
    """
    secret, master = os.urandom(32), os.urandom(32)
    id, payload = wrap(config, password, secret, {1: master}, name=name, kdf=kdf or KDF)
    return _native.Keys(config.family, secret, {1: master}), id, payload


def wrap(
    config: Config,
    password: bytes,
    secret: bytes,
    masters: dict[int, bytes],
    *,
    name: str,
    kdf: dict[str, int],
) -> tuple[str, bytes]:
    """(id, payload) of an object `key/<id>` that holds these keys under a password."""
    parameters = kdf | {"name": "argon2id", "salt": os.urandom(32).hex()}
    nonce = os.urandom(12)
    plain = canonical.encode(
        {
            "config": blake3(config.encode()).hexdigest(),
            "family_secret": secret.hex(),
            "masters": {str(epoch): key.hex() for epoch, key in masters.items()},
        }
    )
    wrapped = _cipher(password, parameters).encrypt(nonce, plain, KEY_CONTEXT + config.family)
    payload = canonical.encode(
        {
            "name": name,
            "kdf": parameters,
            "nonce": nonce.hex(),
            "wrapped": wrapped.hex(),
            "created_ns": time.time_ns(),
        }
    )
    return blake3(payload).hexdigest(), payload


def _open_slot(
    frames: Frames, name: str, id: str, config: Config, config_payload: bytes, password: bytes
) -> "_native.Keys | None":
    """Keys in one `key/` object; None when the password is not its."""
    payload = frames.read(FrameType.KEY, name)
    if payload is None:
        return None
    if blake3(payload).hexdigest() != id:
        raise DamagedObject(f"{name} is not what its name says", object=name)
    plain = _unwrap(canonical.decode_object(payload), config, password)
    if plain is None:
        return None
    record = canonical.decode_object(plain)
    if take_hex(record, "config", 32) != blake3(config_payload).digest():
        raise DamagedObject("the store's config is not the one that its key was made for")
    masters = take(record, "masters", dict)
    if not masters or not all(epoch.isdecimal() and 0 < int(epoch) < 1 << 32 for epoch in masters):
        raise DamagedObject(f"{name} has no master keys", object=name)
    return _native.Keys(
        config.family,
        take_hex(record, "family_secret", 32),
        {int(epoch): take_hex(masters, epoch, 32) for epoch in masters},
    )


def _unwrap(record: dict[str, Any], config: Config, password: bytes) -> bytes | None:
    """The plaintext of a key object; None when the password is not its."""
    from cryptography.exceptions import InvalidTag

    cipher = _cipher(password, take(record, "kdf", dict))
    nonce, wrapped = take_hex(record, "nonce", 12), take_hex(record, "wrapped")
    try:
        return cipher.decrypt(nonce, wrapped, KEY_CONTEXT + config.family)
    except InvalidTag:
        return None


def _cipher(password: bytes, kdf: dict[str, Any]) -> "AESGCM":
    """AES-256-GCM under the key that Argon2id makes of a password; bounds are checked before it
    runs.
    """
    from argon2.low_level import Type, hash_secret_raw
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = take_hex(kdf, "salt")
    if take(kdf, "name", str) != "argon2id" or not 16 <= len(salt) <= 64:
        raise DamagedObject("a key is derived in a way that is not known")
    derived = hash_secret_raw(
        password,
        salt,
        time_cost=take_int(kdf, "passes", 1, 64),
        memory_cost=take_int(kdf, "memory_kib", 8_192, 4_194_304),
        parallelism=take_int(kdf, "lanes", 1, 16),
        hash_len=32,
        type=Type.ID,
        version=0x13,
    )
    return AESGCM(derived)
