"""An encrypted store with known contents, and what may be said of it once somebody who can write to
it, but has no password, has been there.
"""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import snapstore
from snapstore.model import canonical, names, snapshot
from snapstore.repository.frames import FrameType
from tree_store import rescue

SERVER = Path(__file__).with_name("sealed_examine.py")
PATIENCE_S = 60.0
PASSWORD, SECOND, THIRD = (
    b"the first password",
    b"a second password",
    b"a password that was removed",
)
CHEAP = snapstore.Kdf(memory_kib=8192, passes=1, lanes=1)
WAYS = ("warm", "cold", "rescue")

OPENING = {
    "damaged",
    "tampered",
    "downgraded",
    "key-damaged",
    "key-missing",
    "wrong-password",
    "store-invalid",
    "store-not-found",
    "store-too-new",
    "storage-error",
}
READING = {"damaged", "tampered", "store-too-new", "storage-error", "index-damaged"}
"""Kinds of errors that may come of opening a store that was tampered with, and of reading it."""
RESCUING = {f"rescue:{kind}" for kind in ("Damaged", "Missing", "NewerVersion", "WrongPassword")}

Answer = dict[str, Any]
Objects = dict[str, bytes]
Changes = dict[str, bytes | None]
"""Objects by name, and what becomes of them; None: they are gone."""


# The store


@dataclass
class World:
    """A store, what this machine derived from it, and other states that can be replayed."""

    path: Path
    cache: Path
    objects: Objects
    earlier: Objects
    """The same store, two snapshots before, with a key that was removed since."""
    other: Objects
    """Another store of the same password, with the same contents."""
    model: Answer = field(default_factory=dict)

    def copy(self, to: Path) -> Path:
        """A copy in which objects may be changed. It stands where memory knows the store."""
        shutil.copytree(self.path, to, ignore=shutil.ignore_patterns("tmp"))
        return to


def objects_of(store: Path) -> Objects:
    """All objects of a store."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if path.is_file() and name.split("/")[0] not in names.PRIVATE:
            found[name] = path.read_bytes()
    return found


def make_world(place: Path) -> World:
    """Four snapshots of a changing tree by as many sessions, labels that were written later, two
    passwords, refs, a lease of a session that died, records of a collector, and a third password
    that was removed.
    """
    source, cache, path = place / "source", place / "cache", place / "store"
    chance = random.Random(18)
    _plant(source, chance)
    how: Any = {"password": PASSWORD, "kdf": CHEAP, "chunk_bytes": 8192, "block_bytes": 65_536}
    snapstore.init(path, cache_dir=cache, **how).close()
    with snapstore.open(path, password=PASSWORD, cache_dir=cache) as store:
        store.add_key(SECOND, "second", kdf=CHEAP)
        store.add_key(THIRD, "third", kdf=CHEAP)
        first = store.create(source, name="one", tags=["kept"]).snapshot.id
        (source / "docs" / "small3").write_bytes(chance.randbytes(4_000))
        (source / "data" / "more").write_bytes(chance.randbytes(90_000))
        store.create(source, name="two", metadata={"n": 2}, description="the second")
        earlier = objects_of(path)
        store.remove_key("third")
    with snapstore.open(path, password=SECOND, cache_dir=cache) as store:
        (source / "docs" / "small0").unlink()
        store.create(source / "docs", name="docs", source="docs")
        (source / "data" / "deep" / "text").write_bytes(b"another line\n" * 20_000)
        store.create(source, name="four")
        _relabel(store, first, 2, [["set", "name", "uno"], ["tag", "later"]])
        _relabel(store, first, 3, [["untag", "kept"], ["meta", "checked", True]])
        _record(store)
    world = World(path, cache, objects_of(path), earlier, _other_store(place, source))
    with snapstore.open(path, password=PASSWORD, cache_dir=cache) as store:
        assert store.warnings == ()
        report = store.check(read_data=True)
        assert report.ok, report
        store.snapshots()
    return world


def _plant(source: Path, chance: random.Random) -> None:
    for directory in ("docs", "data/deep", "empty"):
        (source / directory).mkdir(parents=True)
    (source / "docs" / "in-place").write_bytes(b"short\n")
    for number in range(5):
        (source / "docs" / f"small{number}").write_bytes(chance.randbytes(900 + 700 * number))
    (source / "data" / "large").write_bytes(chance.randbytes(260_000))
    (source / "data" / "deep" / "text").write_bytes(b"the same line again and again\n" * 5_000)
    (source / "data" / "link").symlink_to("large")


def _relabel(store: snapstore.Store, id: str, n: int, operations: list[list[Any]]) -> None:
    """One more label of a snapshot, as a later version of the software writes it."""
    payload = snapshot.encode_label(operations, "tester", n)
    name = store._repository.frames.write_versioned(FrameType.LABEL, id, n, payload)
    store._repository.memory.note([name])


def _record(store: snapstore.Store) -> None:
    """Objects of the types that nothing writes yet, or that do not stay."""
    frames, chance = store._repository.frames, random.Random(7)
    records: list[tuple[FrameType, str, dict[str, Any]]] = []
    lease = {"session": "01h455vb4pex5vsknk084sn02q", "settled": 0, "purpose": "create"}
    more = {"host": "elsewhere", "pid": 1, "started_ns": 1}
    records.append((FrameType.LEASE, f"sess/{lease['session']}-0000", {**lease, **more}))
    for n in (1, 2):
        name = f"gc/{n:08d}-{chance.randbytes(16).hex()}"
        records.append((FrameType.COLLECTOR, name, _generation(n)))
        records.append((FrameType.COLLECTOR, f"{name}-sweep", {"generation": n}))
        records.append((FrameType.COLLECTOR, f"{name}-done", {"generation": n}))
    for type, name, record in records:
        frames.write(type, name, canonical.encode(record))
    digest = frames.keys.object_hash(b"branch/main")[:16].hex() if frames.keys else ""
    for n, value in ((1, "a"), (2, "b")):
        nonce = os.urandom(16)
        pointer = {"kind": "branch", "name": "main", "time_ns": n, "value": value}
        payload = canonical.encode(pointer)
        name = f"ref/branch/{digest}-{n:08d}-{frames.h8(nonce + payload)}"
        frames.objects.put(name, frames.encode(FrameType.REF, name, nonce, payload))


def _generation(n: int) -> dict[str, Any]:
    return {"generation": n, "condemned": [], "started_ns": n}


def _other_store(place: Path, source: Path) -> Objects:
    path = place / "other"
    how: Any = {"password": PASSWORD, "kdf": CHEAP, "chunk_bytes": 8192, "block_bytes": 65_536}
    with snapstore.init(path, **how) as store:
        store.create(source, name="one")
        store.create(source / "docs", name="foreign")
        _record(store)
    return objects_of(path)


def unlocked(objects: Path, password: bytes = PASSWORD) -> Any:
    """The keys of a store, by the independent reader, with the secret that they are made of."""
    made = rescue().Keys

    class Telling(made):  # type: ignore[misc,valid-type]
        def __init__(self, family: bytes, secret: bytes = bytes(32), masters: Any = None) -> None:
            super().__init__(family, secret, masters)
            self.secret = secret

    rescue().Keys = Telling
    try:
        return rescue().Store(objects, password).keys
    finally:
        rescue().Keys = made


# Changing it


@contextmanager
def changed(store: Path, objects: Objects, changes: Changes) -> Iterator[None]:
    """The store of these objects with other ones, for as long as the block runs."""
    leases = [name for name in objects if name.startswith("sess/")]  # whoever reads clears them
    try:
        for name, data in changes.items():
            _put(store / name, data)
        yield
    finally:
        for name in [*changes, *leases]:
            _put(store / name, objects.get(name))


def _put(path: Path, data: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if data is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400)


# Reading what became of it


class Ended(Exception):
    """The process that read a store ended by a signal, or not at all."""


class Reader:
    """The server that reads stores which were tampered with."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._server = subprocess.Popen(
            [sys.executable, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            env=environment,
        )
        self._count = 0

    def close(self) -> None:
        os.killpg(self._server.pid, signal.SIGKILL)  # with a child that hangs
        self._server.wait()
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.stdout.close()

    def look(
        self, store: Path, cache: Path, ways: tuple[str, ...] = WAYS, password: bytes = PASSWORD
    ) -> Answer:
        """What there is to be had in a store; never a signal."""
        assert self._server.stdin and self._server.stdout
        self._count += 1
        target = store.with_name(f"{store.name}-read")
        shutil.rmtree(target, ignore_errors=True)
        request = {
            "store": str(store),
            "cache": str(cache),
            "target": str(target),
            "password": password.decode(),
            "ways": ways,
        }
        print(json.dumps(request), file=self._server.stdin, flush=True)
        ready, _, _ = select.select([self._server.stdout], [], [], PATIENCE_S)
        if not ready:
            raise Ended(f"hangs for {PATIENCE_S} s")
        status = int(self._server.stdout.readline())
        if status:
            raise Ended(f"status {status}")
        answer: Answer = json.loads((target / "answer").read_text())
        return answer


# Judging


def faults(model: Answer, answer: Answer, changes: Changes) -> list[str]:
    """What was read and is not so, was said and is not so, or went without a word."""
    found = []
    for way in answer:
        judge = _rescued if way == "rescue" else _read
        found += [f"{way}: {fault}" for fault in judge(model[way], answer[way], changes)]
    return found


def noticed(model: Answer, answer: Answer) -> bool:
    """Whether anything is said that is not said of the store as it was."""
    return any(_said(answer[way]) != _said(model[way]) for way in answer)


def _said(answer: Answer) -> str:
    value = answer.get("value", {})
    return json.dumps({"error": answer.get("error"), **value}, sort_keys=True)


def _typed(answer: Answer, kinds: set[str]) -> Iterator[str]:
    if "error" in answer and answer["error"] not in kinds:
        yield f"an error of no kind that may be: {answer['error']}: {answer['message']}"


def _read(model: Answer, answer: Answer, changes: Changes) -> Iterator[str]:
    if "error" in answer:
        yield from _typed(answer, OPENING)
        return
    value, sound = answer["value"], model["value"]
    another = any(warning.startswith("another encrypted") for warning in value["warnings"])
    for part in ("read", "check", "keys"):
        yield from _typed(value[part], READING)
    if "value" in value["keys"]:
        unknown = set(value["keys"]["value"]) - set(sound["keys"]["value"])
        if unknown and not any(name.startswith("key/") for name in changes):
            yield f"keys of unknown names: {unknown}"
    if "error" in value["read"]:
        return
    read, expected = value["read"]["value"], sound["read"]["value"]
    for id in expected.keys() - read.keys():
        if not value["warnings"]:
            yield f"the snapshot {id[:8]} is missing, and nobody says so"
    for id, found in read.items():
        if found["status"] != "ready":
            if not found["error"]:
                yield f"the snapshot {id[:8]} is {found['status']}, and nobody says why"
        elif id not in expected:
            if not another:
                yield f"a snapshot that there was not: {found}"
        else:
            told = bool(value["warnings"]) or found["error"]
            yield from _snapshot(id, expected[id], found, told)


def _snapshot(id: str, expected: Answer, found: Answer, told: bool) -> Iterator[str]:
    for key, value in found["said"].items():
        if value != expected["said"][key] and not told:
            yield f"{id[:8]} has another {key}: {value!r} instead of {expected['said'][key]!r}"
    yield from _typed(found["listed"], READING)
    if found["listed"].get("value", expected["listed"]["value"]) != expected["listed"]["value"]:
        yield f"{id[:8]} lists otherwise: {found['listed']['value']}"
    back, files = found["restored"], expected["restored"]["files"]
    if back["failed"] not in {None, *READING}:
        yield f"{id[:8]} is not restored, for no reason that may be: {back['failed']}"
    if not back["files"].items() <= files.items():
        yield f"{id[:8]}: other bytes were restored"
    if back["files"] != files and not back["failed"] and not back["problems"]:
        yield f"{id[:8]} is not all restored, and nobody says so"


def _rescued(model: Answer, answer: Answer, changes: Changes) -> Iterator[str]:
    if "error" in answer:
        yield from _typed(answer, RESCUING)
        return
    value, expected = answer["value"], model["value"]["read"]
    unread = value["unread"]
    yield from _typed(value["check"], RESCUING)
    for id in expected.keys() - value["read"].keys():
        gone = changes.get(f"snap/{id}", b"") is None
        if not gone and f"snap/{id}" not in unread:
            yield f"the snapshot {id[:8]} is missing, and nobody says so"
    for id, found in value["read"].items():
        if id not in expected:
            yield f"a snapshot that there was not: {id[:8]}"
            continue
        if found["record"] != expected[id]["record"]:
            yield f"{id[:8]} has another record"
        gone = any(name.startswith(f"label/{id}") and changes[name] is None for name in changes)
        told = gone or any(name.startswith(f"label/{id}") for name in unread)
        if found["labels"] != expected[id]["labels"] and not told:
            yield f"{id[:8]} has other labels: {found['labels']}"
        for tree, sound in zip(found["trees"], expected[id]["trees"], strict=True):
            yield from _typed(tree, RESCUING)
            if tree.get("value", sound["value"]) != sound["value"]:
                yield f"{id[:8]} holds something else: {tree['value']}"
