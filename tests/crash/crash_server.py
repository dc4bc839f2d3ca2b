"""The processes that are to die: a server that forks one for every create, with the library
imported already.

Requests and answers are JSON lines. `{"op": "start", …}` is answered by a pid, `{"op": "wait",
"pid": …}` by how it ended; what a create has to say comes as a line of its own before that.
"""

import ctypes
import json
import os
import sys
import traceback

import snapstore
import snapstore.api  # the package itself loads lazily; here it is to be loaded before a fork
from snapstore.base.errors import SnapstoreError


def tell(**values: object) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


def arm(failure: dict[str, object]) -> None:
    """Tells the preloaded fail_at.c what to do."""
    calls = "," + ",".join(failure["calls"]) + ","
    ctypes.CDLL(None).fail_at_arm(
        calls.encode(), ctypes.c_long(failure["at"]), failure["error"], failure["for_good"]
    )


def create(request: dict[str, object]) -> int:
    try:
        if request["failure"]:
            arm(request["failure"])
        with snapstore.open(request["store"]) as store:
            result = store.create(request["source"], name=request["name"])
            tell(pid=os.getpid(), id=result.snapshot.id, stored_bytes=result.stored_bytes)
        if request["failure"]:
            tell(pid=os.getpid(), calls=int(ctypes.CDLL(None).fail_at_count()))
    except SnapstoreError as error:
        tell(pid=os.getpid(), error=error.kind, message=error.message)
        return error.exit_code
    except BaseException:
        tell(pid=os.getpid(), error="unexpected", message=traceback.format_exc())
        return 99
    return 0


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "wait":
            _, status = os.waitpid(request["pid"], 0)
            tell(pid=request["pid"], ended=os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            os._exit(create(request))
        tell(pid=pid, started=True)


if __name__ == "__main__":
    serve()
