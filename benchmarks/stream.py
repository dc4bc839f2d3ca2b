"""Writes a given number of bytes of real text, without repetition, to standard output.

The kernel tree's files one after another, under another byte substitution each time round:
it compresses like source code, and nothing in it deduplicates.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path

from benchmarks import datasets


def write(output: int, work: Path, size: int) -> None:
    files = list(datasets.walk(datasets.kernel(work).root / "v1"))
    left = size
    for lap in itertools.count():
        table = datasets.substitution(lap)
        for path in files:
            data = memoryview(path.read_bytes().translate(table))[:left]
            left -= len(data)
            while data:
                data = data[os.write(output, data) :]
            if not left:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=datasets.default_work())
    parser.add_argument("--bytes", type=int, required=True)
    options = parser.parse_args()
    write(1, options.work, options.bytes)


if __name__ == "__main__":
    main()
