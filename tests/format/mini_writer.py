"""A minimal writer of stores, from docs/format alone: straightforward, slow, in memory.

It shares nothing with the reader it helps to test (nor with anything else of snapstore): two
readings of the same pages that agree. Functions that encode are pure; :class:`MiniStore` writes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
import zstandard
from blake3 import blake3

FILE, DIRECTORY, SYMLINK, FIFO, CHARACTER, BLOCK = 1, 2, 3, 4, 5, 6
ZERO_ID = bytes(32)
TYPES = {"config": 1, "key": 2, "snap": 3, "label": 4, "refs": 5, "ref": 6, "sess": 7, "gc": 8}


# -- conventions ------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def string(data: bytes) -> bytes:
    return varint(len(data)) + data


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def xxh3(data: bytes) -> bytes:
    return u64(xxhash.xxh3_64_intdigest(data))


def keyed(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


def derive(context: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=f"snapstore v1 {context}").digest()


def json_bytes(value: Any) -> bytes:
    """Canonical JSON, written out by hand."""
    if isinstance(value, dict):
        inner = b",".join(json_bytes(k) + b":" + json_bytes(value[k]) for k in sorted(value))
        return b"{" + inner + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(json_bytes(item) for item in value) + b"]"
    if isinstance(value, str):
        out = bytearray(b'"')
        for char in value:
            if char in '"\\':
                out += b"\\" + char.encode()
            elif char < " ":
                out += b"\\u%04x" % ord(char)
            else:
                out += char.encode()
        return bytes(out + b'"')
    words = {"None": b"null", "True": b"true", "False": b"false"}
    return words.get(str(value), str(value).encode())


def text(raw: bytes) -> str:
    """A byte string as JSON text, one byte at a time."""
    out, at = "", 0
    while at < len(raw):
        for length in (1, 2, 3, 4):
            try:
                char = raw[at : at + length].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            char, length = "%", 1
        plain = len(char) == 1 and char != "%" and ord(char) >= 0x20 and ord(char) != 0x7F
        out += char if plain else f"%{raw[at]:02X}"
        at += length
    return out


# -- frames -----------------------------------------------------------------------------------


def compress(data: bytes, codec: int | None = None) -> tuple[int, bytes]:
    """Codec and coded bytes; raw where zstd would not shrink, unless told otherwise."""
    coded = zstandard.ZstdCompressor(level=3).compress(data)
    if codec == 1 or (codec is None and len(coded) < len(data)):
        return 1, coded
    return 0, data


def envelope(plain: bytes, codec: int, coded: bytes) -> bytes:
    """What is sealed: coded bytes with what says how to decode them, padded (Padmé)."""
    inside = u32(len(plain)) + u32(len(coded)) + bytes([codec, 0, 0, 0]) + coded
    exponent = len(inside).bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return inside + bytes(-len(inside) % step)


def seal(key: bytes, nonce_key: bytes, inside: bytes, associated: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = keyed(nonce_key, associated + inside)[:12]
    return nonce + AESGCM(key).encrypt(nonce, inside, associated)


@dataclass
class Family:
    """Secrets of a family; ``masters`` is empty when it is not sealed."""

    id: bytes = bytes(range(16))
    secret: bytes = bytes(32)
    masters: dict[int, bytes] = field(default_factory=dict)

    def key(self, use: str) -> bytes:
        return derive(use, self.secret)

    def sealing(self, use: str, epoch: int, salt: bytes) -> tuple[bytes, bytes]:
        material = self.masters[epoch] + u32(epoch) + salt
        return derive(f"{use} key", material), derive(f"{use} nonce", material)


def frame(
    payload: bytes,
    kind: int,
    *,
    nonce: bytes = bytes(16),
    codec: int | None = None,
    family: Family | None = None,
    name: str = "",
    salt: bytes = bytes(32),
    version: int = 1,
) -> bytes:
    """A frame; sealed under the newest master key when a sealed family is given."""
    used, coded = compress(payload, codec)
    sealed = family is not None and bool(family.masters)
    start = b"SNAP" + bytes([version, kind])
    if not sealed:
        head = start + bytes([used, 0]) + nonce + u32(len(payload)) + u32(len(coded))
        return head + coded + xxh3(head + coded)
    assert family is not None
    epoch, inside = max(family.masters), envelope(payload, used, coded)
    head = start + bytes([0, 1]) + nonce + bytes(4) + u32(len(inside) + 64)
    key, nonce_key = family.sealing("frame", epoch, salt)
    body = u32(epoch) + salt + seal(key, nonce_key, inside, head + family.id + name.encode())
    return head + body + xxh3(head + body)


# -- packs ------------------------------------------------------------------------------------


def block(
    plain: bytes,
    number: int,
    kind: int,
    sealing: tuple[bytes, bytes] | None = None,
    codec: int | None = None,
) -> bytes:
    used, coded = compress(plain, codec)
    start = b"SNBK" + u32(number)
    if not sealing:
        head = start + bytes([kind, used, 0, 0]) + u32(len(coded)) + u32(len(plain)) + bytes(4)
        return head + coded + xxh3(head + coded)
    inside = envelope(plain, used, coded)
    head = start + bytes([kind, 0, 1, 0]) + u32(len(inside) + 28) + bytes(8)
    body = seal(*sealing, inside, head)
    return head + body + xxh3(head + body)


def pack(
    blocks: Sequence[Sequence[tuple[bytes, bytes]]],
    kind: int,
    family: Family,
    *,
    salt: bytes = bytes(32),
    session: bytes = bytes(range(16)),
    padding: int = 0,
) -> bytes:
    """A pack of these blocks of (id, chunk); ``padding`` adds a block of that many zeros."""
    epoch = max(family.masters, default=0)
    sealing = family.sealing("pack", epoch, salt) if epoch else None
    head = b"SNAPPACK" + bytes([1, kind, bool(epoch), 0]) + u32(epoch) + family.id
    head += (salt if epoch else bytes(32)) + session + bytes(8)
    head += xxh3(head)
    contents = [list(members) for members in blocks]
    plains = [b"".join(chunk for _, chunk in members) for members in contents]
    if padding:
        contents.append([])
        plains.append(bytes(padding))
    stored = [block(plain, n, kind, sealing) for n, plain in enumerate(plains)]
    plain = varint(len(stored))
    for raw, inside, members in zip(stored, plains, contents, strict=True):
        plain += varint(len(raw)) + varint(len(inside)) + varint(len(members))
    flat = [item for members in contents for item in members]
    plain += b"".join(varint(len(chunk)) for _, chunk in flat)
    plain += b"".join(item for item, _ in flat)
    footer = block(plain, len(stored), 3, sealing)
    offset = len(head) + sum(map(len, stored))
    tail = u32(offset) + u32(len(footer)) + u32(len(stored)) + bytes(4)
    tail += xxh3(head + tail) + b"SNAPTAIL"
    return head + b"".join(stored) + footer + tail


# -- cutting ----------------------------------------------------------------------------------


def is_paged(content: bytes) -> bool:
    """Whether content is cut in pages, from its first 65,536 bytes."""
    first, short = content[:65_536], lambda at: int.from_bytes(content[at : at + 2], "little")

    def postgres(base: int) -> bool:
        lower, upper, special = short(base + 12), short(base + 14), short(base + 16)
        version = first[base + 18 : base + 20] == b"\x04\x20"
        return version and 24 <= lower <= upper <= special <= 8_192

    ext = first[1_080:1_082] == b"\x53\xef" and short(1_050) == 0 and short(1_048) <= 6
    boot = first[510:512] == b"\x55\xaa" and any(first[446:510])
    return len(content) > 65_536 and (
        first.startswith((b"SQLite format 3\0", b"XFSB", b"QFI\xfb", b"LUKS\xba\xbe"))
        or first[16:20] == b"\xde\xc0\xef\xbe"
        or (ext and short(1_084) <= 7)
        or b"EFI PART" in (first[512:520], first[4_096:4_104])
        or (boot and all(first[at] in (0, 0x80) for at in (446, 462, 478, 494)))
        or any(first[at : at + 8] == b"LABELONE" for at in (0, 512, 1_024, 1_536))
        or first[4_086:4_096] == b"SWAPSPACE2"
        or all(postgres(8_192 * i) for i in range(8))
        or not any(first)
    )


def _cut_gear(data: bytes, low: int, high: int, table: list[int]) -> Iterable[bytes]:
    start, mask, limit = 0, 2**64 - 1, 2**64 // low
    value = 0
    for at, byte in enumerate(data, 1):
        value = (value << 1) + table[byte] & mask
        if (at - start >= low and value < limit) or at - start == high:
            yield data[start:at]
            start = at
    if start < len(data):
        yield data[start:]


def _cut_pages(data: bytes, low: int, high: int, seed: int) -> Iterable[bytes]:
    chunk = b""
    for at in range(0, len(data), 4_096):
        page = data[at : at + 4_096]
        if not any(page):
            if chunk:
                yield chunk
            chunk = b""
            yield page
            continue
        chunk += page
        digest = xxhash.xxh3_64_intdigest(page, seed)
        if (len(chunk) >= low and digest < 2**64 * 4_096 // low) or len(chunk) >= high:
            yield chunk
            chunk = b""
    if chunk:
        yield chunk


def gear_table(chunker_key: bytes) -> bytes:
    return blake3(b"gear table", key=chunker_key).digest(length=2_048)


def cut(
    content: bytes, holes: Sequence[tuple[int, int]], chunk_bytes: int, chunker_key: bytes
) -> list[tuple[int, bytes | None]]:
    """Content as (length, chunk or None for a zero run); bytes in holes are zeros."""
    low, high = chunk_bytes // 2, 4 * chunk_bytes
    parts: list[bytes] = []
    if is_paged(content):
        seed = int.from_bytes(keyed(chunker_key, b"page seed")[:8], "little")
        parts += _cut_pages(content, low, high, seed)
    else:
        raw = gear_table(chunker_key)
        table = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 2_048, 8)]
        end = 0
        for offset, length in [*holes, (len(content), 0)]:
            parts += _cut_gear(content[end:offset], low, high, table)
            parts += [bytes(length)] if length else []
            end = offset + length
    return join_zeros((len(part), part if any(part) else None) for part in parts)


def join_zeros(parts: Iterable[tuple[int, bytes | None]]) -> list[tuple[int, bytes | None]]:
    out: list[tuple[int, bytes | None]] = []
    for length, data in parts:
        if data is None and out and out[-1][1] is None:
            length += out.pop()[0]
        out.append((length, data))
    return out


# -- nodes ------------------------------------------------------------------------------------


@dataclass
class Item:
    """Something in a tree, with its content at hand."""

    kind: int
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 1_700_000_000_123_456_789
    data: bytes = b""
    parts: list[tuple[int, bytes | None]] | None = None  # instead of ``data``, already cut
    holes: list[tuple[int, int]] = field(default_factory=list)
    members: dict[bytes, Item] = field(default_factory=dict)
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        if self.parts is not None:
            return sum(length for length, _ in self.parts)
        return len(self.data)

    def content(self) -> bytes:
        if self.parts is None:
            return self.data
        return b"".join(bytes(n) if data is None else data for n, data in self.parts)

    def totals(self) -> tuple[int, int]:
        """Entries and bytes of files below a directory."""
        entries = size = 0
        for member in self.members.values():
            below = member.totals() if member.kind == DIRECTORY else (0, 0)
            entries += 1 + below[0]
            size += below[1] + (member.size if member.kind == FILE else 0)
        return entries, size


def file(data: bytes = b"", **more: Any) -> Item:
    return Item(FILE, data=data, **more)


def directory(members: dict[bytes, Item] | None = None, **more: Any) -> Item:
    return Item(DIRECTORY, members=members or {}, **{"mode": 0o755, **more})


def attribute_set(xattrs: dict[bytes, bytes]) -> bytes:
    out = varint(len(xattrs))
    for name in sorted(xattrs):
        out += string(name) + string(xattrs[name])
    return out


def split(items: list[Any], low: Callable[[Any], int], weight: Callable[[Any], int]) -> list[Any]:
    """Items in groups, by the rule of node.md."""
    groups: list[list[Any]] = [[]]
    total = 0
    for item in items:
        groups[-1].append(item)
        total += weight(item)
        if low(item) & 0xFF == 0 or len(groups[-1]) == 1_024 or total >= 1 << 20:
            groups.append([])
            total = 0
    return groups if groups[-1] else groups[:-1]


def chunk_columns(items: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(varint(n) for n, _ in items) + b"".join(item for _, item in items)


def hole_columns(items: Sequence[tuple[int, int]]) -> bytes:
    out, end = b"", 0
    for offset, length in items:
        out += varint(offset - end) + varint(length)
        end = offset + length
    return out


def link_columns(items: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(string(path) + string(first) for path, first in items)


def inner_node(kind: int, level: int, children: Sequence[tuple[Any, int, bytes]]) -> bytes:
    out = bytes([kind, level]) + varint(len(children))
    for key, _, _ in children:
        out += string(key) if isinstance(key, bytes) else varint(key)
    out += b"".join(varint(count) for _, count, _ in children)
    return out + b"".join(item for _, _, item in children)


# -- a store ----------------------------------------------------------------------------------


class MiniStore:
    """Writes one store. Randomness is a counter, so that the same calls give the same bytes."""

    def __init__(
        self,
        path: Path,
        password: bytes | None = None,
        *,
        chunk_bytes: int = 8_192,
        block_bytes: int = 65_536,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.block_bytes = block_bytes
        self.chunk_bytes = chunk_bytes
        self.family = Family()
        self._counter = 0
        if password is not None:
            self.family = Family(self.random(16), self.random(32), {1: self.random(32)})
        self.pending: dict[int, dict[bytes, bytes]] = {1: {}, 2: {}}
        self.packs: list[tuple[bytes, int, int]] = []
        record = {
            "format": 1,
            "store": "00112233445566778899aabbccddeeff",
            "family": self.family.id.hex(),
            "sealed": password is not None,
            "features": {"optional": [], "required": []},
            "chunk_bytes": chunk_bytes,
            "block_bytes": block_bytes,
            "meta_block_bytes": 65_536,
            "data_pack_bytes": 64 << 20,
            "meta_pack_bytes": 16 << 20,
            "compression": "default",
            "created_ns": 1_700_000_000_000_000_000,
            "tool": "mini_writer",
        }
        self.config = json_bytes({**record, **(config or {})})
        self.write("config", frame(self.config, 1))
        if password is not None:
            self.add_key(password)

    def random(self, count: int) -> bytes:
        self._counter += 1
        return hashlib.shake_256(self._counter.to_bytes(8, "big")).digest(count)

    def write(self, name: str, data: bytes) -> str:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as out:
            out.write(data)
        return name

    def add_key(self, password: bytes, *, rotate: bool = False) -> str:
        from argon2.low_level import Type, hash_secret_raw
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if rotate:
            self.family.masters[max(self.family.masters) + 1] = self.random(32)
        salt, nonce = self.random(16), self.random(12)
        key = hash_secret_raw(password, salt, 1, 8_192, 1, 32, Type.ID, 0x13)
        plain = json_bytes(
            {
                "config": blake3(self.config).hexdigest(),
                "family_secret": self.family.secret.hex(),
                "masters": {str(n): k.hex() for n, k in self.family.masters.items()},
            }
        )
        wrapped = AESGCM(key).encrypt(nonce, plain, b"snapstore v1 key" + self.family.id)
        kdf = {"lanes": 1, "memory_kib": 8_192, "name": "argon2id", "passes": 1, "salt": salt.hex()}
        payload = json_bytes(
            {
                "name": "test",
                "kdf": kdf,
                "nonce": nonce.hex(),
                "wrapped": wrapped.hex(),
                "created_ns": 1,
            }
        )
        name = f"key/{blake3(payload).hexdigest()}"
        return self.write(name, frame(payload, 2, nonce=self.random(16)))

    # chunks, nodes, packs

    def chunk(self, data: bytes) -> bytes:
        item = keyed(self.family.key("chunk id"), data)
        self.pending[1][item] = data
        return item

    def node(self, data: bytes) -> bytes:
        item = keyed(self.family.key("node id"), data)
        self.pending[2][item] = data
        return item

    def flush(self, **more: Any) -> list[str]:
        """Write what is pending into one data and one meta pack; gives their names."""
        names = []
        for kind in (1, 2):
            blocks: list[list[tuple[bytes, bytes]]] = []
            filled = self.block_bytes
            for item, data in self.pending[kind].items():
                if filled >= self.block_bytes:
                    blocks.append([])
                    filled = 0
                blocks[-1].append((item, data))
                filled += len(data)
            if blocks:
                self.pending[kind] = {}
                names.append(self.add_pack(blocks, kind, **more))
        return names

    def add_pack(
        self, blocks: Sequence[Sequence[tuple[bytes, bytes]]], kind: int, **more: Any
    ) -> str:
        more.setdefault("padding", 100 if self.family.masters else 0)
        raw = pack(blocks, kind, self.family, salt=self.random(32), session=self.random(16), **more)
        return self.add_raw_pack(raw, kind)

    def add_raw_pack(self, raw: bytes, kind: int) -> str:
        item = blake3(raw).digest()
        self.packs.append((item, kind, len(raw)))
        digits = item.hex()
        return self.write(f"{('data', 'meta')[kind - 1]}/{digits[:2]}/{digits}", raw)

    # trees

    def sequence(
        self,
        kind: int,
        items: list[Any],
        leaf: Callable[[list[Any]], bytes],
        low: Callable[[Any], int],
        last: Callable[[list[Any]], Any],
    ) -> bytes:
        """Nodes for a sequence; gives the id of the top."""
        is_link = kind == 4
        nodes = [
            (
                last(group),
                len(group),
                self.node(bytes([kind, 0]) + varint(len(group)) + leaf(group)),
            )
            for group in split(items, low, lambda i: len(i[0]) + len(i[1]) if is_link else 0)
        ]
        level = 0
        while len(nodes) > 1:
            level += 1
            groups = split(nodes, lambda n: n[2][0], lambda n: len(n[0]) if is_link else 0)
            nodes = [
                (
                    sum(n[0] for n in group) if kind == 2 else group[-1][0],
                    sum(n[1] for n in group),
                    self.node(inner_node(kind, level, group)),
                )
                for group in groups
            ]
        return nodes[0][2]

    def chunk_list(self, parts: list[tuple[int, bytes | None]]) -> bytes:
        items = [(n, ZERO_ID if data is None else self.chunk(data)) for n, data in parts]
        if len(items) <= 32:
            return varint(len(items)) + chunk_columns(items)
        low = lambda i: xxh3(u64(i[0]))[0] if i[1] == ZERO_ID else i[1][0]  # noqa: E731
        total = lambda group: sum(n for n, _ in group)  # noqa: E731
        return varint(len(items)) + self.sequence(2, items, chunk_columns, low, total)

    def hole_map(self, holes: list[tuple[int, int]]) -> bytes:
        if len(holes) <= 32:
            return varint(len(holes)) + hole_columns(holes)
        top = self.sequence(
            3, holes, hole_columns, lambda h: xxh3(u64(h[0]))[0], lambda group: sum(group[-1])
        )
        return varint(len(holes)) + top

    def parts(self, item: Item) -> list[tuple[int, bytes | None]]:
        if item.parts is not None:
            return item.parts
        return cut(item.data, item.holes, self.chunk_bytes, self.family.key("chunker"))

    def columns(self, entries: Sequence[tuple[bytes, Item]]) -> bytes:
        out = b"".join(string(name) for name, _ in entries)
        items = [item for _, item in entries]
        out += bytes(i.kind | (0x10 if i.xattrs else 0) | (0x20 if i.holes else 0) for i in items)
        out += b"".join(varint(i.mode) for i in items)
        out += b"".join(varint(i.uid) for i in items)
        out += b"".join(varint(i.gid) for i in items)
        before = 0
        for seconds in (item.mtime_ns // 10**9 for item in items):
            out += zigzag((seconds - before + 2**63) % 2**64 - 2**63)
            before = seconds
        out += b"".join(varint(i.mtime_ns % 10**9) for i in items)
        files = [i for i in items if i.kind == FILE]
        out += b"".join(varint(i.size) for i in files)
        for item in files:
            if item.size > 256:
                out += self.chunk_list(self.parts(item))
            else:
                out += item.content()
        out += b"".join(self.hole_map(i.holes) for i in files if i.holes)
        for item in items:
            if item.kind == DIRECTORY:
                out += self.directory(item)
        out += b"".join(string(i.target) for i in items if i.kind == SYMLINK)
        for item in items:
            if item.kind in (CHARACTER, BLOCK):
                out += varint(item.device[0]) + varint(item.device[1])
        for item in items:
            if item.xattrs:
                data = attribute_set(item.xattrs)
                out += varint(len(data))
                if len(data) <= 2_048:
                    out += data
                else:
                    key = self.family.key("chunker")
                    out += self.chunk_list(cut(data, [], self.chunk_bytes, key))
        return out

    def directory(self, item: Item) -> bytes:
        if not item.members:
            return varint(0)
        members = sorted(item.members.items())
        top = self.sequence(
            1, members, self.columns, lambda m: xxh3(m[0])[0], lambda group: group[-1][0]
        )
        entries, size = item.totals()
        return varint(len(members)) + top + varint(entries) + varint(size)

    def root_node(self, item: Item, links: dict[bytes, bytes] | None = None) -> bytes:
        """The bytes of a root node: the columns of one entry without a name, then its links."""
        out = bytes([5, 0]) + self.columns([(b"", item)]) + varint(len(links or {}))
        if links:
            table = sorted(links.items())
            out += self.sequence(
                4, table, link_columns, lambda i: xxh3(i[0])[0], lambda group: group[-1][0]
            )
        return out

    def root(
        self,
        item: Item,
        path: bytes = b"/data",
        links: dict[bytes, bytes] | None = None,
        kind: str | None = None,
    ) -> dict[str, Any]:
        """Add a tree; gives the record of the root in a snapshot."""
        below = item.totals()
        kinds = {FILE: "file", DIRECTORY: "directory"}
        return {
            "path": text(path),
            "kind": kind or kinds.get(item.kind, "other"),
            "id": self.node(self.root_node(item, links)).hex(),
            "entries": below[0] + 1,
            "bytes": below[1] + (item.size if item.kind == FILE else 0),
        }

    # small objects

    def object(self, prefix: str, name: str, payload: bytes, counted: bool = True) -> str:
        """A small object; where names are counted, ``h8`` is appended."""
        nonce = bytes(16) if prefix == "snap" else self.random(16)
        if counted:
            name += "-" + keyed(self.family.key("object name"), nonce + payload).hex()[:8]
        full = f"{prefix}/{name}"
        kind = TYPES[prefix.split("/")[0]]
        sealed = frame(
            payload, kind, nonce=nonce, family=self.family, name=full, salt=self.random(32)
        )
        return self.write(full, sealed)

    def label(self, snapshot_id: str, ops: list[Any], n: int = 1) -> str:
        payload = json_bytes({"by": "test", "ops": ops, "time_ns": 1})
        return self.object("label", f"{snapshot_id}-{n:08d}", payload)

    def refs_payload(self, exact: int = 1) -> bytes:
        packs = sorted(self.packs)
        out = bytes([exact]) + varint(len(packs))
        out += b"".join(item for item, _, _ in packs) + bytes(kind for _, kind, _ in packs)
        return out + b"".join(varint(size) for _, _, size in packs)

    def ref(self, kind: str, name: str, value: Any, n: int = 1) -> str:
        digest = keyed(self.family.key("object name"), f"{kind}/{name}".encode()).hex()[:32]
        payload = json_bytes({"kind": kind, "name": name, "time_ns": 1, "value": value})
        return self.object(f"ref/{kind}", f"{digest}-{n:08d}", payload)

    def snapshot_record(self, roots: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "roots": roots,
            "source": "home",
            "host": "testhost",
            "time_ns": 1_700_000_000_000_000_000,
            "kind": "user",
            "parents": [],
            "created_by": {"type": "user", "id": "tester"},
            "session": "01h455vb4pex5vsknk084sn02q",
            "tool": "mini_writer 1",
            "stats": {"files": 1},
            **more,
        }

    def snapshot(
        self, roots: list[dict[str, Any]], ops: list[Any] | None = None, **more: Any
    ) -> str:
        """Flush, then write refs, label and snapshot; gives the snapshot's id."""
        self.flush()
        payload = json_bytes(self.snapshot_record(roots, **more))
        snapshot_id = keyed(self.family.key("snapshot id"), payload).hex()
        self.object("refs", f"{snapshot_id}-00000001", self.refs_payload())
        self.label(snapshot_id, ops or [])
        self.object("snap", snapshot_id, payload, counted=False)
        return snapshot_id


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    """Damage a file of a store."""
    data = bytearray(path.read_bytes())
    change(data)
    os.chmod(path, 0o600)
    path.write_bytes(data)
