"""Measures the index: sustained inserts, lookups (hits and misses), bulk build.

python benchmarks/index.py [millions of entries] [directory]
"""

import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from snapstore.index import Index

CHUNKS = 2048
STORE = bytes(16)


@dataclass(frozen=True)
class Table:
    id: bytes
    seed: int
    kind: int = 1
    size: int = 64 << 20
    session: bytes = bytes(16)
    chunks: int = CHUNKS
    plain_bytes: int = 64 << 20

    def records(self, number: int) -> list[tuple[bytes, bytes]]:
        ids = random.Random(self.seed).randbytes(32 * CHUNKS)
        place = number.to_bytes(4, "little") + bytes(12)
        return sorted((ids[at : at + 32], place) for at in range(0, len(ids), 32))


def number_of(location: bytes) -> int:
    return int.from_bytes(location[:4], "little")


def anonymous_mb() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith("RssAnon"))


def lookups(index: Index, packs: int, count: int = 400_000) -> tuple[float, float]:
    """Hits and misses per second, in batches of 1000."""
    ids = []
    for seed in random.sample(range(packs), min(packs, count // CHUNKS)):
        ids += [key for key, _ in Table(b"", seed).records(1)]
    random.shuffle(ids)
    batches = [b"".join(ids[at : at + 1000]) for at in range(0, len(ids), 1000)]
    start = time.perf_counter()
    for batch in batches:
        assert bytes(16) not in index.locate(batch)[:16]
    hits = len(ids) / (time.perf_counter() - start)
    batches = [os.urandom(32_000) for _ in range(count // 1000)]
    start = time.perf_counter()
    for batch in batches:
        index.locate(batch)
    return hits, count / (time.perf_counter() - start)


def main() -> None:
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    directory = Path(tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else None))
    index = Index.create(directory, STORE, number_of)
    packs = 0
    print("entries  inserts/s  hits/s  misses/s  file MB  anonymous MB")
    for million in range(1, millions + 1):
        spent = 0.0
        while packs * CHUNKS < million * 1_000_000:
            table = Table(packs.to_bytes(32, "big"), packs)
            ready = table.records(1)
            place = (packs + 1).to_bytes(4, "little") + bytes(12)
            object.__setattr__(table, "records", lambda n, r=ready, p=place: [(k, p) for k, _ in r])
            start = time.perf_counter()
            index.add_pack(table)
            spent += time.perf_counter() - start
            packs += 1
        hits, misses = lookups(index, packs)
        print(
            f"{million:4} M  {1_000_000 / spent:9.0f}  {hits:7.0f}  {misses:7.0f}"
            f"  {index.size_bytes >> 20:6}  {anonymous_mb():4}",
            flush=True,
        )
    start = time.perf_counter()
    index.sync()
    print(f"sync {time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    index.rebuild(Table(p.to_bytes(32, "big"), p) for p in range(packs))
    print(f"build {packs * CHUNKS / (time.perf_counter() - start):.0f}/s", end=" ")
    print(f"{index.size_bytes >> 20} MB, anonymous {anonymous_mb()} MB", end=" ")
    print("hits/s {:.0f} misses/s {:.0f}".format(*lookups(index, packs)))
    index.close()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
