"""Keys: how a password is made into one, and what is told of those that open a store."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from snapstore.base.errors import DamagedObject, InvalidArgument
from snapstore.model import canonical
from snapstore.model.fields import take, take_hex, take_int

Password = bytes | bytearray | Callable[[], bytes | bytearray | None]
"""A password, or what gives it when it is needed (None: there is none)."""

UNLOCK_S = 0.25
"""How long this machine works on a password, unless somebody says otherwise when it is set."""

MAX_PASSWORD_BYTES = 4096
MAX_NAME_LENGTH = 64
_LAST_NS = 253_402_300_799 * 10**9  # 9999


@dataclass(frozen=True, slots=True)
class Kdf:
    """Parameters of Argon2id (RFC 9106): memory, passes over it, and lanes worked on at once."""

    memory_kib: int
    passes: int
    lanes: int

    @property
    def work(self) -> int:
        """What trying a password costs, to compare."""
        return self.memory_kib * self.passes

    def with_salt(self, salt: bytes) -> tuple[int, int, int, bytes]:
        """As the core takes them."""
        return self.memory_kib, self.passes, self.lanes, salt


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A password of an encrypted store. `id`: of its object; `current`: the store was opened by
    it.
    """

    id: str
    name: str
    created_ns: int
    kdf: Kdf
    current: bool

    @property
    def created_at(self) -> datetime:
        """`created_ns` to the second."""
        return datetime.fromtimestamp(self.created_ns // 10**9, UTC)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "id": self.id,
            "name": self.name,
            "created_at": self.created_at.isoformat(timespec="seconds"),
            "kdf": {
                "name": "argon2id",
                "memory_kib": self.kdf.memory_kib,
                "passes": self.kdf.passes,
                "lanes": self.kdf.lanes,
            },
            "current": self.current,
        }


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The payload of an object `key/<id>` (docs/format/config.md): keys, wrapped."""

    name: str
    kdf: Kdf
    salt: bytes
    nonce: bytes
    wrapped: bytes
    created_ns: int

    @classmethod
    def decode(cls, payload: bytes) -> "KeyRecord":
        """The record in a payload; bounds are checked before anything is derived. DamagedObject."""
        record = canonical.decode_object(payload)
        kdf = take(record, "kdf", dict)
        salt = take_hex(kdf, "salt")
        if take(kdf, "name", str) != "argon2id" or not 16 <= len(salt) <= 64:
            raise DamagedObject("a key is derived in a way that is not known")
        return cls(
            name=take(record, "name", str),
            kdf=Kdf(
                take_int(kdf, "memory_kib", 8_192, 4_194_304),
                take_int(kdf, "passes", 1, 64),
                take_int(kdf, "lanes", 1, 16),
            ),
            salt=salt,
            nonce=take_hex(record, "nonce", 12),
            wrapped=take_hex(record, "wrapped"),
            created_ns=take_int(record, "created_ns", 0, _LAST_NS),
        )

    def encode(self) -> bytes:
        """The payload."""
        return canonical.encode(
            {
                "name": self.name,
                "kdf": {
                    "name": "argon2id",
                    "memory_kib": self.kdf.memory_kib,
                    "passes": self.kdf.passes,
                    "lanes": self.kdf.lanes,
                    "salt": self.salt.hex(),
                },
                "nonce": self.nonce.hex(),
                "wrapped": self.wrapped.hex(),
                "created_ns": self.created_ns,
            }
        )


def key_name(name: str) -> str:
    """`name`, when a key may be called so. InvalidArgument."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable() or name != name.strip():
        raise InvalidArgument(
            f"a key's name has 1 to {MAX_NAME_LENGTH} characters that can be printed: {name!r}"
        )
    return name


def new_password(password: bytes | bytearray) -> bytes | bytearray:
    """`password`, when one may be set to it. InvalidArgument, which does not show it."""
    if not 1 <= len(password) <= MAX_PASSWORD_BYTES:
        raise InvalidArgument(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    return password
