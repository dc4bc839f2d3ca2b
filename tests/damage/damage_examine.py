"""Everything that can be read of a store, in a process of its own, since a damaged store must not
take the tests with it: a server that forks for each request.

A request is a JSON line `{"store", "target", "modes"}`, with modes `read`, `check`, `reindex` and
`create:SOURCE`. The answer is in the file `answer` in the new directory `target`; how the process
ended comes as a line.
"""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import snapstore
import snapstore.api  # the package itself loads lazily; here it is to be loaded before a fork
from snapstore.base.errors import SnapstoreError

Answer = dict[str, Any]


def outcome(work: Callable[[], Any]) -> Answer:
    """What a call returned, or the error that it raised."""
    try:
        return {"value": work()}
    except SnapstoreError as error:
        return {"error": error.kind, "message": error.message}
    except BaseException:
        return {"error": "untyped", "message": traceback.format_exc()}


def digest(store: snapstore.Store, id: str, path: bytes) -> str:
    """Of a file's content."""
    sum = hashlib.blake2b(digest_size=16)
    for piece in store.read(id, path):
        sum.update(piece)
    return sum.hexdigest()


def listed(store: snapstore.Store, id: str) -> Answer:
    """Digests of the files of a snapshot, directory by directory as far as they can be listed."""
    files: Answer = {}
    unlisted: Answer = {}
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        answer = outcome(lambda path=above: list(store.ls(id, path)))
        if "error" in answer:
            unlisted[above.decode()] = answer
        for item in answer.get("value", ()):
            if item.entry.type == "directory":
                waiting.append(item.path)
            elif item.entry.type == "file":
                name = item.path.decode()
                files[name] = outcome(lambda path=item.path: digest(store, id, path))
    return {"files": files, "unlisted": unlisted}


def restored(store: snapstore.Store, id: str, target: Path) -> Answer:
    """Digests of the files that a restore wrote, and what it says of the others."""

    def bring() -> list[str]:
        return [path.decode() for path, _, _ in store.restore(id, target=target).problems]

    answer = outcome(bring)
    files = {}
    for path in target.rglob("*") if target.exists() else ():
        if path.is_file() and not path.is_symlink():
            content = hashlib.blake2b(path.read_bytes(), digest_size=16)
            files[str(path.relative_to(target))] = content.hexdigest()
    return {"result": answer, "files": files}


def read(store: snapstore.Store, target: Path) -> Answer:
    found: Answer = {}
    for snapshot in store.snapshots(all=True):
        answer: Answer = {"status": snapshot.status, "name": snapshot.name}
        if snapshot.status == "ready":
            answer |= listed(store, snapshot.id)
            answer["restored"] = restored(store, snapshot.id, target / snapshot.id[:8])
        found[snapshot.id] = answer
    return found


def checked(store: snapstore.Store, read_data: bool) -> Answer:
    return store.check(read_data=read_data).to_dict()


def examine(path: Path, target: Path, modes: list[str]) -> Answer:
    with snapstore.open(path) as store:
        answers: Answer = {}
        for mode in modes:
            name, _, argument = mode.partition(":")
            if name == "read":
                answers[name] = outcome(lambda: read(store, target))
            elif name == "check":
                answers["structure"] = outcome(lambda: checked(store, False))
                answers["data"] = outcome(lambda: checked(store, True))
            elif name == "create":
                taken = outcome(lambda of=argument: store.create(of, rehash=True).snapshot.id)
                answers[name] = taken
            elif name == "reindex":
                answers[name] = outcome(lambda: store.reindex().to_dict())
        return answers


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            target = Path(request["target"])
            target.mkdir()
            work = (Path(request["store"]), target, request["modes"])
            answer = outcome(lambda work=work: examine(*work))
            (target / "answer").write_text(json.dumps(answer))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
