"""Refs: the packs that a snapshot needs, with their sizes. Derived from trees and footers."""

import itertools
from dataclasses import dataclass

from snapstore.base.errors import DamagedObject
from snapstore.model.names import KIND_DIRECTORIES

MAX_PACKS = 1 << 20
MAX_PACK_BYTES = 134_217_728


@dataclass(frozen=True, slots=True, order=True)
class PackRef:
    """A pack: id (32 bytes), kind (DATA or META), size in bytes."""

    id: bytes
    kind: int
    size: int


@dataclass(frozen=True, slots=True)
class Refs:
    """Packs by id. `exact`: these and no others; else perhaps some of them are not needed."""

    packs: tuple[PackRef, ...]
    exact: bool

    def encode(self) -> bytes:
        """The payload of a `refs/` object."""
        packs = sorted(self.packs)
        return b"".join(
            [
                bytes([self.exact]),
                _varint(len(packs)),
                b"".join(pack.id for pack in packs),
                bytes(pack.kind for pack in packs),
                b"".join(_varint(pack.size) for pack in packs),
            ]
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Refs":
        """The refs in a payload. DamagedObject when it is anything but what `encode` gives."""
        count, at = _read_varint(payload, 1)
        if payload[:1] not in (b"\0", b"\1") or count > min(MAX_PACKS, len(payload) // 34):
            raise DamagedObject("a list of packs is damaged")
        ids = [payload[at + 32 * i : at + 32 * i + 32] for i in range(count)]
        kinds = payload[at + 32 * count : at + 33 * count]
        at += 33 * count
        packs = []
        for id, kind in zip(ids, kinds, strict=True):
            size, at = _read_varint(payload, at)
            packs.append(PackRef(id, kind, size))
        refs = cls(tuple(packs), payload[0] == 1)
        ordered = all(a.id < b.id for a, b in itertools.pairwise(packs))
        sound = all(pack.kind in KIND_DIRECTORIES and pack.size <= MAX_PACK_BYTES for pack in packs)
        if at != len(payload) or not ordered or not sound:
            raise DamagedObject("a list of packs is damaged")
        return refs


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset after it) of a varint in its shortest form, at most 64 bits."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DamagedObject("a list of packs is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if (byte == 0 and shift > 7) or value >> 64:
        raise DamagedObject("a number is not in its shortest form")
    return value, at
