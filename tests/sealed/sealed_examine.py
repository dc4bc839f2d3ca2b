"""Everything that can be had of an encrypted store, in a process of its own: a server that forks
for each request, which is a JSON line `{"store", "cache", "target", "password", "ways"}`.

`warm`: with all that this machine derived before; `cold`: with what it remembers of the store, and
nothing derived; `rescue`: by the independent reader. The answer of each is in the file `answer` in
the new directory `target`; how the process ended comes as a line.
"""

import hashlib
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).parents[1]))

import snapstore
from snapstore.base.errors import SnapstoreError
from tree_store import rescue

# What is loaded when it is first needed is to be loaded before a fork.
for module in (
    "snapstore.api",
    "snapstore.index",
    "snapstore.ops.check",
    "snapstore.ops.restoring",
    "snapstore.ops.viewfile",
    "snapstore.repository.session",
    "snapstore.repository.statcache",
    "argon2.low_level",
    "cryptography.hazmat.primitives.ciphers.aead",
):
    importlib.import_module(module)

Answer = dict[str, Any]
VARYING = ("status", "error")


def outcome(work: Callable[[], Any]) -> Answer:
    """What a call returned, or the error that it raised."""
    try:
        return {"value": work()}
    except SnapstoreError as error:
        return {"error": error.kind, "message": error.message}
    except rescue().StoreError as error:
        return {"error": f"rescue:{type(error).__name__}", "message": str(error)}
    except BaseException:
        return {"error": "untyped", "message": traceback.format_exc()}


def digest(pieces: Iterable[bytes]) -> str:
    sum = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        sum.update(piece)
    return sum.hexdigest()


# The library


def listed(store: snapstore.Store, id: str) -> Answer:
    """All entries below a snapshot with what is said of them, and the digest of a large file."""
    found: Answer = {}
    largest: tuple[int, bytes] = (0, b"")
    for item in store.ls(id, recursive=True):
        entry = item.entry
        about = [entry.type, entry.mode, entry.mtime_ns, entry.size, str(entry.target)]
        found[item.path.decode()] = about
        largest = max(largest, (entry.size, item.path))
    return {"entries": found, "largest": digest(store.read(id, largest[1]))}


def restored(store: snapstore.Store, id: str, target: Path) -> Answer:
    """Digests of the files that a restore wrote, and what it says of the others."""
    answer = outcome(lambda: len(store.restore(id, target=target).problems))
    found = [path for path in sorted(target.rglob("*")) if path.is_file()]
    files = {str(p.relative_to(target)): digest([p.read_bytes()]) for p in found}
    shutil.rmtree(target, ignore_errors=True)
    return {"files": files, "problems": answer.get("value"), "failed": answer.get("error")}


def read(store: snapstore.Store, target: Path) -> Answer:
    """All snapshots: what lists show of them, and what is in those that can be read."""
    found = {}
    for snapshot in store.snapshots(all=True):
        said = snapshot.to_dict()
        answer: Answer = {"status": said["status"], "error": said["error"]}
        answer["said"] = {key: said[key] for key in said if key not in VARYING}
        answer["shown"] = outcome(lambda id=snapshot.id: store.get(id).name)
        if snapshot.status == "ready":
            answer["listed"] = outcome(lambda id=snapshot.id: listed(store, id))
            answer["restored"] = restored(store, snapshot.id, target / snapshot.id[:8])
        found[snapshot.id] = answer
    return found


def checked(store: snapstore.Store) -> Answer:
    report = store.check(read_data=True)
    return {"ok": report.ok, "problems": sorted(str(one.message) for one in report.problems)[:5]}


def by_library(request: Answer, cache: Path, target: Path) -> Answer:
    password = request["password"].encode()
    with snapstore.open(request["store"], password=password, cache_dir=cache) as store:
        return {
            "warnings": list(store.warnings),
            "read": outcome(lambda: read(store, target)),
            "check": outcome(lambda: checked(store)),
            "keys": outcome(lambda: sorted(key.name for key in store.list_keys())),
        }


def warm(request: Answer, target: Path) -> Answer:
    cache = target / "warm-cache"
    shutil.copytree(request["cache"], cache)
    return by_library(request, cache, target)


def cold(request: Answer, target: Path) -> Answer:
    """Only what `memory.py` keeps: which store is at the path, and which objects were seen."""
    cache = target / "cold-cache"
    keep = {"places", "seen"}

    def drop(directory: str, names: list[str]) -> list[str]:
        inside = Path(directory).name
        return [n for n in names if inside not in keep and n not in keep and len(n) != 32]

    shutil.copytree(request["cache"], cache, ignore=drop)
    return by_library(request, cache, target)


# The independent reader


def by_rescue(request: Answer, target: Path) -> Answer:
    store = rescue().Store(request["store"], request["password"].encode())
    found = {}
    for id, record in store.snapshots().items():
        labels = store.labels(id)
        trees = [outcome(lambda root=root: walked(store, root)) for root in record["roots"]]
        found[id] = {"record": record, "labels": labels, "trees": trees}
    known = sorted(store.problems)
    problems = outcome(lambda: sorted(set(store.check())))
    return {"read": found, "unread": known, "check": problems}


def walked(store: Any, root: Answer) -> Answer:
    found = {}
    for path, entry in store.walk(bytes.fromhex(root["id"])):
        about = [entry.kind, entry.mode, entry.mtime_ns, entry.size, entry.target.decode()]
        if entry.kind == 1:
            pieces = store.content(entry)
            about.append(digest(data or bytes(length) for _, length, data in pieces))
        found[path.decode()] = about
    return found


WAYS = {"warm": warm, "cold": cold, "rescue": by_rescue}


def answered(request: Answer) -> None:
    target = Path(request["target"])
    target.mkdir()
    answer = {way: outcome(lambda way=way: WAYS[way](request, target)) for way in request["ways"]}
    (target / "answer").write_text(json.dumps(answer))


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answered(request)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
