"""Config: what a store is, for ever."""

import time
from dataclasses import dataclass

from snapstore.base.errors import InvalidArgument, StoreTooNew
from snapstore.model import canonical
from snapstore.model.fields import take, take_hex, take_int, take_list

FORMAT = 1
APPEND_ONLY = "append-only"
KNOWN_FEATURES: frozenset[str] = frozenset({APPEND_ONLY})

LEVELS = {"none": 0, "fast": 1, "default": 3, "small": 10}
"""zstd levels by the names of `--compression`; 0 stores raw."""

CHUNK_BYTES = 32 << 10
BLOCK_BYTES = 1 << 20
META_BLOCK_BYTES = 256 << 10
DATA_PACK_BYTES = 64 << 20
META_PACK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """The parameters of a store. Sizes in bytes; ids are 16 bytes."""

    store: bytes
    family: bytes
    sealed: bool
    chunk_bytes: int
    block_bytes: int
    meta_block_bytes: int
    data_pack_bytes: int
    meta_pack_bytes: int
    compression: str
    created_ns: int
    tool: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @classmethod
    def new(
        cls,
        store: bytes,
        family: bytes,
        tool: str,
        *,
        sealed: bool = False,
        append_only: bool = False,
        compression: str = "default",
        chunk_bytes: int | None = None,
        block_bytes: int | None = None,
    ) -> "Config":
        """Config of a new store. InvalidArgument for parameters outside the format's bounds."""
        chunk = CHUNK_BYTES if chunk_bytes is None else chunk_bytes
        block = BLOCK_BYTES if block_bytes is None else block_bytes
        if not 8_192 <= chunk <= 1_048_576 or chunk & (chunk - 1):
            raise InvalidArgument(f"the chunk size must be a power of two, 8 KiB to 1 MiB: {chunk}")
        if not 65_536 <= block <= 4_194_304:
            raise InvalidArgument(f"the block size must be 64 KiB to 4 MiB: {block}")
        return cls(
            store=store,
            family=family,
            sealed=sealed,
            chunk_bytes=chunk,
            block_bytes=block,
            meta_block_bytes=META_BLOCK_BYTES,
            data_pack_bytes=DATA_PACK_BYTES,
            meta_pack_bytes=META_PACK_BYTES,
            compression=compression_name(compression),
            created_ns=time.time_ns(),
            tool=tool,
            optional=(APPEND_ONLY,) if append_only else (),
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Config":
        """The config in a payload. DamagedObject; StoreTooNew when it requires what is not known
        here.
        """
        record = canonical.decode_object(payload)
        if take_int(record, "format") > FORMAT:
            raise StoreTooNew("the store's format is newer than this version of snapstore")
        features = take(record, "features", dict)
        config = cls(
            store=take_hex(record, "store", 16),
            family=take_hex(record, "family", 16),
            sealed=take(record, "sealed", bool),
            chunk_bytes=take_int(record, "chunk_bytes", 8_192, 1_048_576),
            block_bytes=take_int(record, "block_bytes", 65_536, 4_194_304),
            meta_block_bytes=take_int(record, "meta_block_bytes", 65_536, 4_194_304),
            data_pack_bytes=take_int(record, "data_pack_bytes", 1 << 20, 96 << 20),
            meta_pack_bytes=take_int(record, "meta_pack_bytes", 1 << 20, 96 << 20),
            compression=take(record, "compression", str),
            created_ns=take_int(record, "created_ns", -(1 << 63)),
            tool=take(record, "tool", str),
            required=tuple(take_list(features, "required", str)),
            optional=tuple(take_list(features, "optional", str)),
        )
        require_features(config.required, "the store")
        return config

    def encode(self) -> bytes:
        """The payload of the object `config`."""
        return canonical.encode(
            {
                "format": FORMAT,
                "store": self.store.hex(),
                "family": self.family.hex(),
                "sealed": self.sealed,
                "features": {"required": sorted(self.required), "optional": sorted(self.optional)},
                "chunk_bytes": self.chunk_bytes,
                "block_bytes": self.block_bytes,
                "meta_block_bytes": self.meta_block_bytes,
                "data_pack_bytes": self.data_pack_bytes,
                "meta_pack_bytes": self.meta_pack_bytes,
                "compression": self.compression,
                "created_ns": self.created_ns,
                "tool": self.tool,
            }
        )

    @property
    def append_only(self) -> bool:
        """Whether nothing is ever deleted from the store."""
        return APPEND_ONLY in self.optional

    @property
    def unknown_optional(self) -> tuple[str, ...]:
        """Optional features that a writer would have to know."""
        return tuple(name for name in self.optional if name not in KNOWN_FEATURES)


def compression_name(name: str) -> str:
    """`name`, when it is one of the compression levels."""
    if name not in LEVELS:
        raise InvalidArgument(
            f"no compression is called {name!r}", hint=f"one of {', '.join(LEVELS)}"
        )
    return name


def require_features(names: tuple[str, ...], what: str) -> None:
    """StoreTooNew when one of the features is not known here."""
    unknown = sorted(set(names) - KNOWN_FEATURES)
    if unknown:
        raise StoreTooNew(
            f"{what} needs features that this version does not know: {', '.join(unknown)}",
            hint="use a newer version of snapstore",
            features=unknown,
        )
