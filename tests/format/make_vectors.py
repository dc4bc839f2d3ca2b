"""Makes the golden vectors in tests/format/vectors. Run by hand, as root, once for each vector:

    .venv/bin/python tests/format/make_vectors.py [NAME…]

A vector that exists is left alone: once released, it is never written again, because it stands for
the stores that people have. What a later version writes differently is a new vector under a new
name. Needs root (owners, devices, capabilities, trusted attributes) and a file system with holes
and attributes under /tmp; the sources are built in /tmp/snapstore-vectors, the paths recorded.
"""

import json
import os
import random
import shutil
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import mini_writer as mw  # noqa: E402
from vector_files import VECTORS, content, facts_to_json  # noqa: E402

import snapstore  # noqa: E402
from snapstore import Snapshot, Store, Stream, _native  # noqa: E402
from snapstore.model.config import Config  # noqa: E402
from snapstore.model.keys import Kdf  # noqa: E402
from snapstore.repository.open import Repository, new_id  # noqa: E402
from tree_plans import Part, noise, write_file  # noqa: E402
from tree_scan import assert_same  # noqa: E402
from tree_store import facts_by_library, facts_by_rescue, rescue  # noqa: E402

SOURCES = Path("/tmp/snapstore-vectors")
PASSWORD = "correct horse battery staple"
KDF = Kdf(memory_kib=8_192, passes=1, lanes=1)
TIME_NS = 1_767_225_600_000_000_000
PAGE = 4_096


def main(wanted: Sequence[str]) -> None:
    VECTORS.mkdir(exist_ok=True)
    for name, make in {**STORES, **TABLES}.items():
        place = VECTORS / name
        if place.exists() or (wanted and name not in wanted):
            print(f"{name}: left alone")
        else:
            make(place)
            print(f"{name}: made")


# Stores


def make_store(place: Path, take: Callable[[Store, Path], None], sealed: bool = False) -> None:
    """A store with what `take` takes, and `expected.json` with what both readers find in it."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    SOURCES.mkdir(mode=0o755)
    path = place / "store"
    place.mkdir()
    password = PASSWORD if sealed else None
    encoded = password.encode() if password else None
    config = Config.new(
        new_id(),
        new_id(),
        f"snapstore {snapstore.__version__}",
        sealed=sealed,
        chunk_bytes=8_192,
        block_bytes=65_536,
    )
    with Store(Repository.init(path, config, password=encoded, kdf=KDF)) as store:
        take(store, SOURCES)
        expected = {"password": password} | described(store, rescue().Store(path, encoded))
    write_json(place / "expected.json", expected)
    for derived in ("local", "tmp", "sess", "gc"):
        shutil.rmtree(path / derived)
    for directory in path.iterdir():  # a checkout has no empty directories
        if directory.is_dir() and not os.listdir(directory):
            directory.rmdir()
    for found in [path, *path.rglob("*")]:  # as a checkout has it
        found.chmod(0o755 if found.is_dir() else 0o644)
    shutil.rmtree(SOURCES)


def described(store: Store, reader: Any) -> dict[str, Any]:
    """Snapshots and roots of a store, in which both readers must find the same."""
    snapshots, roots = {}, {}
    for snapshot in sorted(store.snapshots(all=True), key=lambda found: found.time_ns):
        snapshots[snapshot.id] = summary(snapshot)
        for root in snapshot.roots:
            found = facts_by_library(store._repository.reader(), root.id)
            assert_same(found, facts_by_rescue(reader, root.id))
            roots[root.id] = facts_to_json(found)
    assert not list(reader.check())
    return {"snapshots": snapshots, "roots": roots}


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """What `Store.snapshots` says of a snapshot, as far as it matters."""
    return {
        "name": snapshot.name,
        "description": snapshot.description,
        "tags": list(snapshot.tags),
        "metadata": snapshot.metadata,
        "time_ns": snapshot.time_ns,
        "parents": list(snapshot.parents),
        "streams": [dict(stream) for stream in snapshot.streams],
        "owners": snapshot.owners,
        "roots": [
            {
                "path": mw.text(root.path),
                "kind": root.kind,
                "id": root.id,
                "entries": root.entries,
                "bytes": root.bytes,
            }
            for root in snapshot.roots
        ],
    }


def take(store: Store, number: int, *paths: Path, **options: Any) -> None:
    """The `number`th snapshot of a store."""
    result = store.create(
        *paths,
        host="vector",
        source="vectors",
        time=TIME_NS + number * 10**9,
        created_by={"type": "user", "id": "vector"},
        **options,
    )
    assert not result.partial and not result.changed


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON with one line for each entry of a list."""
    path.write_text(_pretty(value, 0) + "\n")


def _pretty(value: Any, depth: int) -> str:
    if not isinstance(value, (dict, list)) or not value or depth == 4:
        return json.dumps(value, ensure_ascii=False)
    space = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {_pretty(item, depth + 1)}" for key, item in value.items()]
        return "{" + space + ("," + space).join(inner) + "\n" + " " * depth + "}"
    inner = [_pretty(item, 4) for item in value]
    return "[" + space + ("," + space).join(inner) + "\n" + " " * depth + "]"


# What is in them


def words(length: int, seed: int) -> bytes:
    """Text that compresses, without long repetitions."""
    chance = random.Random(seed)
    some = [noise(3 + number % 7, number).hex().encode() for number in range(64)]
    out = bytearray()
    while len(out) < length:
        out += chance.choice(some) + b" "
    return bytes(out[:length])


def acl(user: int) -> bytes:
    """A POSIX ACL that lets one more user read."""
    entries = [(1, 6, -1), (2, 4, user), (4, 4, -1), (0x10, 4, -1), (0x20, 0, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, right, who & 0xFFFF_FFFF) for tag, right, who in entries
    )


def fill_small(top: Path) -> None:
    """One entry of each kind and each kind of metadata, and odd names and times."""
    (top / "directory/sub").mkdir(parents=True)
    (top / "empty directory").mkdir()
    for size in (0, 1, 256, 257, PAGE):
        (top / f"file{size}").write_bytes(words(size, size))
    (top / "text").write_bytes(words(30_000, 1))
    (top / "duplicate").write_bytes(words(30_000, 1))
    (top / "zeros").write_bytes(bytes(100_000))
    (top / "zero run").write_bytes(words(10_000, 2) + bytes(50_000) + words(10_000, 3))
    write_file(os.fsencode(top / "all hole"), [Part("hole", 1 << 20)])
    layout = [Part("hole", PAGE), Part("text", 2 * PAGE), Part("hole", 1 << 22)]
    write_file(os.fsencode(top / "sparse"), [*layout, Part("zeros", PAGE), Part("text", 999)])
    os.symlink(b"../../\xff\n", os.fsencode(top / "link"))
    os.mkfifo(top / "fifo")
    os.mknod(top / "character", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(259, 1_048_575))
    for odd in (b"n" * 255, b"\xff\xfe%41\n", "ä".encode(), b" "):
        (top / "directory" / os.fsdecode(odd)).write_bytes(odd)
    os.link(top / "text", top / "directory/sub/linked text")
    os.link(top / "fifo", top / "directory/linked fifo")
    os.chown(top / "file1", 123_456, 2**32 - 2)
    os.chown(top / "link", 1, 1, follow_symlinks=False)
    (top / "file1").chmod(0o6751)
    (top / "file257").chmod(0)
    (top / "directory").chmod(0o2770)
    (top / "empty directory").chmod(0o1777)
    for name in ("file256", "directory"):
        os.setxattr(top / name, "user.small", b"\0\xff")
        os.setxattr(top / name, "user.long", noise(2_400, 9))
    os.setxattr(top / "file4096", "system.posix_acl_access", acl(1_000))
    os.setxattr(top / "directory/sub", "system.posix_acl_default", acl(65_534))
    os.setxattr(top / "text", "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    for name in ("link", "fifo", "character"):
        os.setxattr(top / name, "trusted.t", b"value", follow_symlinks=False)


def settle(top: Path) -> None:
    """Times that do not depend on when the vector is made: some odd, of directories too."""
    odd = [-1, 0, 1, -1_500_000_001, 2**33 * 10**9 + 7, TIME_NS, TIME_NS + 999_999_999]
    paths = sorted([top, *top.rglob("*")], reverse=True)
    for number, path in enumerate(paths):
        os.utime(path, ns=(0, odd[number % len(odd)]), follow_symlinks=False)


def take_tree(store: Store, place: Path) -> None:
    """All kinds of nodes: directories, chunk lists, hole maps and link tables of several."""
    top = place / "tree"
    top.mkdir()
    fill_small(top)
    (top / "many").mkdir()
    for number in range(700):
        (top / f"many/entry{number:04}").write_bytes(b"%d" % number * (number % 9))
    (top / "linked").mkdir()
    for number in range(300):
        os.link(top / "file257", top / f"linked/{number:03}")
    (top / "long").write_bytes(words(450_000, 5))  # more than 32 chunks
    pool = [Part("text", PAGE, seed) for seed in range(4)]
    holes = [part for number in range(500) for part in (pool[number % 4], Part("hole", PAGE))]
    write_file(os.fsencode(top / "many holes"), holes)
    settle(top)
    take(store, 0, top, name="first", tags=["one", "two"], description="The first.\n")
    with open(top / "long", "r+b") as file:
        file.seek(200_000)
        file.write(b"changed")
    (top / "many/entry0007").unlink()
    (top / "many/entry0700").write_bytes(b"new")
    os.rename(top / "duplicate", top / "directory/moved")
    settle(top)
    take(store, 1, top, name="second", metadata={"key": [1, "two", {"three": None}]})


def take_several_roots(store: Store, place: Path) -> None:
    """Directories, a file, a link and a FIFO as roots; hard links between roots are two files."""
    for name in ("one", "two/deep"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_bytes(words(20_000, len(name)))
    os.link(place / "one/file", place / "two/deep/as in one")
    os.link(place / "one/file", place / "one/again")
    (place / "alone").write_bytes(words(20_000, 7))
    (place / "link").symlink_to("alone")
    os.mkfifo(place / "fifo")
    (place / "disk").write_bytes(words(20_000, 8) + bytes(20_000))
    settle(place)
    roots = [place / name for name in ("one", "two", "alone", "link", "fifo")]
    take(store, 0, *roots, images=[place / "disk"])


def take_stream(store: Store, place: Path) -> None:
    """What a command says, and what is read from a descriptor."""
    with open(place / "dump", "wb") as file:
        file.write(words(50_000, 8))
    with open(place / "dump", "rb") as file:
        streams = [Stream("dump.sql", fd=file), Stream(b"a\xff%\n", command="printf hello")]
        take(store, 0, streams=streams)


def take_paged(store: Store, place: Path) -> None:
    """Contents that are cut in pages: enough for chunk lists of several nodes."""
    top = place / "paged"
    top.mkdir()
    pool = [words(PAGE, seed) for seed in range(8)]
    chance = random.Random(4)
    pages = [chance.choice(pool) for _ in range(1_300)]
    pages[200:260] = [bytes(PAGE)] * 60
    head = b"SQLite format 3\0" + words(PAGE - 16, 9)
    (top / "data.sqlite").write_bytes(head + b"".join(pages) + b"end")
    layout = [Part("hole", 128 << 10), Part("text", 5 * PAGE), Part("hole", 2 * PAGE)]
    write_file(os.fsencode(top / "sparse.image"), [*layout, Part("text", PAGE + 1, 2)])
    settle(top)
    take(store, 0, top)


def take_sealed(store: Store, place: Path) -> None:
    """The small entries of `tree`, sealed."""
    top = place / "tree"
    top.mkdir()
    fill_small(top)
    settle(top)
    take(store, 0, top, name="sealed", tags=["secret"])


STORES: dict[str, Callable[[Path], None]] = {
    "tree": lambda place: make_store(place, take_tree),
    "several-roots": lambda place: make_store(place, take_several_roots),
    "stream": lambda place: make_store(place, take_stream),
    "paged": lambda place: make_store(place, take_paged),
    "sealed": lambda place: make_store(place, take_sealed, sealed=True),
}


# Tables


def make_keys(path: Path) -> None:
    """Every derivation of frame.md and config.md for fixed inputs."""
    from argon2.low_level import Type, hash_secret_raw

    derive, keyed = rescue().derive, rescue().keyed_hash
    secret, family, salt = noise(32, 1), noise(16, 2), noise(32, 3)
    masters = {1: noise(32, 4), 258: noise(32, 5)}
    payload, nonce, argon_salt = b'{"a":1}', noise(16, 6), noise(32, 7)
    by_use = {
        name: derive(f"snapstore v1 {context}", secret)
        for name, context in {
            "chunk": "chunk id",
            "node": "node id",
            "snapshot": "snapshot id",
            "object": "object name",
            "chunker": "chunker",
        }.items()
    }
    sealing = {}
    for epoch, master in masters.items():
        material = master + epoch.to_bytes(4, "little") + salt
        uses = ("pack key", "pack nonce", "frame key", "frame nonce")
        sealing[str(epoch)] = {use: derive(f"snapstore v1 {use}", material).hex() for use in uses}
    mini = mw.Family(family, secret, masters)
    name = "label/" + "0a" * 32 + "-00000001-01234567"
    frames = {
        codec: mw.frame(
            payload * 20, 4, nonce=nonce, codec=codec, family=mini, name=name, salt=salt
        )
        for codec in (0, 1)
    }
    chunks = [(keyed(by_use["chunk"], data), data) for data in (b"one" * 400, b"two")]
    pack = mw.pack([chunks], 1, mini, salt=salt)
    wrapping = hash_secret_raw(
        PASSWORD.encode(),
        argon_salt,
        time_cost=KDF.passes,
        memory_cost=KDF.memory_kib,
        parallelism=KDF.lanes,
        hash_len=32,
        type=Type.ID,
        version=0x13,
    )
    write_json(
        path,
        {
            "family": family.hex(),
            "family_secret": secret.hex(),
            "masters": {str(epoch): key.hex() for epoch, key in masters.items()},
            "salt": salt.hex(),
            "payload": payload.hex(),
            "writer_nonce": nonce.hex(),
            "keys": {name: key.hex() for name, key in by_use.items()},
            "unsealed_keys": {
                name: key.hex() for name, key in _native.Keys(family).derived().items()
            },
            "page_seed": keyed(by_use["chunker"], b"page seed")[:8].hex(),
            "gear_table": mw.blake3(mw.gear_table(by_use["chunker"])).hexdigest(),
            "chunk_id": keyed(by_use["chunk"], payload).hex(),
            "node_id": keyed(by_use["node"], payload).hex(),
            "snapshot_id": keyed(by_use["snapshot"], payload).hex(),
            "h8": keyed(by_use["object"], nonce + payload)[:4].hex(),
            "name_hash": {"branch/main": keyed(by_use["object"], b"branch/main")[:16].hex()},
            "sealing": sealing,
            "sealed_frame": {
                "name": name,
                "type": 4,
                "payload": (payload * 20).hex(),
                "raw": frames[0].hex(),
                "zstd": frames[1].hex(),
            },
            "sealed_pack": {
                "bytes": pack.hex(),
                "id": mw.blake3(pack).hexdigest(),
                "chunks": [[id.hex(), len(data)] for id, data in chunks],
            },
            "wrapping": {
                "password": PASSWORD,
                "salt": argon_salt.hex(),
                **asdict(KDF),
                "key": wrapping.hex(),
            },
        },
    )


KINDS_OF_PAGED: dict[str, list[list[Any]]] = {
    "SQLite": [[0, b"SQLite format 3\0".hex()]],
    "LMDB": [[16, "dec0efbe"]],
    "ext4": [[1_080, "53ef"], [1_048, "06000000"], [1_084, "0700"]],
    "ext4 with too large a block": [[1_080, "53ef"], [1_048, "07000000"], [1_084, "0100"]],
    "ext4 of another state": [[1_080, "53ef"], [1_048, "02000000"], [1_084, "0800"]],
    "XFS": [[0, b"XFSB".hex()]],
    "qcow2": [[0, "514649fb"]],
    "LUKS": [[0, "4c554b53babe"]],
    "GPT at 512": [[512, b"EFI PART".hex()]],
    "GPT at 4096": [[4_096, b"EFI PART".hex()]],
    "GPT at 1024": [[1_024, b"EFI PART".hex()]],
    "MBR": [[510, "55aa"], [446, "80"], [462, "00"], [478, "00"], [494, "00"]],
    "MBR of an impossible state": [[510, "55aa"], [446, "80"], [462, "01"], [478, "00"]],
    "MBR without partitions": [[446, "00" * 64], [510, "55aa"]],
    "LVM": [[1_536, b"LABELONE".hex()]],
    "swap": [[4_086, b"SWAPSPACE2".hex()]],
    "PostgreSQL": [[3 * 8_192 + 12, "1800800000200420"]],
    "PostgreSQL with lower beyond upper": [[3 * 8_192 + 12, "8100800000200420"]],
}


def make_chunking(path: Path) -> None:
    """Cut points, by the independent writer."""
    secret, family = noise(32, 1), noise(16, 2)
    keys = mw.Family(family, secret)
    xof, zeros, repeat = "xof", "zeros", "repeat"
    cases: list[tuple[str, int, list[list[Any]], list[list[Any]]]] = [
        ("empty", 8_192, [], []),
        ("short", 8_192, [[xof, "a", 257]], []),
        ("noise, small chunks", 8_192, [[xof, "b", 200_000]], []),
        ("noise, default chunks", 32_768, [[xof, "b", 600_000]], []),
        ("noise, large chunks", 1_048_576, [[xof, "b", 5_000_000]], []),
        ("no border: chunks as long as can be", 8_192, [[repeat, "c", 3, 100_000]], []),
        ("zeros first, not paged", 8_192, [[zeros, 65_535], [xof, "d", 20_000]], []),
        ("zeros in between", 8_192, [[xof, "e", 70_000], [zeros, 90_000], [xof, "f", 9_999]], []),
        ("zeros, short", 8_192, [[zeros, 65_536]], []),
        ("zeros, paged", 8_192, [[zeros, 300_001]], []),
        ("zeros, then noise: paged", 8_192, [[zeros, 65_536], [xof, "g", 60_001]], []),
        (
            "paged, default chunks",
            32_768,
            [[xof, "h", 300_000], [zeros, 20_000], [xof, "i", 99_999]],
            KINDS_OF_PAGED["SQLite"],
        ),
        ("paged, short", 8_192, [[xof, "j", 65_536]], KINDS_OF_PAGED["SQLite"]),
        ("paged, just long enough", 8_192, [[xof, "j", 65_537]], KINDS_OF_PAGED["SQLite"]),
        ("paged, repeated pages", 65_536, [[repeat, "k", 4_096, 900_000]], KINDS_OF_PAGED["XFS"]),
    ]
    # Cut in pages, the borders are at multiples of 4,096; with these sizes that tells.
    cases += [(kind, 16_384, [[xof, "l", 70_000]], at) for kind, at in KINDS_OF_PAGED.items()]
    found = []
    for name, chunk_bytes, parts, patches in cases:
        data = content(parts, patches)
        offset, cuts = 0, []
        for length, chunk in mw.cut(data, [], chunk_bytes, keys.key("chunker")):
            id = None if chunk is None else mw.keyed(keys.key("chunk id"), chunk).hex()
            cuts.append([offset, length, id])
            offset += length
        assert offset == len(data)
        found.append(
            {
                "name": name,
                "chunk_bytes": chunk_bytes,
                "parts": parts,
                "patches": patches,
                "paged": mw.is_paged(data),
                "cuts": cuts,
            }
        )
    write_json(path, {"family": family.hex(), "family_secret": secret.hex(), "cases": found})


TABLES: dict[str, Callable[[Path], None]] = {
    "keys.json": make_keys,
    "chunking.json": make_chunking,
}

if __name__ == "__main__":
    main(sys.argv[1:])
