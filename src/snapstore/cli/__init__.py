"""The command `snap`: parses, makes one call of the library, prints.

Everything about the terminal, the environment and the home directory lives here and nowhere below.
Modules of commands are imported when their command is typed; the library, LMDB, rich and the native
core only when they are needed.
"""

import os
import sys


def main() -> None:
    """Entry point of the scripts `snap` and `snapstore`."""
    if "_SNAP_COMPLETE" in os.environ:
        from snapstore.cli.completing import answer
        from snapstore.cli.main import snap

        answer(snap)
    from snapstore.cli.main import run

    sys.exit(run(sys.argv[1:]))
