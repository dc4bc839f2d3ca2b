"""A hook that notes what it can see: its environment, and arguments, environments, limits and open
files of itself and of the processes above it, up to the one that runs the tests: `FILE PID`.
"""

import contextlib
import os
import sys
from pathlib import Path


def above(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def main(file: str, last: str) -> None:
    seen = [b"\0".join(k + b"=" + v for k, v in os.environb.items())]
    pid = os.getpid()
    while pid not in (0, 1, int(last)):
        for what in ("cmdline", "environ", "limits"):
            with contextlib.suppress(OSError):
                seen.append(f"{pid} {what}: ".encode() + Path(f"/proc/{pid}/{what}").read_bytes())
        pid = above(pid)
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            seen.append(b"inherited: " + os.read(number, 10_000))
    with open(file, "ab") as out:
        out.write(b"\n".join(seen) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
