"""Opens an encrypted store with the password on standard input, uses it, and waits, for somebody to
look at its memory: `STORE SOURCE open|closed|abort`. `closed`: after the store was closed; `abort`:
it ends with a core dump while it is open.
"""

import gc
import os
import sys

import snapstore


def password() -> bytearray:
    """Read to where it can be erased."""
    found = bytearray(200)
    del found[os.readv(0, [found]) :]
    return found


def main(path: str, source: str, mode: str) -> None:
    given = password()
    store = snapstore.open(path, password=given)
    given[:] = bytes(len(given))
    store.create(source, name="again")
    for snapshot in store.snapshots():
        for item in store.ls(snapshot.id, recursive=True):
            if item.entry.type == "file":
                for _ in store.read(snapshot.id, item.path):
                    pass
    assert store.check(read_data=True).ok
    store.add_key(bytearray(b"one more password of it"), f"more {mode}", kdf=KDF)
    if mode == "abort":
        os.abort()
    if mode == "closed":
        store.close()
        del store, snapshot, item
        gc.collect()
    print("ready", flush=True)
    os.read(0, 1)


KDF = snapstore.Kdf(memory_kib=8192, passes=1, lanes=1)

if __name__ == "__main__":
    main(*sys.argv[1:])
