"""How long a small read at a random place of a file in a store takes.

    python -m benchmarks.random_reads STORE [--count 3000]

Reads 4 KiB at the beginning of chunks drawn by chance from the newest snapshot's first file, in one
process, one after another. Most blocks are decoded for the first time: the cache of decoded blocks
is much smaller than an image. Prints seconds, sorted, as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

READ_BYTES = 4096


def measure(store: Path, count: int) -> list[float]:
    """Seconds of each read, sorted."""
    read, places = open_file(store)
    chosen = random.Random(5).sample(places, min(count, len(places)))
    spent = []
    for offset in chosen:
        before = time.perf_counter()
        data = read(offset)
        spent.append(time.perf_counter() - before)
        if not data:
            raise RuntimeError(f"nothing at {offset}")
    return sorted(spent)


def open_file(path: Path) -> tuple[Callable[[int], bytes], list[int]]:
    """ADAPTOR: a function that reads at an offset, and where stored chunks begin."""
    import snapstore

    store = snapstore.open(path)
    snapshot = store.snapshots()[0]
    reader = store._repository.reader(snapshot)
    entry = reader.root(bytes.fromhex(snapshot.roots[0].id))
    places = [offset for offset, _, id_ in reader.chunks(entry) if id_ is not None]
    return lambda offset: reader.read(entry, offset, READ_BYTES), places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("store", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    options = parser.parse_args()
    print(json.dumps(measure(options.store, options.count)))


if __name__ == "__main__":
    main()
