"""`mount.snapstore`: what mount(8) runs for file systems of the type `snapstore`.

mount.snapstore STORE MOUNTPOINT [-sfnv] [-o OPTION[=VALUE],…]
"""

import os
import sys
from collections.abc import Sequence

# What mount(8) and systemd decide by themselves, or what is always so.
_OF_MOUNT = {
    *("auto", "noauto", "defaults", "nofail", "user", "nouser", "users", "owner", "group"),
    *("ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime"),
    *("relatime", "norelatime", "sync", "async", "_netdev"),
}
_FLAGS = {"allow_other": "--allow-other", "all": "--all", "partitions": "--partitions"}
_VALUES = (
    "uid",
    "gid",
    "cache-size",
    "time-format",
    "path-filter",
    "name",
    "tag",
    "host",
    "source",
)
_PASSWORDS = {"password-file": "SNAP_PASSWORD_FILE", "password-command": "SNAP_PASSWORD_COMMAND"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of `snap mount --daemon`."""
    from snapstore.cli.main import run

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        ours, passwords = translate(given)
        os.environ.update(passwords)
        return run(ours)
    except ValueError as error:
        print(f"mount.snapstore: {error}", file=sys.stderr)
        return 2


def translate(given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of `snap` for those of mount(8), and variables that say where the password is.
    ValueError.
    """
    places, options = [], []
    rest = iter(given)
    for word in rest:
        if word == "-o":
            options += next(rest, "").split(",")
        elif not word.startswith("-"):
            places.append(word)
    if len(places) != 2:
        raise ValueError("a store and a mount point are needed")
    reference: list[str] = []
    made: list[str] = []
    passwords: dict[str, str] = {}
    for option in filter(None, options):
        name, _, value = option.partition("=")
        if name == "ref" and value:
            reference = [value]
        elif name in _PASSWORDS and value:
            passwords[_PASSWORDS[name]] = value
        elif name in _VALUES and value:
            made.append(f"--{name}={value}")
        elif option in _FLAGS:
            made.append(_FLAGS[option])
        elif name not in _OF_MOUNT and not name.startswith(("x-", "comment")):
            raise ValueError(f"there is no option {option!r}")
    arguments = ["-s", places[0], "mount", *reference, places[1], "--daemon", "--quiet", *made]
    return arguments, passwords
