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
import getpass
import json
import os
import re
import stat
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import pairwise
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


class Problem(NamedTuple):
    """Something found wrong: where, and what."""

    where: str
    error: StoreError


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
                require(value < 2**64, "varint longer than 64 bits")
                require(byte != 0 or shift == 0, "varint not in its shortest form")
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


SHORT_ESCAPES = {"\\b": "0008", "\\t": "0009", "\\n": "000a", "\\f": "000c", "\\r": "000d"}


def encode_json(value: Any) -> bytes:
    """The canonical form of a JSON value: as Python writes it, but without short escapes."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    long = {short: f"\\u{digits}" for short, digits in SHORT_ESCAPES.items()}
    return re.sub(r"\\.", lambda found: long.get(found[0], found[0]), text).encode()


def _number(text: str) -> int:
    require(re.fullmatch("-?[0-9]{1,19}", text), f"not an integer: {text[:40]}")
    require(-(2**63) <= int(text) < 2**63, "integer of more than 64 bits")
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
    require(isinstance(value, dict), "not a JSON object")
    return cast(Json, value)


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

    def unseal(self, use: str, epoch: int, salt: bytes, body: bytes, associated: bytes) -> bytes:
        """Decrypt ``nonce ‖ ciphertext ‖ tag`` under the key for this use, epoch and salt."""
        require(epoch in self.masters, f"sealed under master key {epoch}, which is not known")
        material = self.masters[epoch] + epoch.to_bytes(4, "little") + salt
        return open_sealed(derive(f"snapstore v1 {use} key", material), body, associated)


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
    require(len(data) == 40 + stored, "frame of another length")
    require(checksum(data[:-8]) == data[-8:], "checksum differs")
    require(kind == expected, f"frame of type {kind}, not {expected}")
    require(length <= MAX_SMALL, "payload too long")
    require(kind not in (CONFIG, SNAPSHOT) or not any(nonce), "writer nonce not zero")
    rule = keys.sealed and kind not in (CONFIG, KEY)
    require(sealed == rule, "sealed or unsealed against the rule")
    coded = data[32:-8]
    if sealed:
        require(len(coded) >= 64, "sealed frame too short")
        epoch = int.from_bytes(coded[:4], "little")
        associated = data[:32] + keys.family + name.encode()
        coded = keys.unseal("frame", epoch, coded[4:36], coded[36:], associated)
    return nonce, inflate(coded, codec, length)


# -- records (config.md, snapshot.md, session.md) ------------------------------------------------


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
            return isinstance(value, dict) and all(
                fits(value[key.rstrip("?")], inner) if key.rstrip("?") in value else key[-1] == "?"
                for key, inner in shape.items()
            )
    return isinstance(value, shape)


def decoder(shape: dict[str, Any], what: str) -> Callable[[bytes], Json]:
    """A function that decodes a record and checks these keys ("?": optional); others are kept."""

    def decode(payload: bytes) -> Json:
        value = decode_json(payload)
        for key, inner in shape.items():
            require(fits(value, {key: inner}), f"{what}: {key} is not as the format says")
        return value

    return decode


INTEGER, COUNT = range(-(2**63), 2**63), range(2**63)
HEX_12, HEX_16, HEX_32 = "[0-9a-f]{24}", "[0-9a-f]{32}", "[0-9a-f]{64}"
KDF_SHAPE = {
    "name": "argon2id",
    "memory_kib": range(8_192, 4_194_305),
    "passes": range(1, 65),
    "lanes": range(1, 17),
    "salt": "([0-9a-f]{2}){16,64}",
}
ROOT_SHAPE = {
    "path": str,
    "kind": "directory|file|image|stream|other",
    "id": HEX_32,
    "entries": COUNT,
    "bytes": COUNT,
}
SNAPSHOT_SHAPE = {"host": str, "source": str, "kind": "user|system|safety", "time_ns": INTEGER}
LEASE_SHAPE = {"session": str, "settled": COUNT, "purpose": str}

_config_head = decoder({"format": COUNT, "features": {"required": [str]}}, "config")
_config = decoder({"store": HEX_16, "family": HEX_16, "sealed": bool}, "config")
decode_key = decoder({"kdf": KDF_SHAPE, "nonce": HEX_12, "wrapped": "([0-9a-f]{2}){16,}"}, "key")
_secrets = {"config": HEX_32, "family_secret": HEX_32, "masters": dict}
decode_secrets = decoder(_secrets, "key")
_needs = decoder({"needs?": [str]}, "snapshot")
_snapshot = decoder({**SNAPSHOT_SHAPE, "roots": [ROOT_SHAPE], "unreadable?": list}, "snapshot")
decode_label = decoder({"by": str, "time_ns": INTEGER, "ops": list}, "label")
decode_ref = decoder({"kind": str, "name": str, "time_ns": INTEGER, "value": object}, "ref")
decode_lease = decoder(LEASE_SHAPE, "lease")
decode_collector = decoder({"generation": COUNT, "condemned?": [HEX_32]}, "collector record")


def check_features(names: list[str]) -> None:
    """Refuse what needs features; this reader knows none."""
    if names:
        raise NewerVersion(f"needs features that this reader does not know: {', '.join(names)}")


def decode_config(payload: bytes) -> Json:
    """The ``config`` record; a store that needs an unknown feature is refused."""
    config = _config_head(payload)
    check_version(config["format"])
    check_features(config["features"]["required"])
    return _config(payload)


def decode_snapshot(payload: bytes) -> Json:
    """A snapshot record; one that needs an unknown feature is refused."""
    check_features(_needs(payload).get("needs", []))
    record = _snapshot(payload)
    for root in record["roots"]:
        decode_text(root["path"])
    return record


def unwrap(key: Json, password: bytes, config: bytes, family: bytes) -> Keys | None:
    """The keys that a (decoded) key object wraps; None where the password is another."""
    from argon2.low_level import Type, hash_secret_raw

    kdf = key["kdf"]
    sizes = (kdf["passes"], kdf["memory_kib"], kdf["lanes"], 32)
    wrapping = hash_secret_raw(password, bytes.fromhex(kdf["salt"]), *sizes, Type.ID, 0x13)
    body = bytes.fromhex(key["nonce"] + key["wrapped"])
    try:
        plain = open_sealed(wrapping, body, b"snapstore v1 key" + family)
    except Damaged:
        return None
    secrets = decode_secrets(plain)
    require(secrets["config"] == blake3(config).hexdigest(), "config: not the one of this key")
    good = all(re.fullmatch("[1-9][0-9]{0,9}", epoch) for epoch in secrets["masters"])
    require(good and secrets["masters"], "epochs expected")
    require(fits([*secrets["masters"].values()], [HEX_32]), "master keys expected")
    masters = {int(epoch): bytes.fromhex(master) for epoch, master in secrets["masters"].items()}
    return Keys(family, bytes.fromhex(secrets["family_secret"]), masters)


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


class Refs(NamedTuple):
    """The packs that a snapshot needs: id -> (kind, size)."""

    exact: bool
    packs: dict[bytes, tuple[int, int]]


def decode_refs(payload: bytes) -> Refs:
    """A ``refs`` object."""
    reader = Reader(payload)
    exact = reader.take(1)[0]
    ids = reader.ids(reader.bounded(0, len(payload) // 34, "number of packs"))
    kinds = reader.take(len(ids))
    sizes = reader.column(len(ids), 1, MAX_PACK, "size of a pack")
    reader.end()
    require(exact <= 1 and set(kinds) <= {DATA, META} and ascending(ids), "refs against the rules")
    return Refs(exact == 1, dict(zip(ids, zip(kinds, sizes, strict=True), strict=True)))


# -- nodes (node.md) -----------------------------------------------------------------------------

DIRECTORIES, CHUNKS, HOLES, LINKS, ROOT = range(1, 6)  # kinds of nodes
FILE, DIRECTORY, SYMLINK, FIFO, CHARACTER, BLOCK = range(1, 7)  # types of entries

Chunk = tuple[int, bytes]  # length, id
Hole = tuple[int, int]  # offset, length


class Listed(NamedTuple):
    """A chunk list or hole map where it is referred to: its items in place, or its top node."""

    count: int
    items: tuple[Any, ...]
    top: bytes | None


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
    """A node of a sequence. Items of an inner node are (key, items below, id)."""

    kind: int
    level: int
    items: tuple[Any, ...]
    count: int  # items (leaf entries) below
    first: Any  # key of the first item of a leaf
    last: Any  # the key that a node above gives it


class Root(NamedTuple):
    """A root node: the root's own entry (its name is empty) and its hard-link table."""

    entry: Entry
    links: int
    links_top: bytes | None


def decode_node(data: bytes) -> Node | Root:
    """Any node, in exactly the form that the format prescribes."""
    require(2 < len(data) <= MAX_NODE, "node too short or too long")
    kind, level, reader = data[0], data[1], Reader(data, 2)
    require(DIRECTORIES <= kind <= ROOT, f"unknown kind of node: {kind}")
    require(level <= (0 if kind == ROOT else MAX_LEVEL), "level out of bounds")
    if kind == ROOT:
        entry = _columns(reader, [reader.string(0, 0, "the root's name")])[0]
        links = reader.varint()
        root = Root(entry, links, reader.take(32) if links else None)
        reader.end()
        return root
    count = reader.bounded(1, MAX_ITEMS, "number of items")
    node = (_inner if level else _leaf)(reader, kind, level, count)
    reader.end()
    return node


def _inner(reader: Reader, kind: int, level: int, count: int) -> Node:
    keys: list[Any]
    if kind == DIRECTORIES:
        keys = [check_name(reader.string(1, MAX_NAME, "name")) for _ in range(count)]
    elif kind == LINKS:
        keys = [check_path(reader.string(1, MAX_PATH, "path")) for _ in range(count)]
    else:
        keys = reader.column(count, 1, MAX_FILE, "key")
    require(kind == CHUNKS or ascending(keys), "keys not ascending")
    counts = reader.column(count, 1, 2**64 - 1, "number of items below")
    items = tuple(zip(keys, counts, reader.ids(count), strict=True))
    return Node(kind, level, items, sum(counts), None, sum(keys) if kind == CHUNKS else keys[-1])


def _leaf(reader: Reader, kind: int, level: int, count: int) -> Node:
    items: Sequence[Any]
    keys: list[Any]
    if kind == DIRECTORIES:
        keys = [check_name(reader.string(1, MAX_NAME, "name")) for _ in range(count)]
        items = _columns(reader, keys)
    elif kind == CHUNKS:
        items = _chunks(reader, count)
        return Node(kind, level, tuple(items), count, None, sum(length for length, _ in items))
    elif kind == HOLES:
        items = _holes(reader, count)
        return Node(kind, level, tuple(items), count, items[0][0], sum(items[-1]))
    else:
        paths = [check_path(reader.string(1, MAX_PATH, "path")) for _ in range(2 * count)]
        items, keys = list(zip(paths[::2], paths[1::2], strict=True)), paths[::2]
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
        return Listed(count, (), reader.take(32))
    return Listed(count, tuple(decode(reader, count)), None)


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
    for entry in entries:
        for listed, size in (
            (entry.content, entry.size),
            (entry.attributes, entry.attributes_length),
        ):
            if isinstance(listed, Listed) and listed.top is None:
                good = sum(length for length, _ in listed.items) == size
                require(good, "chunks do not add up to the size")
        if entry.holes is not None and entry.holes.top is None:
            require(sum(entry.holes.items[-1]) <= entry.size, "hole beyond the end of the file")
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
PACK_HEAD = Struct("<8sBBBBI16s32s16s8s8s")
PACK_TAIL = Struct("<IIII8s8s")
BLOCK_HEAD = Struct("<4sIBBBBIII")


class PackHeader(NamedTuple):
    """A pack's header."""

    kind: int
    sealed: int
    epoch: int
    family: bytes
    salt: bytes


def decode_pack_header(data: bytes) -> PackHeader:
    """The first 96 bytes of a pack."""
    require(len(data) == PACK_HEAD.size and data[:8] == b"SNAPPACK", "not a pack")
    check_version(data[8])
    _, _, kind, sealed, zero, epoch, family, salt, _, zeros, check = PACK_HEAD.unpack(data)
    require(checksum(data[:88]) == check, "checksum of the header differs")
    require(kind in PREFIXES and sealed <= 1, "unknown kind or seal of a pack")
    require(zero == 0 and not any(zeros), "reserved bytes not zero")
    require((epoch > 0) == bool(sealed) and (sealed or not any(salt)), "epoch or salt against seal")
    return PackHeader(kind, sealed, epoch, family, salt)


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
    require(len(raw) >= 32, "block too short")
    magic, place, found, codec, sealed, zero, body, length, zeros = BLOCK_HEAD.unpack_from(raw)
    require(magic == b"SNBK" and body == len(raw) - 32, "not a block, or of another length")
    require(checksum(raw[:-8]) == raw[-8:], "checksum of a block differs")
    require(zero == zeros == 0, "reserved bytes not zero")
    require((place, found, sealed) == (number, kind, pack.sealed), "block out of place")
    require(length <= (MAX_FOOTER if kind == FOOTER else MAX_BLOCK), "block too long")
    coded = raw[24:-8]
    if sealed:
        coded = keys.unseal("pack", pack.epoch, pack.salt, coded, raw[:24])
    return inflate(coded, codec, length)


class Footer(NamedTuple):
    """What a footer says: (stored length, plain length, chunks) of every block; the chunks."""

    blocks: list[tuple[int, int, int]]
    lengths: array[int]
    ids: bytes

    def places(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Id, block, offset in it and length of every chunk."""
        number = 0
        for block, (_, _, chunks) in enumerate(self.blocks):
            offset = 0
            for length in self.lengths[number : number + chunks]:
                yield self.ids[32 * number : 32 * number + 32], block, offset, length
                offset += length
                number += 1


def decode_footer(plain: bytes, kind: int) -> Footer:
    """The plaintext of a footer block, for a pack of this kind."""
    require(len(plain) <= MAX_FOOTER, "footer too long")
    reader = Reader(plain)
    blocks: list[tuple[int, int, int]] = []
    for _ in range(reader.bounded(0, MAX_BLOCKS, "number of blocks")):
        stored = reader.bounded(32, MAX_PACK, "stored length")
        size = reader.bounded(0, MAX_BLOCK, "plain length")
        blocks.append((stored, size, reader.bounded(0, MAX_CHUNKS, "number of chunks")))
    require(sum(chunks for _, _, chunks in blocks) <= MAX_CHUNKS, "too many chunks")
    lengths = array("I")
    for _, size, chunks in blocks:
        longest = MAX_CHUNK if kind == DATA else MAX_NODE
        found = reader.column(chunks, 1, longest, "length of a chunk")
        require(not chunks or sum(found) == size, "chunks do not fill a block")
        lengths.extend(found)
    ids = reader.take(32 * len(lengths))
    reader.end()
    return Footer(blocks, lengths, ids)


class Index:
    """Where every copy of every chunk is: a chained hash table in flat arrays."""

    def __init__(self) -> None:
        self.ids, self.places, self.next = bytearray(), array("Q"), array("q")
        self.heads = array("q", [-1]) * 2**20

    def add(self, item: bytes, pack: int, block: int, offset: int, length: int) -> None:
        bucket = hash(item) % len(self.heads)
        self.next.append(self.heads[bucket])
        self.heads[bucket] = len(self.next) - 1
        self.ids += item
        self.places.extend((pack << 32 | block, offset << 32 | length))

    def find(self, item: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Pack, block, offset and length of all copies."""
        number = self.heads[hash(item) % len(self.heads)]
        while number >= 0:
            if self.ids[32 * number : 32 * number + 32] == item:
                where, span = self.places[2 * number : 2 * number + 2]
                yield where >> 32, where & 0xFFFFFFFF, span >> 32, span & 0xFFFFFFFF
            number = self.next[number]


# -- the store -----------------------------------------------------------------------------------

COUNTED = "-[0-9]{8}-[0-9a-f]{8}"
OnError = Callable[[bytes, StoreError], None]


class Child(NamedTuple):
    """A node of a sequence as the reference to it describes it; None: it does not say."""

    id: bytes
    count: int
    last: Any = None
    level: int | None = None
    before: Any = None  # the last key before it


class Piece(NamedTuple):
    """A range of a file's content; ``data`` is None for zeros."""

    offset: int
    length: int
    data: bytes | None
    hole: bool = False


@dataclass(slots=True)
class Step:
    """A step of a tour; a directory comes again when one leaves it, unless ``skip`` is set."""

    path: bytes
    entry: Entry
    leaving: bool = False
    skip: bool = False


@dataclass(slots=True)
class Visit:
    """A directory that a tour is in."""

    entry: Entry
    above: int  # length of the path above it
    entries: Iterator[Entry]
    found: tuple[int, int] = (0, 0)  # entries and bytes so far
    sound: bool = True


def _read_at(handle: int, length: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while length and (part := os.pread(handle, length, offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    require(length == 0, "file ends too early")
    return b"".join(parts)


class Store:
    """A store that is read, never written."""

    def __init__(self, path: str | os.PathLike[str], password: bytes | None = None) -> None:
        self.path = os.fspath(path)
        self.problems: list[Problem] = []
        self._packs: list[tuple[str, PackHeader, array[int], array[int]]] = []
        self._indexes: dict[int, Index] = {}
        self._block = lru_cache(8)(self._read_block)
        self.node = lru_cache(32)(self._read_node)
        self.keys = Keys(b"")
        payload = self._object("config", CONFIG)
        self.config = decode_config(payload)
        self.keys = Keys(bytes.fromhex(self.config["family"]))
        if self.config["sealed"]:
            self.keys = self._unlock(payload, password)

    # objects

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, int]]:
        """A handle on a regular file of the store, and its size."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(os.path.join(self.path, name), flags)
            try:
                info = os.fstat(handle)
                require(stat.S_ISREG(info.st_mode), f"{name}: not a regular file")
                yield handle, info.st_size
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
            self._problem(prefix, Damaged(str(error.strerror)))
            return []
        return sorted(name for name in names if re.fullmatch(pattern, name))

    def _problem(self, where: str, error: StoreError) -> None:
        if (where, str(error)) not in [(known, str(old)) for known, old in self.problems]:
            self.problems.append(Problem(where, error))

    def _object(self, name: str, expected: int) -> bytes:
        """A small object's payload; where the name carries ``h8``, it must fit."""
        with self._open(name) as (handle, size):
            require(size <= MAX_SMALL, "object too long")
            data = _read_at(handle, size, 0)
        nonce, payload = decode_frame(data, expected, name, self.keys)
        if expected in (LABEL, REFS, REF):
            h8 = keyed_hash(self.keys.object, nonce + payload).hex()[:8]
            require(name.endswith(h8), "object is not the one that its name says")
        return payload

    def _unlock(self, config: bytes, password: bytes | None) -> Keys:
        if password is None:
            raise WrongPassword("the store is sealed: a password is needed")
        for digest in self._list("key", HEX_32):
            try:
                payload = self._object(f"key/{digest}", KEY)
                require(blake3(payload).hexdigest() == digest, "not what its name says")
                key = decode_key(payload)
            except StoreError as error:
                self._problem(f"key/{digest}", error)
                continue
            keys = unwrap(key, password, config, self.keys.family)
            if keys is not None:
                return keys
        hint = "".join(f"; {problem.where}: {problem.error}" for problem in self.problems)
        raise WrongPassword(f"the password opens none of the store's keys{hint}")

    def snapshot(self, snapshot_id: str) -> Json:
        """One snapshot's record."""
        payload = self._object(f"snap/{snapshot_id}", SNAPSHOT)
        good = keyed_hash(self.keys.snapshot, payload).hex() == snapshot_id
        require(good, "snapshot is not the one that its name says")
        return decode_snapshot(payload)

    def snapshots(self) -> dict[str, Json]:
        """All snapshots that can be read, by id; what cannot goes to ``problems``."""
        found: dict[str, Json] = {}
        for snapshot_id in self._list("snap", HEX_32):
            try:
                found[snapshot_id] = self.snapshot(snapshot_id)
            except StoreError as error:
                self._problem(f"snap/{snapshot_id}", error)
        return found

    def labels(self, snapshot_id: str) -> Json:
        """The editable part of a snapshot: ``fields``, ``tags``, ``meta``, ``unknown``."""
        labels: list[Json] = []
        for name in self._list("label", snapshot_id + COUNTED):
            try:
                labels.append(decode_label(self._object(f"label/{name}", LABEL)))
            except StoreError as error:
                self._problem(f"label/{name}", error)
        return fold_labels(labels)

    def refs(self, snapshot_id: str) -> Refs | None:
        """The packs a snapshot needs, if that is recorded."""
        names = self._list("refs", snapshot_id + COUNTED)
        return decode_refs(self._object(f"refs/{names[-1]}", REFS)) if names else None

    # packs

    def _pack_names(self, kind: int) -> Iterator[str]:
        for folder in self._list(PREFIXES[kind], "[0-9a-f]{2}"):
            for name in self._list(f"{PREFIXES[kind]}/{folder}", f"{folder}[0-9a-f]{{62}}"):
                yield f"{PREFIXES[kind]}/{folder}/{name}"

    def _index(self, kind: int) -> Index:
        """The index of all chunks (or nodes), made from the packs' footers at first use."""
        if kind not in self._indexes:
            self._indexes[kind] = Index()
            for name in self._pack_names(kind):
                try:
                    self._load_pack(name, kind)
                except StoreError as error:
                    self._problem(name, error)
        return self._indexes[kind]

    def _load_pack(self, name: str, kind: int) -> None:
        with self._open(name) as (handle, size):
            require(160 <= size <= MAX_PACK, "pack too short or too long")
            raw = _read_at(handle, PACK_HEAD.size, 0)
            header = decode_pack_header(raw)
            mine = (kind, self.keys.sealed, self.keys.family)
            require((header.kind, header.sealed, header.family) == mine, "pack against the rule")
            trailer = _read_at(handle, PACK_TAIL.size, size - PACK_TAIL.size)
            offset, length, count = decode_trailer(trailer, raw, size)
            block = _read_at(handle, length, offset)
        footer = decode_footer(decode_block(block, count, FOOTER, header, self.keys), kind)
        offsets = array("Q", [PACK_HEAD.size])
        for stored, _, _ in footer.blocks:
            offsets.append(offsets[-1] + stored)
        require((len(footer.blocks), offsets[-1]) == (count, offset), "footer and trailer differ")
        for place in footer.places():
            self._indexes[kind].add(place[0], len(self._packs), *place[1:])
        plain = array("I", [length for _, length, _ in footer.blocks])
        self._packs.append((name, header, offsets, plain))

    def _read_block(self, number: int, block: int) -> bytes:
        name, header, offsets, plain = self._packs[number]
        with self._open(name) as (handle, _):
            raw = _read_at(handle, offsets[block + 1] - offsets[block], offsets[block])
        data = decode_block(raw, block, header.kind, header, self.keys)
        require(len(data) == plain[block], "block of another length than its footer says")
        return data

    def _fetch(self, kind: int, item: bytes, what: str) -> bytes:
        """A chunk or node from any intact copy."""
        reason: StoreError = Missing(f"{what} {item.hex()}: in no readable pack")
        key = self.keys.chunk if kind == DATA else self.keys.node
        for number, block, offset, length in self._index(kind).find(item):
            try:
                data = self._block(number, block)[offset : offset + length]
                require(keyed_hash(key, data) == item, "is not what its id says")
                return data
            except StoreError as error:
                where = f"{what} {item.hex()}: {self._packs[number][0]}, block {block}"
                reason = Damaged(f"{where}: {error}")
        raise reason

    def chunk(self, chunk_id: bytes) -> bytes:
        """A chunk of content, verified."""
        return self._fetch(DATA, chunk_id, "chunk")

    # nodes and sequences

    def node_bytes(self, node_id: bytes) -> bytes:
        """A node as it is stored, verified."""
        return self._fetch(META, node_id, "node")

    def _read_node(self, node_id: bytes) -> Node | Root:
        data = self.node_bytes(node_id)
        try:
            return decode_node(data)
        except Damaged as error:
            raise Damaged(f"node {node_id.hex()}: {error}") from None

    def root(self, root_id: bytes) -> Root:
        """A root node."""
        node = self.node(root_id)
        require(isinstance(node, Root), f"node {root_id.hex()}: not a root node")
        return cast(Root, node)

    def _check_child(self, kind: int, child: Child) -> Node:
        """A node of a sequence; it must be as described, and follow what went before."""
        node, what = self.node(child.id), f"node {child.id.hex()}"
        if isinstance(node, Root) or node.kind != kind:
            raise Damaged(f"{what}: of another kind than its place")
        require(child.level in (None, node.level), f"{what}: of another level than its place")
        require(node.count == child.count, f"{what}: other number of items than said above")
        require(child.last in (None, node.last), f"{what}: other last key than said above")
        lonely = child.level is None and node.level > 0 and len(node.items) == 1
        require(not lonely, f"{what}: top node of a single child")
        follows = child.before is None or node.first is None or node.first > child.before
        require(follows, f"{what}: does not follow the node before it")
        return node

    def _leaves(
        self, kind: int, child: Child, on_error: Callable[[StoreError], None] | None
    ) -> Iterator[bytes]:
        """Ids of a sequence's leaves from left to right, each checked (ids only: nodes are large)"""
        try:
            node = self._check_child(kind, child)
        except StoreError as error:
            if on_error is None:
                raise
            on_error(error)
            return
        level, count, before = node.level, len(node.items), child.before
        del node
        for at in range(count if level else 0):
            key, items, below = cast(Node, self.node(child.id)).items[at]
            yield from self._leaves(kind, Child(below, items, key, level - 1, before), on_error)
            before = key
        if level == 0:
            yield child.id

    def _items(
        self, kind: int, child: Child, on_error: Callable[[StoreError], None] | None = None
    ) -> Iterator[Any]:
        """The items of a sequence; what is damaged is told to ``on_error``, or else raised."""
        for leaf in self._leaves(kind, child, on_error):
            for at in range(len(cast(Node, self.node(leaf)).items)):
                yield cast(Node, self.node(leaf)).items[at]

    def holes(self, entry: Entry) -> Iterator[Hole]:
        """The holes of a file: offset and length, ascending."""
        count, items, top = entry.holes or (0, (), None)
        for hole in self._items(HOLES, Child(top, count)) if top else items:
            require(sum(hole) <= entry.size, "hole beyond the end of the file")
            yield hole

    def content(self, entry: Entry) -> Iterator[Piece]:
        """A file's content in order."""
        if isinstance(entry.content, Listed):
            yield from self._pieces(entry.content, entry.size)
        elif entry.size:
            yield Piece(0, entry.size, entry.content)

    def _pieces(self, chunks: Listed, size: int) -> Iterator[Piece]:
        count, items, top = chunks
        offset, before = 0, b""
        for length, item in self._items(CHUNKS, Child(top, count, size)) if top else items:
            require(not item == before == ZERO_ID, "zero run after zero run")
            data = None if item == ZERO_ID else self.chunk(item)
            require(data is None or len(data) == length, "chunk of another length")
            yield Piece(offset, length, data)
            offset, before = offset + length, item

    def attributes(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        """An entry's extended attributes."""
        data = entry.attributes
        if isinstance(data, Listed):
            pieces = self._pieces(data, entry.attributes_length)
            data = b"".join(bytes(n) if part is None else part for _, n, part, _ in pieces)
        return [] if data is None else decode_attributes(data)

    def links(self, root_id: bytes, on_error: OnError | None = None) -> dict[bytes, bytes]:
        """A root's hard-link table: path -> the first path of its group."""
        _, count, top = self.root(root_id)
        lost = None if on_error is None else partial(on_error, b"")
        table = dict(self._items(LINKS, Child(top, count), lost)) if top else {}
        good = table.keys().isdisjoint(table.values())
        require(good, "hard link to a path that is not the first of its group")
        return table

    # trees

    def tour(self, root_id: bytes, on_error: OnError | None = None) -> Iterator[Step]:
        """A root's entries: every directory before and again (``leaving``) after what is in it.

        Damage is told to ``on_error`` with the directory's path, or else raised.
        """
        path, stack = bytearray(), list[Visit]()

        def lost(error: StoreError) -> None:
            if on_error is None:
                raise error
            stack[-1].sound = False
            on_error(bytes(path), error)

        entry: Entry | None = self.root(root_id).entry
        while True:
            if entry is None:
                yield Step(bytes(path), stack[-1].entry, leaving=True)
                del path[stack.pop().above :]
            else:
                above = len(path)
                path += b"/" + entry.name if path else entry.name
                require(len(path) <= MAX_PATH, "path too long")
                if stack:
                    here = stack[-1]
                    entries, size = here.found
                    entries += 1 + entry.entries_below
                    here.found = (entries, size + entry.size + entry.bytes_below)
                    require(entries <= here.entry.entries_below, "more entries than said above")
                step = Step(bytes(path), entry)
                yield step
                if entry.kind == DIRECTORY and not step.skip:
                    require(len(stack) <= MAX_DEPTH, "directories too deep")
                    child = Child(entry.top or b"", entry.count)
                    inside = self._items(DIRECTORIES, child, lost) if entry.top else iter(())
                    stack.append(Visit(entry, above, inside))
                else:
                    del path[above:]
            if not stack:
                return
            try:
                entry = next(stack[-1].entries, None)
            except StoreError as error:
                lost(error)
                entry = None
            here = stack[-1]
            said = (here.entry.entries_below, here.entry.bytes_below)
            if entry is None and here.sound and here.found != said:
                lost(Damaged("totals are not those of what is below"))

    def walk(
        self, root_id: bytes, on_error: OnError | None = None
    ) -> Iterator[tuple[bytes, Entry]]:
        """Path (relative to the root; its own is empty) and entry of all that a root holds."""
        return ((s.path, s.entry) for s in self.tour(root_id, on_error) if not s.leaving)

    def find(self, root_id: bytes, path: bytes) -> Entry:
        """The entry at a path relative to a root."""
        entry = self.root(root_id).entry
        for name in path.split(b"/") if path else []:
            node = self.node(entry.top) if entry.top else None
            while isinstance(node, Node) and node.level:
                node = next((self.node(item) for key, _, item in node.items if name <= key), None)
            entries = node.items if isinstance(node, Node) and node.kind == DIRECTORIES else ()
            found = next((item for item in entries if item.name == name), None)
            if found is None:
                raise Missing(f"{encode_text(path)}: not in the tree")
            entry = found
        return entry

    # checking

    def check(self) -> Iterator[Problem]:
        """Verify all packs, all small objects and all trees; gives what is wrong."""
        for kind in (DATA, META):
            for name in self._pack_names(kind):
                yield from self._check(name, partial(self._check_pack, name))
            self._index(kind)
        objects: list[tuple[str, str, int, Callable[[bytes], Any]]] = [
            ("label", HEX_32 + COUNTED, LABEL, decode_label),
            ("refs", HEX_32 + COUNTED, REFS, self._check_refs),
            ("sess", "[0-9a-hjkmnp-tv-z]{26}-[0-9]{4}", LEASE, decode_lease),
            ("gc", "[0-9]{8}-[0-9a-f]{32}(-sweep|-done)?", COLLECTOR, decode_collector),
        ]
        kinds = self._list("ref", "[0-9a-z-]+")
        objects += [(f"ref/{kind}", HEX_16 + COUNTED, REF, decode_ref) for kind in kinds]
        for prefix, pattern, kind, decode in objects:
            for name in (f"{prefix}/{name}" for name in self._list(prefix, pattern)):
                yield from self._check(name, partial(self._check_object, name, kind, decode))
        seen: set[bytes] = set()
        damaged: set[bytes] = set()
        for snapshot_id, snapshot in self.snapshots().items():
            for root in snapshot["roots"]:
                where = f"snapshot {snapshot_id[:12]}: {root['path']}"
                try:
                    yield from self._check_tree(where, root, seen, damaged)
                except StoreError as error:
                    yield Problem(where, error)
        yield from self.problems

    def _check(self, where: str, task: Callable[[], object]) -> Iterator[Problem]:
        try:
            task()
        except StoreError as error:
            yield Problem(where, error)

    def _check_pack(self, name: str) -> None:
        hasher = blake3()
        with self._open(name) as (handle, size):
            for at in range(0, size, 1 << 20):
                hasher.update(_read_at(handle, min(1 << 20, size - at), at))
        require(hasher.hexdigest() == name[-64:], "pack is not what its name says")

    def _check_object(self, name: str, kind: int, decode: Callable[[bytes], Any]) -> None:
        record = decode(self._object(name, kind))
        if kind == REF:
            pointer = f"{record['kind']}/{record['name']}"
            digest = keyed_hash(self.keys.object, pointer.encode()).hex()[:32]
            good = name.startswith(f"ref/{record['kind']}/{digest}-")
            require(good, "ref under another name")

    def _check_refs(self, payload: bytes) -> None:
        for pack, (kind, expected) in decode_refs(payload).packs.items():
            with self._open(f"{PREFIXES[kind]}/{pack.hex()[:2]}/{pack.hex()}") as (_, size):
                require(size == expected, f"pack {pack.hex()} of another size")

    def _check_tree(
        self, where: str, root: Json, seen: set[bytes], damaged: set[bytes]
    ) -> Iterator[Problem]:
        """Verify a tree but for directories and large files that were ``seen`` before."""
        found: list[Problem] = []
        inside: list[bytes] = []  # fingerprints of the directories that one is in

        def fail(path: bytes, error: StoreError) -> None:
            found.append(Problem(f"{where}: {encode_text(path)}", error))
            damaged.update(inside)

        root_id = bytes.fromhex(root["id"])
        for step in self.tour(root_id, fail):
            entry, mark = step.entry, fingerprint(step.entry)
            if step.leaving:
                inside.pop()
            elif mark in damaged:
                fail(step.path, Damaged("damaged, as listed where it was met first"))
            elif mark not in seen:
                directory = entry.kind == DIRECTORY
                if directory or (isinstance(entry.content, Listed) and entry.content.top):
                    seen.add(mark)
                inside.append(mark)
                try:
                    self.attributes(entry)
                    for _ in masked(self.holes(entry), self.content(entry)):
                        pass
                except StoreError as error:
                    fail(step.path, error)
                if not directory:
                    inside.pop()
            step.skip = mark in seen and inside[-1:] != [mark]
            yield from found
            found.clear()
        check_root(root, self.root(root_id).entry)
        for path, first in self.links(root_id).items():
            yield from self._check(
                f"{where}: {encode_text(path)}", partial(self._check_link, root_id, path, first)
            )

    def _check_link(self, root_id: bytes, path: bytes, first: bytes) -> None:
        entry = self.find(root_id, path)
        same = fingerprint(entry) == fingerprint(self.find(root_id, first))
        require(same and entry.kind != DIRECTORY, "hard links that differ, or to a directory")


def masked(holes: Iterator[Hole], pieces: Iterable[Piece]) -> Iterator[Piece]:
    """A file's content, cut at the borders of its holes; in a hole there can be only zeros."""
    never = (2**64, 1)
    start, length = next(holes, never)
    for offset, size, data, _ in pieces:
        at, end = offset, offset + size
        while at < end:
            while start + length <= at:
                start, length = next(holes, never)
            hole = start <= at
            until = min(end, start + length if hole else start)
            part = None if data is None else data[at - offset : until - offset]
            require(not hole or part is None or not any(part), "data in a hole")
            yield Piece(at, until - at, None if hole else part, hole)
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


class Cursor:
    """The directory one is in, reached one name at a time and never through a link."""

    def __init__(self, handle: int) -> None:
        self.handle = os.dup(handle)
        self._above: list[tuple[int, int]] = []

    def enter(self, name: bytes, make: bool = False) -> None:
        """Go into a directory; ``make`` it, unless it was made for another root."""
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self.handle)
        inner = os.open(name, DIRECTORY_FLAGS, dir_fd=self.handle)
        info = os.fstat(self.handle)
        self._above.append((info.st_dev, info.st_ino))
        os.close(self.handle)
        self.handle = inner

    def leave(self) -> int:
        """Go back; the caller gets the handle of the directory left, and closes it."""
        outer = os.open("..", DIRECTORY_FLAGS, dir_fd=self.handle)
        info = os.fstat(outer)
        inner, self.handle = self.handle, outer
        if (info.st_dev, info.st_ino) != self._above.pop():
            raise OSError("the directory was moved while being restored")
        return inner


class Restorer:
    """Restores one root below ``out``, where nobody else changes anything meanwhile."""

    def __init__(self, store: Store, out: int, root: Json, alone: bool, paths: list[bytes]) -> None:
        self.store, self.out, self.paths = store, out, paths
        self.is_root = os.geteuid() == 0
        self.failures: dict[tuple[bytes, str], None] = {}
        self.hits: set[bytes] = set()  # those of the paths that were met
        self.made: dict[bytes, tuple[bytes, bytes]] = {}  # group -> path restored, fingerprint
        self.links: dict[bytes, bytes] = {}
        self.recorded = decode_text(root["path"])
        self.root_id = bytes.fromhex(root["id"])
        self.place = [part for part in self.recorded.split(b"/") if part]  # below ``out``
        self.record, self.alone = root, alone

    def fail(self, path: bytes, error: object, what: str = "") -> None:
        """List something that could not be restored, once."""
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.failures[self.full(path), f"{what}: {text}" if what else text] = None

    def full(self, path: bytes) -> bytes:
        """A path below the root as it was recorded."""
        return self.recorded.rstrip(b"/") + b"/" + path if path else self.recorded

    def _takes(self, path: bytes, directory: bool) -> bool:
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

    def run(self, finishing: bool) -> None:
        """First everything but the directories' own metadata, then (``finishing``) only that."""
        cursor = Cursor(self.out)
        try:
            if not finishing:
                self._begin()
            for name in self.place[:-1] if self._takes(b"", True) else []:
                cursor.enter(name, not finishing)
            for step in self.store.tour(self.root_id, partial(self.fail, what="some entries")):
                self._step(step, cursor, finishing)
        except FAILURES as error:
            self.fail(b"", error)
        finally:
            os.close(cursor.handle)

    def _begin(self) -> None:
        entry = self.store.root(self.root_id).entry
        check_root(self.record, entry)
        require(len(self.place) <= MAX_DEPTH, "path too deep")
        if self.alone:
            self.place = [] if entry.kind == DIRECTORY else (self.place[-1:] or [b"root"])
        for part in self.place:
            check_name(part)
        self.links = self.store.links(self.root_id, partial(self.fail, what="some hard links"))
        self.links.update({first: first for first in set(self.links.values())})

    def _step(self, step: Step, cursor: Cursor, finishing: bool) -> None:
        path, entry = step.path, step.entry
        name = entry.name if path else b"".join(self.place[-1:])  # empty: ``out`` itself
        if step.leaving:
            handle = cursor.leave() if name else os.dup(cursor.handle)
            if finishing:
                self._finish(path, entry, handle)
            os.close(handle)
            return
        step.skip = not self._takes(path, entry.kind == DIRECTORY)
        try:
            if entry.kind == DIRECTORY and name and not step.skip:
                cursor.enter(name, not finishing)
            elif entry.kind != DIRECTORY and not (step.skip or finishing):
                self._create(cursor.handle, path, name, entry)
        except FAILURES as error:
            step.skip = True
            if not finishing:
                self.fail(path, error)

    def _create(self, at: int, path: bytes, name: bytes, entry: Entry) -> None:
        group = self.links.get(path, b"")
        if group in self.made and self._link(at, path, name, entry, *self.made[group]):
            return
        if entry.kind == FILE:
            self._file(at, path, name, entry)
        else:
            if entry.kind == SYMLINK:
                os.symlink(entry.target, name, dir_fd=at)
            elif entry.kind == FIFO:
                os.mkfifo(name, 0o600, dir_fd=at)
            else:
                kind = stat.S_IFCHR if entry.kind == CHARACTER else stat.S_IFBLK
                os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=at)
            self._finish(path, entry, b"/proc/self/fd/%d/%s" % (at, name))
        if group:
            self.made.setdefault(group, (path, fingerprint(entry)))

    def _link(
        self, at: int, path: bytes, name: bytes, entry: Entry, made: bytes, expected: bytes
    ) -> bool:
        """Link to the member of the group that is there; if that fails, a copy will be made."""
        cursor = Cursor(self.out)
        try:
            require(fingerprint(entry) == expected, "unlike the others of its group")
            *above, source = [*self.place, *made.split(b"/")]
            for part in above:
                cursor.enter(part)
            os.link(source, name, src_dir_fd=cursor.handle, dst_dir_fd=at, follow_symlinks=False)
        except FAILURES as error:
            self.fail(path, error, "hard link, restored as a copy")
            return False
        finally:
            os.close(cursor.handle)
        return True

    def _file(self, at: int, path: bytes, name: bytes, entry: Entry) -> None:
        handle = os.open(name, CREATE_FLAGS, 0o600, dir_fd=at)
        try:
            os.ftruncate(handle, entry.size)
            for piece in masked(self._holes(path, entry), self.store.content(entry)):
                if not piece.hole:
                    _write(handle, piece)
            self._finish(path, entry, handle)
        except BaseException:
            os.unlink(name, dir_fd=at)
            raise
        finally:
            os.close(handle)

    def _holes(self, path: bytes, entry: Entry) -> Iterator[Hole]:
        try:
            yield from self.store.holes(entry)
        except StoreError as error:
            self.fail(path, error, "holes, restored as zeros")

    def _finish(self, path: bytes, entry: Entry, target: int | bytes) -> None:
        """Metadata: owner, attributes, mode, times, in this order."""
        follow, tasks = isinstance(target, int), list[tuple[str, Callable[[], object]]]()
        if self.is_root:
            chown = partial(os.chown, target, entry.uid, entry.gid, follow_symlinks=follow)
            tasks.append(("owner", chown))
        try:
            for name, value in self.store.attributes(entry):
                put = partial(os.setxattr, target, name, value, follow_symlinks=follow)
                tasks.append((f"attribute {encode_text(name)}", put))
        except StoreError as error:
            self.fail(path, error, "attributes")
        mode, times = entry.mode, (entry.mtime_ns, entry.mtime_ns)
        if not self.is_root and entry.kind == FILE:  # must not run as whoever restores it
            mode &= ~stat.S_ISUID if entry.uid != os.geteuid() else mode
            mode &= ~stat.S_ISGID if entry.gid != os.getegid() else mode
        if entry.kind != SYMLINK:
            tasks.append(("mode", partial(os.chmod, target, mode)))
        tasks.append(("time", partial(os.utime, target, ns=times, follow_symlinks=follow)))
        for what, task in tasks:
            try:
                task()
            except FAILURES as error:
                self.fail(path, error, what)


def _write(handle: int, piece: Piece) -> None:
    """Write a piece of a file; zeros outside holes are written like all else."""
    at, end = piece.offset, piece.offset + piece.length
    zeros = bytes(min(piece.length, 1 << 20))
    while at < end:
        data = zeros[: end - at] if piece.data is None else piece.data[at - piece.offset :]
        at += os.pwrite(handle, data, at)


# -- command line --------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text from a store for a terminal: nothing that could control it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def complain(where: str, what: object) -> None:
    """Say on standard error what is wrong."""
    print(f"rescue: {printable(f'{where}: {what}')}", file=sys.stderr)


def format_time(nanoseconds: int) -> str:
    """A time in UTC, to the second."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)
    except OverflowError:
        return f"{nanoseconds} ns"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def list_snapshots(store: Store) -> int:
    """Print all snapshots, oldest first."""
    for snapshot_id, snapshot in sorted(store.snapshots().items(), key=lambda s: s[1]["time_ns"]):
        label = store.labels(snapshot_id)
        words = [snapshot_id[:16], format_time(snapshot["time_ns"])]
        words += [snapshot["host"], snapshot["source"], str(label["fields"].get("name", ""))]
        print(printable("  ".join([*words, *(f"#{tag}" for tag in label["tags"])])))
        for root in snapshot["roots"]:
            size = f"{root['entries']} entries, {root['bytes']} bytes"
            print(printable(f"    {root['path']}  ({root['kind']}, {size})"))
        if "unreadable" in snapshot:
            count = snapshot.get("unreadable_count", len(snapshot["unreadable"]))
            print(printable(f"    partial: {count} paths could not be read"))
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
    handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    roots = snapshot["roots"]
    work = [Restorer(store, handle, root, len(roots) == 1, given) for root in roots]
    for restorer in work:
        restorer.run(finishing=False)
    for restorer in sorted(work, key=lambda restorer: -len(restorer.place)):
        restorer.run(finishing=True)
    os.close(handle)
    failures = [failure for restorer in work for failure in restorer.failures]
    missed = set(given).difference(*(restorer.hits for restorer in work))
    failures += [(path, "not found in the snapshot") for path in sorted(missed)]
    if os.geteuid() != 0:
        print("rescue: not root: owners and others' set-id bits not restored", file=sys.stderr)
    for path, what in failures:
        complain(encode_text(path), what)
    count = len(failures)
    print(f"restored {snapshot_id[:16]} into {out}; {count} things could not be restored")
    return 3 if failures else 0


def check(store: Store) -> int:
    """Verify everything; print what is damaged."""
    count = 0
    for count, problem in enumerate(store.check(), 1):  # noqa: B007
        print(printable(f"{problem.where}: {problem.error}"))
    print(f"{count} problems" if count else "no problems")
    return 3 if count else 0


def _open_store(path: str, password_file: str | None) -> Store:
    password = os.environb.get(b"SNAP_PASSWORD")
    if password_file is not None:
        with open(password_file, "rb") as file:
            password = file.read().removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Store(path, password)
    except WrongPassword:
        if password is not None or not sys.stdin.isatty():
            raise
    return Store(path, os.fsencode(getpass.getpass("Password: ")))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rescue.py", description="Read a snapstore store without snapstore."
    )
    parser.add_argument("store", help="the store's directory")
    parser.add_argument("snapshot", nargs="?", help='beginning of an id, "latest", or a name')
    parser.add_argument("out", nargs="?", help="directory to restore into: missing, or empty")
    parser.add_argument("--path", action="append", default=[], help="restore only this")
    parser.add_argument("--password-file", help="file that holds the password")
    parser.add_argument("--check", action="store_true", help="verify everything")
    given = parser.parse_args(argv)
    if given.snapshot is not None and (given.check or given.out is None):
        parser.error("give STORE, or STORE --check, or STORE SNAPSHOT OUT")
    try:
        store = _open_store(given.store, given.password_file)
        if given.check:
            return check(store)
        try:
            if given.snapshot is None:
                return list_snapshots(store)
            return restore(store, given.snapshot, given.out, [*map(os.fsencode, given.path)])
        finally:
            for problem in store.problems:
                complain(*problem)
    except (StoreError, OSError) as error:
        complain("error", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
