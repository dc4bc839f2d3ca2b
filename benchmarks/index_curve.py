"""How fast the index takes entries and answers look-ups while it grows.

    python -m benchmarks.index_curve [--entries 30000000] [--json]

Entries arrive as they do from a create: a pack's worth at a time, ids spread evenly over the key
space. Look-ups come in batches of 1 000 ids, half of them known. Each line is one window of a
million entries, durable at its end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import datasets
from benchmarks.bench import allocated
from benchmarks.measure import memory

ID_BYTES = 32
PACK_ENTRIES = 2_000  # a pack of 64 MiB in chunks of about 32 KiB
BATCH = 1_000
WINDOW = 1_000_000
LOOKUPS = 300_000  # per window


@dataclass(frozen=True)
class Adaptor:
    """All that this benchmark knows of the index."""

    add_pack: Callable[[int, list[bytes]], None]  # pack number, ids
    sync: Callable[[], None]  # makes durable what was added
    locate: Callable[[bytes], bytes]  # concatenated ids to concatenated 16-byte places
    close: Callable[[], None]


@dataclass(frozen=True)
class Point:
    """One window. Memory is this process's own."""

    entries: int
    inserts: int
    insert_seconds: float
    lookups: int
    lookup_seconds: float
    resident: int
    anonymous: int
    stored: int


def measure(folder: Path, entries: int) -> Iterator[Point]:
    """One point for every million entries."""
    adaptor = open_index(folder)
    chance = random.Random(3)
    try:
        for total in range(WINDOW, entries + 1, WINDOW):
            inserting = _insert(adaptor, total - WINDOW, total)
            looking = _look_up(adaptor, total, chance)
            sizes = (*memory("self"), allocated(folder))
            yield Point(total, WINDOW, inserting, LOOKUPS, looking, *sizes)
    finally:
        adaptor.close()


def _id(number: int) -> bytes:
    """Ids are as evenly spread as real ones, and can be computed again."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=ID_BYTES).digest()


def _insert(adaptor: Adaptor, first: int, end: int) -> float:
    """Seconds until these entries are in the index and durable."""
    spent = 0.0
    for start in range(first, end, PACK_ENTRIES):
        ids = [_id(number) for number in range(start, start + PACK_ENTRIES)]
        before = time.perf_counter()
        adaptor.add_pack(start // PACK_ENTRIES, ids)
        spent += time.perf_counter() - before
    before = time.perf_counter()
    adaptor.sync()
    return spent + time.perf_counter() - before


def _look_up(adaptor: Adaptor, known: int, chance: random.Random) -> float:
    """Seconds for LOOKUPS ids, every second one of them never added."""
    spent = 0.0
    for _ in range(LOOKUPS // BATCH):
        numbers = [chance.randrange(known) + (each % 2 << 40) for each in range(BATCH)]
        ids = b"".join(map(_id, numbers))
        before = time.perf_counter()
        places = adaptor.locate(ids)
        spent += time.perf_counter() - before
        found = sum(places[at : at + 16] != bytes(16) for at in range(0, len(places), 16))
        if found != BATCH // 2:
            raise RuntimeError(f"{found} of {BATCH // 2} known ids found")
    return spent


def open_index(folder: Path) -> Adaptor:
    """ADAPTOR: with `_Pack`, all there is to change when the index class changes."""
    from snapstore.index import Index

    index = Index.create(folder, bytes(16), lambda place: int.from_bytes(place[:4], "little"))

    def add_pack(number: int, ids: list[bytes]) -> None:
        index.add_pack(_Pack(number, ids))

    return Adaptor(add_pack, index.sync, index.locate, index.close)


class _Pack:
    """Stands in for the footer of a pack: what snapstore.index.PackTable asks for."""

    kind = 1
    size = 64 << 20
    session = bytes(16)

    def __init__(self, number: int, ids: list[bytes]) -> None:
        self.id = _id(1 << 60 | number)
        self.chunks = len(ids)
        self.plain_bytes = self.chunks << 15
        self._ids = ids

    def records(self, number: int) -> list[tuple[bytes, bytes]]:
        """Ids with 16-byte places that begin with the pack's number, as the core makes them."""
        pack = number.to_bytes(4, "little")
        return [(id_, pack + at.to_bytes(12, "little")) for at, id_ in enumerate(self._ids)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, default=datasets.default_work())
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    folder = options.work / "index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for point in measure(folder, options.entries):
            print(json.dumps(asdict(point)) if options.json else _line(point), flush=True)
    finally:
        shutil.rmtree(folder)


def _line(point: Point) -> str:
    return (
        f"{point.entries / 1e6:5g} M entries"
        f"  {point.inserts / point.insert_seconds:10,.0f} inserts/s"
        f"  {point.lookups / point.lookup_seconds:10,.0f} lookups/s"
        f"  anonymous {point.anonymous / 1e6:6.1f} MB  on disk {point.stored / 1e6:8.1f} MB"
    )


if __name__ == "__main__":
    main()
