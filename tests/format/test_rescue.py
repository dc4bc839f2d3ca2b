"""The independent reader against an independent writer, both from docs/format alone."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard

sys.path.insert(0, str(Path(__file__).parent))  # however the tests are collected

import mini_writer as mw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mini_writer import Item, MiniStore, directory, file

import tree_store

SOURCE = tree_store.SOURCE
rescue = tree_store.rescue()
PASSWORD = b"correct horse"
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
both = pytest.mark.parametrize("sealed", [False, True])


def noise(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


def secret(sealed: bool = True) -> bytes | None:
    return PASSWORD if sealed else None


def refused(task: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(rescue.Damaged):
        task(*arguments)


def make(
    folder: Path, tree: Item, links: Any = None, password: bytes | None = None, **more: Any
) -> tuple[MiniStore, dict[str, Any], Any]:
    """A store with one snapshot of one tree: its writer, the root's record, and its reader."""
    writer = MiniStore(folder / "store", password)
    root = writer.root(tree, links=links)
    writer.snapshot([root], **more)
    return writer, root, rescue.Store(folder / "store", password)


def restore(store: Any, out: Path, *paths: bytes) -> int:
    return int(rescue.restore(store, "latest", str(out), paths))


def chained(pieces: Any) -> bytes:
    data = bytearray()
    for offset, length, part in pieces:
        assert offset == len(data)
        data += bytes(length) if part is None else part
    return bytes(data)


def walk(store: Any, root: dict[str, Any], on_error: Any = None) -> list[tuple[bytes, Any]]:
    return list(store.walk(bytes.fromhex(root["id"]), on_error))


# -- comparing --------------------------------------------------------------------------------


def assert_same(store: Any, item: Item, entry: Any, data: bytes | None = None) -> None:
    for name in ("kind", "mode", "uid", "gid", "mtime_ns"):
        assert getattr(entry, name) == getattr(item, name), name
    assert store.attributes(entry) == sorted(item.xattrs.items())
    if item.kind == mw.FILE:
        data = chained(store.content(entry)) if data is None else data
        assert (entry.size, data) == (item.size, item.content())
        assert list(store.holes(entry)) == item.holes
    elif item.kind == mw.DIRECTORY:
        assert entry.count == len(item.members)
        assert (entry.entries_below, entry.bytes_below) == item.totals()
    elif item.kind == mw.SYMLINK:
        assert entry.target == item.target
    elif item.kind != mw.FIFO:
        assert entry.device == item.device


def flatten(item: Item, path: bytes = b"") -> Iterator[tuple[bytes, Item]]:
    yield path, item
    for name, member in item.members.items():
        yield from flatten(member, path + b"/" + name if path else name)


def assert_tree(store: Any, root: dict[str, Any], item: Item) -> None:
    found, expected = walk(store, root), dict(flatten(item))
    assert {path for path, _ in found} == set(expected) and len(found) == len(expected)
    for path, entry in found:
        assert_same(store, expected[path], entry)


def assert_restored(item: Item, path: bytes) -> None:
    """Compare what is on disk; owners only for root."""
    info = os.lstat(path)
    formats = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFLNK, 4: stat.S_IFIFO}
    assert stat.S_IFMT(info.st_mode) == formats[item.kind]
    assert info.st_mtime_ns == item.mtime_ns
    if os.geteuid() == 0:
        assert (info.st_uid, info.st_gid) == (item.uid, item.gid)
    if item.kind != mw.SYMLINK:
        assert stat.S_IMODE(info.st_mode) == item.mode
    for name, value in item.xattrs.items():
        assert os.getxattr(path, name, follow_symlinks=False) == value
    if item.kind == mw.FILE:
        assert Path(os.fsdecode(path)).read_bytes() == item.content()
    elif item.kind == mw.SYMLINK:
        assert os.readlink(path) == item.target
    elif item.kind == mw.DIRECTORY:
        assert sorted(os.listdir(path)) == sorted(item.members)
        for name, member in item.members.items():
            assert_restored(member, path + b"/" + name)


def has_xattrs(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.test", b"x")
    except OSError:
        return False
    return True


def every_kind(xattrs: bool = True) -> Item:
    sparse = [(8_192, noise(8_192, 1)), (65_536, None), (4_096, noise(4_096, 2)), (4_096, None)]
    attributes = {b"user.a": b"", b"user.b": b"\0\xff"} if xattrs else {}
    link = b"../../etc/\xff\npasswd"
    inner = {b"a b\n\xff%": file(b"1", mtime_ns=-1), b"sub": directory(mode=0o1777)}
    return directory(
        {
            b"empty": file(),
            b"small": file(b"hello\n", mode=0o4755, uid=os.geteuid(), gid=os.getegid()),
            b"edge256": file(noise(256, 3)),
            b"edge257": file(noise(257, 4), mode=0o400),
            b"text": file(b"abcdefgh" * 20_000, xattrs=attributes),
            b"noise": file(noise(150_000, 5)),
            b"sparse": file(parts=sparse, holes=[(8_192, 65_536), (77_824, 4_096)]),
            b"allhole": file(parts=[(1 << 20, None)], holes=[(0, 1 << 20)]),
            b"zeros": file(parts=[(1 << 20, None)]),
            b"tinyhole": file(b"x" + bytes(99), holes=[(50, 50)]),
            b"link": Item(mw.SYMLINK, mode=0o777, target=link),
            b"longlink": Item(mw.SYMLINK, mode=0o777, target=b"t" * 4_095),
            b"fifo": Item(mw.FIFO, mode=0o600),
            b"dir": directory(inner, mode=0o500, mtime_ns=1_000_000_001, xattrs=attributes),
            b"dir.x": file(b"2", mtime_ns=4_000_000_000 * 10**9),
        }
    )


# -- conventions ------------------------------------------------------------------------------


def test_derive_and_keyed_hash_are_blake3() -> None:
    key = rescue.derive("snapstore v1 chunk id", bytes(32))
    assert key == mw.Family().key("chunk id") and len(key) == 32
    assert rescue.keyed_hash(key, b"x") == mw.keyed(key, b"x")


@few
@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_varints(value: int, signed: int) -> None:
    reader = rescue.Reader(mw.varint(value) + mw.zigzag(signed) + b"!")
    assert (reader.varint(), reader.zigzag(), reader.take(1)) == (value, signed, b"!")


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"]
)
def test_bad_varints(data: bytes) -> None:
    refused(rescue.Reader(data).varint)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@few
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_json(value: Any) -> None:
    payload = mw.json_bytes(value)
    assert rescue.decode_json(payload) == value and rescue.encode_json(value) == payload


BAD_JSON = rb"""[] 1 {"a":1}_ {"a":_1} {"b":1,"a":2} {"a":1,"a":1} {"a":1.0} {"a":1e3} {"a":-0}
{"a":NaN} {"a":"\n"} {"a":"\u000A"} {"a":"\u0041"} {"a":"\/"} {"a":"\ud800"} {"a":01} {"a":"
{"a":9223372036854775808} {"a":-9223372036854775809}""".replace(b"_", b"\t").split(b" ")
MORE_BAD_JSON = [
    *(part for line in BAD_JSON for part in line.split(b"\n")),
    *(b"", b'{"a": 1}', b'{"a":"\xff"}', b'{"a":"\x01"}', b"\xef\xbb\xbf{}"),
    *(b'{"a":' + b"9" * 5_000 + b"}", b'{"a":' + b"[" * 64 + b"]" * 64 + b"}"),
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


@pytest.mark.parametrize("payload", MORE_BAD_JSON, ids=lambda payload: repr(payload[:30]))
def test_json_that_is_not_canonical(payload: bytes) -> None:
    refused(rescue.decode_json, payload)


def test_json_of_the_greatest_depth() -> None:
    rescue.decode_json(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")


@few
@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace")))
def test_byte_strings(raw: bytes) -> None:
    assert rescue.encode_text(raw) == mw.text(raw) and rescue.decode_text(mw.text(raw)) == raw


@pytest.mark.parametrize("text", ["%", "%4", "%41", "%ff", "%C3%A9", "\n", "\x7f", "\ud800", "%%"])
def test_byte_strings_that_are_not_canonical(text: str) -> None:
    refused(rescue.decode_text, text)


# -- whole stores -----------------------------------------------------------------------------


@both
def test_every_kind_of_entry(tmp_path: Path, sealed: bool) -> None:
    tree = every_kind(has_xattrs(tmp_path))
    ops = [["set", "name", "mine"], ["tag", "t"]]
    writer, root, store = make(tmp_path, tree, password=secret(sealed), ops=ops)
    (snapshot_id,) = store.snapshots()
    assert_tree(store, root, tree)
    assert store.check() == {}
    packs = {item: (kind, size) for item, kind, size in writer.packs}
    assert store.refs(snapshot_id) == (True, packs) and store.refs("0" * 64) is None
    out = tmp_path / "out"
    assert rescue.restore(store, "mine", str(out)) == 0
    assert_restored(tree, os.fsencode(out))


@both
def test_long_sequences(tmp_path: Path, sealed: bool) -> None:
    """Directories, chunk lists, hole maps, link tables of several levels; long attributes."""
    parts: list[tuple[int, bytes | None]] = []
    holes: list[tuple[int, int]] = []
    for n in range(400):
        parts += [(100, noise(100, n)), (50 + n, None)]
        holes.append((sum(length for length, _ in parts) - 50, 50))
    chunks: list[tuple[int, bytes | None]] = [(64, noise(64, n + 1_000)) for n in range(1_500)]
    names = [b"l%05d" % n for n in range(2_500)]
    xattrs = {b"user.%03d" % n: noise(1_000, n) for n in range(30)} | {b"user.z": bytes(9_000)}
    tree = directory(
        {
            b"many": directory({b"%06d" % n: file(b"%d" % n) for n in range(3_000)}),
            b"sparse": file(parts=parts, holes=holes),
            b"chunks": file(parts=chunks),
            b"in place": file(parts=chunks[:32], xattrs={b"user.a": bytes(2_038)}),
            b"in a node": file(parts=chunks[:33], xattrs={b"user.a": bytes(2_039)}),
            b"linked": directory({name: file(b"linked", uid=1) for name in names}),
            b"xattrs": file(xattrs=xattrs),
        }
    )
    table = {b"linked/" + name: b"linked/" + names[0] for name in names[1:]}
    _, root, store = make(tmp_path, tree, table, secret(sealed))
    assert_tree(store, root, tree)
    root_id = bytes.fromhex(root["id"])
    assert store.links(root_id) == table
    find = dict(walk(store, root)).__getitem__
    tops = [find(b"many").top, find(b"linked").top, find(b"chunks").content[2]]
    tops += [find(b"sparse").content[2], find(b"sparse").holes[2], store.root(root_id).last]
    assert min(store.node(top).level for top in tops) >= 1
    assert isinstance(find(b"in place").attributes, bytes)
    assert not isinstance(find(b"in a node").attributes, bytes)
    assert store.check() == {}
    del tree.members[b"xattrs"], tree.members[b"in place"], tree.members[b"in a node"]
    out = tmp_path / "out"
    assert restore(store, out, *tree.members) == 0
    assert len({os.stat(out / "linked" / os.fsdecode(name)).st_ino for name in names}) == 1
    assert_restored(tree, os.fsencode(out))


def test_times_wrap(tmp_path: Path) -> None:
    low, high = -(2**63) * 10**9, (2**63 - 1) * 10**9 + 5
    members = {b"a": file(mtime_ns=low), b"b": file(mtime_ns=high), b"c": file(mtime_ns=low)}
    _, root, store = make(tmp_path, directory(members))
    assert_tree(store, root, directory(members))


def test_hard_links_across_directories(tmp_path: Path) -> None:
    """The first path bytewise is not the first one met, and its directory is closed by then."""
    shared, pipe = file(b"shared" * 100, mode=0o640), Item(mw.FIFO, mode=0o600)
    tree = directory(
        {
            b"a": directory({b"x": shared, b"p": pipe}, mode=0o500),
            b"a.b": shared,
            b"c": directory({b"y": shared, b"p": pipe}, mode=0o700),
        }
    )
    store = make(tmp_path, tree, {b"a/x": b"a.b", b"c/y": b"a.b", b"c/p": b"a/p"})[2]
    assert store.check() == {}
    out = tmp_path / "out"
    assert restore(store, out) == 0
    assert_restored(tree, os.fsencode(out))
    assert len({os.stat(out / name).st_ino for name in ("a/x", "a.b", "c/y")}) == 1
    assert os.stat(out / "a/p").st_ino == os.stat(out / "c/p").st_ino
    one = tmp_path / "one"
    assert restore(store, one, b"c") == 0
    assert os.listdir(one) == ["c"] and (one / "c/y").read_bytes() == shared.data


def test_hard_links_that_differ_are_found(tmp_path: Path) -> None:
    tree = directory({b"a": file(b"1"), b"b": file(b"2")})
    store = make(tmp_path, tree, {b"b": b"a"})[2]
    out = tmp_path / "out"
    assert restore(store, out) == 3
    assert (out / "a").read_bytes() == b"1" and (out / "b").read_bytes() == b"2"
    assert "hard links that differ" in str(store.check().values())


def test_paths_longer_than_the_system_allows(tmp_path: Path) -> None:
    name, depth = b"n" * 200, 60
    tree = directory({b"leaf": file(b"deep"), b"twin": file(b"deep")})
    for _ in range(depth):
        tree = directory({name: tree})
    links = {(name + b"/") * depth + b"twin": (name + b"/") * depth + b"leaf"}
    out = tmp_path / "out"
    assert restore(make(tmp_path, tree, links)[2], out) == 0
    here = os.open(out, os.O_RDONLY)
    for _ in range(depth):
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    infos = [os.stat(leaf, dir_fd=here) for leaf in ("leaf", "twin")]
    os.close(here)
    assert infos[0].st_ino == infos[1].st_ino and infos[0].st_mtime_ns == Item(mw.FILE).mtime_ns
    subprocess.run(["rm", "-rf", str(out)], check=True)


def test_depth_is_bounded_and_not_recursive(tmp_path: Path) -> None:
    for depth in (4_096, 4_097):
        writer = MiniStore(tmp_path / f"{depth}")
        columns = mw.varint(0)
        for level in range(depth):
            top = writer.node(b"\1\0\1\1d\2" + mw.varint(0o755) + bytes(4) + columns)
            columns = mw.varint(1) + top + mw.varint(level + 1) + mw.varint(0)
        root = hostile(writer, columns, depth + 1)
        writer.snapshot([root])
        store = rescue.Store(tmp_path / f"{depth}")
        out = tmp_path / f"out{depth}"
        assert restore(store, out) == (0 if depth == 4_096 else 3)
        subprocess.run(["rm", "-rf", str(out)], check=True)
        if depth == 4_096:
            assert len(walk(store, root)) == depth + 1 and store.check() == {}
        else:
            with pytest.raises(rescue.Damaged, match="too deep"):
                walk(store, root)
            assert "too deep" in str(store.check())


def test_several_roots_and_kinds(tmp_path: Path) -> None:
    writer = MiniStore(tmp_path / "store")
    home = directory({b"f": file(b"f")}, mtime_ns=5)
    slash = directory({b"home": directory(mtime_ns=6), b"x": file(b"x")}, mtime_ns=7)
    link = Item(mw.SYMLINK, mode=0o777, target=b"there")
    writer.snapshot(
        [
            writer.root(slash, b"/"),
            writer.root(home, b"/home/me"),
            writer.root(file(b"image"), b"/dev/sda1", kind="image"),
            writer.root(file(b"dump"), b"dump.sql", kind="stream"),
            writer.root(link, b"/link"),
        ]
    )
    store = rescue.Store(tmp_path / "store")
    assert store.check() == {}
    out = tmp_path / "out"
    assert restore(store, out) == 0
    for name, data in {"home/me/f": b"f", "dev/sda1": b"image", "dump.sql": b"dump"}.items():
        assert (out / name).read_bytes() == data
    assert os.readlink(out / "link") == "there"
    assert [os.stat(out / name).st_mtime_ns for name in ("home/me", "home", ".")] == [5, 6, 7]
    some = tmp_path / "some"
    assert restore(store, some, b"/home/me/f", b"dump.sql") == 0
    files = sorted(str(path.relative_to(some)) for path in some.rglob("*") if path.is_file())
    assert files == ["dump.sql", "home/me/f"]
    assert restore(store, tmp_path / "dev", b"/dev/") == 0 and (tmp_path / "dev/dev/sda1").exists()
    assert restore(store, tmp_path / "no", b"/nowhere") == 3


@pytest.mark.parametrize(("kind", "path"), [("file", b"/a/name"), ("stream", b"name")])
def test_a_single_file_as_root(tmp_path: Path, kind: str, path: bytes) -> None:
    writer, tree = MiniStore(tmp_path / "store"), file(noise(1_000))
    writer.snapshot([writer.root(tree, path, kind=kind)])
    assert restore(rescue.Store(tmp_path / "store"), tmp_path / "out") == 0
    assert_restored(tree, os.fsencode(tmp_path / "out/name"))


def test_roots_lead_nowhere_else(tmp_path: Path) -> None:
    """Neither a symbolic link of one root nor a recorded path leads another one away."""
    outside, out = tmp_path / "outside", tmp_path / "deep/out"
    outside.mkdir()
    out.parent.mkdir()
    link = Item(mw.SYMLINK, mode=0o777, target=os.fsencode(outside))
    writer = MiniStore(tmp_path / "store")
    roots = [writer.root(link, b"/a"), writer.root(file(b"evil"), b"/a/b")]
    writer.snapshot([*roots, writer.root(file(b"1"), b"/x/../../b"), writer.root(file(), b"/c")])
    assert restore(rescue.Store(tmp_path / "store"), out) == 3
    assert os.listdir(outside) == [] and os.listdir(out.parent) == ["out"]
    assert sorted(os.listdir(out)) == ["a", "c"]


def test_labels_fold_in_order(tmp_path: Path) -> None:
    ops: list[Any] = [["set", "name", "a"], ["tag", "x"], ["tag", "y"], ["meta", "k", [1, None]]]
    writer, _, store = make(tmp_path, directory(), ops=ops)
    (snapshot_id,) = store.snapshots()
    writer.label(snapshot_id, [["set", "name", "c"], ["meta", "k", None], ["meta", "m", True]], 3)
    writer.label(snapshot_id, [["set", "name", "b"], ["untag", "x"], ["future", 1]], 2)
    writer.label("0" * 64, [["set", "name", "other"]])
    expected = {"fields": {"name": "c"}, "tags": ["y"], "meta": {"m": True}}
    assert store.labels(snapshot_id) == {**expected, "unknown": [["future", 1]]}


def test_other_objects(tmp_path: Path) -> None:
    writer, _, store = make(tmp_path, directory())
    name = writer.ref("branch", "main", {"a": 1})
    lease = {"session": "01h455vb4pex5vsknk084sn02q", "settled": 0, "purpose": "create"}
    payload = mw.json_bytes({**lease, "host": "h", "pid": 1, "started_ns": 1})
    writer.object("sess", "01h455vb4pex5vsknk084sn02q-0001", payload, counted=False)
    for end in ("", "-sweep", "-done"):
        payload = mw.json_bytes({"generation": 1, **({} if end else {"condemned": ["0" * 64]})})
        writer.object("gc", "00000001-" + "0" * 32 + end, payload, counted=False)
    for ignored in ("unknown/x", "snap/short", "data/zz/nothing", "data/00/short", "tmp/x"):
        writer.write(ignored, b"junk")
    assert store.check() == {}
    os.rename(tmp_path / "store/ref/branch", tmp_path / "store/ref/policy")
    assert list(store.check()) == [name.replace("branch", "policy")]


# -- the command line -------------------------------------------------------------------------


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_as_a_single_copied_file(tmp_path: Path) -> None:
    script, given, store = tmp_path / "rescue.py", tmp_path / "password", tmp_path / "store"
    writer = MiniStore(store, secret())
    tree = directory({b"f": file(b"content"), b"g": file(noise(99_999))})
    root = writer.root(tree, b"/home/\x1b[31mme")
    snapshot_id = writer.snapshot([root], [["set", "name", "weekly"]])
    shutil.copy(SOURCE, script)
    given.write_bytes(PASSWORD + b"\n")
    listed = run(script, store, SNAP_PASSWORD=PASSWORD.decode())
    assert listed.returncode == 0, listed.stderr
    assert snapshot_id[:16] in listed.stdout and "weekly" in listed.stdout
    assert "\x1b" not in listed.stdout
    checked = run(script, store, "--check", "--password-file", given)
    assert (checked.returncode, checked.stdout) == (0, "no problems\n")
    out = tmp_path / "out"
    done = run(script, store, snapshot_id[:8], out, "--password-file", given)
    assert done.returncode == 0, done.stderr
    assert_restored(tree, os.fsencode(out))
    done = run(script, store, "latest", tmp_path / "g", "--path", "g", "--password-file", given)
    assert done.returncode == 0 and os.listdir(tmp_path / "g") == ["g"]
    again = run(script, store, "weekly", out, "--password-file", given)
    assert again.returncode == 1 and "not an empty directory" in again.stderr
    wrong = run(script, store, SNAP_PASSWORD="wrong")
    assert wrong.returncode == 1 and "password" in wrong.stderr
    assert run(script, store, "nothing", tmp_path / "o", SNAP_PASSWORD="x").returncode == 1
    assert run(script, tmp_path / "missing").returncode == 1


def test_choosing_a_snapshot(tmp_path: Path) -> None:
    writer, root, store = make(tmp_path, directory(), ops=[["set", "name", "twice"]], time_ns=1)
    (old,) = store.snapshots()
    new = writer.snapshot([root], [["set", "name", "twice"]], time_ns=2)
    assert rescue.choose(store, "latest")[0] == new
    assert rescue.choose(store, old[:20])[0] == old
    for wanted in ("twice", ""):
        with pytest.raises(rescue.StoreError, match="means 2"):
            rescue.choose(store, wanted)
    with pytest.raises(rescue.Missing):
        rescue.choose(store, "none")


# -- damage -----------------------------------------------------------------------------------


def damage_store(tmp_path: Path, password: bytes | None) -> tuple[dict[str, Any], Item]:
    members: dict[bytes, Item] = {
        b"big": file(noise(70_000, 1)),
        b"dir": directory({b"%d" % n: file(b"%d" % n * 300) for n in range(40)}),
        b"links": directory({b"a": file(b"l"), b"b": file(b"l")}),
        b"xattr": file(b"", xattrs={b"user.a": noise(6_000)}),
    }
    links, ops = {b"links/b": b"links/a"}, [["set", "name", "n"]]
    writer, root, _ = make(tmp_path, directory(members), links, password, ops=ops)
    writer.ref("branch", "main", 1)
    payload = mw.json_bytes({"session": "x", "settled": 0, "purpose": "create"})
    writer.object("sess", "01h455vb4pex5vsknk084sn02q-0001", payload, counted=False)
    payload = mw.json_bytes({"generation": 1})
    writer.object("gc", "00000001-" + "0" * 32, payload, counted=False)
    return root, directory(members)


@both
def test_flipped_bits_never_give_wrong_bytes(tmp_path: Path, sealed: bool) -> None:
    """A bit flipped in any object is found by a check; what is still given back is right."""
    password = secret(sealed)
    root, tree = damage_store(tmp_path, password)
    store_path, expected, choices = tmp_path / "store", dict(flatten(tree)), random.Random(7)
    paths = sorted(path for path in store_path.rglob("*") if path.is_file())
    kinds = {path.relative_to(store_path).parts[0] for path in paths} - {"key"}
    assert kinds == {"config", "data", "meta", "snap", "label", "refs", "ref", "sess", "gc"}
    for path in paths:
        original = path.read_bytes()
        edges = [*range(0, 40, 5), 100, len(original) - 1, len(original) - 20, len(original) - 40]
        anywhere = [choices.randrange(len(original)) for _ in range(4 if sealed else 12)]
        for at in [position for position in edges if position < len(original)] + anywhere:
            changed = bytearray(original)
            changed[at] ^= 1 << choices.randrange(8)
            path.write_bytes(changed)
            try:
                store = rescue.Store(store_path, password)
            except rescue.StoreError:
                continue
            assert store.check(), f"{path.relative_to(store_path)} at {at}"
            with suppress(rescue.StoreError):
                for name, entry in walk(store, root, lambda *_: None):
                    with suppress(rescue.StoreError):
                        assert_same(store, expected[name], entry)
        path.write_bytes(original)


def test_truncation_at_any_length(tmp_path: Path) -> None:
    damage_store(tmp_path, None)

    def sound() -> bool:
        try:
            return not rescue.Store(tmp_path / "store").check()
        except rescue.StoreError:
            return False

    for path in sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file()):
        original = path.read_bytes()
        for length in {0, 1, 31, 32, 95, 96, len(original) // 2, len(original) - 1}:
            if length < len(original):
                path.write_bytes(original[:length])
                assert not sound(), f"{path} {length}"
        path.write_bytes(original + b"\0")
        assert not sound()
        path.write_bytes(original)
    assert sound()


def test_a_damaged_pack_costs_only_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, data = MiniStore(tmp_path / "store"), noise(5_000, 1)
    writer.chunk(data)
    (damaged,) = writer.flush()
    lost = file(parts=[(5_000, data)])
    partly = file(parts=[(4_000, noise(4_000, 2)), (5_000, data)])
    tree = directory({b"lost": lost, b"partly": partly, b"kept": file(noise(9_000, 3))})
    root = writer.root(tree)
    del writer.pending[1][mw.keyed(writer.family.key("chunk id"), data)]
    writer.snapshot([root])
    mw.rewrite(tmp_path / "store" / damaged, lambda raw: raw.__setitem__(200, raw[200] ^ 1))
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert restore(rescue.Store(tmp_path / "store"), out) == 3
    assert os.listdir(out) == ["kept"] and (out / "kept").read_bytes() == noise(9_000, 3)
    listed = capsys.readouterr().err
    assert "/data/lost:" in listed and "/data/partly:" in listed and "/data/kept" not in listed
    assert len(rescue.Store(tmp_path / "store").check()) == 3
    writer.chunk(data)
    writer.flush()
    assert restore(rescue.Store(tmp_path / "store"), whole) == 0
    assert_restored(tree, os.fsencode(whole))


def test_lost_nodes(tmp_path: Path) -> None:
    """Of a directory in several leaves, the others are still given; of a file, all but holes."""
    many: dict[bytes, Item] = {b"%06d" % n: file(b"%d" % n) for n in range(3_000)}
    holes = [(1_000 * n, 500) for n in range(40)]
    many[b"sparse"] = file(parts=[(40_000, None)], holes=holes)
    writer = MiniStore(tmp_path / "store")
    root = writer.root(directory(many))
    for kind in (b"\1\0", b"\3\0"):
        nodes = writer.pending[2]
        del nodes[next(item for item, data in nodes.items() if data[:2] == kind)]
    writer.snapshot([root])
    store = rescue.Store(tmp_path / "store")
    errors: list[Any] = []
    found = walk(store, root, lambda path, error: errors.append(error))
    assert len(errors) == 1 and isinstance(errors[0], rescue.Missing)
    assert 1_500 < len(found) < 3_002
    with pytest.raises(rescue.Missing):
        walk(store, root)
    assert restore(store, tmp_path / "out") == 3
    assert (tmp_path / "out/sparse").read_bytes() == bytes(40_000)
    assert len(os.listdir(tmp_path / "out")) == len(found) - 1


def test_missing_pack(tmp_path: Path) -> None:
    root, _ = damage_store(tmp_path, None)
    shutil.rmtree(tmp_path / "store/meta")
    store = rescue.Store(tmp_path / "store")
    with pytest.raises(rescue.Missing):
        store.root(bytes.fromhex(root["id"]))
    assert store.check() and restore(store, tmp_path / "out") == 3


# -- keys, versions, features -----------------------------------------------------------------


def test_passwords(tmp_path: Path) -> None:
    writer, _, _ = make(tmp_path, directory({b"f": file(noise(500))}), password=secret())
    writer.add_key(b"second", rotate=True)
    writer.snapshot([writer.root(directory({b"g": file(noise(600))}))])
    for wrong in (None, b"", b"wrong"):
        with pytest.raises(rescue.WrongPassword):
            rescue.Store(tmp_path / "store", wrong)
    store = rescue.Store(tmp_path / "store", b"second")
    assert len(store.snapshots()) == 2 and store.check() == {}
    old = rescue.Store(tmp_path / "store", PASSWORD)
    assert len(old.snapshots()) == 1 and "master key 2" in str(old.problems)


def test_an_exchanged_config_is_found(tmp_path: Path) -> None:
    writer = MiniStore(tmp_path / "store", secret())
    (tmp_path / "store/config").unlink()
    changed = writer.config.replace(b"mini_writer", b"mini_wright")
    writer.write("config", mw.frame(changed, 1))
    with pytest.raises(rescue.Damaged, match="config"):
        rescue.Store(tmp_path / "store", PASSWORD)


def test_an_unsealed_object_in_a_sealed_store_is_refused(tmp_path: Path) -> None:
    writer, _, store = make(tmp_path, directory(), password=secret())
    (snapshot_id,) = store.snapshots()
    masters, writer.family.masters = writer.family.masters, {}
    label = writer.label(snapshot_id, [["set", "name", "evil"]], 2)
    writer.chunk(b"evil")
    (pack,) = writer.flush()
    writer.family.masters = masters
    assert store.labels(snapshot_id)["fields"] == {}
    assert set(store.check()) == {label, pack}


def test_a_sealed_object_cannot_pass_for_another(tmp_path: Path) -> None:
    writer, root, store = make(tmp_path, directory(), None, secret(), ops=[["set", "name", "a"]])
    (snapshot_id,) = store.snapshots()
    other = writer.snapshot([root], [["set", "name", "b"]], time_ns=5)
    mine, yours = ((tmp_path / "store/label").glob(f"{i}*") for i in (snapshot_id, other))
    next(mine).write_bytes(next(yours).read_bytes())
    assert store.labels(snapshot_id)["fields"] == {} and store.problems


def test_versions_and_features(tmp_path: Path) -> None:
    newer: list[dict[str, Any]] = [{"format": 2}, {"features": {"optional": [], "required": ["x"]}}]
    for number, change in enumerate(newer):
        MiniStore(tmp_path / str(number), config=change)
        with pytest.raises(rescue.NewerVersion):
            rescue.Store(tmp_path / str(number))
    features = {"optional": ["parity"], "required": []}
    writer = MiniStore(tmp_path / "store", config={"features": features, "future": {"x": 1}})
    writer.snapshot([writer.root(directory())], needs=["inline"])
    good = writer.snapshot([writer.root(directory())], future=[1])
    store = rescue.Store(tmp_path / "store")
    assert store.config["future"] == {"x": 1} and list(store.snapshots()) == [good]
    assert store.snapshot(good)["future"] == [1]
    assert [type(error) for error in store.problems.values()] == [rescue.NewerVersion]


@pytest.mark.parametrize(
    "change",
    [{"family": "00"}, {"family": "A" * 32}, {"store": 1}, {"sealed": 1}, {"features": []}],
)
def test_bad_configs(tmp_path: Path, change: dict[str, Any]) -> None:
    MiniStore(tmp_path / "store", config=change)
    refused(rescue.Store, tmp_path / "store")


KDF = {"lanes": 1, "memory_kib": 8_192, "name": "argon2id", "passes": 1, "salt": "00" * 16}
BAD_KDF: list[tuple[str, Any]] = [("memory_kib", 8_191), ("memory_kib", 4_194_305), ("passes", 0)]
BAD_KDF += [("passes", 65), ("passes", True), ("lanes", 0), ("lanes", 17), ("name", "scrypt")]
BAD_KDF += [("salt", "00" * 15), ("salt", "00" * 65)]


@pytest.mark.parametrize(("name", "value"), BAD_KDF)
def test_bounds_of_key_derivation(name: str, value: Any) -> None:
    key = {"name": "k", "nonce": "00" * 12, "wrapped": "00" * 40, "created_ns": 1}
    rescue.decode_key(mw.json_bytes({**key, "kdf": KDF}))
    refused(rescue.decode_key, mw.json_bytes({**key, "kdf": {**KDF, name: value}}))


ROOT = {"path": "/a", "kind": "file", "id": "00" * 32, "entries": 1, "bytes": 1}
BAD_SNAPSHOTS: list[dict[str, Any]] = [{"roots": {}}, {"roots": [1]}, {"needs": "inline"}]
BAD_SNAPSHOTS += [{"roots": [{**ROOT, "id": "00"}]}, {"roots": [{**ROOT, "path": "%41"}]}]
BAD_SNAPSHOTS += [{"roots": [{**ROOT, "kind": "door"}]}, {"roots": [{**ROOT, "entries": -1}]}]
BAD_SNAPSHOTS += [{"time_ns": "1"}, {"time_ns": 2**63}, {"host": None}]


@pytest.mark.parametrize("change", BAD_SNAPSHOTS)
def test_bad_snapshot_records(scratch: MiniStore, change: dict[str, Any]) -> None:
    record = scratch.snapshot_record([ROOT])
    rescue.decode_snapshot(mw.json_bytes(record))
    with pytest.raises(rescue.Damaged):
        rescue.decode_snapshot(mw.json_bytes({**record, **change}))


# -- frames and packs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0x73), (4, 0), (4, 2), (5, 4), (6, 2), (7, 2), (8, 1), (24, 0), (24, 9), (28, 1), (28, 0)],
)
def test_frames_against_the_rules(at: int, value: int) -> None:
    data, keys = bytearray(mw.frame(b"payload", 3)), rescue.Keys(bytes(16))
    assert rescue.decode_frame(bytes(data), 3, "", keys) == (bytes(16), b"payload")
    data[at] = value
    data[-8:] = mw.xxh3(bytes(data[:-8]))  # a checksum that fits does not help
    with pytest.raises(rescue.StoreError):
        rescue.decode_frame(bytes(data), 3, "", keys)


def test_compressed_bytes_against_the_rules() -> None:
    plain = b"a" * 1_000
    coded = zstandard.ZstdCompressor().compress(plain)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    assert rescue.inflate(coded, 1, 1_000) == rescue.inflate(unsized, 1, 1_000) == plain
    assert rescue.inflate(zstandard.ZstdCompressor().compress(b""), 1, 0) == b""
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    bad = [coded + b"\0", coded + coded, coded[:-1], skippable + coded, b"", skippable]
    bad += [unsized + b"\0", unsized + unsized, unsized[:-1], coded + skippable]
    for data in bad:
        refused(rescue.inflate, data, 1, 1_000)
    for length in (0, 999, 1_001):
        refused(rescue.inflate, coded, 1, length)
        refused(rescue.inflate, unsized, 1, length)
    refused(rescue.inflate, zstandard.ZstdCompressor().compress(bytes(1 << 26)), 1, 1_000)
    refused(rescue.inflate, plain, 2, 1_000)


def footer(blocks: list[tuple[int, int, int]], lengths: list[int], extra: bytes = b"") -> bytes:
    out = mw.varint(len(blocks)) + b"".join(mw.varint(n) for block in blocks for n in block)
    return out + b"".join(map(mw.varint, lengths)) + bytes(32 * len(lengths)) + extra


def test_footers() -> None:
    good = rescue.decode_footer(footer([(50, 30, 2), (40, 9, 0), (60, 7, 1)], [10, 20, 7]), 1)
    assert good[:2] == ([50, 40, 60], [30, 9, 7])
    assert [place for _, place in good[2]] == [(0, 0, 10), (0, 10, 20), (2, 0, 7)]
    four = 4_194_304
    rescue.decode_footer(footer([(50, 2 * four, 2)], [four, four]), 1)
    rescue.decode_footer(footer([(50, 2 * four, 1)], [2 * four]), 2)
    bad = [footer([(50, 30, 2)], [10, 19]), footer([(50, 10, 2)], [10, 0])]
    bad += [footer([(31, 10, 1)], [10]), footer([(50, 10, 1)], [10], b"\0")]
    bad += [footer([(50, 2 * four, 1)], [2 * four]), footer([(50, 10, 262_145)], [1] * 10)]
    bad += [footer([(50, 2 * four + 1, 2)], [four, four + 1]), footer([(50, 10, 200_000)] * 2, [])]
    bad += [mw.varint(65_536), mw.varint(2**40), footer([(50, 10, 1)], [10])[:-1], b""]
    for plain in bad:
        refused(rescue.decode_footer, plain, 1)


def test_packs_against_the_rules(tmp_path: Path) -> None:
    """Checksums that fit do not make up for a header that breaks the rules."""
    family, data = mw.Family(), b"one" * 50
    chunk = (mw.keyed(family.key("chunk id"), data), data)
    raw = mw.pack([[chunk], [(bytes(32), noise(200))]], 1, family)
    length = 32 + int.from_bytes(raw[108:112], "little")
    places = [(8, 2), (9, 2), (9, 3), (10, 1), (11, 1), (12, 1), (16, 9), (32, 1), (80, 1)]
    block = [(0, 1), (4, 1), (8, 2), (8, 3), (9, 0), (9, 2), (10, 1), (11, 1), (16, 1), (20, 1)]
    places += [(96 + at, value) for at, value in block]
    for number, (at, value) in enumerate([*places, (0, raw[0])]):
        changed = bytearray(raw)
        changed[at] = value
        changed[88 + length : 96 + length] = mw.xxh3(bytes(changed[96 : 88 + length]))
        changed[88:96] = mw.xxh3(bytes(changed[:88]))
        changed[-16:-8] = mw.xxh3(bytes(changed[:96] + changed[-32:-16]))
        MiniStore(tmp_path / str(number)).add_raw_pack(bytes(changed), 1)
        store = rescue.Store(tmp_path / str(number))
        if at:
            with pytest.raises(rescue.StoreError):
                store.chunk(chunk[0])
        else:  # nothing changed
            assert store.chunk(chunk[0]) == data and store.check() == {}


def test_chunks_that_are_not_what_their_ids_say(tmp_path: Path) -> None:
    writer = MiniStore(tmp_path / "store")
    wrong = mw.keyed(writer.family.key("chunk id"), b"right")
    writer.add_pack([[(wrong, b"wrong")]], 1)
    with pytest.raises(rescue.Damaged, match="not what its id says"):
        rescue.Store(tmp_path / "store").chunk(wrong)
    writer.add_pack([[(wrong, b"wrong"), (wrong, b"right")]], 1)
    assert rescue.Store(tmp_path / "store").chunk(wrong) == b"right"


def test_refs_against_the_rules() -> None:
    one, two = b"\1" * 32, b"\2" * 32
    sizes = mw.varint(500) + mw.varint(600)
    good = b"\1\2" + one + two + b"\1\2" + sizes
    assert rescue.decode_refs(good) == (True, {one: (1, 500), two: (2, 600)})
    assert rescue.decode_refs(b"\0\0") == (False, {})
    bad = [b"", b"\2\0", b"\1\1", good + b"\0", good[:-1], b"\1" + mw.varint(2**60)]
    bad += [b"\1\2" + two + one + b"\1\2" + sizes, b"\1\2" + one + one + b"\1\2" + sizes]
    bad += [b"\1\1" + one + b"\3" + mw.varint(500), b"\1\1" + one + b"\1" + mw.varint(2**40)]
    for payload in bad:
        refused(rescue.decode_refs, payload)


# -- nodes ------------------------------------------------------------------------------------

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
)
COMMON: dict[str, Any] = {
    "mode": st.integers(0, 0o7777),
    "uid": st.integers(0, 2**32 - 1),
    "gid": st.integers(0, 2**32 - 1),
    "mtime_ns": st.integers(-(2**63) * 10**9, 2**63 * 10**9 - 1),
    "xattrs": st.dictionaries(st.from_regex(rb"\Auser\.[a-z]{1,5}\Z"), st.binary(max_size=9)),
}
TARGETS = st.binary(min_size=1, max_size=9).map(lambda t: t.replace(b"\0", b"/"))
NUMBERS = st.integers(0, 2**32 - 1)
ITEMS = st.one_of(
    st.builds(Item, st.just(mw.FILE), data=st.binary(max_size=400), **COMMON),
    st.builds(Item, st.just(mw.SYMLINK), target=TARGETS, **COMMON),
    st.builds(Item, st.sampled_from([mw.FIFO, mw.DIRECTORY]), **COMMON),
    st.builds(Item, st.sampled_from([5, 6]), device=st.tuples(NUMBERS, NUMBERS), **COMMON),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> MiniStore:
    return MiniStore(tmp_path_factory.mktemp("scratch"))


@few
@given(st.dictionaries(NAMES, ITEMS, min_size=1, max_size=8))
def test_directory_leaves(scratch: MiniStore, members: dict[bytes, Item]) -> None:
    entries = sorted(members.items())
    node = b"\x01\x00" + mw.varint(len(entries)) + scratch.columns(entries)
    store = rescue.Store(scratch.path)
    for (name, item), entry in zip(entries, rescue.decode_node(node).items, strict=True):
        assert entry.name == name
        data = entry.content
        if item.size > 256:
            chunks = scratch.pending[1]
            data = b"".join(bytes(n) if i == ZERO else chunks[i] for n, i in entry.content[1])
        assert_same(store, item, entry, data)
    for cut in range(len(node)):
        refused(rescue.decode_node, node[:cut])
    refused(rescue.decode_node, node + b"\0")


@few
@given(st.binary(max_size=200), st.integers(1, 5), st.integers(0, 2))
def test_arbitrary_bytes(data: bytes, kind: int, level: int) -> None:
    """Any bytes decode, or are refused with a typed error."""
    tasks: list[Callable[[bytes], Any]] = [
        lambda payload: rescue.decode_node(bytes([kind, level]) + payload),
        *(rescue.decode_json, rescue.decode_refs, rescue.decode_attributes),
        lambda payload: rescue.decode_footer(payload, 1),
        lambda payload: rescue.decode_frame(payload, 1, "", rescue.Keys(b"")),
        lambda payload: rescue.inflate(payload, 1, 100),
        lambda payload: rescue.inflate(b"\x28\xb5\x2f\xfd" + payload, 1, 100),
        rescue.decode_pack_header,
        lambda payload: rescue.decode_block(payload, 0, 1, (1, 0, 0, b"", b""), None),
    ]
    for task in tasks:
        with suppress(rescue.StoreError):
            task(data)


@few
@given(st.data())
def test_mutated_nodes(scratch: MiniStore, data: st.DataObject) -> None:
    members = data.draw(st.dictionaries(NAMES, ITEMS, min_size=1, max_size=4))
    node = bytearray(scratch.root_node(directory(members)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(node) - 1))
        node[at] = data.draw(st.integers(0, 255))
    with suppress(rescue.Damaged):
        rescue.decode_node(bytes(node))


def one(name: bytes = b"a", kind: int = 1, rest: bytes = b"\0", mode: int = 0o644) -> bytes:
    """A directory leaf of one entry, by default an empty file."""
    return b"\1\0\1" + mw.string(name) + bytes([kind]) + mw.varint(mode) + bytes(4) + rest


CHUNK = b"\x07" * 32
ZERO = mw.ZERO_ID
V = mw.varint
BAD_NODES: dict[str, bytes] = {
    "empty": b"",
    "kind 0": b"\x00\x00\x01",
    "kind 6": b"\x06\x00\x01",
    "level 13": b"\x01\x0d\x01" + mw.string(b"a") + b"\x01" + CHUNK,
    "root of level 1": b"\x05\x01" + one()[3:],
    "no items": b"\x01\x00\x00",
    "too many items": b"\x02\x00" + V(1_025) + b"\x01" * 1_025 + CHUNK * 1_025,
    "name empty": one(b""),
    "name .": one(b"."),
    "name ..": one(b".."),
    "name with slash": one(b"a/b"),
    "name with NUL": one(b"a\0"),
    "name too long": one(b"a" * 256),
    "type 0": one(kind=0),
    "type 7": one(kind=7),
    "unknown flag": one(kind=0x41),
    "directory with holes": one(kind=0x22),
    "mode": one(mode=0o10000),
    "bytes left over": one() + b"\0",
    "long varint": one(rest=b"\x80\x00"),
    "size of 2^63": one(rest=V(2**63) + b"\x01" + V(2**63) + ZERO),
    "chunks too few": one(rest=V(300) + b"\x01" + V(299) + CHUNK),
    "chunk of no bytes": one(rest=V(300) + b"\x02" + V(300) + b"\0" + CHUNK * 2),
    "chunk too long": one(rest=V(2**23) + b"\x01" + V(2**23) + CHUNK),
    "zero run after zero run": one(rest=V(600) + b"\x02" + V(300) * 2 + ZERO * 2),
    "no chunks": one(rest=V(300) + b"\0"),
    "holes without any": one(kind=0x21, rest=b"\x01x\x00"),
    "hole of no bytes": one(kind=0x21, rest=b"\x01\0\x01\x00\x00"),
    "hole too far": one(kind=0x21, rest=b"\x01\0\x01\x00\x02"),
    "holes that touch": one(kind=0x21, rest=b"\x03\0\0\0\x02\x00\x01\x00\x01"),
    "directory of fewer below": one(kind=2, rest=b"\x02" + CHUNK + b"\x01\x00"),
    "link to nothing": one(kind=3),
    "link with NUL": one(kind=3, rest=b"\x01\0"),
    "link too long": one(kind=3, rest=mw.string(b"a" * 4_096)),
    "device of 33 bits": one(kind=5, rest=V(1) + V(2**32)),
    "attributes without any": one(kind=0x11, rest=b"\x00\x01\x00"),
    "attributes empty": one(kind=0x11, rest=b"\x00\x00"),
    "attribute unnamed": one(kind=0x11, rest=b"\x00\x03\x01\x00\x00"),
    "attributes unsorted": one(kind=0x11, rest=b"\x00\x07\x02\x01b\x00\x01a\x00"),
    "attributes twice": one(kind=0x11, rest=b"\x00\x07\x02\x01a\x00\x01a\x00"),
    "attributes too long": one(kind=0x11, rest=b"\x00" + V(2**24 + 1) + b"\x21" + CHUNK),
    "nanoseconds": b"\x01\x00\x01\x01a\x01\x00\x00\x00\x00" + V(10**9) + b"\x00",
    "uid": b"\x01\x00\x01\x01a\x01\x00" + V(2**32) + b"\x00\x00\x00\x00",
    "names unsorted": b"\x01\x00\x02\x01b\x01a\x01\x01" + bytes(12),
    "names twice": b"\x01\x00\x02\x01a\x01a\x01\x01" + bytes(12),
    "root with name": b"\x05\x00" + one()[3:] + b"\0",
    "inner unsorted": b"\x01\x01\x02\x01b\x01a\x01\x01" + CHUNK * 2,
    "inner of nothing": b"\x01\x01\x01\x01a\x00" + CHUNK,
    "inner key ..": b"\x01\x01\x01\x02..\x01" + CHUNK,
    "link not to the first": b"\x04\x00\x01\x01a\x01b",
    "link to itself": b"\x04\x00\x01\x01a\x01a",
    "link with empty name": b"\x04\x00\x01\x03a//\x01a",
    "link absolute": b"\x04\x00\x01\x02/b\x01a",
    "link up": b"\x04\x00\x01\x04../b\x01.",
    "links unsorted": b"\x04\x00\x02\x01c\x01a\x01b\x01a",
    "file too long": b"\x02\x00\x02\x01" + V(2**63 - 1) + CHUNK + ZERO,
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_nodes_against_the_rules(name: str) -> None:
    refused(rescue.decode_node, BAD_NODES[name])


def test_the_building_blocks_of_bad_nodes_are_good() -> None:
    good = [one(), one(kind=2), one(kind=2, rest=b"\x02" + CHUNK + b"\x02\x00")]
    good += [one(kind=3, rest=mw.string(b"a" * 4_095)), one(kind=5, rest=V(1) + V(2**32 - 1))]
    good += [one(kind=0x21, rest=b"\x03\0\0\0\x02\x00\x01\x01\x01")]
    good += [one(kind=0x11, rest=b"\x00\x07\x02\x01a\x00\x01b\x00")]
    good += [one(rest=V(300) + b"\x01" + V(300) + CHUNK)]
    good += [one(rest=V(2**63 - 1) + b"\x01" + V(2**63 - 1) + ZERO)]
    good += [b"\x05\x00\x00" + one()[5:] + b"\0", b"\x04\x00\x02\x01b\x01a\x01c\x01a"]
    good += [b"\x01\x01\x02\x01a\x01b\x01\x01" + CHUNK * 2]
    good += [b"\x02\x00\x02\x01\x01" + ZERO + CHUNK]  # where to split is the encoder's duty
    for node in good:
        rescue.decode_node(node)


# -- sequences and trees ----------------------------------------------------------------------


def hostile(writer: MiniStore, columns: bytes, entries: int, size: int = 0) -> dict[str, Any]:
    """A root directory whose content columns are given raw."""
    node = writer.node(b"\x05\x00\x00\x02" + mw.varint(0o755) + bytes(4) + columns + b"\0")
    return {**ROOT, "kind": "directory", "id": node.hex(), "entries": entries, "bytes": size}


def leaf(*names: bytes) -> bytes:
    count = len(names)
    out = b"\x01\x00" + mw.varint(count) + b"".join(map(mw.string, names)) + b"\x01" * count
    return out + bytes(6 * count)


def below(top: bytes, count: int, entries: int | None = None) -> bytes:
    return V(count) + top + V(count if entries is None else entries) + V(0)


def two_leaves(writer: MiniStore, *rows: tuple[bytes, ...], **more: Any) -> dict[str, Any]:
    """A directory of two leaves, with these names in them; ``keys`` and ``level`` of the top."""
    keys = more.get("keys", [names[-1] for names in rows])
    ids = [writer.node(leaf(*names)) for names in rows]
    counts = [len(names) for names in rows]
    inner = mw.inner_node(1, more.get("level", 1), list(zip(keys, counts, ids, strict=True)))
    return hostile(writer, below(writer.node(inner), sum(counts)), sum(counts) + 1)


BAD_TREES: dict[str, tuple[Callable[[MiniStore], dict[str, Any]], str]] = {
    "unsorted": (lambda w: two_leaves(w, (b"b",), (b"a", b"c")), "follow"),
    "twice": (lambda w: two_leaves(w, (b"a",), (b"a", b"c")), "follow"),
    "key": (lambda w: two_leaves(w, (b"a",), (b"b",), keys=[b"a", b"c"]), "last key"),
    "level": (lambda w: two_leaves(w, (b"a",), (b"b",), level=2), "as said above"),
    "single child": (lambda w: two_leaves(w, (b"a",)), "single child"),
    "count": (lambda w: hostile(w, below(w.node(leaf(b"a")), 2), 3), "as said above"),
    "kind": (lambda w: hostile(w, below(w.node(b"\2\0\1\1" + CHUNK), 1), 2), "as said above"),
    "totals": (lambda w: hostile(w, below(w.node(leaf(b"a", b"b")), 2, 3), 4), "totals"),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_trees_against_the_rules(tmp_path: Path, name: str) -> None:
    build, match = BAD_TREES[name]
    writer = MiniStore(tmp_path / "store")
    root = build(writer)
    writer.snapshot([root])
    store = rescue.Store(tmp_path / "store")
    with pytest.raises(rescue.Damaged, match=match):
        walk(store, root)
    assert store.check() and restore(store, tmp_path / "out") == 3


def test_leaves_may_end_anywhere(tmp_path: Path) -> None:
    writer = MiniStore(tmp_path / "store")
    root = two_leaves(writer, (b"a", b"b"), (b"c",))
    writer.snapshot([root])
    store = rescue.Store(tmp_path / "store")
    assert [path for path, _ in walk(store, root)] == [b"", b"a", b"b", b"c"]
    assert store.check() == {}


def test_a_small_tree_that_unfolds_without_end(tmp_path: Path) -> None:
    """Directories that share their nodes: as large as the root says, and no larger."""
    writer, names = MiniStore(tmp_path / "store"), [b"%02d" % n for n in range(50)]
    top = writer.node(leaf(*names))
    for _ in range(30):
        members = b"".join(map(mw.string, names)) + b"\x02" * 50 + bytes(250)
        top = writer.node(b"\x01\x00\x32" + members + below(top, 50) * 50)
    root = hostile(writer, below(top, 50, 1_000), 1_001)
    writer.snapshot([root])
    store = rescue.Store(tmp_path / "store")
    refused(walk, store, root)
    assert store.check()


def test_what_the_snapshot_says_of_a_root(tmp_path: Path) -> None:
    tree = directory({b"d": directory({b"f": file(b"12345")})})
    changes: list[dict[str, Any]] = [{"bytes": 6}, {"entries": 2}]
    changes += [{"kind": kind} for kind in ("file", "image", "stream", "other")]
    for number, change in enumerate(changes):
        writer = MiniStore(tmp_path / str(number))
        writer.snapshot([{**writer.root(tree), **change}])
        store = rescue.Store(tmp_path / str(number))
        assert "snapshot says" in str(store.check())
        assert restore(store, tmp_path / f"out{number}") == 3


def test_data_in_a_hole(tmp_path: Path) -> None:
    tree = directory({b"f": file(b"x" * 100, holes=[(10, 10)]), b"g": file(b"g")})
    store = make(tmp_path, tree)[2]
    out = tmp_path / "out"
    assert restore(store, out) == 3 and os.listdir(out) == ["g"]
    assert "data in a hole" in str(store.check())


# -- stores of the core ------------------------------------------------------------------------


def test_the_core_writes_what_the_documents_say(tmp_path: Path) -> None:
    """A store of the core is restored; the mini writer makes the same root of the same tree."""
    source, path, out = tmp_path / "source", tmp_path / "store", tmp_path / "out"
    many, linked = source / "many", source / "linked"
    many.mkdir(parents=True)
    linked.mkdir()
    for n in range(700):
        (many / f"{n:04}").write_bytes(noise(n % 300, n))
        os.link(many / f"{n:04}", linked / f"{n:04}")
    contents = {"text": b"some text\n" * 90_000, "noise": noise(3_000_000), "zeros": bytes(200_000)}
    contents["paged"] = b"SQLite format 3\0" + noise(400_000) + bytes(65_536) + noise(70_000)
    for name, data in contents.items():
        (source / name).write_bytes(data)
    with open(source / "sparse", "wb") as stream:
        for n in range(50):
            stream.seek(n * 65_536)
            stream.write(noise(4_096, n))
    os.symlink("tar\nget", source / "link")
    os.utime(many, ns=(0, -(10**17) + 1))
    snap = "import sys; from snapstore.cli import main; sys.argv[0] = 'snap'; main()"
    for command in (["init"], ["create", str(source)]):
        done = run("-c", snap, "-s", path, *command, PYTHONPATH=str(SOURCE.parents[1]))
        assert done.returncode == 0, done.stderr
    store = rescue.Store(path)
    assert store.check() == {} and restore(store, out) == 0
    (record,) = next(iter(store.snapshots().values()))["roots"]
    items: dict[bytes, Item] = {}
    for name, entry in walk(store, record):
        fields = {key: getattr(entry, key) for key in ("mode", "uid", "gid", "mtime_ns", "target")}
        item = items[name] = Item(entry.kind, xattrs=dict(store.attributes(entry)), **fields)
        if item.kind == mw.FILE:
            item.data = (source / os.fsdecode(name)).read_bytes()
            item.holes = list(store.holes(entry))
        if name:
            parent, _, last = name.rpartition(b"/")
            items[parent].members[last] = item
    assert_restored(items[b""], os.fsencode(out))
    writer = MiniStore(tmp_path / "mini", chunk_bytes=store.config["chunk_bytes"])
    again = writer.root(items[b""], links=store.links(bytes.fromhex(record["id"])))
    assert {key: record[key] for key in ("id", "entries", "bytes")}.items() <= again.items()
