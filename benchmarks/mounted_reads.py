"""How long a small read at a random place of a mounted file takes.

    python -m benchmarks.mounted_reads FILE [--count 2000]

Reads 4 KiB at pages drawn by chance, each once, in one process, one after another; then the same
again, now from the kernel's cache. Prints the seconds of both, sorted, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

READ_BYTES = 4096


def measure(path: Path, count: int) -> dict[str, list[float]]:
    """Seconds of each read, sorted."""
    pages = range(0, path.stat().st_size - READ_BYTES + 1, READ_BYTES)
    chosen = random.Random(11).sample(pages, min(count, len(pages)))
    file = os.open(path, os.O_RDONLY)
    try:
        return {name: sorted(_read(file, chosen)) for name in ("first", "again")}
    finally:
        os.close(file)


def _read(file: int, places: Sequence[int]) -> list[float]:
    spent = []
    for offset in places:
        before = time.perf_counter()
        data = os.pread(file, READ_BYTES, offset)
        spent.append(time.perf_counter() - before)
        if len(data) != READ_BYTES:
            raise RuntimeError(f"{len(data)} bytes at {offset}")
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    print(json.dumps(measure(options.file, options.count)))


if __name__ == "__main__":
    main()
