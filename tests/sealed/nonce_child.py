"""Takes directories into stores, in two processes that were forked from one: `PASSWORD STORE
SOURCE [STORE SOURCE]`. Each opens its store after the fork. How often the preloaded library was
asked for random bytes goes to standard output.
"""

import ctypes
import os
import sys
import time

import snapstore
import snapstore.api


def take(password: bytes, store: str, source: str) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread: salts come in one order
    while len(os.listdir(store)) == 0:
        time.sleep(0.01)
    with snapstore.open(store, password=password) as opened:
        for name in sorted(os.listdir(source)):
            opened.create(os.path.join(source, name), name=name, source="of a copy")


def main(password: str, *jobs: str) -> None:
    children = []
    for store, source in zip(jobs[::2], jobs[1::2], strict=True):
        children.append(os.fork())
        if children[-1] == 0:
            take(password.encode(), store, source)
            calls = getattr(ctypes.CDLL(None), "repeat_random_calls", lambda: 0)()
            print(calls, flush=True)
            os._exit(0)
    sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))


if __name__ == "__main__":
    main(*sys.argv[1:])
