"""What somebody can do to a store who can write to it and knows the format, but has no password.

After each change he makes the checksums right again (`recheck`), and may give a pack the name that
its new bytes ask for, so that nothing of this is found as an accident would be. Each attack is what
becomes of some objects; its name says what was done: `group: type: which`.
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from sealed_world import WAYS, Changes, Objects, World

sys.path.insert(0, str(Path(__file__).parents[1] / "format"))

import mini_writer as mw

HEAD, TAIL, BLOCK_HEAD = 96, 32, 24
FRAME_TYPES = mw.TYPES
PACKS = ("data", "meta")
Region = tuple[str, int, int]
IDLE = {"sess", "refs"}
"""Types of which nothing that is read depends: leases of the dead, and what can be derived."""


@dataclass(frozen=True)
class Attack:
    name: str
    changes: Changes
    ways: tuple[str, ...] = WAYS
    """Who can notice it."""

    @property
    def kind(self) -> str:
        """Group and type."""
        return ": ".join(self.name.split(": ")[:2])

    def is_idle(self, objects: Objects) -> bool:
        """Whether it takes nothing away and adds nothing, so that there is nothing to notice."""
        if all(objects.get(name) == data for name, data in self.changes.items()):
            return True
        if {*map(type_of, self.changes)} <= IDLE:
            return True
        if self.name.startswith("flip: key: writer nonce"):  # it means nothing in a key
            return True
        if self.name.startswith("downgrade: key: ") and ", renamed, " in self.name:
            return True  # another's password does not open it: only who knows that one can tell
        # A sound pack may be there twice.
        return ", beside" in self.name and ": session of " in self.name


def type_of(name: str) -> str:
    return name.split("/")[0]


def of_type(objects: Objects, type: str) -> list[str]:
    return sorted(name for name in objects if type_of(name) == type)


def pack_name(type: str, data: bytes) -> str:
    digits = blake3(data).hexdigest()
    return f"{type}/{digits[:2]}/{digits}"


# Where what is in an object


def regions(name: str, data: bytes) -> list[Region]:
    """The fields of an object."""
    return pack_regions(data) if type_of(name) in PACKS else frame_regions(data)


def frame_regions(data: bytes) -> list[Region]:
    end = len(data)
    found = _fields(0, ("magic", 4), ("version", 1), ("type", 1), ("codec", 1), ("sealed", 1))
    found += _fields(8, ("writer nonce", 16), ("plain length", 4), ("body length", 4))
    if data[7]:
        found += _fields(32, ("epoch", 4), ("salt", 32), ("nonce", 12))
        found += [("ciphertext", 80, end - 24), ("tag", end - 24, end - 8)]
    else:
        found.append(("body", 32, end - 8))
    return [*found, ("checksum", end - 8, end)]


def blocks(data: bytes) -> list[tuple[int, int]]:
    """Beginning and end of each block of a sound pack, the footer's last."""
    found, at = [], HEAD
    while at < len(data) - TAIL:
        end = at + 32 + int.from_bytes(data[at + 12 : at + 16], "little")
        found.append((at, end))
        at = end
    return found


def pack_regions(data: bytes) -> list[Region]:
    found = _fields(0, ("magic", 8), ("version", 1), ("kind", 1), ("sealed", 1), ("zero", 1))
    found += _fields(12, ("epoch", 4), ("family", 16), ("salt", 32), ("session", 16), ("zeros", 8))
    found += _fields(88, ("checksum", 8))
    places = blocks(data)
    for number in sorted({0, len(places) // 2, len(places) - 1}):
        at, end = places[number]
        inside = _fields(at, ("magic", 4), ("number", 4), ("kind", 1), ("codec", 1), ("sealed", 1))
        inside += _fields(at + 11, ("zero", 1), ("body length", 4), ("plain length", 4))
        inside += _fields(at + 20, ("reserved", 4), ("nonce", 12))
        inside += [("ciphertext", at + 36, end - 24), ("tag", end - 24, end - 8)]
        inside += [("checksum", end - 8, end)]
        found += [(f"block {number} {what}", start, stop) for what, start, stop in inside]
    tail = len(data) - TAIL
    found += _fields(tail, ("footer offset", 4), ("footer length", 4), ("blocks", 4), ("end", 4))
    return [*found, *_fields(tail + 16, ("end checksum", 8), ("end magic", 8))]


def _fields(at: int, *lengths: tuple[str, int]) -> list[Region]:
    found = []
    for what, length in lengths:
        found.append((what, at, at + length))
        at += length
    return found


# Checksums that are right again


def recheck(name: str, data: bytes, places: list[tuple[int, int]] | None = None) -> bytes:
    """The same with right checksums; `places`: where the blocks of a pack are."""
    if type_of(name) not in PACKS:
        return data[:-8] + mw.xxh3(data[:-8]) if len(data) >= 8 else data
    if len(data) < HEAD + TAIL:
        return data
    out = bytearray(data)
    out[88:96] = mw.xxh3(bytes(out[:88]))
    for at, end in places or ():
        if end <= len(out):
            out[end - 8 : end] = mw.xxh3(bytes(out[at : end - 8]))
    tail = len(out) - TAIL
    out[tail + 16 : tail + 24] = mw.xxh3(bytes(out[:HEAD]) + bytes(out[tail : tail + 16]))
    return bytes(out)


def rebuilt(data: bytes, parts: list[bytes], *, renumbered: bool = False) -> bytes:
    """A pack with other blocks (the footer last), its trailer and checksums right."""
    if renumbered:
        parts = [part[:4] + mw.u32(number) + part[8:] for number, part in enumerate(parts)]
        parts = [part[:-8] + mw.xxh3(part[:-8]) for part in parts]
    offset = HEAD + sum(map(len, parts[:-1]))
    tail = mw.u32(offset) + mw.u32(len(parts[-1])) + mw.u32(len(parts) - 1) + bytes(4)
    tail += mw.xxh3(data[:HEAD] + tail) + b"SNAPTAIL"
    return data[:HEAD] + b"".join(parts) + tail


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def under_names(name: str, data: bytes) -> Iterator[tuple[str, Changes]]:
    """An object with these bytes under its name; a pack also under the name that they ask for."""
    yield "", {name: data}
    if type_of(name) in PACKS:
        yield ", renamed", {name: None, pack_name(type_of(name), data): data}
        yield ", beside", {pack_name(type_of(name), data): data}


# Attacks


def all_attacks(world: World, seed: int = 1) -> list[Attack]:
    """Every operation on every object."""
    chance = random.Random(seed)
    found: list[Attack] = []
    for attacks in (flips, cuts, swaps, renames, replays, exchanges, downgrades, deletions, junk):
        found += attacks(world, chance)
    return found


def some_attacks(world: World, most: int, seed: int = 1) -> list[Attack]:
    """Some of every kind, the same ones each time for the same store."""
    chance = random.Random(seed)
    kinds: dict[str, list[Attack]] = {}
    for attack in all_attacks(world):
        kinds.setdefault(attack.kind, []).append(attack)
    return [one for found in kinds.values() for one in chance.sample(found, min(most, len(found)))]


def flips(world: World, chance: random.Random) -> Iterator[Attack]:
    """A bit in each field, with the checksums as they were and right again."""
    for name, data in world.objects.items():
        places = blocks(data) if type_of(name) in PACKS else None
        for what, start, end in regions(name, data):
            raw = flipped(data, chance.randrange(start, end), chance.randrange(8))
            title = f"flip: {type_of(name)}: {what} of {name}"
            yield Attack(f"{title}, checksum wrong", {name: raw})
            if "checksum" not in what:
                for how, changes in under_names(name, recheck(name, raw, places)):
                    yield Attack(title + how, changes)


def cuts(world: World, chance: random.Random) -> Iterator[Attack]:
    """Shorter and longer ones, at the borders of fields and elsewhere."""
    for name, data in world.objects.items():
        borders = [start for _, start, _ in regions(name, data)]
        lengths = {0, 1, len(data) - 1, *chance.sample(borders, 4), chance.randrange(len(data))}
        for length in sorted(lengths):
            title = f"cut: {type_of(name)}: {name} to {length}"
            yield Attack(f"{title}, checksum wrong", {name: data[:length]})
            yield Attack(title, {name: _shortened(name, data, length)})
        for more in (b"\0", bytes(40), data):
            yield Attack(f"longer: {type_of(name)}: {name} by {len(more)}", {name: data + more})
            if type_of(name) not in PACKS:
                longer = data[:-8] + more
                yield Attack(
                    f"longer: {type_of(name)}: body of {name} by {len(more)}",
                    {name: _resized(longer + bytes(8))},
                )
        if type_of(name) in PACKS:
            for how, changes in _short_packs(name, data):
                yield Attack(f"cut: {type_of(name)}: {how} of {name}", changes)


def _shortened(name: str, data: bytes, length: int) -> bytes:
    if type_of(name) in PACKS:
        return recheck(name, data[: max(length, HEAD)] + data[-TAIL:])
    return _resized(data[:length] + bytes(8))


def _resized(data: bytes) -> bytes:
    """A frame that says how long its body is."""
    if len(data) < 40:
        return data
    data = data[:28] + mw.u32(len(data) - 40) + data[32:]
    return data[:-8] + mw.xxh3(data[:-8])


def _short_packs(name: str, data: bytes) -> Iterator[tuple[str, Changes]]:
    parts = [data[start:end] for start, end in blocks(data)]
    for at in sorted({0, len(parts) // 2, len(parts) - 1}):
        for renumbered in (False, True):
            left = parts[:at] + parts[at + 1 :]
            if left:
                new = rebuilt(data, left, renumbered=renumbered)
                for how, changes in under_names(name, new):
                    yield f"without block {at}{how}, {renumbered}", changes


def swaps(world: World, chance: random.Random) -> Iterator[Attack]:
    """The bytes of two objects under each other's name: of one type, and of different ones."""
    objects = world.objects
    for first in objects:
        for second in objects:
            if first >= second:
                continue
            same = type_of(first) == type_of(second)
            if not same and chance.random() > 0.15:
                continue
            title = f"swap: {type_of(first)}{'' if same else ' and ' + type_of(second)}: "
            title += f"{first} and {second}"
            yield Attack(title, {first: objects[second], second: objects[first]})
            if not same and not {type_of(first), type_of(second)} & {*PACKS}:
                as_first, as_second = (
                    _as_type(objects[second], type_of(first)),
                    _as_type(objects[first], type_of(second)),
                )
                yield Attack(f"{title}, types changed", {first: as_first, second: as_second})


def _as_type(data: bytes, type: str) -> bytes:
    data = data[:5] + bytes([FRAME_TYPES[type]]) + data[6:]
    return data[:-8] + mw.xxh3(data[:-8])


def renames(world: World, chance: random.Random) -> Iterator[Attack]:
    """Objects under another name of their type, moved and copied."""
    ids = [name[5:] for name in of_type(world.objects, "snap")]
    for name, data in world.objects.items():
        type = type_of(name)
        for number, new in enumerate(_other_names(name, ids, chance)):
            title = f"rename: {type}: {name} to {new}"
            if new not in world.objects:
                yield Attack(title, {name: None, new: data})
                yield Attack(f"{title}, copied", {new: data})
            assert number < 20
    for name in of_type(world.objects, "data"):
        for how, changes in _as_meta(name, world.objects[name]):
            yield Attack(f"other kind: data: {name}{how}", changes)


def _other_names(name: str, ids: list[str], chance: random.Random) -> Iterator[str]:
    type, digits = type_of(name), chance.randbytes(32).hex()
    match type:
        case "key" | "snap":
            yield f"{type}/{digits}"
        case "data" | "meta":
            yield f"{type}/{digits[:2]}/{digits}"
        case "label" | "refs":
            id, n, h8 = name.split("/")[1].split("-")
            yield from (f"{type}/{other}-{n}-{h8}" for other in ids if other != id)
            for number in (0, 1, 2, 9, 99_999_999):
                yield f"{type}/{id}-{number:08d}-{h8}"
            yield f"{type}/{id}-{n}-{digits[:8]}"
        case "ref":
            digest, n, h8 = name.split("/")[2].split("-")
            yield f"ref/branch/{digest}-{int(n) + 7:08d}-{h8}"
            yield f"ref/branch/{digits[:32]}-{n}-{h8}"
            yield f"ref/policy/{digest}-{n}-{h8}"
        case "gc":
            n, nonce = name.split("/")[1].split("-")[:2]
            yield f"gc/{int(n) + 7:08d}-{nonce}"
            yield f"gc/{n}-{digits[:32]}-sweep"
            yield f"gc/{int(n) + 7:08d}-{nonce}-done"
        case "sess":
            yield name[:-4] + "0007"
            yield name.replace("q-", "z-")


def _as_meta(name: str, data: bytes) -> Iterator[tuple[str, Changes]]:
    """A pack of content as one of trees."""
    yield "", {name: None, name.replace("data", "meta"): data}
    kind = data[:9] + b"\2" + data[10:]
    kind = recheck(name, kind)
    yield ", its header changed", {name: None, pack_name("meta", kind): kind}
    yield ", its header changed, beside", {pack_name("meta", kind): kind}
    parts = [data[start:end] for start, end in blocks(data)]
    parts = [part[:8] + b"\2" + part[9:] for part in parts[:-1]] + parts[-1:]
    whole = rebuilt(kind, parts, renumbered=True)
    yield ", its blocks too", {name: None, pack_name("meta", whole): whole}


def replays(world: World, chance: random.Random) -> Iterator[Attack]:
    """What was in the store before, and what is in another one."""
    objects, earlier, other = world.objects, world.earlier, world.other
    for name in earlier.keys() - objects.keys():
        yield Attack(f"replay: {type_of(name)}: removed {name}", {name: earlier[name]})
    back: Changes = dict.fromkeys(objects.keys() - earlier.keys())
    yield Attack("roll back: all: ", {**back, **{n: earlier[n] for n in earlier}})
    for type in ("snap", "label", "gc"):
        some = {name: None for name in back if type_of(name) == type}
        yield Attack(f"roll back: {type}: ", {**some})
    for name, data in other.items():
        if name != "config":
            yield Attack(f"foreign: {type_of(name)}: {name}", {name: data})
        for victim in chance.sample(of_type(objects, type_of(name)), 1):
            yield Attack(f"foreign: {type_of(name)}: {name} as {victim}", {victim: data})
    for types in (("config",), ("config", "key"), ("key",), ("snap", "label"), ("data", "meta")):
        gone: Changes = {name: None for name in objects if type_of(name) in types}
        new = {name: data for name, data in other.items() if type_of(name) in types}
        yield Attack(f"foreign: all of {'-'.join(types)}: ", {**gone, **new})
    whole: Changes = {**dict.fromkeys(objects), **other}
    yield Attack("foreign: whole store: ", whole, ("warm", "cold"))  # only memory tells them apart
    yield Attack("foreign: all beside: ", {n: d for n, d in other.items() if n != "config"})


def exchanges(world: World, chance: random.Random) -> Iterator[Attack]:
    """Blocks in other places of their pack, and in other packs."""
    objects = world.objects
    packs = [name for name in objects if type_of(name) in PACKS]
    for name in packs:
        data, type = objects[name], type_of(name)
        parts = [data[start:end] for start, end in blocks(data)]
        pairs = [(a, b) for a in range(len(parts)) for b in range(a)]
        alike = [(a, b) for a, b in pairs if len(parts[a]) == len(parts[b])]
        for a, b in chance.sample(pairs, min(4, len(pairs))) + alike[:3]:
            group = "blocks of one length" if (a, b) in alike else "blocks"
            moved = list(parts)
            moved[a], moved[b] = moved[b], moved[a]
            for renumbered in (False, True):
                new = rebuilt(data, moved, renumbered=renumbered)
                for how, changes in under_names(name, new):
                    yield Attack(
                        f"{group}: {type}: {a} and {b} of {name}, {renumbered}{how}", changes
                    )
        twice = rebuilt(data, [parts[0], *parts], renumbered=True)
        for how, changes in under_names(name, twice):
            yield Attack(f"blocks: {type}: the first of {name} twice{how}", changes)
        for source in chance.sample([pack for pack in packs if pack != name], 3):
            theirs = [objects[source][start:end] for start, end in blocks(objects[source])]
            at = chance.randrange(len(parts))
            take = chance.randrange(len(theirs))
            new = rebuilt(data, [*parts[:at], theirs[take], *parts[at + 1 :]], renumbered=True)
            footer = rebuilt(data, [*parts[:-1], theirs[-1]], renumbered=True)
            kind = theirs[take][:8] + parts[at][8:9] + theirs[take][9:]
            posing = rebuilt(data, [*parts[:at], kind, *parts[at + 1 :]], renumbered=True)
            head = recheck(name, objects[source][:HEAD] + data[HEAD:])
            for what, forged in (
                (f"block {take} of {source} as {at}", new),
                (f"block {take} of {source} posing as {at}", posing),
                (f"the footer of {source}", footer),
                (f"the header of {source}", head),
            ):
                for how, changes in under_names(name, forged):
                    yield Attack(f"blocks: {type}: {name} with {what}{how}", changes)


# What is not sealed in place of what is


def downgrades(world: World, chance: random.Random) -> Iterator[Attack]:
    """Objects that need no key, or less work."""
    objects, plain = world.objects, mw.Family(_family(world.objects))
    yield from _config_downgrades(objects)
    yield from _key_downgrades(objects, chance)
    item = mw.directory({b"file": mw.file(b"forged " * 100)})
    forged = _forged(world, plain, item)
    whole: Changes = {name: data for name, data in forged.items() if type_of(name) != "config"}
    yield Attack("unsealed: all beside: ", whole)
    for name, data in whole.items():
        yield Attack(f"unsealed: {type_of(name)}: {name}", {name: data})
        for victim in of_type(objects, type_of(name)):
            yield Attack(f"unsealed: {type_of(name)}: in place of {victim}", {victim: data})
    yield Attack("unsealed: whole store: ", {**dict.fromkeys(objects), **forged})
    yield Attack("unsealed: config, all else beside: ", {**forged})
    for name, data in objects.items():
        if type_of(name) in PACKS:
            places = blocks(data)
            marked = bytearray(data)
            marked[10:16] = bytes(6)
            marked[32:64] = bytes(32)
            bare = recheck(name, bytes(marked))
            for at, _ in places:
                marked[at + 10] = 0
            both = recheck(name, bytes(marked), places)
            for what, new in (("header", bare), ("header and blocks", both)):
                for how, changes in under_names(name, new):
                    yield Attack(f"unsealed: {type_of(name)}: {what} of {name}{how}", changes)
        elif data[7]:
            bare = mw.xxh3(data)[:0] + data[:7] + b"\0" + data[8:]
            bare = bare[:24] + mw.u32(len(data) - 40) + bare[28:]
            yield Attack(f"unsealed: {type_of(name)}: flag of {name}", {name: recheck(name, bare)})


def _family(objects: Objects) -> bytes:
    """What everybody can read in a pack's header."""
    return next(data for name, data in objects.items() if type_of(name) == "data")[16:32]


def _config(objects: Objects) -> bytes:
    data = objects["config"]
    body = data[32:-8]
    return mw.zstandard.ZstdDecompressor().decompress(body) if data[6] else body


def _config_downgrades(objects: Objects) -> Iterator[Attack]:
    payload = _config(objects)
    for what, old, new in (
        ("not sealed", b'"sealed":true', b'"sealed":false'),
        ("another chunk size", b'"chunk_bytes":8192', b'"chunk_bytes":65536'),
        ("another format", b'"format":1', b'"format":2'),
        ("another compression", b'"compression":"default"', b'"compression":"none"'),
        ("a feature", b'"optional":[]', b'"optional":["append-only"]'),
        ("an unknown feature", b'"required":[]', b'"required":["zzz"]'),
        ("not JSON", b"{", b"["),
    ):
        assert old in payload, what
        changes: Changes = {"config": mw.frame(payload.replace(old, new, 1), 1)}
        yield Attack(f"downgrade: config: {what}", changes)
        gone: Changes = dict.fromkeys(of_type(objects, "key"))
        yield Attack(f"downgrade: config: {what}, without keys", {**changes, **gone})
    for field in (b'"store":"', b'"family":"'):
        at = payload.index(field) + len(field)
        digit = b"1" if payload[at : at + 1] == b"0" else b"0"
        other = payload[:at] + digit + payload[at + 1 :]
        yield Attack(f"downgrade: config: another {field!r}", {"config": mw.frame(other, 1)})


def _key_downgrades(objects: Objects, chance: random.Random) -> Iterator[Attack]:
    for name in of_type(objects, "key"):
        data = objects[name]
        body = data[32:-8]
        payload = mw.zstandard.ZstdDecompressor().decompress(body) if data[6] else body
        for what, old, new in (
            ("less memory", b'"memory_kib":8192', b'"memory_kib":8'),
            ("more memory", b'"memory_kib":8192', b'"memory_kib":4194305'),
            ("other memory", b'"memory_kib":8192', b'"memory_kib":16384'),
            ("more passes", b'"passes":1', b'"passes":2'),
            ("no passes", b'"passes":1', b'"passes":0'),
            ("more lanes", b'"lanes":1', b'"lanes":2'),
            ("another function", b"argon2id", b"argon2ii"),
            ("another salt", b'"salt":"', b'"salt":"ab'),
            ("short salt", payload[payload.index(b'"salt":"') :], b'"salt":"00"},"wrapped":"00"}'),
            ("another name", b'},"name":"', b'},"name":"x'),
            ("another nonce", b'"nonce":"', b'"nonce":"ab'),
            ("cut", payload[-60:], b'"}'),
        ):
            new_payload = payload.replace(old, new, 1)
            frame = mw.frame(new_payload, 2, nonce=chance.randbytes(16))
            right = f"key/{blake3(new_payload).hexdigest()}"
            yield Attack(f"downgrade: key: {what}, {name}", {name: frame})
            yield Attack(f"downgrade: key: {what}, renamed, {name}", {name: None, right: frame})
            alone: Changes = dict.fromkeys(of_type(objects, "key"))
            yield Attack(f"downgrade: key: {what}, alone, {name}", {**alone, right: frame})


def _forged(world: World, family: mw.Family, item: mw.Item) -> Objects:
    """A store that is not encrypted, with the ids of this one."""
    import tempfile

    payload = _config(world.objects)
    with tempfile.TemporaryDirectory() as place:
        store = mw.MiniStore(Path(place) / "s")
        store.family = family
        (store.path / "config").unlink()
        store.write("config", mw.frame(payload.replace(b'"sealed":true', b'"sealed":false'), 1))
        store.snapshot([store.root(item)], [["set", "name", "one"]])
        for name in of_type(world.objects, "snap"):
            store.label(name[5:], [["set", "name", "forged"]], n=9)
            store.object("refs", f"{name[5:]}-00000009", store.refs_payload())
        store.ref("branch", "main", "forged", n=9)
        store.object("sess", "01h455vb4pex5vsknk084sn02q-0001", b"{}", counted=False)
        store.object("gc", f"00000009-{'0' * 32}", b"{}", counted=False)
        found = {}
        for path in sorted(store.path.rglob("*")):
            if path.is_file():
                found[str(path.relative_to(store.path))] = path.read_bytes()
        return found


def deletions(world: World, chance: random.Random) -> Iterator[Attack]:
    """Objects that are gone, alone and all of a type; and such that are empty."""
    for name in world.objects:
        yield Attack(f"delete: {type_of(name)}: {name}", {name: None})
    for type in sorted({type_of(name) for name in world.objects}):
        gone: Changes = dict.fromkeys(of_type(world.objects, type))
        yield Attack(f"delete: all of {type}: ", gone)


def junk(world: World, chance: random.Random) -> Iterator[Attack]:
    """Objects that nobody wrote."""
    ids = [name[5:] for name in of_type(world.objects, "snap")]
    digits = chance.randbytes(32).hex()
    for name in (
        f"snap/{digits}",
        f"label/{digits}-00000001-00000000",
        f"label/{ids[0]}-00000009-00000000",
        f"refs/{ids[0]}-00000009-00000000",
        f"data/{digits[:2]}/{digits}",
        f"meta/{digits[:2]}/{digits}",
        f"key/{digits}",
        f"ref/branch/{digits[:32]}-00000009-00000000",
        f"gc/99999999-{digits[:32]}",
        "sess/7zzzzzzzzzzzzzzzzzzzzzzzzz-0000",
        "snap/short",
        "strange",
        "parity/1",
    ):
        for what, data in (("empty", b""), ("short", b"SNAP"), ("random", chance.randbytes(300))):
            yield Attack(f"junk: {type_of(name)}: {what} {name}", {name: data})
