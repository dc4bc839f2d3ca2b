"""What pages say of commands, held against the definitions of the commands."""

import re
from collections.abc import Iterator

import click

from snapstore.cli.main import COMMANDS, snap
from snapstore.cli.settings import is_shared

OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


def command(name: str) -> click.Command:
    """The definition of a command."""
    found = snap.get_command(click.Context(snap), name)
    assert found is not None, name
    return found


def options(name: str, *, shared: bool) -> set[str]:
    """Names of the options of a command, and of those in it; with the `shared` ones, which every
    command takes, or of its own only.
    """
    found = {"-h", "--help", "--version"} if shared else set()
    whole = command(name)
    inner = whole.commands.values() if isinstance(whole, click.Group) else ()
    for param in (param for one in (whole, *inner) for param in one.params):
        if isinstance(param, click.Option) and (shared or not is_shared(param)):
            found |= {*param.opts, *param.secondary_opts}
    return found


def named_options(text: str) -> set[str]:
    """Options in a text, but for what is quoted; `-lR` is `-l` and `-R`."""
    found = set()
    for option in OPTION.findall(re.sub(r"'[^']*'", "''", text)):
        found |= {option} if option.startswith("--") else {f"-{letter}" for letter in option[1:]}
    return found


def own_code(text: str) -> Iterator[str]:
    """Code that is an option or a call of ours: not what other programs are given."""
    for code in re.findall(r"(?<=`)[^`\n]+(?=`)|^(?:    |\$ ).*$", text, re.MULTILINE):
        for part in re.split(r"[|;]", code):
            words = part.replace("$ ", "", 1).split()
            if words and (words[0].startswith(("-", "[-", "[SNAP")) or "snap" in words[0]):
                yield part


def calls(text: str) -> Iterator[tuple[str, set[str]]]:
    """Each `snap VERB …` of a text, with the options that it names."""
    for found in re.finditer(r"(?:^|[`$|(] ?|\")snap ([^`|\n#]*)", text, re.MULTILINE):
        words = found[1].split()
        verb = next((word for word in words if word in COMMANDS or not word.startswith("-")), None)
        if words and words[0] in ("-s", "--store"):
            verb = words[2] if len(words) > 2 else None
        if verb is not None:
            yield verb, named_options(found[1])
