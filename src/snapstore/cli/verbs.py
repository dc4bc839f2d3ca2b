"""What to say when a verb is not ours: a neighbour's verb gets our word for it, a typo the nearest
one.
"""

from collections.abc import Iterable

from snapstore.cli.errors import Usage

# Verbs of restic, borg, kopia, bup, zfs, tar and others that ours do the work of.
NEIGHBOURS = {
    "add": "create",
    "analyze": "du",
    "archive": "create",
    "archives": "list",
    "backup": "create",
    "completions": "completion",
    "compare": "diff",
    "dump": "cat",
    "export-tar": "export",
    "extract": "restore",
    "files": "ls",
    "fsck": "check",
    "generate": "completion",
    "help": "--help",
    "import": "import-tar",
    "history": "log",
    "info": "show",
    "initialize": "init",
    "passwd": "key",
    "password": "key",
    "keys": "key",
    "rebuild-index": "reindex",
    "recover": "restore",
    "revert": "undo",
    "rollback": "restore",
    "repair-index": "reindex",
    "repo-create": "init",
    "repo-info": "stats",
    "repo-list": "list",
    "save": "create",
    "scrub": "check",
    "search": "find",
    "snapshot": "create",
    "snapshots": "list",
    "status": "stats",
    "take": "create",
    "tree": "ls",
    "unmount": "umount",
    "verify": "check",
    "version": "--version",
}

# Verbs for work that this release does not do, and what comes nearest to it now.
NOT_YET = {
    "compact": None,
    "copy": None,
    "delete": None,
    "forget": None,
    "gc": None,
    "prune": None,
    "remove": None,
    "rename": None,
    "repair": "check",
    "rewrite": None,
    "rm": None,
    "tag": None,
    "undelete": None,
}

_LIST = "snap --help lists the commands there are"


def unknown(verb: str, commands: Iterable[str]) -> Usage:
    """The error for `verb`, which is not one of `commands`."""
    if verb in NEIGHBOURS:
        return Usage(f"there is no command '{verb}'", f"here it is: snap {NEIGHBOURS[verb]}")
    if verb in NOT_YET:
        return Usage(f"there is no command '{verb}' in this version yet", _nearest_now(verb))
    return Usage(f"there is no command '{verb}'", _suggestion(verb, commands))


def _nearest_now(verb: str) -> str:
    nearest = NOT_YET[verb]
    if nearest is None:
        return _LIST
    return f"what comes nearest to it: snap {nearest}"


def _suggestion(verb: str, commands: Iterable[str]) -> str:
    from difflib import get_close_matches

    meanings = {**NEIGHBOURS, **{command: command for command in commands}}
    close = get_close_matches(verb, meanings, n=1)
    return f"did you mean: snap {meanings[close[0]]}" if close else _LIST
