"""The processes that are to die while they restore: a server that forks one for every request, with
the library imported already, and answers the questions of trap.c about it.

Requests and answers are JSON lines: what is to be done, and how it ended.
"""

import ctypes
import json
import os
import socket
import sys
import traceback
from typing import Any

import snapstore
import snapstore.api  # modules that load lazily are to be loaded before a fork
from snapstore.base.errors import SnapstoreError
from snapstore.ops import create, restoring, unfinished  # noqa: F401

MODES = {"kill": 0, "fail": 1, "pass over": 2}
LOG_BYTES = 1 << 20


def mutate(name: str) -> None:
    """Takes a step out of the library, in this process."""
    if name == "an error takes nothing back":
        restoring.inplace._take_back = lambda *arguments: None
    elif name == "resuming only clears away":
        transaction = unfinished._native.open_transaction
        unfinished.resume = lambda repository, target, observer: [
            transaction(one.path)[0].remove() or one
            for one in unfinished.find(repository, [target])
        ]
    else:
        raise ValueError(name)


def act(request: dict[str, Any]) -> dict[str, Any]:
    """One operation; what came of it."""
    try:
        if request.get("mutant"):
            mutate(request["mutant"])
        with snapstore.open(request["store"]) as store:
            done = getattr(store, request["op"])(*request["arguments"], **request["options"])
            if request["op"] in ("restore", "undo"):
                problems = [[os.fsdecode(path), what, why] for path, what, why in done.problems]
                return {"warnings": done.warnings, "problems": problems}
            return {"found": [one.state for one in done]}
    except SnapstoreError as error:
        return {"error": error.kind, "message": str(error)}
    except BaseException:
        return {"error": "unexpected", "message": traceback.format_exc()}


def child(request: dict[str, Any], ours: socket.socket, output: int) -> None:
    os.dup2(output, 1)  # what goes there is not counted
    listener = trap.trap_install()
    if listener < 0:
        os.write(1, json.dumps({"error": "no trap"}).encode())
        os._exit(3)
    socket.send_fds(ours, [b"x"], [listener])
    os.close(listener)
    os.write(1, json.dumps(act(request)).encode())
    os._exit(0)


def run(request: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(request, theirs, writable)
    os.close(writable)
    theirs.close()
    log = ctypes.create_string_buffer(LOG_BYTES)
    count = 0
    _, listeners, _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    for listener in listeners:
        count = trap.trap_serve(
            listener,
            pid,
            request.get("first", "").encode(),
            ctypes.c_long(request.get("at", 0)),
            MODES[request.get("mode", "kill")],
            request.get("error", 0),
            int(request.get("for_good", False)),
            request.get("forgotten", "").encode(),
            ctypes.c_uint(request.get("refused", 0)),
            request.get("refusal", 0),
            log,
            ctypes.c_size_t(LOG_BYTES),
        )
        os.close(listener)
    with open(readable, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    answer = {"status": os.waitstatus_to_exitcode(status), "calls": count}
    answer["log"] = os.fsdecode(log.value).splitlines()
    return answer | (json.loads(said) if said else {})


def serve() -> None:
    for line in sys.stdin:
        os.write(1, json.dumps(run(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    trap = ctypes.CDLL(sys.argv[1])
    trap.trap_serve.restype = ctypes.c_long
    # One processor: the library then has one worker, and calls come in one order.
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[os.getpid() % len(allowed)]})
    serve()
