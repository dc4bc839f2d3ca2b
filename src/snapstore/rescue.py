"""The independent reader: restores snapshots with nothing but this one file.

It is written from the pages of ``docs/format`` alone and shares no code with the rest of
snapstore. It has two uses: it proves that those pages suffice to read a store, and it gets data
back on a machine where snapstore itself cannot be installed or is not trusted. It needs Python
3.11, ``zstandard``, ``xxhash`` and ``blake3``; a sealed store also needs ``cryptography`` and
``argon2-cffi``. Copied beside a store, it runs as it is::

    python rescue.py STORE                      # what is there
    python rescue.py STORE SNAPSHOT OUT         # restore (id prefix, "latest" or a label's name)
    python rescue.py STORE latest OUT --path etc/fstab
    python rescue.py STORE --check              # verify all that is reachable

Everything read is hostile until checked: bounds are checked before memory is taken, checksums
before bytes are decoded, ids after. A damaged object costs what it holds and no more: the rest is
restored, what is lost is listed on standard error, and the exit status is 3.

As a library: :class:`Store` opens a store; the ``decode_…`` functions are pure and can serve as an
oracle for another implementation's tests.
"""

from __future__ import annotations

import argparse
import errno
import getpass
import json
import os
import re
import stat
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import partial
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, NoReturn, TypeVar, cast

import xxhash
import zstandard
from blake3 import blake3

# --------------------------------------------------------------------------------------------
# Bounds (README.md) and errors
# --------------------------------------------------------------------------------------------

VERSION: Final = 1
MAX_PACK: Final = 134_217_728
MAX_BLOCKS: Final = 65_535
MAX_CHUNKS: Final = 262_144
MAX_BLOCK: Final = 8_388_608
MAX_FOOTER: Final = 16_777_216
MAX_CHUNK: Final = 4_194_304
MAX_NODE: Final = 8_388_608
MAX_ITEMS: Final = 1_024
MAX_LEVEL: Final = 12
MAX_SMALL: Final = 67_108_864
MAX_NAME: Final = 255
MAX_PATH: Final = 1_048_576
MAX_DEPTH: Final = 4_096
MAX_TARGET: Final = 65_535
MAX_XATTR_NAME: Final = 255
MAX_XATTR_VALUE: Final = 65_536
MAX_XATTRS: Final = 65_536
MAX_XATTR_SET: Final = 16_777_216
MAX_FILE: Final = 2**63 - 1
IN_PLACE_BYTES: Final = 256
IN_PLACE_ITEMS: Final = 32
IN_PLACE_XATTRS: Final = 4_096
LINK_LEAF_BYTES: Final = 1_048_576
ZERO_ID: Final = bytes(32)
KNOWN_FEATURES: Final[frozenset[str]] = frozenset()

Json = dict[str, Any]


class StoreError(Exception):
    """Anything that keeps this reader from giving back bytes that it can vouch for."""


class Damaged(StoreError):
    """Bytes that are not what the format says, or not what their name says."""


class Missing(StoreError):
    """An object, chunk or node that is nowhere in the store."""


class NewerVersion(StoreError):
    """An object or store that a newer version of the format is needed for."""


class WrongPassword(StoreError):
    """No password given for a sealed store, or one that opens none of its keys."""


class Problem(NamedTuple):
    """Something found wrong: where, and what."""

    where: str
    error: StoreError


# --------------------------------------------------------------------------------------------
# Conventions: hashes, integers, text (README.md, frame.md)
# --------------------------------------------------------------------------------------------


def derive(context: str, material: bytes) -> bytes:
    """BLAKE3's ``derive_key`` mode."""
    return blake3(material, derive_key_context=context).digest()


def keyed_hash(key: bytes, data: bytes) -> bytes:
    """BLAKE3's keyed mode."""
    return blake3(data, key=key).digest()


def checksum(data: bytes) -> bytes:
    """XXH3-64, as stored."""
    return xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


def u32(data: bytes, offset: int) -> int:
    """A little-endian integer of four bytes."""
    return int.from_bytes(data[offset : offset + 4], "little")


def require(condition: bool, what: str) -> None:
    """Raise :class:`Damaged` unless the condition holds."""
    if not condition:
        raise Damaged(what)


class Reader:
    """Takes values from the front of a byte string, never past its end."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.position + count
        require(end <= len(self.data), "ends too early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def varint(self) -> int:
        """An unsigned LEB128 integer of at most 64 bits in its shortest form."""
        data, position = self.data, self.position
        value = shift = 0
        while True:
            require(position < len(data), "ends within a varint")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            require(shift < 70, "varint longer than 64 bits")
        require(value < 2**64, "varint longer than 64 bits")
        require(byte != 0 or shift == 0, "varint not in its shortest form")
        self.position = position
        return value

    def zigzag(self) -> int:
        """A signed integer of 64 bits."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def bounded(self, low: int, high: int, what: str) -> int:
        """A varint within bounds."""
        value = self.varint()
        require(low <= value <= high, f"{what} out of bounds: {value}")
        return value

    def string(self, low: int, high: int, what: str) -> bytes:
        """A length, checked before anything is taken, and that many bytes."""
        return self.take(self.bounded(low, high, f"length of {what}"))

    def ids(self, count: int) -> tuple[bytes, ...]:
        """That many ids."""
        taken = self.take(32 * count)
        return tuple(taken[at : at + 32] for at in range(0, len(taken), 32))

    def end(self) -> None:
        """Nothing may be left over."""
        require(self.position == len(self.data), "bytes left over")


_ESCAPES: Final = {
    **{number: f"\\u{number:04x}" for number in range(0x20)},
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def _json_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        require(-(2**63) <= value < 2**63, "integer of more than 64 bits")
        return str(value)
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, list):
        return f"[{','.join(map(_json_text, value))}]"
    if isinstance(value, dict):
        items = (f"{_json_text(key)}:{_json_text(value[key])}" for key in sorted(value))
        return f"{{{','.join(items)}}}"
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def encode_json(value: Any) -> bytes:
    """The canonical form of a JSON value."""
    return _json_text(value).encode()


def _no_float(text: str) -> NoReturn:
    raise Damaged(f"not an integer: {text[:40]}")


def decode_json(payload: bytes) -> Json:
    """A JSON record; anything but its canonical form is refused."""
    try:
        value = json.loads(payload.decode(), parse_float=_no_float, parse_constant=_no_float)
        same = encode_json(value) == payload
    except (ValueError, RecursionError) as error:
        raise Damaged(f"not JSON: {error}") from None
    require(same, "JSON not in its canonical form")
    require(isinstance(value, dict), "not a JSON object")
    return cast(Json, value)


def encode_text(raw: bytes) -> str:
    """A byte string as it stands in JSON."""
    out = []
    for char in raw.decode("utf-8", "surrogateescape"):
        number = ord(char)
        if 0xDC80 <= number <= 0xDCFF:
            out.append(f"%{number - 0xDC00:02X}")
        elif number < 0x20 or char in "\x7f%":
            out.append(f"%{number:02X}")
        else:
            out.append(char)
    return "".join(out)


def decode_text(text: str) -> bytes:
    """The byte string that stands in JSON as this text; other spellings are refused."""
    try:
        raw = re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())
    except UnicodeEncodeError:
        raise Damaged("byte string with a surrogate") from None
    require(encode_text(raw) == text, "byte string not in its canonical form")
    return raw


def check_name(name: bytes) -> bytes:
    """A name that can stand in a directory, and that leads nowhere else."""
    require(0 < len(name) <= MAX_NAME, "name empty or too long")
    require(name not in (b".", b".."), "name is . or ..")
    require(b"/" not in name and b"\0" not in name, "name with a slash or NUL")
    return name


def check_path(path: bytes) -> bytes:
    """A relative path of proper names."""
    require(len(path) <= MAX_PATH, "path too long")
    parts = path.split(b"/")
    require(len(parts) <= MAX_DEPTH + 1, "path too deep")
    for part in parts:
        check_name(part)
    return path


def inflate(coded: bytes, codec: int, length: int) -> bytes:
    """Undo the codec; the result has exactly the declared length (already checked)."""
    if codec == 0:
        require(len(coded) == length, "raw bytes of another length")
        return coded
    require(codec == 1, "unknown codec")
    try:
        require(coded[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
        declared = zstandard.get_frame_parameters(coded).content_size
        require(declared in (length, zstandard.CONTENTSIZE_UNKNOWN), "zstd frame of another length")
        if length == 0:
            task = zstandard.ZstdDecompressor().decompressobj()
            plain = task.decompress(coded[:64])
            require(task.eof and not task.unused_data and len(coded) <= 64, "not one zstd frame")
        else:
            plain = zstandard.ZstdDecompressor().decompress(
                coded, max_output_size=length, allow_extra_data=False
            )
    except zstandard.ZstdError as error:
        raise Damaged(f"does not decompress: {error}") from None
    require(len(plain) == length, "decompresses to another length")
    return plain


# --------------------------------------------------------------------------------------------
# Keys and frames (frame.md, config.md)
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """All that follows from a family secret, and the master keys of a sealed family."""

    family: bytes
    secret: bytes = bytes(32)
    masters: dict[int, bytes] | None = None
    chunk: bytes = field(init=False)
    node: bytes = field(init=False)
    snapshot: bytes = field(init=False)
    object: bytes = field(init=False)

    def __post_init__(self) -> None:
        for name, context in (
            ("chunk", "chunk id"),
            ("node", "node id"),
            ("snapshot", "snapshot id"),
            ("object", "object name"),
        ):
            object.__setattr__(self, name, derive(f"snapstore v1 {context}", self.secret))

    @property
    def sealed(self) -> bool:
        """Whether the family is sealed."""
        return self.masters is not None

    def unseal(self, use: str, epoch: int, salt: bytes, body: bytes, associated: bytes) -> bytes:
        """Decrypt ``nonce ‖ ciphertext ‖ tag`` under the key for this use, epoch and salt."""
        master = (self.masters or {}).get(epoch)
        if master is None:
            raise Damaged(f"sealed under master key {epoch}, which is not known")
        key = derive(f"snapstore v1 {use} key", master + epoch.to_bytes(4, "little") + salt)
        return open_sealed(key, body, associated)


def open_sealed(key: bytes, body: bytes, associated: bytes) -> bytes:
    """AES-256-GCM over ``nonce ‖ ciphertext ‖ tag``."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    require(len(body) >= 28, "sealed bytes too short")
    try:
        return AESGCM(key).decrypt(body[:12], body[12:], associated)
    except InvalidTag:
        raise Damaged("sealed bytes are not authentic") from None


class Type(IntEnum):
    """Types of frames."""

    CONFIG = 1
    KEY = 2
    SNAPSHOT = 3
    LABEL = 4
    REFS = 5
    REF = 6
    LEASE = 7
    COLLECTOR = 8


class Frame(NamedTuple):
    """A frame whose outside has been checked."""

    head: bytes
    type: int
    codec: int
    sealed: bool
    nonce: bytes
    length: int
    body: bytes


def decode_frame(data: bytes, expected: Type) -> Frame:
    """Check a frame's outside: magic, version, type, lengths, checksum."""
    require(40 <= len(data) <= MAX_SMALL, "frame too short or too long")
    head = data[:32]
    require(head[:4] == b"SNAP", "not a frame")
    _check_version(head[4])
    length, stored = u32(head, 24), u32(head, 28)
    require(len(data) == 40 + stored, "frame of another length")
    require(checksum(data[:-8]) == data[-8:], "checksum differs")
    require(head[5] == expected, f"frame of type {head[5]}, not {expected}")
    require(head[6] <= 1 and head[7] <= 1, "unknown codec or seal")
    require(length <= MAX_SMALL, "payload too long")
    nonce = head[8:24]
    if expected in (Type.CONFIG, Type.SNAPSHOT):
        require(not any(nonce), "writer nonce not zero")
    return Frame(head, head[5], head[6], head[7] == 1, nonce, length, data[32:-8])


def _check_version(version: int) -> None:
    if version > VERSION:
        raise NewerVersion(f"format version {version}: a newer version of this reader is needed")
    require(version == VERSION, "format version 0")


def frame_payload(frame: Frame, name: str, keys: Keys) -> bytes:
    """A frame's payload; sealed exactly when the family is (``config`` and ``key`` never)."""
    plain = frame.type in (Type.CONFIG, Type.KEY)
    require(frame.sealed == (keys.sealed and not plain), "sealed or unsealed against the rule")
    coded = frame.body
    if frame.sealed:
        require(len(coded) >= 64, "sealed frame too short")
        associated = frame.head + keys.family + name.encode()
        coded = keys.unseal("frame", u32(coded, 0), coded[4:36], coded[36:], associated)
    return inflate(coded, frame.codec, frame.length)


def _text(record: Json, *names: str) -> None:
    for name in names:
        require(isinstance(record.get(name), str), f"{name}: text expected")


def _integer(record: Json, low: int, high: int, *names: str) -> None:
    for name in names:
        value = record.get(name)
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        require(good, f"{name}: integer from {low} to {high} expected")


def _time(record: Json, *names: str) -> None:
    _integer(record, -(2**63), 2**63 - 1, *names)


def _hex(record: Json, name: str, low: int, high: int | None = None) -> bytes:
    value = record.get(name)
    good = isinstance(value, str) and re.fullmatch("(?:[0-9a-f]{2})*", value) is not None
    require(good, f"{name}: hexadecimal digits expected")
    raw = bytes.fromhex(cast(str, value))
    require(low <= len(raw) <= (low if high is None else high), f"{name}: of another length")
    return raw


def _texts(value: Any, what: str) -> list[str]:
    good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    require(good, f"{what}: list of texts expected")
    return cast(list[str], value)


def _objects(value: Any, what: str) -> list[Json]:
    good = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    require(good, f"{what}: list of objects expected")
    return cast(list[Json], value)


def _check_features(names: Iterable[str]) -> None:
    unknown = sorted(set(names) - KNOWN_FEATURES)
    if unknown:
        raise NewerVersion(f"needs features that this reader does not know: {', '.join(unknown)}")


def decode_config(payload: bytes) -> Json:
    """The ``config`` record; a store that needs an unknown feature is refused."""
    config = decode_json(payload)
    _integer(config, 1, 2**63 - 1, "format")
    _check_version(config["format"])
    _hex(config, "store", 16)
    _hex(config, "family", 16)
    require(isinstance(config.get("sealed"), bool), "sealed: true or false expected")
    features = config.get("features")
    require(isinstance(features, dict), "features: object expected")
    for name in ("optional", "required"):
        listed = _texts(cast(Json, features).get(name), f"features.{name}")
        require(listed == sorted(set(listed)), f"features.{name}: not sorted")
    _check_features(config["features"]["required"])
    _integer(config, 8_192, 1_048_576, "chunk_bytes")
    require(config["chunk_bytes"].bit_count() == 1, "chunk_bytes: not a power of two")
    _integer(config, 65_536, 4_194_304, "block_bytes", "meta_block_bytes")
    _integer(config, 2**20, 96 * 2**20, "data_pack_bytes", "meta_pack_bytes")
    require(
        config.get("compression") in ("none", "fast", "default", "small"), "compression: unknown"
    )
    _time(config, "created_ns")
    _text(config, "tool")
    return config


def decode_key(payload: bytes) -> Json:
    """A ``key`` record; all bounds of the derivation are checked."""
    key = decode_json(payload)
    _text(key, "name")
    _time(key, "created_ns")
    _hex(key, "nonce", 12)
    _hex(key, "wrapped", 16, MAX_SMALL)
    kdf = key.get("kdf")
    require(isinstance(kdf, dict), "kdf: object expected")
    kdf = cast(Json, kdf)
    require(kdf.get("name") == "argon2id", "kdf: argon2id expected")
    _integer(kdf, 8_192, 4_194_304, "memory_kib")
    _integer(kdf, 1, 64, "passes")
    _integer(kdf, 1, 16, "lanes")
    _hex(kdf, "salt", 16, 64)
    return key


class Secrets(NamedTuple):
    """What a key object wraps."""

    config: bytes
    family_secret: bytes
    masters: dict[int, bytes]


def decode_secrets(plain: bytes) -> Secrets:
    """The unwrapped content of a key object."""
    record = decode_json(plain)
    masters = record.get("masters")
    require(isinstance(masters, dict) and len(masters) > 0, "masters: object expected")
    masters = cast(Json, masters)
    for epoch in masters:
        good = re.fullmatch("[1-9][0-9]{0,9}", epoch) is not None and int(epoch) < 2**32
        require(good, "masters: epoch expected")
    known = {int(epoch): _hex(masters, epoch, 32) for epoch in masters}
    return Secrets(_hex(record, "config", 32), _hex(record, "family_secret", 32), known)


def unwrap(key: Json, password: bytes, family: bytes) -> bytes:
    """The plaintext that a (decoded) key object wraps; :class:`Damaged` for a wrong password."""
    from argon2.low_level import Type as Argon2Type
    from argon2.low_level import hash_secret_raw

    kdf = key["kdf"]
    wrapping = hash_secret_raw(
        secret=password,
        salt=bytes.fromhex(kdf["salt"]),
        time_cost=kdf["passes"],
        memory_cost=kdf["memory_kib"],
        parallelism=kdf["lanes"],
        hash_len=32,
        type=Argon2Type.ID,
        version=0x13,
    )
    body = bytes.fromhex(key["nonce"] + key["wrapped"])
    return open_sealed(wrapping, body, b"snapstore v1 key" + family)


# --------------------------------------------------------------------------------------------
# Small objects (snapshot.md, session.md)
# --------------------------------------------------------------------------------------------

ROOT_KINDS: Final = ("directory", "file", "image", "stream", "other")


def decode_snapshot(payload: bytes) -> Json:
    """A snapshot record. Keys that are not known are kept."""
    record = decode_json(payload)
    for root in _objects(record.get("roots"), "roots"):
        _text(root, "path", "kind")
        decode_text(root["path"])
        require(root["kind"] in ROOT_KINDS, "roots: unknown kind")
        _hex(root, "id", 32)
        _integer(root, 0, 2**63 - 1, "entries", "bytes")
    _text(record, "source", "host", "kind", "session", "tool")
    _time(record, "time_ns")
    require(record["kind"] in ("user", "system", "safety"), "kind: unknown")
    for parent in _texts(record.get("parents"), "parents"):
        require(re.fullmatch("[0-9a-f]{64}", parent) is not None, "parents: id expected")
    creator = record.get("created_by")
    require(isinstance(creator, dict), "created_by: object expected")
    _text(cast(Json, creator), "type", "id")
    require(isinstance(record.get("stats"), dict), "stats: object expected")
    _check_optional(record)
    return record


def _check_optional(record: Json) -> None:
    for name in ("owners", "rules", "skipped", "extensions"):
        require(isinstance(record.get(name, {}), dict), f"{name}: object expected")
    for item in _objects(record.get("unreadable", []), "unreadable"):
        _text(item, "path", "error")
        decode_text(item["path"])
    require(len(record.get("unreadable", [])) <= 10_000, "unreadable: too many")
    if "unreadable" in record:
        _integer(record, len(record["unreadable"]), 2**63 - 1, "unreadable_count")
    changed = _texts(record.get("changed", []), "changed")
    require(len(changed) <= 10_000, "changed: too many")
    for path in changed:
        decode_text(path)
    _objects(record.get("streams", []), "streams")
    _texts(record.get("needs", []), "needs")


def decode_label(payload: bytes) -> Json:
    """A label record."""
    record = decode_json(payload)
    _text(record, "by")
    _time(record, "time_ns")
    require(isinstance(record.get("ops"), list), "ops: list expected")
    return record


def fold_labels(labels: Iterable[Json]) -> Json:
    """What label records, in their order, make of a snapshot's editable part."""
    fields: Json = {}
    tags: set[str] = set()
    meta: Json = {}
    unknown: list[Any] = []
    for label in labels:
        for operation in label["ops"]:
            match operation:
                case ["set", str(name), None]:
                    fields.pop(name, None)
                case ["set", str(name), value]:
                    fields[name] = value
                case ["tag", str(tag)]:
                    tags.add(tag)
                case ["untag", str(tag)]:
                    tags.discard(tag)
                case ["meta", str(name), None]:
                    meta.pop(name, None)
                case ["meta", str(name), value]:
                    meta[name] = value
                case _:
                    unknown.append(operation)
    return {"fields": fields, "tags": sorted(tags), "meta": meta, "unknown": unknown}


class Refs(NamedTuple):
    """The packs that a snapshot needs: id -> (kind, size)."""

    exact: bool
    packs: dict[bytes, tuple[int, int]]


def decode_refs(payload: bytes) -> Refs:
    """A ``refs`` object."""
    reader = Reader(payload)
    exact = reader.take(1)[0]
    require(exact <= 1, "refs neither exact nor inexact")
    count = reader.bounded(0, len(payload) // 34, "number of packs")
    ids = reader.ids(count)
    require(_ascending(ids), "packs not ascending")
    kinds = reader.take(count)
    require(all(kind in (1, 2) for kind in kinds), "unknown kind of pack")
    sizes = [reader.bounded(1, MAX_PACK, "size of a pack") for _ in ids]
    reader.end()
    return Refs(exact == 1, dict(zip(ids, zip(kinds, sizes, strict=True), strict=True)))


def decode_ref(payload: bytes) -> Json:
    """A ``ref`` record."""
    record = decode_json(payload)
    _text(record, "kind", "name")
    _time(record, "time_ns")
    require("value" in record, "value: expected")
    return record


def decode_lease(payload: bytes) -> Json:
    """A ``sess`` record."""
    record = decode_json(payload)
    _text(record, "session", "purpose", "host")
    _integer(record, 0, 2**63 - 1, "settled", "pid")
    _time(record, "started_ns")
    return record


def decode_collector(payload: bytes) -> Json:
    """A ``gc`` record: a generation, or the mark that it is being swept or done."""
    record = decode_json(payload)
    _integer(record, 1, 99_999_999, "generation")
    for pack in _texts(record.get("condemned", []), "condemned"):
        require(re.fullmatch("[0-9a-f]{64}", pack) is not None, "condemned: id expected")
    return record


def _ascending(keys: Sequence[Any]) -> bool:
    return all(a < b for a, b in pairwise(keys))


# --------------------------------------------------------------------------------------------
# Nodes (node.md)
# --------------------------------------------------------------------------------------------


class Kind(IntEnum):
    """Types of entries."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    CHARACTER = 5
    BLOCK = 6


Chunk = tuple[int, bytes]  # length, id
Hole = tuple[int, int]  # offset, length
Link = tuple[bytes, bytes]  # path, first path of the group


@dataclass(frozen=True, slots=True)
class ChunkList:
    """A chunk list: in place (``top`` is None) or in nodes."""

    count: int
    items: tuple[Chunk, ...]
    top: bytes | None


@dataclass(frozen=True, slots=True)
class HoleMap:
    """A hole map: in place (``top`` is None) or in nodes."""

    count: int
    items: tuple[Hole, ...]
    top: bytes | None


@dataclass(slots=True)
class Entry:
    """One directory entry. Which fields mean something depends on ``kind``."""

    name: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0  # the whole time, in nanoseconds
    size: int = 0  # file
    content: bytes | ChunkList = b""  # file
    holes: HoleMap | None = None  # file
    count: int = 0  # directory: entries in it
    top: bytes | None = None  # directory: top node
    entries_below: int = 0  # directory
    bytes_below: int = 0  # directory
    target: bytes = b""  # symbolic link
    device: tuple[int, int] = (0, 0)
    attributes: bytes | ChunkList | None = None  # the encoded set, or where it is
    attributes_length: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """What every node of a sequence has in common."""

    kind: int  # 1 directory, 2 chunk list, 3 hole map, 4 link table
    level: int
    items_below: int
    last: bytes | int  # last key, as an inner node above would give it
    closed: bool  # whether the split rule ends this node here


@dataclass(frozen=True, slots=True)
class Inner(Node):
    """An inner node of any sequence."""

    keys: tuple[bytes | int, ...]
    counts: tuple[int, ...]
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DirectoryLeaf(Node):
    """Entries."""

    items: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ChunkLeaf(Node):
    """Chunks and zero runs."""

    items: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class HoleLeaf(Node):
    """Holes."""

    items: tuple[Hole, ...]


@dataclass(frozen=True, slots=True)
class LinkLeaf(Node):
    """Hard links."""

    items: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Root:
    """A root node: the root's own entry (its name is empty) and its hard-link table."""

    entry: Entry
    links: int
    links_top: bytes | None


def decode_node(data: bytes) -> Node | Root:
    """Any node, in exactly the form that the format prescribes."""
    require(2 < len(data) <= MAX_NODE, "node too short or too long")
    kind, level = data[0], data[1]
    require(1 <= kind <= 5, f"unknown kind of node: {kind}")
    require(level <= MAX_LEVEL and (kind < 5 or level == 0), "level out of bounds")
    reader = Reader(data, 2)
    node: Node | Root
    if kind == 5:
        node = _root(reader)
    else:
        count = reader.bounded(1, MAX_ITEMS, "number of items")
        node = _inner(reader, kind, level, count) if level else _LEAVES[kind](reader, count)
    reader.end()
    return node


def _name_hash(name: bytes) -> int:
    return xxhash.xxh3_64_intdigest(name)


def _closed(hashes: Sequence[int], weights: Sequence[int] = ()) -> bool:
    """Whether the split rule ends a node at its last item; it must not have done so before."""
    require(all(number & 0xFF for number in hashes[:-1]), "node should have been split")
    require(sum(weights[:-1]) < LINK_LEAF_BYTES, "node should have been split")
    full = len(hashes) == MAX_ITEMS or sum(weights) >= LINK_LEAF_BYTES
    return full or hashes[-1] & 0xFF == 0


def _inner(reader: Reader, kind: int, level: int, count: int) -> Inner:
    keys: list[bytes | int]
    if kind == 1:
        keys = [check_name(reader.string(1, MAX_NAME, "name")) for _ in range(count)]
    elif kind == 4:
        keys = [check_path(reader.string(1, MAX_PATH, "path")) for _ in range(count)]
    else:
        keys = [reader.bounded(1, MAX_FILE, "key") for _ in range(count)]
    require(kind == 2 or _ascending(keys), "keys not ascending")
    counts = tuple(reader.bounded(1, 2**64 - 1, "number of items below") for _ in range(count))
    ids = reader.ids(count)
    last = sum(cast(list[int], keys)) if kind == 2 else keys[-1]
    require(isinstance(last, bytes) or last <= MAX_FILE, "file too long")
    require(sum(counts) < 2**64, "too many items")
    weights = [len(cast(bytes, key)) for key in keys] if kind == 4 else []
    closed = _closed([item[0] for item in ids], weights)
    return Inner(kind, level, sum(counts), last, closed, tuple(keys), counts, ids)


def _directory_leaf(reader: Reader, count: int) -> DirectoryLeaf:
    entries = _columns(reader, count, False)
    names = [entry.name for entry in entries]
    require(_ascending(names), "names not ascending")
    closed = _closed([_name_hash(name) for name in names])
    return DirectoryLeaf(1, 0, count, names[-1], closed, tuple(entries))


def _chunk_items(reader: Reader, count: int) -> tuple[Chunk, ...]:
    lengths = [reader.bounded(1, MAX_FILE, "length of a chunk") for _ in range(count)]
    items = tuple(zip(lengths, reader.ids(count), strict=True))
    for length, item in items:
        require(length <= MAX_CHUNK or item == ZERO_ID, "chunk too long")
    for (_, a), (_, b) in pairwise(items):
        require(a != ZERO_ID or b != ZERO_ID, "zero run after zero run")
    require(sum(lengths) <= MAX_FILE, "file too long")
    return items


def _chunk_leaf(reader: Reader, count: int) -> ChunkLeaf:
    items = _chunk_items(reader, count)
    closed = _closed([item[0] for _, item in items])
    return ChunkLeaf(2, 0, count, sum(length for length, _ in items), closed, items)


def _hole_items(reader: Reader, count: int) -> tuple[Hole, ...]:
    items: list[Hole] = []
    end = 0
    for number in range(count):
        offset = end + reader.bounded(min(number, 1), MAX_FILE, "distance of a hole")
        length = reader.bounded(1, MAX_FILE, "length of a hole")
        end = offset + length
        require(end <= MAX_FILE, "hole beyond the largest file")
        items.append((offset, length))
    return tuple(items)


def _hole_leaf(reader: Reader, count: int) -> HoleLeaf:
    items = _hole_items(reader, count)
    closed = _closed([_name_hash(offset.to_bytes(8, "little")) for offset, _ in items])
    return HoleLeaf(3, 0, count, sum(items[-1]), closed, items)


def _link_leaf(reader: Reader, count: int) -> LinkLeaf:
    items: list[Link] = []
    for _ in range(count):
        path = check_path(reader.string(1, MAX_PATH, "path"))
        first = check_path(reader.string(1, MAX_PATH, "path"))
        require(first < path, "the first path of a group is not its smallest")
        items.append((path, first))
    paths = [path for path, _ in items]
    require(_ascending(paths), "paths not ascending")
    closed = _closed([_name_hash(path) for path in paths], [len(a) + len(b) for a, b in items])
    return LinkLeaf(4, 0, count, paths[-1], closed, tuple(items))


_LEAVES: Final[dict[int, Callable[[Reader, int], Node]]] = {
    1: _directory_leaf,
    2: _chunk_leaf,
    3: _hole_leaf,
    4: _link_leaf,
}


def _root(reader: Reader) -> Root:
    entry = _columns(reader, 1, True)[0]
    links = reader.varint()
    return Root(entry, links, reader.take(32) if links else None)


def _columns(reader: Reader, count: int, root: bool) -> list[Entry]:
    """The columns of a directory leaf."""
    if root:
        names = [reader.string(0, 0, "the root's name")]
    else:
        names = [check_name(reader.string(1, MAX_NAME, "name")) for _ in range(count)]
    types = reader.take(count)
    entries: list[Entry] = []
    for name, byte in zip(names, types, strict=True):
        require(1 <= byte & 0x0F <= 6 and byte & 0xC0 == 0, f"unknown type of entry: {byte}")
        require(not byte & 0x20 or byte & 0x0F == Kind.FILE, "holes in what is not a file")
        entries.append(Entry(name, Kind(byte & 0x0F)))
    for entry in entries:
        entry.mode = reader.bounded(0, 0o7777, "mode")
    for entry in entries:
        entry.uid = reader.bounded(0, 2**32 - 1, "uid")
    for entry in entries:
        entry.gid = reader.bounded(0, 2**32 - 1, "gid")
    _times(reader, entries)
    _file_columns(reader, [entry for entry in entries if entry.kind == Kind.FILE])
    for entry, byte in zip(entries, types, strict=True):
        if byte & 0x20:
            entry.holes = _hole_map(reader, entry.size)
    _other_columns(reader, entries)
    for entry, byte in zip(entries, types, strict=True):
        if byte & 0x10:
            _attributes(reader, entry)
    return entries


def _times(reader: Reader, entries: list[Entry]) -> None:
    seconds = 0
    for entry in entries:
        seconds += reader.zigzag()
        require(-(2**63) <= seconds < 2**63, "time out of bounds")
        entry.mtime_ns = seconds * 10**9
    for entry in entries:
        entry.mtime_ns += reader.bounded(0, 10**9 - 1, "nanoseconds")


def _file_columns(reader: Reader, files: list[Entry]) -> None:
    for entry in files:
        entry.size = reader.bounded(0, MAX_FILE, "size")
    for entry in files:
        if entry.size > IN_PLACE_BYTES:
            entry.content = _chunk_list(reader, entry.size)
        else:
            entry.content = reader.take(entry.size)


def _chunk_list(reader: Reader, size: int) -> ChunkList:
    """A chunk list where it is referred to; if it is in nodes, its size is checked there."""
    count = reader.bounded(1, size, "number of chunks")
    if count > IN_PLACE_ITEMS:
        return ChunkList(count, (), reader.take(32))
    items = _chunk_items(reader, count)
    require(sum(length for length, _ in items) == size, "chunks do not add up to the size")
    return ChunkList(count, items, None)


def _hole_map(reader: Reader, size: int) -> HoleMap:
    count = reader.bounded(1, size, "number of holes")
    if count > IN_PLACE_ITEMS:
        return HoleMap(count, (), reader.take(32))
    items = _hole_items(reader, count)
    require(sum(items[-1]) <= size, "hole beyond the end of the file")
    return HoleMap(count, items, None)


def _other_columns(reader: Reader, entries: list[Entry]) -> None:
    for entry in entries:
        if entry.kind == Kind.DIRECTORY:
            entry.count = reader.varint()
            if entry.count:
                entry.top = reader.take(32)
                entry.entries_below = reader.bounded(entry.count, 2**64 - 1, "entries below")
                entry.bytes_below = reader.varint()
    for entry in entries:
        if entry.kind == Kind.SYMLINK:
            entry.target = reader.string(1, MAX_TARGET, "target")
            require(b"\0" not in entry.target, "target with NUL")
    for entry in entries:
        if entry.kind in (Kind.CHARACTER, Kind.BLOCK):
            entry.device = (reader.varint(), reader.varint())


def _attributes(reader: Reader, entry: Entry) -> None:
    length = reader.bounded(1, MAX_XATTR_SET, "length of the attributes")
    entry.attributes_length = length
    if length > IN_PLACE_XATTRS:
        entry.attributes = _chunk_list(reader, length)
    else:
        entry.attributes = reader.take(length)
        decode_attributes(entry.attributes)


def decode_attributes(data: bytes) -> list[tuple[bytes, bytes]]:
    """An encoded set of extended attributes."""
    require(len(data) <= MAX_XATTR_SET, "attributes too long")
    reader = Reader(data)
    pairs: list[tuple[bytes, bytes]] = []
    for _ in range(reader.bounded(1, MAX_XATTRS, "number of attributes")):
        name = reader.string(1, MAX_XATTR_NAME, "attribute's name")
        require(b"\0" not in name, "attribute's name with NUL")
        pairs.append((name, reader.string(0, MAX_XATTR_VALUE, "attribute's value")))
    reader.end()
    require(_ascending([name for name, _ in pairs]), "attributes not sorted")
    return pairs


# --------------------------------------------------------------------------------------------
# Packs (pack.md)
# --------------------------------------------------------------------------------------------

DATA: Final = 1
META: Final = 2
FOOTER: Final = 3
HEADER_BYTES: Final = 96
TRAILER_BYTES: Final = 32
BLOCK_FRAME: Final = 32
PREFIXES: Final = {DATA: "data", META: "meta"}


class PackHeader(NamedTuple):
    """A pack's header."""

    kind: int
    sealed: bool
    epoch: int
    family: bytes
    salt: bytes
    session: bytes


def decode_pack_header(data: bytes) -> PackHeader:
    """The first 96 bytes of a pack."""
    require(len(data) == HEADER_BYTES, "pack header too short")
    require(data[:8] == b"SNAPPACK", "not a pack")
    _check_version(data[8])
    require(checksum(data[:88]) == data[88:], "checksum of the header differs")
    header = PackHeader(data[9], data[10] == 1, u32(data, 12), *_header_ids(data))
    require(header.kind in PREFIXES and data[10] <= 1, "unknown kind or seal of a pack")
    require(data[11] == 0 and not any(data[80:88]), "reserved bytes not zero")
    require((header.epoch > 0) == header.sealed, "key epoch against the seal")
    require(header.sealed or not any(header.salt), "unsealed pack with a salt")
    return header


def _header_ids(data: bytes) -> tuple[bytes, bytes, bytes]:
    return data[16:32], data[32:64], data[64:80]


class Trailer(NamedTuple):
    """A pack's trailer."""

    offset: int
    length: int
    blocks: int


def decode_trailer(trailer: bytes, header: bytes, size: int) -> Trailer:
    """The last 32 bytes of a pack of this size with this (raw) header."""
    require(trailer[24:] == b"SNAPTAIL", "pack without its end")
    require(checksum(header + trailer[:16]) == trailer[16:24], "checksum of the trailer differs")
    found = Trailer(u32(trailer, 0), u32(trailer, 4), u32(trailer, 8))
    require(u32(trailer, 12) == 0, "reserved bytes not zero")
    require(found.offset >= HEADER_BYTES and found.length >= BLOCK_FRAME, "footer out of place")
    require(found.offset + found.length + TRAILER_BYTES == size, "pack of another length")
    require(found.blocks <= MAX_BLOCKS, "too many blocks")
    return found


class BlockHeader(NamedTuple):
    """A block's header."""

    number: int
    kind: int
    codec: int
    sealed: bool
    body: int
    plain: int


def decode_block_header(head: bytes) -> BlockHeader:
    """The first 24 bytes of a block."""
    require(len(head) == 24 and head[:4] == b"SNBK", "not a block")
    found = BlockHeader(u32(head, 4), head[8], head[9], head[10] == 1, u32(head, 12), u32(head, 16))
    require(1 <= found.kind <= 3, "unknown kind of block")
    require(found.codec <= 1 and head[10] <= 1, "unknown codec or seal")
    require(head[11] == 0 and u32(head, 20) == 0, "reserved bytes not zero")
    limit = MAX_FOOTER if found.kind == FOOTER else MAX_BLOCK
    require(found.plain <= limit and found.body <= MAX_PACK, "block too long")
    return found


def decode_block(raw: bytes, number: int, kind: int, pack: PackHeader, keys: Keys) -> bytes:
    """A whole block's plaintext: the block of this number and kind in this pack."""
    require(len(raw) >= BLOCK_FRAME, "block too short")
    head = decode_block_header(raw[:24])
    require(head.body == len(raw) - BLOCK_FRAME, "block of another length")
    require(checksum(raw[:-8]) == raw[-8:], "checksum of a block differs")
    require((head.number, head.kind) == (number, kind), "block out of place")
    require(head.sealed == pack.sealed, "block sealed or unsealed against its pack")
    coded = raw[24:-8]
    if pack.sealed:
        coded = keys.unseal("pack", pack.epoch, pack.salt, coded, raw[:24])
    return inflate(coded, head.codec, head.plain)


@dataclass(slots=True)
class Footer:
    """What a footer says: stored and plain length and number of chunks of every block."""

    stored: array[int]
    plain: array[int]
    chunks: array[int]
    lengths: array[int]
    ids: bytes

    def places(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Id, block, offset in it and length of every chunk."""
        at = 0
        for block, count in enumerate(self.chunks):
            offset = 0
            for number in range(at, at + count):
                yield self.ids[32 * number : 32 * number + 32], block, offset, self.lengths[number]
                offset += self.lengths[number]
            at += count


def decode_footer(plain: bytes, kind: int) -> Footer:
    """The plaintext of a footer block, for a pack of this kind."""
    require(len(plain) <= MAX_FOOTER, "footer too long")
    reader = Reader(plain)
    footer = Footer(array("I"), array("I"), array("I"), array("I"), b"")
    total = 0
    for _ in range(reader.bounded(0, MAX_BLOCKS, "number of blocks")):
        footer.stored.append(reader.bounded(BLOCK_FRAME, MAX_PACK, "stored length"))
        footer.plain.append(reader.bounded(0, MAX_BLOCK, "plain length"))
        footer.chunks.append(reader.bounded(0, MAX_CHUNKS, "number of chunks"))
        total += footer.chunks[-1]
    require(total <= MAX_CHUNKS, "too many chunks")
    longest = MAX_CHUNK if kind == DATA else MAX_NODE
    for block, count in enumerate(footer.chunks):
        lengths = [reader.bounded(1, longest, "length of a chunk") for _ in range(count)]
        require(not count or sum(lengths) == footer.plain[block], "chunks do not fill a block")
        footer.lengths.extend(lengths)
    footer.ids = reader.take(32 * total)
    reader.end()
    return footer


@dataclass(slots=True)
class Pack:
    """A pack that has been opened: where its blocks are."""

    name: str
    header: PackHeader
    offsets: array[int]
    stored: array[int]
    plain: array[int]


class ChunkIndex:
    """Where chunks are: about 60 bytes each, all copies of each.

    A chained hash table in flat arrays; ids are hashes already, so their first bytes choose the
    bucket. The newest entry of a bucket comes first.
    """

    _END: Final = 0xFFFFFFFF

    def __init__(self) -> None:
        self._ids = bytearray()
        self._where = array("Q")  # pack, block
        self._span = array("Q")  # offset, length
        self._next = array("I")
        self._heads = array("I", [self._END]) * 1024
        self.good = bytearray()  # used by a check: this copy has been read and is intact

    def __len__(self) -> int:
        return len(self._next)

    def _bucket(self, item: bytes) -> int:
        return int.from_bytes(item[:8], "little") % len(self._heads)

    def add(self, item: bytes, pack: int, block: int, offset: int, length: int) -> None:
        """Record one copy of a chunk."""
        if len(self._next) >= 2 * len(self._heads):
            self._grow()
        bucket = self._bucket(item)
        self._ids += item
        self._where.append(pack << 32 | block)
        self._span.append(offset << 32 | length)
        self.good.append(0)
        self._next.append(self._heads[bucket])
        self._heads[bucket] = len(self._next) - 1

    def _grow(self) -> None:
        self._heads = array("I", [self._END]) * (4 * len(self._heads))
        for number in range(len(self._next)):
            bucket = self._bucket(self.id(number))
            self._next[number] = self._heads[bucket]
            self._heads[bucket] = number

    def id(self, number: int) -> bytes:
        """The id of an entry; entries are numbered as they were added."""
        return bytes(self._ids[32 * number : 32 * number + 32])

    def place(self, number: int) -> tuple[int, int, int, int]:
        """Pack, block, offset and length of an entry."""
        where, span = self._where[number], self._span[number]
        return where >> 32, where & 0xFFFFFFFF, span >> 32, span & 0xFFFFFFFF

    def find(self, item: bytes) -> Iterator[int]:
        """The numbers of all entries with this id."""
        number = self._heads[self._bucket(item)]
        while number != self._END:
            if self.id(number) == item:
                yield number
            number = self._next[number]


K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values used last, up to a total weight."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """A value, if it is still here."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value, at the cost of those unused for longest."""
        if key in self._kept:
            return
        self._kept[key] = (value, weight)
        self._total += weight
        while self._total > self._limit and len(self._kept) > 1:
            _, (_, gone) = self._kept.popitem(last=False)
            self._total -= gone


# --------------------------------------------------------------------------------------------
# The store
# --------------------------------------------------------------------------------------------

HEX64: Final = "[0-9a-f]{64}"
COUNTED: Final = "([0-9]{8})-([0-9a-f]{8})"
BLOCK_CACHE: Final = 67_108_864
NODE_CACHE: Final = 67_108_864


class Lost(NamedTuple):
    """A part of a sequence that cannot be read, and what the node above says of it."""

    error: StoreError
    last: bytes | int | None
    items: int


class Child(NamedTuple):
    """A node of a sequence as the node above (or the reference to the top) describes it."""

    id: bytes
    level: int | None
    last: bytes | int | None
    items: int
    final: bool  # no node follows it on its level


class Piece(NamedTuple):
    """A range of a file's content; ``data`` is None for a run of zeros."""

    offset: int
    length: int
    data: bytes | None


class Step(NamedTuple):
    """A step of a tour: an entry, or (``leaving``) the end of a directory."""

    path: bytes
    entry: Entry
    leaving: bool


OnError = Callable[[bytes, StoreError], None]
OnLost = Callable[[int, int, StoreError], None]


def _read_at(handle: int, length: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.pread(handle, length, offset)
        require(bool(part), "file ends too early")
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)


class Store:
    """A store that is read, never written."""

    def __init__(self, path: str | os.PathLike[str], password: bytes | None = None) -> None:
        self.path = os.fspath(path)
        self.problems: list[Problem] = []
        frame = decode_frame(self._read("config"), Type.CONFIG)
        require(not frame.sealed, "config: sealed")
        payload = inflate(frame.body, frame.codec, frame.length)
        self.config: Json = decode_config(payload)
        family = bytes.fromhex(self.config["family"])
        self.keys = Keys(family)
        if self.config["sealed"]:
            self.keys = self._unlock(payload, password, family)
        self._packs: list[Pack] = []
        self._indexes: dict[int, ChunkIndex] = {}
        self._blocks: Recent[tuple[int, int], bytes] = Recent(BLOCK_CACHE)
        self._nodes: Recent[bytes, Node | Root] = Recent(NODE_CACHE)

    # -- objects --------------------------------------------------------------------------------

    def _open(self, name: str) -> tuple[int, int]:
        """A handle on a regular file of the store, and its size."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(os.path.join(self.path, name), flags)
        except FileNotFoundError:
            raise Missing(f"{name}: missing") from None
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            os.close(handle)
            raise Damaged(f"{name}: not a regular file")
        return handle, info.st_size

    def _read(self, name: str) -> bytes:
        """A whole small object."""
        handle, size = self._open(name)
        try:
            require(size <= MAX_SMALL, "object too long")
            return _read_at(handle, size, 0)
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
        finally:
            os.close(handle)

    def _list(self, prefix: str, pattern: str) -> list[re.Match[str]]:
        """The names under a prefix that match; all others are ignored."""
        try:
            names = sorted(os.listdir(os.path.join(self.path, prefix)))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._problem(prefix, Damaged(str(error.strerror)))
            return []
        return [found for name in names if (found := re.fullmatch(pattern, name))]

    def _problem(self, where: str, error: StoreError) -> None:
        problem = Problem(where, error)
        if all((where, str(error)) != (known.where, str(known.error)) for known in self.problems):
            self.problems.append(problem)

    def _object(self, name: str, expected: Type) -> tuple[Frame, bytes]:
        """A frame and its payload; where the name carries ``h8``, it must fit."""
        frame = decode_frame(self._read(name), expected)
        payload = frame_payload(frame, name, self.keys)
        if expected in (Type.LABEL, Type.REFS, Type.REF):
            h8 = keyed_hash(self.keys.object, frame.nonce + payload).hex()[:8]
            require(name.endswith(h8), "object is not the one that its name says")
        return frame, payload

    def _unlock(self, config: bytes, password: bytes | None, family: bytes) -> Keys:
        if password is None:
            raise WrongPassword("the store is sealed: a password is needed")
        for match in self._list("key", HEX64):
            name = f"key/{match[0]}"
            try:
                frame = decode_frame(self._read(name), Type.KEY)
                payload = frame_payload(frame, name, Keys(family))
                require(blake3(payload).hexdigest() == match[0], "not what its name says")
                key = decode_key(payload)
            except StoreError as error:
                self._problem(name, error)
                continue
            try:
                plain = unwrap(key, password, family)
            except Damaged:
                continue
            secrets = decode_secrets(plain)
            require(secrets.config == blake3(config).digest(), "config: not the one of this key")
            return Keys(family, secrets.family_secret, secrets.masters)
        hint = "".join(f"; {problem.where}: {problem.error}" for problem in self.problems)
        raise WrongPassword(f"the password opens none of the store's keys{hint}")

    def snapshot(self, snapshot_id: str) -> Json:
        """One snapshot's record."""
        _, payload = self._object(f"snap/{snapshot_id}", Type.SNAPSHOT)
        actual = keyed_hash(self.keys.snapshot, payload).hex()
        require(actual == snapshot_id, "snapshot is not the one that its name says")
        record = decode_snapshot(payload)
        _check_features(record.get("needs", []))
        return record

    def snapshots(self) -> dict[str, Json]:
        """All snapshots that can be read, by id; what cannot goes to ``problems``."""
        found: dict[str, Json] = {}
        for match in self._list("snap", HEX64):
            try:
                found[match[0]] = self.snapshot(match[0])
            except StoreError as error:
                self._problem(f"snap/{match[0]}", error)
        return found

    def labels(self, snapshot_id: str) -> Json:
        """The editable part of a snapshot: ``fields``, ``tags``, ``meta``, ``unknown``."""
        records: list[Json] = []
        for match in self._list("label", f"{snapshot_id}-{COUNTED}"):
            try:
                _, payload = self._object(f"label/{match[0]}", Type.LABEL)
                records.append(decode_label(payload))
            except StoreError as error:
                self._problem(f"label/{match[0]}", error)
        return fold_labels(records)

    def refs(self, snapshot_id: str) -> Refs | None:
        """The packs a snapshot needs, if that is recorded."""
        names = self._list("refs", f"{snapshot_id}-{COUNTED}")
        if not names:
            return None
        return decode_refs(self._object(f"refs/{names[-1][0]}", Type.REFS)[1])

    # -- packs ----------------------------------------------------------------------------------

    def _pack_names(self, kind: int) -> Iterator[str]:
        prefix = PREFIXES[kind]
        for folder in self._list(prefix, "[0-9a-f]{2}"):
            for match in self._list(f"{prefix}/{folder[0]}", f"{folder[0]}[0-9a-f]{{62}}"):
                yield f"{prefix}/{folder[0]}/{match[0]}"

    def _index(self, kind: int) -> ChunkIndex:
        """The index of all chunks (or nodes), made from the packs' footers at first use."""
        if kind not in self._indexes:
            index = self._indexes[kind] = ChunkIndex()
            for name in self._pack_names(kind):
                try:
                    self._load_pack(name, kind, index)
                except StoreError as error:
                    self._problem(name, error)
        return self._indexes[kind]

    def _load_pack(self, name: str, kind: int, index: ChunkIndex) -> None:
        """Open a pack; without a footer, take what can be had (see the notes of pack.md)."""
        handle, size = self._open(name)
        try:
            raw, header = self._pack_header(handle, size, kind)
            try:
                footer = self._footer(handle, raw, header, size)
            except StoreError as error:
                self._problem(name, error)
                footer = self._salvage(handle, header, size)
        except OSError as error:
            raise Damaged(f"{error.strerror}") from None
        finally:
            os.close(handle)
        number = len(self._packs)
        offsets = array("I")
        at = HEADER_BYTES
        for stored in footer.stored:
            offsets.append(at)
            at += stored
        self._packs.append(Pack(name, header, offsets, footer.stored, footer.plain))
        for item, block, offset, length in footer.places():
            index.add(item, number, block, offset, length)

    def _pack_header(self, handle: int, size: int, kind: int) -> tuple[bytes, PackHeader]:
        least = HEADER_BYTES + BLOCK_FRAME + TRAILER_BYTES
        require(least <= size <= MAX_PACK, "pack too short or too long")
        raw = _read_at(handle, HEADER_BYTES, 0)
        header = decode_pack_header(raw)
        require(header.kind == kind, "pack of another kind")
        require(header.family == self.keys.family, "pack of another family")
        require(header.sealed == self.keys.sealed, "pack sealed or unsealed against the rule")
        return raw, header

    def _footer(self, handle: int, raw: bytes, header: PackHeader, size: int) -> Footer:
        tail = _read_at(handle, TRAILER_BYTES, size - TRAILER_BYTES)
        trailer = decode_trailer(tail, raw, size)
        require(trailer.length <= MAX_FOOTER + BLOCK_FRAME + 28, "footer too long")
        block = _read_at(handle, trailer.length, trailer.offset)
        plain = decode_block(block, trailer.blocks, FOOTER, header, self.keys)
        footer = decode_footer(plain, header.kind)
        require(len(footer.stored) == trailer.blocks, "footer and trailer differ")
        require(HEADER_BYTES + sum(footer.stored) == trailer.offset, "blocks leave a gap")
        return footer

    def _salvage(self, handle: int, header: PackHeader, size: int) -> Footer:
        """Walk a pack's blocks: up to its footer if that is intact, else as single chunks."""
        found = Footer(array("I"), array("I"), array("I"), array("I"), b"")
        key = self.keys.chunk if header.kind == DATA else self.keys.node
        longest = MAX_CHUNK if header.kind == DATA else MAX_NODE
        at = HEADER_BYTES
        ids = bytearray()
        while at + BLOCK_FRAME <= size and len(found.stored) < MAX_BLOCKS:
            plain = b""
            try:
                head = decode_block_header(_read_at(handle, 24, at))
                raw = _read_at(handle, head.body + BLOCK_FRAME, at)
            except StoreError:
                break
            number = len(found.stored)
            try:
                plain = decode_block(raw, number, head.kind, header, self.keys)
                if head.kind == FOOTER:
                    footer = decode_footer(plain, header.kind)
                    require(footer.stored == found.stored, "footer and blocks differ")
                    return footer
            except StoreError:
                plain = b""
            single = head.kind != FOOTER and 0 < len(plain) <= longest
            found.stored.append(len(raw))
            found.plain.append(head.plain)
            found.chunks.append(int(single))
            if single:
                found.lengths.append(len(plain))
                ids += keyed_hash(key, plain)
            at += len(raw)
        found.ids = bytes(ids)
        return found

    def _block(self, number: int, block: int) -> bytes:
        """A decoded block of an opened pack."""
        plain = self._blocks.get((number, block))
        if plain is None:
            pack = self._packs[number]
            handle, _ = self._open(pack.name)
            try:
                raw = _read_at(handle, pack.stored[block], pack.offsets[block])
            except OSError as error:
                raise Damaged(str(error.strerror)) from None
            finally:
                os.close(handle)
            plain = decode_block(raw, block, pack.header.kind, pack.header, self.keys)
            require(len(plain) == pack.plain[block], "block of another length than its footer says")
            self._blocks.put((number, block), plain, len(plain))
        return plain

    def _fetch(self, kind: int, item: bytes, key: bytes, what: str) -> bytes:
        """A chunk or node from any intact copy."""
        reason: StoreError = Missing(f"{what} {item.hex()}: in no readable pack")
        index = self._index(kind)
        for entry in index.find(item):
            number, block, offset, length = index.place(entry)
            try:
                data = self._block(number, block)[offset : offset + length]
                require(keyed_hash(key, data) == item, "is not what its id says")
                return data
            except StoreError as error:
                where = f"{what} {item.hex()}: {self._packs[number].name}, block {block}"
                reason = Damaged(f"{where}: {error}")
        raise reason

    def chunk(self, chunk_id: bytes) -> bytes:
        """A chunk of content, verified."""
        return self._fetch(DATA, chunk_id, self.keys.chunk, "chunk")

    # -- nodes and sequences --------------------------------------------------------------------

    def node_bytes(self, node_id: bytes) -> bytes:
        """A node as it is stored, verified."""
        return self._fetch(META, node_id, self.keys.node, "node")

    def node(self, node_id: bytes) -> Node | Root:
        """A node, verified and decoded."""
        node = self._nodes.get(node_id)
        if node is None:
            data = self.node_bytes(node_id)
            try:
                node = decode_node(data)
            except Damaged as error:
                raise Damaged(f"node {node_id.hex()}: {error}") from None
            self._nodes.put(node_id, node, 16 * len(data) + 1024)  # decoded, it is larger
        return node

    def root(self, root_id: bytes) -> Root:
        """A root node."""
        node = self.node(root_id)
        if not isinstance(node, Root):
            raise Damaged(f"node {root_id.hex()}: not a root node")
        return node

    def _sequence_node(self, child: Child, kind: int, previous: bytes | int | None) -> Node:
        """A node of a sequence; it must be as described, and follow what went before."""
        node = self.node(child.id)
        what = f"node {child.id.hex()}"
        if isinstance(node, Root) or node.kind != kind:
            raise Damaged(f"{what}: of another kind than its place")
        require(child.level in (None, node.level), f"{what}: of another level than its place")
        require(node.items_below == child.items, f"{what}: other number of items than said above")
        require(child.last in (None, node.last), f"{what}: other last key than said above")
        require(child.final or node.closed, f"{what}: split too early")
        if child.level is None and isinstance(node, Inner):
            require(len(node.ids) > 1, f"{what}: top node of a single child")
        require(_follows(node, previous), f"{what}: does not follow the node before it")
        return node

    def _leaves(self, kind: int, top: Child) -> Iterator[bytes | Lost]:
        """Ids of a sequence's leaves from left to right, each checked; or what is lost.

        Only ids are held, so that a deep tour does not keep all its nodes in memory.
        """
        path: list[tuple[Child, int]] = []
        previous: bytes | int | None = None
        child = top
        while True:
            try:
                node = self._sequence_node(child, kind, previous)
            except StoreError as error:
                yield Lost(error, child.last, child.items)
                previous = child.last if child.last is not None else previous
                node = None
            if isinstance(node, Inner):
                path.append((child, -1))
            elif node is not None:
                yield child.id
                previous = _end_key(node)
            while path:
                above, at = path.pop()
                inner = cast(Inner, self.node(above.id))
                if at + 1 < len(inner.ids):
                    path.append((above, at + 1))
                    child = _child(inner, above, at + 1)
                    break
            else:
                return

    def _entries(self, entry: Entry) -> Iterator[Entry | Lost]:
        """The entries of a directory, in order of their names."""
        if entry.top is None:
            return
        for leaf in self._leaves(1, Child(entry.top, None, None, entry.count, True)):
            if isinstance(leaf, Lost):
                yield leaf
                continue
            for number in range(cast(DirectoryLeaf, self.node(leaf)).items_below):
                yield cast(DirectoryLeaf, self.node(leaf)).items[number]

    def _chunks(self, chunks: ChunkList, size: int) -> Iterator[Chunk | Lost]:
        """The items of a chunk list that stands for this many bytes."""
        if chunks.top is None:
            yield from chunks.items
            return
        for leaf in self._leaves(2, Child(chunks.top, None, size, chunks.count, True)):
            yield from [leaf] if isinstance(leaf, Lost) else cast(ChunkLeaf, self.node(leaf)).items

    def holes(self, entry: Entry) -> Iterator[Hole]:
        """The holes of a file: offset and length, ascending."""
        if entry.holes is None:
            return
        if entry.holes.top is None:
            yield from entry.holes.items
            return
        for leaf in self._leaves(3, Child(entry.holes.top, None, None, entry.holes.count, True)):
            if isinstance(leaf, Lost):
                raise leaf.error
            for offset, length in cast(HoleLeaf, self.node(leaf)).items:
                require(offset + length <= entry.size, "hole beyond the end of the file")
                yield offset, length

    def link_items(self, root_id: bytes, on_error: OnError | None = None) -> Iterator[Link]:
        """The items of a root's hard-link table."""
        root = self.root(root_id)
        if root.links_top is None:
            return
        for leaf in self._leaves(4, Child(root.links_top, None, None, root.links, True)):
            if not isinstance(leaf, Lost):
                yield from cast(LinkLeaf, self.node(leaf)).items
            elif on_error is None:
                raise leaf.error
            else:
                on_error(b"", leaf.error)

    def links(self, root_id: bytes, on_error: OnError | None = None) -> dict[bytes, bytes]:
        """A root's hard-link table: path -> the first path of its group."""
        table = dict(self.link_items(root_id, on_error))
        for path, first in table.items():
            require(first not in table, f"hard link {encode_text(path)}: to one that is not first")
        return table

    def attributes(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        """An entry's extended attributes."""
        if entry.attributes is None:
            return []
        if isinstance(entry.attributes, bytes):
            return decode_attributes(entry.attributes)
        parts = [
            bytes(piece.length) if piece.data is None else piece.data
            for piece in self._pieces(entry.attributes, entry.attributes_length, None)
        ]
        return decode_attributes(b"".join(parts))

    def content(self, entry: Entry, on_lost: OnLost | None = None) -> Iterator[Piece]:
        """A file's content in ascending, gapless pieces.

        Without ``on_lost`` the first piece that cannot be had raises; with it, the range and the
        reason are reported and the iteration goes on after it.
        """
        if isinstance(entry.content, ChunkList):
            yield from self._pieces(entry.content, entry.size, on_lost)
        elif entry.size:
            yield Piece(0, entry.size, entry.content)

    def _pieces(self, chunks: ChunkList, size: int, on_lost: OnLost | None) -> Iterator[Piece]:
        offset = 0
        for item in self._chunks(chunks, size):
            try:
                if isinstance(item, Lost):
                    length = cast(int, item.last)
                    raise item.error
                length, chunk_id = item
                data = None if chunk_id == ZERO_ID else self.chunk(chunk_id)
                require(data is None or len(data) == length, "chunk of another length")
            except StoreError as error:
                if on_lost is None:
                    raise
                on_lost(offset, length, error)
            else:
                yield Piece(offset, length, data)
            offset += length

    # -- trees ----------------------------------------------------------------------------------

    def tour(
        self,
        root_id: bytes,
        on_error: OnError | None = None,
        descend: Callable[[Step], bool] | None = None,
    ) -> Iterator[Step]:
        """A root's entries: every directory before and again (``leaving``) after what is in it.

        ``descend`` is asked after a directory has been given out; a directory that it refuses is
        not given out again. Damage is reported to ``on_error`` with the directory's path, and the
        tour goes on; without ``on_error`` it raises.
        """
        path = bytearray()
        stack: list[tuple[Entry, int, Iterator[Entry | Lost]]] = []
        item: Entry | Lost | None = self.root(root_id).entry
        budget = 1 + cast(Entry, item).entries_below
        while True:
            if isinstance(item, Lost):
                if on_error is None:
                    raise item.error
                on_error(bytes(path), item.error)
            elif item is not None:
                length = len(path)
                path += b"/" + item.name if path else item.name
                require(len(path) <= MAX_PATH, "path too long")
                budget -= 1
                require(budget >= 0, "more entries than the root says")
                step = Step(bytes(path), item, False)
                yield step
                if item.kind == Kind.DIRECTORY and (descend is None or descend(step)):
                    require(len(stack) <= MAX_DEPTH, "directories too deep")
                    stack.append((item, length, self._entries(item)))
                else:
                    del path[length:]
            if not stack:
                return
            try:
                item = next(stack[-1][2], None)
            except StoreError as error:
                item = Lost(error, None, 0)
            if item is None:
                entry, length, _ = stack.pop()
                yield Step(bytes(path), entry, True)
                del path[length:]

    def walk(
        self, root_id: bytes, on_error: OnError | None = None
    ) -> Iterator[tuple[bytes, Entry]]:
        """Path (relative to the root; its own is empty) and entry of all that a root holds."""
        for step in self.tour(root_id, on_error):
            if not step.leaving:
                yield step.path, step.entry

    def find(self, root_id: bytes, path: bytes) -> Entry:
        """The entry at a path relative to a root."""
        entry = self.root(root_id).entry
        for name in path.split(b"/") if path else []:
            entry = self._member(entry, name)
        return entry

    def _member(self, entry: Entry, name: bytes) -> Entry:
        top = entry.top
        while top is not None:
            node = self.node(top)
            if isinstance(node, DirectoryLeaf):
                for item in node.items:
                    if item.name == name:
                        return item
                break
            if not isinstance(node, Inner) or node.kind != 1:
                raise Damaged("directory of another kind of node")
            at = (at for at, key in enumerate(node.keys) if name <= cast(bytes, key))
            number = next(at, None)
            top = None if number is None else node.ids[number]
        raise Missing(f"{encode_text(name)}: not in its directory")

    def check(self) -> Iterator[Problem]:
        """Verify everything; gives what is wrong."""
        return Checker(self).run()


def _child(inner: Inner, above: Child, at: int) -> Child:
    final = above.final and at == len(inner.ids) - 1
    return Child(inner.ids[at], inner.level - 1, inner.keys[at], inner.counts[at], final)


def _end_key(node: Node) -> bytes | int | None:
    """The key that what follows a leaf must exceed; -1 after a zero run."""
    if isinstance(node, ChunkLeaf):
        return -1 if node.items[-1][1] == ZERO_ID else None
    return node.last


def _follows(node: Node, previous: bytes | int | None) -> bool:
    """Whether a leaf's first item may follow the item before it."""
    if previous is None or isinstance(node, Inner):
        return True
    if isinstance(node, DirectoryLeaf):
        return node.items[0].name > cast(bytes, previous)
    if isinstance(node, HoleLeaf):
        return node.items[0][0] > cast(int, previous)
    if isinstance(node, LinkLeaf):
        return node.items[0][0] > cast(bytes, previous)
    return not (isinstance(node, ChunkLeaf) and previous == -1 and node.items[0][1] == ZERO_ID)


class Part(NamedTuple):
    """A piece of a file's content that lies wholly in a hole, or wholly outside all holes."""

    offset: int
    length: int
    data: bytes | None
    hole: bool


def masked(store: Store, entry: Entry, on_lost: OnLost | None = None) -> Iterator[Part]:
    """A file's content, cut at the borders of its holes; in a hole there can be only zeros."""
    holes = store.holes(entry)
    start, end = _next_hole(holes)
    for piece in store.content(entry, on_lost):
        at, stop = piece.offset, piece.offset + piece.length
        while at < stop:
            while end <= at:
                start, end = _next_hole(holes)
            hole = start <= at
            until = min(stop, end if hole else start)
            data = None
            if piece.data is not None:
                data = piece.data[at - piece.offset : until - piece.offset]
                require(not hole or not any(data), "data in a hole")
            yield Part(at, until - at, None if hole else data, hole)
            at = until


def _next_hole(holes: Iterator[Hole]) -> tuple[int, int]:
    offset, length = next(holes, (2**64, 1))
    return offset, offset + length


def _check_root_kind(recorded: str, entry: Entry) -> None:
    if recorded == "directory":
        good = entry.kind == Kind.DIRECTORY
    elif recorded == "other":
        good = entry.kind not in (Kind.DIRECTORY, Kind.FILE)
    else:
        good = entry.kind == Kind.FILE
    require(good, f"the root is of another kind than the snapshot says: {recorded}")


# --------------------------------------------------------------------------------------------
# Checking
# --------------------------------------------------------------------------------------------


class Totals(NamedTuple):
    """What a directory holds, as counted."""

    entries: int
    bytes: int
    sound: bool


@dataclass(slots=True)
class _Open:
    """A directory being counted."""

    entry: Entry
    members: Iterator[Entry | Lost]
    entries: int = 0
    bytes: int = 0
    sound: bool = True


class Checker:
    """Verifies all packs, all small objects and all trees."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[bytes, Totals] = {}
        self._found: list[Problem] = []

    def run(self) -> Iterator[Problem]:
        """All problems, as they are found."""
        for step in (self._packs, self._objects, self._trees):
            for _ in step():
                yield from self._found
                self._found.clear()
            yield from self._found
            self._found.clear()
        yield from self._store.problems

    def _report(self, where: str, error: StoreError) -> None:
        self._found.append(Problem(where, error))

    def _attempt(self, where: str | Callable[[], str], task: Callable[[], object]) -> bool:
        try:
            task()
        except StoreError as error:
            self._report(where if isinstance(where, str) else where(), error)
            return False
        return True

    # -- packs and small objects

    def _packs(self) -> Iterator[None]:
        store = self._store
        indexes = {kind: store._index(kind) for kind in (DATA, META)}
        following = dict.fromkeys(indexes, 0)  # an index keeps chunks in the order of their packs
        for number, pack in enumerate(store._packs):
            index = indexes[pack.header.kind]
            self._attempt(pack.name, partial(self._check_name, pack))
            for block in range(len(pack.stored)):
                start = end = following[pack.header.kind]
                while end < len(index) and index.place(end)[:2] == (number, block):
                    end += 1
                following[pack.header.kind] = end
                where = f"{pack.name}, block {block}"
                self._attempt(where, partial(self._check_block, number, block, start, end, index))
                yield

    def _check_name(self, pack: Pack) -> None:
        hasher = blake3()
        handle, size = self._store._open(pack.name)
        try:
            for at in range(0, size, 1 << 20):
                hasher.update(_read_at(handle, min(1 << 20, size - at), at))
        except OSError as error:
            raise Damaged(str(error.strerror)) from None
        finally:
            os.close(handle)
        require(hasher.hexdigest() == pack.name[-64:], "pack is not what its name says")

    def _check_block(
        self, number: int, block: int, start: int, end: int, index: ChunkIndex
    ) -> None:
        """Verify a block and its chunks, which are those from ``start`` to ``end`` of the index."""
        pack = self._store._packs[number]
        key = self._store.keys.chunk if pack.header.kind == DATA else self._store.keys.node
        plain = self._store._block(number, block)
        require(end > start or not any(plain), "padding that is not zero")
        wrong: list[str] = []
        for entry in range(start, end):
            item, (_, _, offset, length) = index.id(entry), index.place(entry)
            if keyed_hash(key, plain[offset : offset + length]) == item:
                index.good[entry] = 1
            else:
                wrong.append(item.hex())
        require(not wrong, f"not what their ids say: {', '.join(wrong)}")

    def _objects(self) -> Iterator[None]:
        store = self._store
        for snapshot_id in store.snapshots():
            for match in store._list("refs", f"{snapshot_id}-{COUNTED}"):
                name = f"refs/{match[0]}"
                self._attempt(name, partial(self._check_refs, name))
            yield
        plain: list[tuple[str, str, Type, Callable[[bytes], object]]] = [
            ("label", f"{HEX64}-{COUNTED}", Type.LABEL, decode_label),
            ("sess", "[0-9a-hjkmnp-tv-z]{26}-[0-9]{4}", Type.LEASE, decode_lease),
            ("gc", "[0-9]{8}-[0-9a-f]{32}(-sweep|-done)?", Type.COLLECTOR, decode_collector),
        ]
        for kind in store._list("ref", "[0-9a-z-]+"):
            pattern = f"[0-9a-f]{{32}}-{COUNTED}"
            plain.append((f"ref/{kind[0]}", pattern, Type.REF, decode_ref))
        for prefix, pattern, kind_of, decode in plain:
            for match in store._list(prefix, pattern):
                name = f"{prefix}/{match[0]}"
                try:
                    record = decode(store._object(name, kind_of)[1])
                    if kind_of == Type.REF:
                        self._check_ref(name, cast(Json, record))
                except Missing:
                    pass  # leases come and go
                except StoreError as error:
                    self._report(name, error)
                yield

    def _check_refs(self, name: str) -> None:
        refs = decode_refs(self._store._object(name, Type.REFS)[1])
        for pack, (kind, size) in refs.packs.items():
            digits = pack.hex()
            handle, actual = self._store._open(f"{PREFIXES[kind]}/{digits[:2]}/{digits}")
            os.close(handle)
            require(actual == size, f"pack {digits} of another size")

    def _check_ref(self, name: str, record: Json) -> None:
        _, kind, rest = name.split("/")
        digest = keyed_hash(self._store.keys.object, f"{kind}/{record['name']}".encode()).hex()
        require(record["kind"] == kind and rest[:32] == digest[:32], "ref under another name")

    # -- trees

    def _trees(self) -> Iterator[None]:
        for snapshot_id, record in self._store.snapshots().items():
            for root in record["roots"]:
                where = f"snapshot {snapshot_id[:12]}: {root['path']}"
                try:
                    self._check_root(where, root)
                except StoreError as error:
                    self._report(where, error)
                yield

    def _check_root(self, where: str, root: Json) -> None:
        root_id = bytes.fromhex(root["id"])
        entry = self._store.root(root_id).entry
        _check_root_kind(root["kind"], entry)
        if entry.kind == Kind.DIRECTORY:
            found = self._directory(where, entry)
        else:
            found = Totals(0, entry.size, self._member(lambda: where, entry))
        if found.sound:
            good = (found.entries + 1, found.bytes) == (root["entries"], root["bytes"])
            require(good, "entries or bytes are not as the snapshot says")
        for path, first in self._store.link_items(root_id):
            link = f"{where}: {encode_text(path)}"
            self._attempt(link, partial(self._link, root_id, path, first))
        self._store.links(root_id)

    def _link(self, root_id: bytes, path: bytes, first: bytes) -> None:
        entry = self._store.find(root_id, path)
        require(entry.kind != Kind.DIRECTORY, "hard link of a directory")
        require(same_inode(entry, self._store.find(root_id, first)), "hard links that differ")

    def _directory(self, where: str, top: Entry) -> Totals:
        """Count a directory and all below, verifying everything not seen before."""
        stack = [_Open(top, self._store._entries(top))]
        item: Entry | Lost | None = None

        def here() -> str:
            names = [opened.entry.name for opened in stack[1:]]
            names += [item.name] if isinstance(item, Entry) else []
            return f"{where}: {encode_text(b'/'.join(names))}"

        stack[0].sound = self._own(here, top)
        while True:
            current = stack[-1]
            try:
                item = next(current.members, None)
            except StoreError as error:
                item = Lost(error, None, 0)
            if item is None:
                totals = self._leave(here, current)
                stack.pop()
                if not stack:
                    return totals
                self._add(stack[-1], totals)
            elif isinstance(item, Lost):
                self._report(here(), item.error)
                current.sound = False
            elif item.kind != Kind.DIRECTORY:
                current.sound &= self._member(here, item)
                self._add(current, Totals(1, item.size, True))
            else:
                current.sound &= self._own(here, item)
                self._add(current, Totals(1, 0, True))
                known = self._seen.get(item.top) if item.top else Totals(0, 0, True)
                if known is None:
                    require(len(stack) <= MAX_DEPTH, "directories too deep")
                    stack.append(_Open(item, self._store._entries(item)))
                else:
                    self._add(current, self._again(here, item, known))

    @staticmethod
    def _add(current: _Open, totals: Totals) -> None:
        current.entries += totals.entries
        current.bytes += totals.bytes
        current.sound &= totals.sound

    def _again(self, where: Callable[[], str], entry: Entry, known: Totals) -> Totals:
        """A directory whose content was counted before, perhaps for another snapshot."""
        if not known.sound:
            self._report(where(), Damaged("damaged, as listed where it was met first"))
        elif (known.entries, known.bytes) != (entry.entries_below, entry.bytes_below):
            self._report(where(), Damaged("totals are not those of what is below"))
            return known._replace(sound=False)
        return known

    def _leave(self, where: Callable[[], str], done: _Open) -> Totals:
        totals = Totals(done.entries, done.bytes, done.sound)
        if done.entry.top is not None:
            self._seen[done.entry.top] = totals
        declared = (done.entry.entries_below, done.entry.bytes_below)
        if done.sound and (done.entries, done.bytes) != declared:
            self._report(where(), Damaged("totals are not those of what is below"))
            return totals._replace(sound=False)
        return totals

    def _own(self, where: Callable[[], str], entry: Entry) -> bool:
        """An entry's own attributes, where they are not in place."""
        if isinstance(entry.attributes, ChunkList):
            return self._attempt(where, lambda: self._store.attributes(entry))
        return True

    def _member(self, where: Callable[[], str], entry: Entry) -> bool:
        sound = self._own(where, entry)
        if entry.holes is not None:
            return self._attempt(where, lambda: _exhaust(masked(self._store, entry))) and sound
        if isinstance(entry.content, ChunkList):
            chunks = entry.content
            return self._attempt(where, lambda: self._content(chunks, entry.size)) and sound
        return sound

    def _content(self, chunks: ChunkList, size: int) -> None:
        index = self._store._index(DATA)
        for item in self._store._chunks(chunks, size):
            if isinstance(item, Lost):
                raise item.error
            length, chunk_id = item
            if chunk_id == ZERO_ID:
                continue
            copies = [(index.good[n], index.place(n)[3]) for n in index.find(chunk_id)]
            if (1, length) not in copies:
                state = "damaged" if copies else "missing"
                raise Damaged(f"chunk {chunk_id.hex()}: {state}, or of another length")


def _exhaust(parts: Iterable[object]) -> None:
    for _ in parts:
        pass


def same_inode(a: Entry, b: Entry) -> bool:
    """Whether two entries may be hard links of each other."""
    return a.kind != Kind.DIRECTORY and replace(a, name=b"") == replace(b, name=b"")


# --------------------------------------------------------------------------------------------
# Restoring
# --------------------------------------------------------------------------------------------

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ZEROS: Final = bytes(1 << 20)


class Cursor:
    """The directory one is in, reached one name at a time and never through a link."""

    def __init__(self, handle: int) -> None:
        self.handle = os.dup(handle)
        self._above: list[tuple[int, int]] = []

    def enter(self, name: bytes) -> None:
        """Go into a directory."""
        inner = os.open(name, DIRECTORY_FLAGS, dir_fd=self.handle)
        info = os.fstat(self.handle)
        self._above.append((info.st_dev, info.st_ino))
        os.close(self.handle)
        self.handle = inner

    def leave(self) -> int:
        """Go back; the caller gets the handle of the directory left, and closes it."""
        outer = os.open("..", DIRECTORY_FLAGS, dir_fd=self.handle)
        info = os.fstat(outer)
        if (info.st_dev, info.st_ino) != self._above.pop():
            os.close(outer)
            raise OSError(errno.ESTALE, "the directory was moved while being restored")
        inner, self.handle = self.handle, outer
        return inner

    def close(self) -> None:
        """Let go."""
        os.close(self.handle)


@dataclass(slots=True)
class Report:
    """What happened; ``failures`` are things that could not be restored."""

    failures: list[tuple[bytes, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fail(self, path: bytes, error: object, what: str = "") -> None:
        """List something that could not be restored."""
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.failures.append((path, f"{what}: {text}" if what else text))

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)


Failure = (StoreError, OSError, OverflowError, ValueError)


class Plan:
    """One root: where it goes, which of its paths are wanted, and its hard links."""

    def __init__(self, store: Store, record: Json, alone: bool, paths: list[bytes]) -> None:
        self.recorded = decode_text(record["path"])
        self.root_id = bytes.fromhex(record["id"])
        self.entry = store.root(self.root_id).entry
        _check_root_kind(record["kind"], self.entry)
        parts = [part for part in self.recorded.split(b"/") if part]
        for part in parts:
            check_name(part)
        require(len(parts) <= MAX_DEPTH, "path too deep")
        if alone:
            directory = self.entry.kind == Kind.DIRECTORY
            self.place = [] if directory else (parts[-1:] or [b"root"])
        else:
            self.place = parts
        self.wanted = _relative(paths, self.recorded) if paths else {b"": b""}
        self.hits: set[bytes] = set()  # those of the paths given that were met
        self.links: dict[bytes, bytes] = {}
        self.firsts: set[bytes] = set()
        self.made: dict[bytes, tuple[bytes, bytes]] = {}  # group -> path restored, fingerprint

    def load_links(self, store: Store, on_error: OnError) -> None:
        """Read the hard-link table; what cannot be read restores as separate files."""
        self.links = dict(store.link_items(self.root_id, on_error))
        self.firsts = set(self.links.values())

    def full(self, path: bytes) -> bytes:
        """A path below the root as it was recorded."""
        return self.recorded.rstrip(b"/") + b"/" + path if path else self.recorded

    def group(self, path: bytes) -> bytes | None:
        """The first path of the group of hard links that a path belongs to."""
        return self.links.get(path, path if path in self.firsts else None)

    def takes(self, path: bytes, directory: bool) -> bool:
        """Whether an entry is wanted, or is a directory on the way to one that is."""
        taken = False
        for wanted, given in self.wanted.items():
            if path == wanted:
                self.hits.add(given)
            inside = not wanted or path == wanted or path.startswith(wanted + b"/")
            above = directory and (not path or wanted.startswith(path + b"/"))
            taken = taken or inside or above
        return taken

    def name(self, step: Step) -> bytes | None:
        """The name to restore an entry under; None for the directory OUT itself."""
        if step.path:
            return step.entry.name
        return self.place[-1] if self.place else None


def _relative(paths: list[bytes], recorded: bytes) -> dict[bytes, bytes]:
    """Paths as given on the command line -> relative to a root; those elsewhere are left out."""
    found: dict[bytes, bytes] = {}
    base = recorded.rstrip(b"/") + b"/"
    for given in paths:
        path = given.rstrip(b"/") or given[:1]
        above = given.startswith(b"/") and base.startswith(path.rstrip(b"/") + b"/")
        if path == recorded or above:
            found[b""] = given
        elif path.startswith(base):
            found[path[len(base) :]] = given
        elif not path.startswith(b"/"):
            found[path] = given
    return found


class Restorer:
    """Restores roots below a directory that nobody else changes meanwhile."""

    def __init__(self, store: Store, out: int, report: Report, keep_partial: bool = False) -> None:
        self._store = store
        self._out = out
        self._report = report
        self._keep_partial = keep_partial
        self._is_root = os.geteuid() == 0
        self._refused = False

    def run(self, roots: list[Json], paths: list[bytes]) -> None:
        """Restore these roots (only what is at these paths, if any are given)."""
        plans: list[Plan] = []
        for root in roots:
            try:
                plans.append(Plan(self._store, root, len(roots) == 1, paths))
            except StoreError as error:
                self._report.fail(decode_text(root["path"]), error)
        for plan in plans:
            self._guarded(plan, self._contents)
        for plan in sorted(plans, key=lambda plan: -len(plan.place)):
            self._guarded(plan, self._directories)
        hits = set().union(*(plan.hits for plan in plans))
        for path in paths:
            if path not in hits:
                self._report.fail(path, "not found in the snapshot")

    def _guarded(self, plan: Plan, task: Callable[[Plan, Cursor], None]) -> None:
        if not plan.wanted:
            return
        cursor = Cursor(self._out)
        try:
            task(plan, cursor)
        except Failure as error:
            self._report.fail(plan.recorded, error)
        finally:
            cursor.close()

    # -- first pass: everything but the directories' own metadata

    def _contents(self, plan: Plan, cursor: Cursor) -> None:
        def lost(path: bytes, error: StoreError) -> None:
            self._report.fail(plan.full(path), error, "some of its entries")

        def lost_links(_: bytes, error: StoreError) -> None:
            self._report.fail(plan.recorded, error, "some of its hard links")

        plan.load_links(self._store, lost_links)
        for above in plan.place[:-1]:
            self._enter_new(cursor, above)
        for step in self._store.tour(plan.root_id, lost, lambda _: not self._refused):
            self._refused = False
            name = plan.name(step)
            directory = step.entry.kind == Kind.DIRECTORY
            if step.leaving:
                if name is not None:
                    os.close(cursor.leave())
            elif not plan.takes(step.path, directory):
                self._refused = True
            elif name is not None:
                try:
                    if directory:
                        self._enter_new(cursor, name)
                    else:
                        self._create(plan, cursor.handle, step.path, name, step.entry)
                except Failure as error:
                    self._refused = True
                    self._report.fail(plan.full(step.path), error)

    @staticmethod
    def _enter_new(cursor: Cursor, name: bytes) -> None:
        with suppress(FileExistsError):  # made for another root; entering refuses all but those
            os.mkdir(name, 0o700, dir_fd=cursor.handle)
        cursor.enter(name)

    def _create(self, plan: Plan, at: int, path: bytes, name: bytes, entry: Entry) -> None:
        group = plan.group(path)
        fingerprint = b""
        if group is not None:
            fingerprint = blake3(repr(replace(entry, name=b"")).encode()).digest()
            made = plan.made.get(group)
            if made is not None and self._link(plan, at, path, name, made, fingerprint):
                return
        if entry.kind == Kind.FILE:
            self._file(plan.full(path), at, name, entry)
        else:
            self._special(at, name, entry)
            target = b"/proc/self/fd/%d/%s" % (at, name)
            self._finish(plan.full(path), entry, target)
        if group is not None:
            plan.made.setdefault(group, (path, fingerprint))

    def _link(
        self,
        plan: Plan,
        at: int,
        path: bytes,
        name: bytes,
        made: tuple[bytes, bytes],
        fingerprint: bytes,
    ) -> bool:
        """Link to the member of the group that is there; if that fails, a copy will be made."""
        full = plan.full(path)
        if made[1] != fingerprint:
            self._report.fail(full, "hard link unlike the others of its group: restored apart")
            return False
        cursor = Cursor(self._out)
        try:
            *above, source = [*plan.place, *made[0].split(b"/")]
            for part in above:
                cursor.enter(part)
            os.link(source, name, src_dir_fd=cursor.handle, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            self._report.fail(full, error, "hard link: restored as a copy")
            return False
        finally:
            cursor.close()
        return True

    def _file(self, full: bytes, at: int, name: bytes, entry: Entry) -> None:
        def lost(offset: int, length: int, error: StoreError) -> None:
            self._report.fail(full, error, f"{length} bytes from {offset} lost, left as a hole")

        handle = os.open(name, CREATE_FLAGS, 0o600, dir_fd=at)
        try:
            os.ftruncate(handle, entry.size)
            for part in masked(self._store, entry, lost if self._keep_partial else None):
                if not part.hole:
                    _write(handle, part)
            self._finish(full, entry, handle)
        except BaseException:
            os.unlink(name, dir_fd=at)
            raise
        finally:
            os.close(handle)

    @staticmethod
    def _special(at: int, name: bytes, entry: Entry) -> None:
        if entry.kind == Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=at)
        elif entry.kind == Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=at)
        else:
            kind = stat.S_IFCHR if entry.kind == Kind.CHARACTER else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=at)

    # -- second pass: directories, deepest first

    def _directories(self, plan: Plan, cursor: Cursor) -> None:
        try:
            for name in plan.place[:-1]:
                cursor.enter(name)
        except OSError:
            return  # reported by the first pass
        quiet: OnError = lambda path, error: None  # noqa: E731
        for step in self._store.tour(plan.root_id, quiet, lambda _: not self._refused):
            self._refused = False
            found = plan.name(step)
            if step.entry.kind != Kind.DIRECTORY:
                continue
            if step.leaving:
                handle = os.dup(cursor.handle) if found is None else cursor.leave()
                try:
                    self._finish(plan.full(step.path), step.entry, handle)
                finally:
                    os.close(handle)
            elif not plan.takes(step.path, True):
                self._refused = True
            elif found is not None:
                try:
                    cursor.enter(found)
                except OSError:
                    self._refused = True

    # -- metadata: owner, attributes, mode, times, in this order

    def _finish(self, full: bytes, entry: Entry, target: int | bytes) -> None:
        follow = isinstance(target, int)
        if self._is_root:
            self._try(
                full,
                "owner",
                lambda: os.chown(target, entry.uid, entry.gid, follow_symlinks=follow),
            )
        else:
            self._report.note("owners are not restored (that takes root)")
        try:
            attributes = self._store.attributes(entry)
        except StoreError as error:
            self._report.fail(full, error, "attributes")
            attributes = []
        for name, value in attributes:
            what = f"attribute {encode_text(name)}"
            put = partial(os.setxattr, target, name, value, follow_symlinks=follow)
            self._try(full, what, put)
        if entry.kind != Kind.SYMLINK:
            self._try(full, "mode", lambda: os.chmod(target, self._mode(entry)))
        times = (entry.mtime_ns, entry.mtime_ns)
        self._try(full, "time", lambda: os.utime(target, ns=times, follow_symlinks=follow))

    def _mode(self, entry: Entry) -> int:
        """The mode; without its owner, a file must not run as whoever restores it."""
        mode = entry.mode
        if not self._is_root and entry.kind == Kind.FILE:
            if mode & stat.S_ISUID and entry.uid != os.geteuid():
                mode &= ~stat.S_ISUID
                self._report.note("set-user-id is not restored where the owner is not")
            if mode & stat.S_ISGID and entry.gid != os.getegid():
                mode &= ~stat.S_ISGID
                self._report.note("set-group-id is not restored where the owner is not")
        return mode

    def _try(self, full: bytes, what: str, task: Callable[[], object]) -> None:
        try:
            task()
        except Failure as error:
            self._report.fail(full, error, what)


def _write(handle: int, part: Part) -> None:
    """Write a part of a file; zeros outside holes are written like all else."""
    at, end = part.offset, part.offset + part.length
    while at < end:
        if part.data is None:
            data = memoryview(ZEROS)[: min(len(ZEROS), end - at)]
        else:
            data = memoryview(part.data)[at - part.offset :]
        at += os.pwrite(handle, data, at)


# --------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text from a store for a terminal: nothing that could control it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in text
    )


def format_time(nanoseconds: int) -> str:
    """A time in UTC, to the second."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)
    except OverflowError:
        return f"{nanoseconds} ns"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _warn(where: str, what: object) -> None:
    print(f"rescue: {printable(where)}: {printable(str(what))}", file=sys.stderr)


def list_snapshots(store: Store) -> int:
    """Print all snapshots, oldest first."""
    found = store.snapshots()
    for snapshot_id in sorted(found, key=lambda key: (found[key]["time_ns"], key)):
        record, label = found[snapshot_id], store.labels(snapshot_id)
        name = label["fields"].get("name")
        words = [snapshot_id[:16], format_time(record["time_ns"]), record["host"], record["source"]]
        words += [name] if isinstance(name, str) else []
        words += [f"#{tag}" for tag in label["tags"]]
        print(printable("  ".join(words)))
        for root in record["roots"]:
            size = f"{root['entries']} entries, {root['bytes']} bytes"
            print(printable(f"    {root['path']}  ({root['kind']}, {size})"))
        if "unreadable" in record:
            print(f"    partial: {record['unreadable_count']} paths could not be read")
    return 3 if store.problems else 0


def choose(store: Store, wanted: str) -> tuple[str, Json]:
    """The snapshot meant: ``latest``, the name in a label, or the beginning of an id."""
    found = store.snapshots()
    if wanted == "latest" and found:
        matches = [max(found, key=lambda key: (found[key]["time_ns"], key))]
    else:
        matches = [
            key
            for key in found
            if store.labels(key)["fields"].get("name") == wanted or key.startswith(wanted)
        ]
    if not wanted or len(matches) > 1:
        raise StoreError(f"{wanted!r} means {len(matches)} snapshots; give more of the id")
    if not matches:
        raise Missing(f"no readable snapshot {wanted!r}")
    return matches[0], found[matches[0]]


def _open_out(path: str) -> int:
    """The directory to restore into: made, or found empty."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path) or os.listdir(path):
            raise StoreError(f"{path}: is there and is not an empty directory") from None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def restore(store: Store, wanted: str, out: str, paths: list[bytes], keep_partial: bool) -> int:
    """Restore a snapshot."""
    snapshot_id, record = choose(store, wanted)
    report = Report()
    handle = _open_out(out)
    try:
        Restorer(store, handle, report, keep_partial).run(record["roots"], paths)
    finally:
        os.close(handle)
    for note in report.notes:
        print(f"rescue: note: {note}", file=sys.stderr)
    for path, what in report.failures:
        _warn(encode_text(path), what)
    failed = len(report.failures)
    print(f"restored {snapshot_id[:16]} into {out}; {failed} things could not be restored")
    return 3 if failed else 0


def check(store: Store) -> int:
    """Verify everything; print what is damaged."""
    count = 0
    for problem in store.check():
        print(printable(f"{problem.where}: {problem.error}"))
        count += 1
    print(f"{count} problems" if count else "no problems")
    return 3 if count else 0


def _password(arguments: argparse.Namespace) -> bytes | None:
    if arguments.password_file is not None:
        with open(arguments.password_file, "rb") as file:
            return file.read().removesuffix(b"\n").removesuffix(b"\r")
    return os.environb.get(b"SNAP_PASSWORD")


def _open_store(arguments: argparse.Namespace) -> Store:
    password = _password(arguments)
    try:
        return Store(arguments.store, password)
    except WrongPassword:
        if password is not None or not sys.stdin.isatty():
            raise
    return Store(arguments.store, os.fsencode(getpass.getpass("Password: ")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rescue.py", description="Read a snapstore store without snapstore."
    )
    parser.add_argument("store", help="the store's directory")
    parser.add_argument("snapshot", nargs="?", help='beginning of an id, "latest", or a name')
    parser.add_argument("out", nargs="?", help="directory to restore into: missing, or empty")
    parser.add_argument("--path", action="append", default=[], help="restore only this")
    parser.add_argument("--password-file", help="file that holds the password")
    parser.add_argument("--check", action="store_true", help="verify everything")
    parser.add_argument(
        "--keep-partial", action="store_true", help="keep files with lost parts, as holes"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.snapshot is not None and (arguments.check or arguments.out is None):
        parser.error("give STORE, or STORE --check, or STORE SNAPSHOT OUT")
    store: Store | None = None
    try:
        store = _open_store(arguments)
        if arguments.check:
            return check(store)
        if arguments.snapshot is None:
            return list_snapshots(store)
        paths = [os.fsencode(path) for path in arguments.path]
        return restore(store, arguments.snapshot, arguments.out, paths, arguments.keep_partial)
    except (StoreError, OSError) as error:
        print(f"rescue: {printable(str(error))}", file=sys.stderr)
        return 1
    finally:
        if store is not None and not arguments.check:
            for problem in store.problems:
                _warn(problem.where, problem.error)


if __name__ == "__main__":
    sys.exit(main())
