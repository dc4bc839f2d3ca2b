"""The independent reader: restores snapshots with nothing but this one file.

It is written from the pages of ``docs/format`` alone and shares no code with the rest of snapstore.
It needs Python 3.11, ``zstandard``, ``xxhash`` and ``blake3``; a sealed store also needs
``cryptography`` and ``argon2-cffi``. Copied beside a store, it runs as it is::

    python rescue.py STORE                      # what is there
    python rescue.py STORE SNAPSHOT OUT         # restore (id prefix, "latest" or a label's name)
    python rescue.py STORE latest OUT --path etc/fstab
    python rescue.py STORE --check              # verify everything

Everything read is hostile until checked: bounds before memory is taken, checksums before bytes are
decoded, ids after. A damaged object costs what it holds and no more: the rest is restored, what is
lost is listed on standard error, and the exit status is 3. As a library, :class:`Store` opens a
store, and the ``decode_…`` functions are pure: an oracle for another implementation's tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from struct import Struct
from typing import Any, NamedTuple, cast

import xxhash
import zstandard
from blake3 import blake3

# -- bounds (README.md) and errors ---------------------------------------------------------------

VERSION = 1
MAX_PACK, MAX_BLOCKS, MAX_CHUNKS = 134_217_728, 65_535, 262_144
MAX_BLOCK, MAX_FOOTER, MAX_CHUNK, MAX_SMALL = 8_388_608, 16_777_216, 4_194_304, 67_108_864
MAX_NODE, MAX_ITEMS, MAX_LEVEL = 8_388_608, 1_024, 12
MAX_NAME, MAX_PATH, MAX_DEPTH, MAX_TARGET = 255, 1_048_576, 4_096, 4_095
MAX_XATTR_NAME, MAX_XATTR_VALUE, MAX_XATTRS, MAX_XATTR_SET = 255, 65_536, 65_536, 16_777_216
MAX_FILE = 2**63 - 1
MAX_JSON_DEPTH = 64
IN_PLACE_BYTES, IN_PLACE_ITEMS, IN_PLACE_XATTRS = 256, 32, 2_048
ZERO_ID = bytes(32)

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


def require(condition: object, what: str) -> None:
    """Raise :class:`Damaged` unless the condition holds."""
    if not condition:
        raise Damaged(what)


# -- conventions (README.md) ---------------------------------------------------------------------


def derive(context: str, material: bytes) -> bytes:
    """BLAKE3's ``derive_key`` mode."""
    return blake3(material, derive_key_context=context).digest()


def keyed_hash(key: bytes, data: bytes) -> bytes:
    """BLAKE3's keyed mode."""
    return blake3(data, key=key).digest()


def checksum(data: bytes) -> bytes:
    """XXH3-64, as stored."""
    return xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


def ascending(keys: Iterable[Any]) -> bool:
    """Whether each key is greater than the one before."""
    return all(a < b for a, b in pairwise(keys))


class Reader:
    """Takes values from the front of a byte string, never past its end."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        require(self.position <= len(self.data), "ends too early")
        return self.data[start : self.position]

    def varint(self) -> int:
        """An unsigned LEB128 integer of at most 64 bits in its shortest form."""
        value = shift = 0
        for position in range(self.position, min(self.position + 10, len(self.data))):
            byte = self.data[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                shortest = byte != 0 or shift == 0
                require(shortest and value < 2**64, "varint too long")
                self.position = position + 1
                return value
            shift += 7
        raise Damaged("varint without an end")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def bounded(self, low: int, high: int, what: str) -> int:
        value = self.varint()
        if not low <= value <= high:
            raise Damaged(f"{what} out of bounds: {value}")
        return value

    def column(self, count: int, low: int, high: int, what: str) -> list[int]:
        return [self.bounded(low, high, what) for _ in range(count)]

    def string(self, low: int, high: int, what: str) -> bytes:
        return self.take(self.bounded(low, high, what))

    def ids(self, count: int) -> list[bytes]:
        taken = self.take(32 * count)
        return [taken[at : at + 32] for at in range(0, len(taken), 32)]

    def end(self) -> None:
        require(self.position == len(self.data), "bytes left over")


LONG_ESCAPES = {"\\b": "\\u0008", "\\t": "\\u0009", "\\n": "\\u000a"}
LONG_ESCAPES |= {"\\f": "\\u000c", "\\r": "\\u000d"}


def encode_json(value: Any) -> bytes:
    """The canonical form of a JSON value: as Python writes it, but without short escapes."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return re.sub(r"\\.", lambda found: LONG_ESCAPES.get(found[0], found[0]), text).encode()


def _number(text: str) -> int:
    good = re.fullmatch("-?[0-9]{1,19}", text) and -(2**63) <= int(text) < 2**63
    require(good, f"not an integer of 64 bits: {text[:40]}")
    return int(text)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, dict | list) else 0


def decode_json(payload: bytes) -> Json:
    """A JSON record; anything but its canonical form is refused."""
    number: Any = _number
    try:
        value = json.loads(
            payload.decode(), parse_int=number, parse_float=number, parse_constant=number
        )
        require(_depth(value) <= MAX_JSON_DEPTH, "JSON nested too deep")
        require(encode_json(value) == payload, "JSON not in its canonical form")
    except (ValueError, RecursionError) as error:
        raise Damaged(f"not JSON: {error}") from None
    if isinstance(value, dict):
        return value
    raise Damaged("not a JSON object")


def encode_text(raw: bytes) -> str:
    """A byte string as it stands in JSON."""
    text = raw.decode("utf-8", "surrogateescape")
    return re.sub("[\0-\x1f\x7f%\udc80-\udcff]", lambda m: f"%{ord(m[0]) & 0xFF:02X}", text)


def decode_text(text: str) -> bytes:
    """The byte string that stands in JSON as this text; other spellings are refused."""
    coded = text.encode("utf-8", "replace")  # a surrogate does not come back as it was
    raw = re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), coded)
    require(encode_text(raw) == text, "byte string not in its canonical form")
    return raw


def check_name(name: bytes) -> bytes:
    """A name that can stand in a directory, and that leads nowhere else."""
    require(0 < len(name) <= MAX_NAME, "name empty or too long")
    require(name not in (b".", b"..") and not re.search(rb"[/\0]", name), "name that leads away")
    return name


def check_path(path: bytes) -> bytes:
    """A relative path of proper names."""
    parts = path.split(b"/")
    require(len(path) <= MAX_PATH and len(parts) <= MAX_DEPTH + 1, "path too long or too deep")
    return b"/".join(map(check_name, parts))


def inflate(coded: bytes, codec: int, length: int) -> bytes:
    """Undo the codec; the result has exactly the declared length (already checked)."""
    plain = coded
    if codec == 1:
        require(coded[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
        try:
            declared = zstandard.get_frame_parameters(coded).content_size
            require(declared in (length, zstandard.CONTENTSIZE_UNKNOWN), "another length declared")
            task = zstandard.ZstdDecompressor()
            plain = task.decompress(coded, max_output_size=length or 1, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"does not decompress: {error}") from None
    require(codec <= 1, "unknown codec")
    require(len(plain) == length, "bytes of another length than declared")
    return plain


# -- frames and keys (frame.md, config.md) -------------------------------------------------------

CONFIG, KEY, SNAPSHOT, LABEL, REFS, REF, LEASE, COLLECTOR = range(1, 9)
FRAME_HEAD = Struct("<4sBBBB16sII")
ENVELOPE = Struct("<IIB3s")
Coded = tuple[bytes, int, int]  # coded bytes, codec, plain length


class Keys:
    """All that follows from a family secret, and the master keys of a sealed family."""

    def __init__(
        self, family: bytes, secret: bytes = bytes(32), masters: dict[int, bytes] | None = None
    ) -> None:
        self.family, self.masters = family, masters or {}
        self.sealed = bool(masters)
        self.chunk = derive("snapstore v1 chunk id", secret)
        self.node = derive("snapstore v1 node id", secret)
        self.snapshot = derive("snapstore v1 snapshot id", secret)
        self.object = derive("snapstore v1 object name", secret)

    def unseal(self, use: str, epoch: int, salt: bytes, body: bytes, associated: bytes) -> Coded:
        """Open ``nonce ‖ ciphertext ‖ tag`` under the key for this use, epoch and salt."""
        require(epoch in self.masters, f"sealed under master key {epoch}, which is not known")
        material = self.masters[epoch] + epoch.to_bytes(4, "little") + salt
        inside = open_sealed(derive(f"snapstore v1 {use} key", material), body, associated)
        require(len(inside) >= ENVELOPE.size, "sealed bytes too short")
        length, stored, codec, _ = ENVELOPE.unpack_from(inside)
        require(stored <= len(inside) - ENVELOPE.size, "coded bytes of another length")
        return inside[ENVELOPE.size : ENVELOPE.size + stored], codec, length


def open_sealed(key: bytes, body: bytes, associated: bytes) -> bytes:
    """AES-256-GCM over ``nonce ‖ ciphertext ‖ tag``."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    require(len(body) >= 28, "sealed bytes too short")
    try:
        return AESGCM(key).decrypt(body[:12], body[12:], associated)
    except InvalidTag:
        raise Damaged("sealed bytes are not authentic") from None


def check_version(version: int) -> None:
    """Refuse what a newer version has written."""
    if version > VERSION:
        raise NewerVersion(f"format version {version}: a newer version of this reader is needed")
    require(version == VERSION, "format version 0")


def decode_frame(data: bytes, expected: int, name: str, keys: Keys) -> tuple[bytes, bytes]:
    """A frame's writer nonce and payload; sealed when the family is, but for config and keys."""
    require(40 <= len(data) <= MAX_SMALL, "frame too short or too long")
    magic, version, kind, codec, sealed, nonce, length, stored = FRAME_HEAD.unpack_from(data)
    require(magic == b"SNAP", "not a frame")
    check_version(version)
    require(len(data) == 40 + stored and length <= MAX_SMALL, "frame or payload of another length")
    require(checksum(data[:-8]) == data[-8:], "checksum differs")
    require(kind == expected, f"frame of type {kind}, not {expected}")
    require(kind not in (CONFIG, SNAPSHOT) or not any(nonce), "writer nonce not zero")
    rule = keys.sealed and kind not in (CONFIG, KEY)
    require(sealed == rule, "sealed or unsealed against the rule")
    body = data[32:-8]
    if not sealed:
        return nonce, inflate(body, codec, length)
    require(
        codec == length == 0 and len(body) >= 76, "sealed frame too short, or open about itself"
    )
    epoch = int.from_bytes(body[:4], "little")
    associated = data[:32] + keys.family + name.encode()
    coded, codec, length = keys.unseal("frame", epoch, body[4:36], body[36:], associated)
    require(length <= MAX_SMALL, "payload too long")
    return nonce, inflate(coded, codec, length)


# -- records (config.md, snapshot.md, session.md) ------------------------------------------------

INTEGER, COUNT = range(-(2**63), 2**63), range(2**63)
HEX_12, HEX_16, HEX_32 = "[0-9a-f]{24}", "[0-9a-f]{32}", "[0-9a-f]{64}"
KDF = {"name": "argon2id", "memory_kib": range(8_192, 4_194_305), "passes": range(1, 65)}
KDF |= {"lanes": range(1, 17), "salt": "([0-9a-f]{2}){16,64}"}
ROOT_KINDS = "directory|file|image|stream|other"
ROOT_RECORD = {"path": str, "kind": ROOT_KINDS, "id": HEX_32, "entries": COUNT, "bytes": COUNT}
SNAPSHOT_RECORD = {"host": str, "source": str, "time_ns": INTEGER, "roots": [ROOT_RECORD]}


def fits(value: Any, shape: Any) -> bool:
    """Whether JSON fits a shape: a pattern, a range, a type, ``[shape]`` or ``{key: shape}``."""
    match shape:
        case str():
            return isinstance(value, str) and re.fullmatch(shape, value) is not None
        case range():
            return type(value) is int and value in shape
        case [inner]:
            return isinstance(value, list) and all(fits(item, inner) for item in value)
        case dict():
            known = isinstance(value, dict) and shape.keys() <= value.keys()
            return known and all(fits(value[key], inner) for key, inner in shape.items())
    return isinstance(value, shape)


def conform(record: Json, shape: Json) -> Json:
    """Check some keys of a record; all others are kept as they are."""
    for key, inner in shape.items():
        require(fits(record, {key: inner}), f"{key}: not as the format says")
    return record


def decoder(**shape: Any) -> Callable[[bytes], Json]:
    """A function that decodes a record of this shape."""
    return lambda payload: conform(decode_json(payload), shape)


decode_key = decoder(kdf=KDF, nonce=HEX_12, wrapped="([0-9a-f]{2}){16,}")
decode_secrets = decoder(config=HEX_32, family_secret=HEX_32, masters=dict)
decode_label = decoder(by=str, time_ns=INTEGER, ops=list)
decode_ref = decoder(kind=str, name=str, time_ns=INTEGER, value=object)
decode_lease = decoder(session=str, settled=COUNT, purpose=str)
decode_collector = decoder(generation=COUNT)


def check_features(names: Any) -> None:
    """Refuse what needs features; this reader knows none."""
    require(fits(names, [str]), "features: not as the format says")
    if names:
        raise NewerVersion(f"needs features that this reader does not know: {', '.join(names)}")


def decode_config(payload: bytes) -> Json:
    """The ``config`` record; a store that needs an unknown feature is refused."""
    config = conform(decode_json(payload), {"format": COUNT, "features": {"required": list}})
    check_version(config["format"])
    check_features(config["features"]["required"])
    return conform(config, {"store": HEX_16, "family": HEX_16, "sealed": bool})


def decode_snapshot(payload: bytes) -> Json:
    """A snapshot record; one that needs an unknown feature is refused."""
    record = decode_json(payload)
    check_features(record.get("needs", []))
    for root in conform(record, SNAPSHOT_RECORD)["roots"]:
        decode_text(root["path"])
    return record


def unwrap(key: Json, password: bytes, config: bytes, family: bytes) -> Keys | None:
    """The keys that a (decoded) key object wraps; None where the password is another."""
    from argon2.low_level import Type, hash_secret_raw

    kdf = key["kdf"]
    salt, body = bytes.fromhex(kdf["salt"]), bytes.fromhex(key["nonce"] + key["wrapped"])
    sizes = (kdf["passes"], kdf["memory_kib"], kdf["lanes"], 32)
    wrapping = hash_secret_raw(password, salt, *sizes, Type.ID, 0x13)
    try:
        secrets = decode_secrets(open_sealed(wrapping, body, b"snapstore v1 key" + family))
    except Damaged:
        return None
    require(secrets["config"] == blake3(config).hexdigest(), "config: not the one of this key")
    epochs, masters = [*secrets["masters"]], [*secrets["masters"].values()]
    good = epochs and fits(epochs, ["[1-9][0-9]{0,8}"]) and fits(masters, [HEX_32])
    require(good, "masters: not as the format says")
    known = dict(zip(map(int, epochs), map(bytes.fromhex, masters), strict=True))
    return Keys(family, bytes.fromhex(secrets["family_secret"]), known)


def fold_labels(labels: Iterable[Json]) -> Json:
    """What label records, in their order, make of a snapshot's editable part."""
    found: dict[str, Json] = {"set": {}, "tag": {}, "meta": {}}
    unknown: list[Any] = []
    for operation in (operation for label in labels for operation in label["ops"]):
        match operation:
            case ["set" | "meta" as what, str(key), None]:
                found[what].pop(key, None)
            case ["set" | "meta" as what, str(key), value]:
                found[what][key] = value
            case ["tag", str(tag)]:
                found["tag"][tag] = True
            case ["untag", str(tag)]:
                found["tag"].pop(tag, None)
            case _:
                unknown.append(operation)
    tags = sorted(found["tag"])
    return {"fields": found["set"], "tags": tags, "meta": found["meta"], "unknown": unknown}


def decode_refs(payload: bytes) -> tuple[bool, dict[bytes, tuple[int, int]]]:
    """A ``refs`` object: whether it is exact, and the packs: id -> (kind, size)."""
    reader = Reader(payload)
    exact = reader.take(1)[0]
    ids = reader.ids(reader.bounded(0, len(payload) // 34, "number of packs"))
    kinds = reader.take(len(ids))
    sizes = reader.column(len(ids), 1, MAX_PACK, "size of a pack")
    reader.end()
    require(exact <= 1 and set(kinds) <= {DATA, META} and ascending(ids), "refs against the rules")
    return exact == 1, dict(zip(ids, zip(kinds, sizes, strict=True), strict=True))


# -- nodes (node.md) -----------------------------------------------------------------------------

DIRECTORIES, CHUNKS, HOLES, LINKS, ROOT = range(1, 6)  # kinds of nodes
FILE, DIRECTORY, SYMLINK, FIFO, CHARACTER, BLOCK = range(1, 7)  # types of entries

Chunk = tuple[int, bytes]  # length, id
Hole = tuple[int, int]  # offset, length
# A chunk list or hole map where it is referred to: count, items (in place), or else top node.
Listed = tuple[int, tuple[Any, ...], bytes | None]


@dataclass(slots=True)
class Entry:
    """One directory entry. Which fields mean something depends on ``kind``."""

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int  # the whole time, in nanoseconds
    size: int = 0  # file
    content: bytes | Listed = b""  # file
    holes: Listed | None = None  # file
    count: int = 0  # directory: entries in it
    top: bytes | None = None  # directory: top node
    entries_below: int = 0  # directory
    bytes_below: int = 0  # directory
    target: bytes = b""  # symbolic link
    device: tuple[int, int] = (0, 0)
    attributes: bytes | Listed | None = None  # the encoded set, or where it is
    attributes_length: int = 0


class Node(NamedTuple):
    """A node. Items of an inner node are (key, items below, id); the root's is its entry."""

    kind: int
    level: int
    items: tuple[Any, ...]
    total: int  # items (leaf entries) below; hard links of a root
    first: Any = None  # key of the first item of a leaf
    last: Any = None  # the key that a node above gives it; top of a root's hard links


def decode_node(data: bytes) -> Node:
    """Any node, in exactly the form that the format prescribes."""
    require(2 < len(data) <= MAX_NODE, "node too short or too long")
    kind, level, reader = data[0], data[1], Reader(data, 2)
    require(DIRECTORIES <= kind <= ROOT, f"unknown kind of node: {kind}")
    require(level <= (0 if kind == ROOT else MAX_LEVEL), "level out of bounds")
    if kind == ROOT:
        entries = _columns(reader, [reader.string(0, 0, "the root's name")])
        links = reader.varint()
        node = Node(kind, level, tuple(entries), links, last=reader.take(32) if links else None)
    else:
        node = _sequence(reader, kind, level, reader.bounded(1, MAX_ITEMS, "number of items"))
    reader.end()
    return node


def _sequence(reader: Reader, kind: int, level: int, count: int) -> Node:
    items: Sequence[Any] = ()
    keys: Sequence[Any] = ()
    if kind == DIRECTORIES:
        keys = [check_name(reader.string(1, MAX_NAME, "name")) for _ in range(count)]
    elif kind == LINKS:
        paths = [reader.string(1, MAX_PATH, "path") for _ in range(count if level else 2 * count)]
        keys = [*map(check_path, paths)]
    elif level:
        keys = reader.column(count, 1, MAX_FILE, "key")
    if level:
        require(kind == CHUNKS or ascending(keys), "keys not ascending")
        counts = reader.column(count, 1, 2**64 - 1, "number of items below")
        items = tuple(zip(keys, counts, reader.ids(count), strict=True))
        last = sum(keys) if kind == CHUNKS else keys[-1]
        return Node(kind, level, items, sum(counts), None, last)
    if kind == DIRECTORIES:
        items = _columns(reader, [*keys])
    elif kind == CHUNKS:
        items = _chunks(reader, count)
        return Node(kind, level, tuple(items), count, None, sum(length for length, _ in items))
    elif kind == HOLES:
        items = _holes(reader, count)
        return Node(kind, level, tuple(items), count, items[0][0], sum(items[-1]))
    else:
        items, keys = list(zip(keys[::2], keys[1::2], strict=True)), keys[::2]
        require(all(first < path for path, first in items), "first path that is not the smallest")
    require(ascending(keys), "names or paths not ascending")
    return Node(kind, level, tuple(items), count, keys[0], keys[-1])


def _chunks(reader: Reader, count: int) -> list[Chunk]:
    lengths = reader.column(count, 1, MAX_FILE, "length of a chunk")
    items = list(zip(lengths, reader.ids(count), strict=True))
    require(sum(lengths) <= MAX_FILE, "file too long")
    require(all(n <= MAX_CHUNK or item == ZERO_ID for n, item in items), "chunk too long")
    twice = any(a == b == ZERO_ID for (_, a), (_, b) in pairwise(items))
    require(not twice, "zero run after zero run")
    return items


def _holes(reader: Reader, count: int) -> list[Hole]:
    items: list[Hole] = []
    for number in range(count):
        end = sum(items[-1]) if items else 0
        offset = end + reader.bounded(min(number, 1), MAX_FILE, "distance of a hole")
        items.append((offset, reader.bounded(1, MAX_FILE, "length of a hole")))
        require(sum(items[-1]) <= MAX_FILE, "hole beyond the largest file")
    return items


def _listed(reader: Reader, size: int, decode: Callable[[Reader, int], list[Any]]) -> Listed:
    """A chunk list or hole map where it is referred to."""
    count = reader.bounded(1, size, "number of items")
    if count > IN_PLACE_ITEMS:
        return count, (), reader.take(32)
    items = decode(reader, count)
    good = sum(n for n, _ in items) == size if decode == _chunks else sum(items[-1]) <= size
    require(good, "chunks do not add up to the size, or hole beyond it")
    return count, tuple(items), None


def _columns(reader: Reader, names: list[bytes]) -> list[Entry]:
    """The columns of a directory leaf that follow the names."""
    count, seconds = len(names), 0
    types = reader.take(count)
    for byte in types:
        require(FILE <= byte & 0x0F <= BLOCK and byte < 0x40, f"unknown type of entry: {byte}")
        require(byte < 0x20 or byte & 0x0F == FILE, "holes in what is not a file")
    modes = reader.column(count, 0, 0o7777, "mode")
    uids = reader.column(count, 0, 2**32 - 1, "uid")
    gids = reader.column(count, 0, 2**32 - 1, "gid")
    times = []
    for _ in range(count):
        seconds = (seconds + reader.zigzag() + 2**63) % 2**64 - 2**63
        times.append(seconds * 10**9)
    for number, fraction in enumerate(reader.column(count, 0, 10**9 - 1, "nanoseconds")):
        times[number] += fraction
    kinds = [byte & 0x0F for byte in types]
    entries = list(map(Entry, names, kinds, modes, uids, gids, times))
    files = [entry for entry in entries if entry.kind == FILE]
    for entry in files:
        entry.size = reader.bounded(0, MAX_FILE, "size")
    for entry in files:
        large = entry.size > IN_PLACE_BYTES
        entry.content = _listed(reader, entry.size, _chunks) if large else reader.take(entry.size)
    for entry, byte in zip(entries, types, strict=True):
        if byte & 0x20:
            entry.holes = _listed(reader, entry.size, _holes)
    for entry in entries:
        if entry.kind == DIRECTORY and (count := reader.varint()):
            entry.count, entry.top = count, reader.take(32)
            entry.entries_below = reader.bounded(count, 2**64 - 1, "entries below")
            entry.bytes_below = reader.varint()
    for entry in entries:
        if entry.kind == SYMLINK:
            entry.target = reader.string(1, MAX_TARGET, "target")
            require(b"\0" not in entry.target, "target with NUL")
    for entry in entries:
        if entry.kind in (CHARACTER, BLOCK):
            major, minor = reader.column(2, 0, 2**32 - 1, "device")
            entry.device = (major, minor)
    for entry, byte in zip(entries, types, strict=True):
        if byte & 0x10:
            length = reader.bounded(1, MAX_XATTR_SET, "length of the attributes")
            large = length > IN_PLACE_XATTRS
            entry.attributes = _listed(reader, length, _chunks) if large else reader.take(length)
            entry.attributes_length = length
            if isinstance(entry.attributes, bytes):
                decode_attributes(entry.attributes)
    return entries


def decode_attributes(data: bytes) -> list[tuple[bytes, bytes]]:
    """An encoded set of extended attributes."""
    require(len(data) <= MAX_XATTR_SET, "attributes too long")
    reader, pairs = Reader(data), []
    for _ in range(reader.bounded(1, MAX_XATTRS, "number of attributes")):
        name = reader.string(1, MAX_XATTR_NAME, "attribute's name")
        require(b"\0" not in name, "attribute's name with NUL")
        pairs.append((name, reader.string(0, MAX_XATTR_VALUE, "attribute's value")))
    reader.end()
    require(ascending(name for name, _ in pairs), "attributes not sorted")
    return pairs


def fingerprint(entry: Entry) -> bytes:
    """The same for entries that agree in all but their names."""
    return blake3(repr(replace(entry, name=b"")).encode()).digest()


# -- packs (pack.md) -----------------------------------------------------------------------------

DATA, META, FOOTER = 1, 2, 3
PREFIXES = {DATA: "data", META: "meta"}
PACK_HEAD, PACK_TAIL = Struct("<8sBBBBI16s32s16s8s8s"), Struct("<IIII8s8s")
BLOCK_HEAD = Struct("<4sIBBBBIII")


PackHeader = tuple[int, int, int, bytes, bytes]  # kind, sealed, key epoch, family, salt
Place = tuple[int, int, int]  # block, offset in it, length


def decode_pack_header(data: bytes) -> PackHeader:
    """The first 96 bytes of a pack."""
    require(len(data) == PACK_HEAD.size and data[:8] == b"SNAPPACK", "not a pack")
    check_version(data[8])
    _, _, kind, sealed, zero, epoch, family, salt, _, zeros, check = PACK_HEAD.unpack(data)
    require(checksum(data[:88]) == check, "checksum of the header differs")
    require(kind in PREFIXES and sealed <= 1 and not any([zero, *zeros]), "unknown kind or seal")
    require((epoch > 0) == bool(sealed) and (sealed or not any(salt)), "epoch or salt against seal")
    return kind, sealed, epoch, family, salt


def decode_trailer(trailer: bytes, header: bytes, size: int) -> tuple[int, int, int]:
    """The last 32 bytes of a pack: offset and length of its footer block, number of blocks."""
    offset, length, blocks, zero, check, magic = PACK_TAIL.unpack(trailer)
    require(magic == b"SNAPTAIL", "pack without its end")
    require(checksum(header + trailer[:16]) == check, "checksum of the trailer differs")
    require(
        offset >= PACK_HEAD.size and blocks <= MAX_BLOCKS and zero == 0, "trailer out of bounds"
    )
    require(32 <= length <= MAX_FOOTER + 60, "footer too short or too long")
    require(offset + length + PACK_TAIL.size == size, "pack of another length")
    return offset, length, blocks


def decode_block(raw: bytes, number: int, kind: int, pack: PackHeader, keys: Keys) -> bytes:
    """A whole block's plaintext: the block of this number and kind in this pack."""
    _, sealed, epoch, _, salt = pack
    require(len(raw) >= 32, "block too short")
    magic, place, found, codec, seal, zero, body, length, zeros = BLOCK_HEAD.unpack_from(raw)
    require(magic == b"SNBK" and body == len(raw) - 32, "not a block, or of another length")
    require(checksum(raw[:-8]) == raw[-8:], "checksum of a block differs")
    require((place, found, seal) == (number, kind, sealed), "block out of place")
    require(zero == zeros == 0, "reserved bytes not zero")
    coded = raw[24:-8]
    if sealed:
        require(codec == length == 0, "sealed block open about itself")
        coded, codec, length = keys.unseal("pack", epoch, salt, coded, raw[:24])
    require(length <= (MAX_FOOTER if kind == FOOTER else MAX_BLOCK), "block too long")
    return inflate(coded, codec, length)


def decode_footer(
    plain: bytes, kind: int
) -> tuple[list[int], list[int], list[tuple[bytes, Place]]]:
    """A footer's plaintext: stored and plain length of every block; all chunks."""
    require(len(plain) <= MAX_FOOTER, "footer too long")
    reader = Reader(plain)
    blocks = reader.bounded(0, MAX_BLOCKS, "number of blocks")
    rows = reader.column(3 * blocks, 0, MAX_PACK, "length or count in a footer")
    stored, sizes, counts = rows[::3], rows[1::3], rows[2::3]
    require(min(stored, default=32) >= 32, "block too short")
    require(max(sizes, default=0) <= MAX_BLOCK and sum(counts) <= MAX_CHUNKS, "too much in a pack")
    places: list[Place] = []
    for block, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        offset = 0
        for _ in range(count):
            length = reader.bounded(1, MAX_CHUNK if kind == DATA else MAX_NODE, "chunk's length")
            places.append((block, offset, length))
            offset += length
        require(count == 0 or offset == size, "chunks do not fill a block")
    found = list(zip(reader.ids(len(places)), places, strict=True))
    reader.end()
    return stored, sizes, found


# -- the store -----------------------------------------------------------------------------------

COUNTED = "-[0-9]{8}-[0-9a-f]{8}"
MISNAMED = "object is not the one that its name says"
OnError = Callable[[bytes, StoreError], None]
Lost = Callable[[StoreError], None] | None
Piece = tuple[int, int, bytes | None]  # offset, length, data (None: zeros)


@dataclass(slots=True)
class Step:
    """A step of a tour; a directory comes again when one leaves it, unless ``skip`` is set."""

    path: bytes
    entry: Entry
    above: int  # length of the path above it
    inside: Iterator[Entry] = field(default_factory=lambda: iter(()))
    entries: int = 0  # found in it so far
    bytes: int = 0
    sound: bool = True
    leaving: bool = False
    skip: bool = False


def _read_at(handle: int, length: int, offset: int) -> bytes:
    data = os.pread(handle, length, offset)
    require(len(data) == length, "file ends too early")
    return data


class Store:
    """A store that is read, never written."""

    def __init__(self, path: str | os.PathLike[str], password: bytes | None = None) -> None:
        self.path = os.fspath(path)
        self.problems: dict[str, StoreError] = {}  # where -> what
        self._packs: list[tuple[str, PackHeader, list[int], list[int]]] = []
        self._places = sqlite3.connect("")  # a nameless file, in memory while it is small
        self._loaded: set[int] = set()
        self._block = lru_cache(8)(self._read_block)
        self.node = lru_cache(32)(self._read_node)
        self.keys = Keys(b"")
        payload = self._object("config", CONFIG)
        self.config = decode_config(payload)
        self.keys = Keys(bytes.fromhex(self.config["family"]))
        if self.config["sealed"]:
            self.keys = self._unlock(payload, password)
        elif password is not None:
            raise Damaged("a password was given, but the store is not sealed: is it another one?")

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, int]]:
        """A handle on a regular file of the store, and its size."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(os.path.join(self.path, name), flags)
            try:
                yield handle, os.fstat(handle).st_size
            finally:
                os.close(handle)
        except FileNotFoundError:
            raise Missing(f"{name}: missing") from None
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None

    def _list(self, prefix: str, pattern: str) -> list[str]:
        """The names under a prefix that match, sorted; all others are ignored."""
        try:
            names = os.listdir(os.path.join(self.path, prefix))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.problems[prefix] = Damaged(str(error.strerror))
            return []
        return sorted(name for name in names if re.fullmatch(pattern, name))

    def _attempt(self, where: str, task: Callable[..., Any], *arguments: Any) -> Any:
        """What a task returns; if it fails, None, and that goes to ``problems``."""
        try:
            return task(*arguments)
        except StoreError as error:
            self.problems.setdefault(where, error)
        return None

    def _object(self, name: str, kind: int, decode: Callable[[bytes], Any] = bytes) -> Any:
        """A small object, decoded; where its content names it, the name must fit."""
        with self._open(name) as (handle, size):
            require(size <= MAX_SMALL, "object too long")
            data = _read_at(handle, size, 0)
        nonce, payload = decode_frame(data, kind, name, self.keys)
        if kind in (LABEL, REFS, REF):
            require(
                name.endswith(keyed_hash(self.keys.object, nonce + payload).hex()[:8]), MISNAMED
            )
        if kind == SNAPSHOT:
            require(name[5:] == keyed_hash(self.keys.snapshot, payload).hex(), MISNAMED)
        if kind == KEY:
            require(name[4:] == blake3(payload).hexdigest(), MISNAMED)
        record = decode(payload)
        if kind == REF:
            pointer = f"{record['kind']}/{record['name']}".encode()
            digest = keyed_hash(self.keys.object, pointer).hex()[:32]
            require(name.startswith(f"ref/{record['kind']}/{digest}-"), MISNAMED)
        return record

    def _unlock(self, config: bytes, password: bytes | None) -> Keys:
        if password is None:
            raise WrongPassword("the store is sealed: a password is needed")
        for digest in self._list("key", HEX_32):
            key = self._attempt(f"key/{digest}", self._object, f"key/{digest}", KEY, decode_key)
            keys = key and unwrap(key, password, config, self.keys.family)
            if isinstance(keys, Keys):
                return keys
        hint = "".join(f"; {where}: {error}" for where, error in self.problems.items())
        raise WrongPassword(f"the password opens none of the store's keys{hint}")

    def snapshot(self, snapshot_id: str) -> Json:
        """One snapshot's record."""
        return cast(Json, self._object(f"snap/{snapshot_id}", SNAPSHOT, decode_snapshot))

    def snapshots(self) -> dict[str, Json]:
        """All snapshots that can be read, by id; what cannot goes to ``problems``."""
        names = self._list("snap", HEX_32)
        found = {name: self._attempt(f"snap/{name}", self.snapshot, name) for name in names}
        return {name: record for name, record in found.items() if record}

    def labels(self, snapshot_id: str) -> Json:
        """The editable part of a snapshot: ``fields``, ``tags``, ``meta``, ``unknown``."""
        names = [f"label/{name}" for name in self._list("label", snapshot_id + COUNTED)]
        labels = [self._attempt(name, self._object, name, LABEL, decode_label) for name in names]
        return fold_labels(filter(None, labels))

    def refs(self, snapshot_id: str) -> Any:
        """The packs a snapshot needs, if that is recorded."""
        names = self._list("refs", snapshot_id + COUNTED)
        return self._object(f"refs/{names[-1]}", REFS, decode_refs) if names else None

    def _pack_names(self, kind: int) -> Iterator[str]:
        for folder in self._list(PREFIXES[kind], "[0-9a-f]{2}"):
            for name in self._list(f"{PREFIXES[kind]}/{folder}", f"{folder}[0-9a-f]{{62}}"):
                yield f"{PREFIXES[kind]}/{folder}/{name}"

    def _load_packs(self, kind: int) -> None:
        """Note where all chunks (or nodes) are, from the packs' footers, at first use."""
        if kind not in self._loaded:
            self._loaded.add(kind)
            table = PREFIXES[kind]
            self._places.execute(f"CREATE TABLE {table} (id, pack, block, offset, length)")
            for name in self._pack_names(kind):
                self._attempt(name, self._load_pack, name, kind)
            self._places.execute(f"CREATE INDEX {table}_id ON {table} (id)")

    def _load_pack(self, name: str, kind: int) -> None:
        with self._open(name) as (handle, size):
            require(160 <= size <= MAX_PACK, "pack too short or too long")
            raw = _read_at(handle, PACK_HEAD.size, 0)
            header = decode_pack_header(raw)
            mine = (kind, self.keys.sealed, self.keys.family)
            require((*header[:2], header[3]) == mine, "pack of another kind, seal or family")
            trailer = _read_at(handle, PACK_TAIL.size, size - PACK_TAIL.size)
            offset, length, count = decode_trailer(trailer, raw, size)
            block = _read_at(handle, length, offset)
        plain = decode_block(block, count, FOOTER, header, self.keys)
        stored, sizes, places = decode_footer(plain, kind)
        offsets = [*accumulate(stored, initial=PACK_HEAD.size)]
        require((len(stored), offsets[-1]) == (count, offset), "footer and trailer differ")
        insert = f"INSERT INTO {PREFIXES[kind]} VALUES (?, {len(self._packs)}, ?, ?, ?)"
        self._places.executemany(insert, ((item, *place) for item, place in places))
        self._packs.append((name, header, offsets, sizes))

    def _read_block(self, number: int, block: int) -> bytes:
        name, header, offsets, sizes = self._packs[number]
        with self._open(name) as (handle, _):
            raw = _read_at(handle, offsets[block + 1] - offsets[block], offsets[block])
        data = decode_block(raw, block, header[0], header, self.keys)
        require(len(data) == sizes[block], "block of another length than its footer says")
        return data

    def _fetch(self, kind: int, item: bytes, key: bytes) -> bytes:
        """A chunk or node from any intact copy."""
        self._load_packs(kind)
        reason: StoreError = Missing(f"{PREFIXES[kind]} {item.hex()}: in no readable pack")
        query = f"SELECT pack, block, offset, length FROM {PREFIXES[kind]} WHERE id = ?"
        for number, block, offset, length in self._places.execute(query, (item,)).fetchall():
            try:
                data = self._block(number, block)[offset : offset + length]
                require(keyed_hash(key, data) == item, "is not what its id says")
                return data
            except StoreError as error:
                reason = Damaged(f"{item.hex()}: {self._packs[number][0]}, block {block}: {error}")
        raise reason

    def chunk(self, chunk_id: bytes) -> bytes:
        """A chunk of content, verified."""
        return self._fetch(DATA, chunk_id, self.keys.chunk)

    def _read_node(self, node_id: bytes) -> Node:
        return decode_node(self._fetch(META, node_id, self.keys.node))

    def root(self, root_id: bytes) -> Node:
        """A root node."""
        node = self.node(root_id)
        require(node.kind == ROOT, f"node {root_id.hex()}: not a root node")
        return node

    def _leaves(
        self, kind: int, item: bytes, count: int, last: Any, lost: Lost, level: Any, before: Any
    ) -> Iterator[bytes]:
        """Ids of a sequence's leaves; nodes must be as said above (None: not said), and follow
        what was before. Damage is told to ``lost``, or else raised. Only ids are kept."""
        try:
            node = self.node(item)
            said = (kind, node.level if level is None else level, count)
            require((node.kind, node.level, node.total) == said, "node not as said above it")
            require(last in (None, node.last), "node with another last key than said above it")
            lonely = level is None and node.level > 0 and len(node.items) == 1
            require(not lonely, "top node of a single child")
            follows = before is None or node.first is None or node.first > before
            require(follows, "node that does not follow the one before it")
        except StoreError as error:
            if lost is None:
                raise
            lost(error)
            return
        height, children = node.level, len(node.items) if node.level else 0
        del node
        for at in range(children):
            key, below, child = self.node(item).items[at]
            yield from self._leaves(kind, child, below, key, lost, height - 1, before)
            before = key
        if height == 0:
            yield item

    def _items(
        self, kind: int, top: bytes, count: int, last: Any = None, lost: Lost = None
    ) -> Iterator[Any]:
        for leaf in self._leaves(kind, top, count, last, lost, None, None):
            for at in range(len(self.node(leaf).items)):
                yield self.node(leaf).items[at]

    def holes(self, entry: Entry) -> Iterator[Hole]:
        """The holes of a file: offset and length, ascending."""
        count, items, top = entry.holes or (0, (), None)
        for hole in self._items(HOLES, top, count) if top else items:
            require(sum(hole) <= entry.size, "hole beyond the end of the file")
            yield hole

    def content(self, entry: Entry) -> Iterator[Piece]:
        """A file's content in order."""
        if isinstance(entry.content, tuple):
            yield from self._pieces(entry.content, entry.size)
        elif entry.size:
            yield 0, entry.size, entry.content

    def _pieces(self, chunks: Listed, size: int) -> Iterator[Piece]:
        count, items, top = chunks
        offset, before = 0, b""
        for length, item in self._items(CHUNKS, top, count, size) if top else items:
            require(not item == before == ZERO_ID, "zero run after zero run")
            data = None if item == ZERO_ID else self.chunk(item)
            require(data is None or len(data) == length, "chunk of another length")
            yield offset, length, data
            offset, before = offset + length, item

    def attributes(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        """An entry's extended attributes."""
        data = entry.attributes
        if isinstance(data, tuple):
            pieces = self._pieces(data, entry.attributes_length)
            data = b"".join(bytes(n) if part is None else part for _, n, part in pieces)
        return [] if data is None else decode_attributes(data)

    def links(self, root_id: bytes, on_error: OnError | None = None) -> dict[bytes, bytes]:
        """A root's hard-link table: path -> the first path of its group."""
        root = self.root(root_id)
        lost = None if on_error is None else partial(on_error, b"")
        items = self._items(LINKS, root.last, root.total, None, lost) if root.total else ()
        table = dict(items)
        good = table.keys().isdisjoint(table.values())
        require(good, "hard link to a path that is not the first of its group")
        return table

    def tour(self, root_id: bytes, on_error: OnError | None = None) -> Iterator[Step]:
        """A root's entries: every directory before and again (``leaving``) after what is in it.

        Damage is told to ``on_error`` with the directory's path, or else raised.
        """
        path, stack = b"", list[Step]()

        def lost(error: StoreError) -> None:
            if on_error is None:
                raise error
            stack[-1].sound = False
            on_error(path, error)

        entry: Entry | None = self.root(root_id).items[0]
        while True:
            if entry is not None:
                step = Step(path + b"/" + entry.name if path else entry.name, entry, len(path))
                require(len(step.path) <= MAX_PATH, "path too long")
                yield step
                if entry.kind == DIRECTORY and not step.skip:
                    require(len(stack) <= MAX_DEPTH, "directories too deep")
                    if entry.top:
                        step.inside = self._items(DIRECTORIES, entry.top, entry.count, None, lost)
                    path, step.path = step.path, b""  # a deep tour does not keep all paths
                    stack.append(step)
            else:
                done = stack.pop()
                yield replace(done, path=path, leaving=True)
                path = path[: done.above]
            if not stack:
                return
            here = stack[-1]
            said = (here.entry.entries_below, here.entry.bytes_below)
            try:
                entry = next(here.inside, None)
            except StoreError as error:
                lost(error)
                entry = None
            if entry is not None:
                here.entries += 1 + entry.entries_below
                here.bytes += entry.size + entry.bytes_below
                require(here.entries <= said[0], "more entries than said above")
            elif here.sound and (here.entries, here.bytes) != said:
                lost(Damaged("totals are not those of what is below"))

    def walk(
        self, root_id: bytes, on_error: OnError | None = None
    ) -> Iterator[tuple[bytes, Entry]]:
        """Path (relative to the root; its own is empty) and entry of all that a root holds."""
        return ((s.path, s.entry) for s in self.tour(root_id, on_error) if not s.leaving)

    def check(self) -> dict[str, StoreError]:
        """Verify all packs, all small objects and all trees; gives what is wrong, by place."""
        for kind in (DATA, META):
            for name in self._pack_names(kind):
                self._attempt(name, self._check_pack, name)
            self._load_packs(kind)
        objects: list[tuple[str, str, int, Callable[[bytes], Any]]] = [
            ("key", HEX_32, KEY, decode_key),
            ("label", HEX_32 + COUNTED, LABEL, decode_label),
            ("refs", HEX_32 + COUNTED, REFS, self._check_refs),
            ("sess", "[0-9a-hjkmnp-tv-z]{26}-[0-9]{4}", LEASE, decode_lease),
            ("gc", "[0-9]{8}-[0-9a-f]{32}(-sweep|-done)?", COLLECTOR, decode_collector),
        ]
        kinds = self._list("ref", "[0-9a-z-]+")
        objects += [(f"ref/{kind}", HEX_16 + COUNTED, REF, decode_ref) for kind in kinds]
        for prefix, pattern, kind, decode in objects:
            for name in (f"{prefix}/{name}" for name in self._list(prefix, pattern)):
                self._attempt(name, self._object, name, kind, decode)
        seen: set[bytes] = set()
        for snapshot_id, snapshot in self.snapshots().items():
            for root in snapshot["roots"]:
                where = f"snapshot {snapshot_id[:12]}: {root['path']}"
                self._attempt(where, self._check_tree, where, root, seen)
        return self.problems

    def _check_pack(self, name: str) -> None:
        hasher = blake3()
        with self._open(name) as (handle, size):
            for at in range(0, size, 1 << 20):
                hasher.update(_read_at(handle, min(1 << 20, size - at), at))
        require(hasher.hexdigest() == name[-64:], "pack is not what its name says")

    def _check_refs(self, payload: bytes) -> None:
        for pack, (kind, expected) in decode_refs(payload)[1].items():
            with self._open(f"{PREFIXES[kind]}/{pack.hex()[:2]}/{pack.hex()}") as (_, size):
                require(size == expected, f"pack {pack.hex()} of another size")

    def _check_tree(self, where: str, root: Json, seen: set[bytes]) -> None:
        """Verify a tree but for directories and large files that were found sound before."""
        root_id = bytes.fromhex(root["id"])
        check_root(root, self.root(root_id).items[0])
        links = self.links(root_id)
        marks: dict[bytes, bytes] = dict.fromkeys([*links, *links.values()], b"")
        above = {path[: end.start()] for path in marks for end in re.finditer(b"^|/", path)}
        before: list[int] = []  # numbers of problems when the directories were entered

        def fail(path: bytes, error: StoreError) -> None:
            self.problems.setdefault(f"{where}: {encode_text(path)}", error)

        for step in self.tour(root_id, fail):
            entry, mark, known = step.entry, fingerprint(step.entry), len(self.problems)
            if step.path in marks and entry.kind != DIRECTORY:
                marks[step.path] = mark
            if step.leaving:
                if before.pop() == known:
                    seen.add(mark)
            elif mark in seen and step.path not in above:
                step.skip = True
            else:
                name = f"{where}: {encode_text(step.path)}"
                self._attempt(name, self._check_entry, entry)
                if entry.kind == DIRECTORY:
                    before.append(known)
                elif known == len(self.problems) and entry.size > MAX_CHUNK:
                    seen.add(mark)
        for path, first in links.items():
            if not marks[path] or marks[path] != marks[first]:
                fail(path, Damaged("hard links that differ, or that are not files"))

    def _check_entry(self, entry: Entry) -> None:
        self.attributes(entry)
        for _ in masked(self.holes(entry), self.content(entry)):
            pass


def masked(holes: Iterator[Hole], pieces: Iterable[Piece]) -> Iterator[Piece]:
    """What of a file's content is not in its holes; in these there can be only zeros."""
    never = (2**64, 1)
    start, length = next(holes, never)
    for offset, size, data in pieces:
        at, end = offset, offset + size
        while at < end:
            while start + length <= at:
                start, length = next(holes, never)
            hole = start <= at
            until = min(end, start + length if hole else start)
            part = None if data is None else data[at - offset : until - offset]
            require(not hole or part is None or not any(part), "data in a hole")
            if not hole:
                yield at, until - at, part
            at = until


def check_root(root: Json, entry: Entry) -> None:
    """Whether a root is what its snapshot says."""
    kind = entry.kind if entry.kind in (FILE, DIRECTORY) else None
    expected = {"directory": DIRECTORY, "other": None}.get(root["kind"], FILE)
    require(kind == expected, f"root of another kind than the snapshot says: {root['kind']}")
    totals = (1 + entry.entries_below, entry.size + entry.bytes_below)
    good = totals == (root["entries"], root["bytes"])
    require(good, "entries or bytes are not as the snapshot says")


# -- restoring -----------------------------------------------------------------------------------

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FAILURES = (StoreError, OSError, OverflowError, ValueError)


def descend(handle: int, parts: Iterable[bytes], make: bool) -> int:
    """A handle on a directory below, reached one name at a time and never through a link."""
    handle = os.dup(handle)
    for part in parts:
        try:
            with suppress(FileExistsError):  # made for another root, or refused by what follows
                if make:
                    os.mkdir(part, 0o700, dir_fd=handle)
            inner = os.open(part, DIRECTORY_FLAGS, dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def place_of(root: Json) -> list[bytes]:
    """The names in the path of a root."""
    return [name for name in decode_text(root["path"]).split(b"/") if name]


class Restorer:
    """Restores one root below ``out``, where nobody else changes anything meanwhile."""

    def __init__(
        self, store: Store, out: int, root: Json, paths: list[bytes], inner: tuple[bytes, ...] = ()
    ) -> None:
        self.store, self.out, self.root, self.paths = store, out, root, paths
        self.inner = inner  # recorded paths of roots below this one, which are restored before
        self.is_root = os.geteuid() == 0
        self.failures: list[tuple[bytes, str]] = []
        self.hits: set[bytes] = set()  # those of the paths that were met
        self.handles: list[int] = []  # of the directories that one is in
        self.links: dict[bytes, bytes] = {}
        self.made: dict[bytes, tuple[bytes, bytes]] = {}  # group -> path restored, fingerprint
        self.recorded = decode_text(root["path"])
        self.place = place_of(root)  # below ``out``

    def fail(self, path: bytes, error: object, what: str = "") -> None:
        """List something that could not be restored."""
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.failures.append((self.full(path), f"{what}: {text}" if what else text))

    def attempt(
        self, path: bytes, what: str, task: Callable[..., Any], *given: Any, **named: Any
    ) -> Any:
        """What a task returns; if it fails, None, and that is listed."""
        try:
            return task(*given, **named)
        except FAILURES as error:
            self.fail(path, error, what)
        return None

    def full(self, path: bytes) -> bytes:
        """A path below the root as it was recorded."""
        return self.recorded.rstrip(b"/") + b"/" + path if path else self.recorded

    def is_done(self, path: bytes) -> bool:
        """Whether a root below this one has it too."""
        full = self.full(path) + b"/"
        return any(full.startswith(inner + b"/") for inner in self.inner)

    def takes(self, path: bytes, directory: bool) -> bool:
        """Whether an entry is wanted, or is a directory on the way to one that is."""
        taken = not self.paths
        for given in self.paths:
            here = self.full(path) if given.startswith(b"/") else path
            below = here.startswith(given.rstrip(b"/") + b"/")
            if below or given in (here, self.recorded):
                self.hits.add(given)
                taken = True
            taken |= directory and given.startswith(here.rstrip(b"/") + b"/" if here else b"")
        return taken

    def run(self, alone: bool) -> None:
        """Restore the root: ``alone`` into ``out`` itself, else at its path below."""
        try:
            root_id = bytes.fromhex(self.root["id"])
            entry = self.store.root(root_id).items[0]
            check_root(self.root, entry)
            if alone:
                self.place = [] if entry.kind == DIRECTORY else (self.place[-1:] or [b"root"])
            check_path(b"/".join(self.place) or b"root")
            self.links = self.store.links(root_id, partial(self.fail, what="some hard links"))
            self.links |= {first: first for first in self.links.values()}
            if self.takes(b"", entry.kind == DIRECTORY):
                self.handles.append(descend(self.out, self.place[:-1], True))
                for step in self.store.tour(root_id, partial(self.fail, what="some entries")):
                    self.step(step)
        except FAILURES as error:
            self.fail(b"", error)
        for handle in self.handles:
            os.close(handle)

    def step(self, step: Step) -> None:
        path, entry = step.path, step.entry
        name = entry.name if path else b"".join(self.place[-1:])  # empty: ``out`` itself
        if step.leaving:
            self.finish(path, entry, self.handles[-1])
            os.close(self.handles.pop())
            return
        step.skip = not self.takes(path, entry.kind == DIRECTORY)
        try:
            if entry.kind == DIRECTORY and not step.skip:
                self.handles.append(descend(self.handles[-1], [name] if name else [], True))
            elif not step.skip:
                self.create(self.handles[-1], path, name, entry)
        except FAILURES as error:
            step.skip = True
            if not (isinstance(error, FileExistsError) and self.is_done(path)):
                self.fail(path, error)

    def create(self, at: int, path: bytes, name: bytes, entry: Entry) -> None:
        group = self.links.get(path, b"")
        if group in self.made:
            what = "hard link, restored as a copy"
            if self.attempt(path, what, self.link, at, name, entry, *self.made[group]):
                return
        if entry.kind == FILE:
            self.file(at, path, name, entry)
        else:
            if entry.kind == SYMLINK:
                os.symlink(entry.target, name, dir_fd=at)
            elif entry.kind == FIFO:
                os.mkfifo(name, 0o600, dir_fd=at)
            else:
                kind = stat.S_IFCHR if entry.kind == CHARACTER else stat.S_IFBLK
                os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=at)
            self.finish(path, entry, b"/proc/self/fd/%d/%s" % (at, name))
        if group:
            self.made.setdefault(group, (path, fingerprint(entry)))

    def link(self, at: int, name: bytes, entry: Entry, made: bytes, expected: bytes) -> bool:
        """Link to the member of the group that is there."""
        require(fingerprint(entry) == expected, "unlike the others of its group")
        *above, source = [*self.place, *made.split(b"/")]
        handle = descend(self.out, above, False)
        try:
            os.link(source, name, src_dir_fd=handle, dst_dir_fd=at, follow_symlinks=False)
        finally:
            os.close(handle)
        return True

    def file(self, folder: int, path: bytes, name: bytes, entry: Entry) -> None:
        handle = os.open(name, CREATE_FLAGS, 0o600, dir_fd=folder)
        try:
            os.ftruncate(handle, entry.size)
            for piece in masked(self.holes(path, entry), self.store.content(entry)):
                (at, length, data), zeros = piece, bytes(1 << 20)
                end = at + length
                while at < end:  # zeros outside holes are written like all else
                    part = zeros[: end - at] if data is None else data[at - end :]
                    at += os.pwrite(handle, part, at)
            self.finish(path, entry, handle)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(handle)

    def holes(self, path: bytes, entry: Entry) -> Iterator[Hole]:
        try:
            yield from self.store.holes(entry)
        except StoreError as error:
            self.fail(path, error, "holes, restored as zeros")

    def finish(self, path: bytes, entry: Entry, target: int | bytes) -> None:
        """Metadata: owner, attributes, mode, times, in this order."""
        follow, mode, times = isinstance(target, int), entry.mode, (entry.mtime_ns, entry.mtime_ns)
        attempt = partial(self.attempt, path)
        if self.is_root:
            attempt("owner", os.chown, target, entry.uid, entry.gid, follow_symlinks=follow)
        elif entry.kind == FILE:  # must not run as whoever restores it
            mode &= ~stat.S_ISUID if entry.uid != os.geteuid() else mode
            mode &= ~stat.S_ISGID if entry.gid != os.getegid() else mode
        for name, value in attempt("attributes", self.store.attributes, entry) or []:
            what = f"attribute {encode_text(name)}"
            attempt(what, os.setxattr, target, name, value, follow_symlinks=follow)
        if entry.kind != SYMLINK:
            attempt("mode", os.chmod, target, mode)
        attempt("time", os.utime, target, ns=times, follow_symlinks=follow)


# -- command line --------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text from a store for a terminal: nothing that could control it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def complain(where: str, what: object) -> None:
    """Say on standard error what is wrong."""
    print(f"rescue: {printable(f'{where}: {what}')}", file=sys.stderr)


def list_snapshots(store: Store) -> int:
    """Print all snapshots, oldest first."""
    for snapshot_id, snapshot in sorted(store.snapshots().items(), key=lambda s: s[1]["time_ns"]):
        label = store.labels(snapshot_id)
        seconds = min(max(snapshot["time_ns"] // 10**9, 0), 2**37)
        words = [snapshot_id[:16], f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"]
        words += [snapshot["host"], snapshot["source"], str(label["fields"].get("name", ""))]
        print(printable("  ".join([*words, *(f"#{tag}" for tag in label["tags"])])))
        for root in snapshot["roots"]:
            size = f"{root['entries']} entries, {root['bytes']} bytes"
            print(printable(f"    {root['path']}  ({root['kind']}, {size})"))
        if "unreadable" in snapshot:
            print(printable(f"    partial: {snapshot.get('unreadable_count')} paths unreadable"))
    return 3 if store.problems else 0


def choose(store: Store, wanted: str) -> tuple[str, Json]:
    """The snapshot meant: ``latest``, the name in a label, or the beginning of an id."""
    found = store.snapshots()
    if wanted == "latest":
        matches = sorted(found, key=lambda key: (found[key]["time_ns"], key))[-1:]
    else:
        names = {key: store.labels(key)["fields"].get("name") for key in found}
        matches = [key for key in found if wanted == names[key] or key.startswith(wanted)]
    if not wanted or len(matches) > 1:
        raise StoreError(f"{wanted!r} means {len(matches)} snapshots; give more of the id")
    if not matches:
        raise Missing(f"no readable snapshot {wanted!r}")
    return matches[0], found[matches[0]]


def restore(store: Store, wanted: str, out: str, paths: Sequence[bytes] = ()) -> int:
    """Restore a snapshot (only what is at these paths, if any are given)."""
    snapshot_id, snapshot = choose(store, wanted)
    try:
        os.mkdir(out, 0o700)
    except FileExistsError:
        if not os.path.isdir(out) or os.listdir(out):
            raise StoreError(f"{out}: is there and is not an empty directory") from None
    given = [path.rstrip(b"/") or b"/" for path in paths]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # every directory one is in stays open
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    work: list[Restorer] = []
    for root in sorted(snapshot["roots"], key=lambda root: -len(place_of(root))):
        done = tuple(restorer.recorded for restorer in work)  # inner roots come first
        work.append(Restorer(store, handle, root, given, done))
        work[-1].run(alone=len(snapshot["roots"]) == 1)
    os.close(handle)
    failures = [failure for restorer in work for failure in restorer.failures]
    missed = set(given).difference(*(restorer.hits for restorer in work))
    failures += [(path, "not found in the snapshot") for path in sorted(missed)]
    if os.geteuid() != 0:
        complain("note", "not root: owners and others' set-id bits are not restored")
    for path, what in failures:
        complain(encode_text(path), what)
    print(f"restored {snapshot_id[:16]} into {out}; failures: {len(failures)}")
    return 3 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Read a snapstore store without snapstore.")
    parser.add_argument("store", help="the store's directory")
    parser.add_argument("snapshot", nargs="?", help='beginning of an id, "latest", or a name')
    parser.add_argument("out", nargs="?", help="directory to restore into: missing, or empty")
    parser.add_argument("--path", action="append", default=[], help="restore only this")
    parser.add_argument("--password-file", help="holds the password (else $SNAP_PASSWORD)")
    parser.add_argument("--check", action="store_true", help="verify everything")
    given = parser.parse_args(argv)
    if given.snapshot is not None and (given.check or given.out is None):
        parser.error("give STORE, or STORE --check, or STORE SNAPSHOT OUT")
    try:
        password = os.environb.get(b"SNAP_PASSWORD")
        if given.password_file is not None:
            with open(given.password_file, "rb") as file:
                password = file.read().removesuffix(b"\n").removesuffix(b"\r")
        store = Store(given.store, password)
        if given.check:
            status = 3 if store.check() else 0
            print(f"{len(store.problems) or 'no'} problems")
        elif given.snapshot is None:
            status = list_snapshots(store)
        else:
            paths = [os.fsencode(path) for path in given.path]
            status = restore(store, given.snapshot, given.out, paths)
    except (StoreError, OSError) as error:
        complain("error", error)
        return 1
    for problem in store.problems.items():
        complain(*problem)
    return status


if __name__ == "__main__":
    sys.exit(main())
