"""Completing: what a shell offers when Tab is pressed, and the scripts that ask for it.

A script runs the command with `_SNAP_COMPLETE` set to the shell's name and `COMP_LINE` to the line
up to the cursor. The answer is a line for each candidate: its kind, a tab, its text, a tab, a
remark. Kinds: `plain`; `part`, which is typed on (no space is put behind it); `file` and `dir`, for
which the shell completes a path itself. Whatever goes wrong, the answer is shorter: nothing is ever
printed that the user did not ask for.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, ShellComplete

from snapstore.cli import passwords, render
from snapstore.cli.settings import Settings
from snapstore.cli.stores import open_store

if TYPE_CHECKING:
    from snapstore import Snapshot, Store

Items = list["CompletionItem[str]"]

VARIABLE = "_SNAP_COMPLETE"
MOST = 1000
"""Candidates: a directory may hold millions."""
_PATIENCE_S = 5
_NAMES = ("snap", "snapstore")

_BASH = """\
_{name}_completion() {{
    local kind text rest
    COMPREPLY=()
    while IFS=$'\\t' read -r kind text rest; do
        case $kind in
            plain) COMPREPLY+=("$text") ;;
            part) COMPREPLY+=("$text"); compopt -o nospace ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        {variable}=bash "$1" 2> /dev/null)
}}
complete -o nosort -F _{name}_completion {name} 2> /dev/null ||
    complete -F _{name}_completion {name}
"""

_ZSH = """\
#compdef {name}
_{name}_completion() {{
    local kind text remark
    local -a plain shown parts
    while IFS=$'\\t' read -r kind text remark; do
        case $kind in
            plain) plain+=("$text"); shown+=("${{text}}${{remark:+  -- $remark}}") ;;
            part) parts+=("$text") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done < <(COMP_LINE="${{(j: :)words[1,CURRENT]}}" {variable}=zsh {name} 2> /dev/null)
    (( $#plain )) && compadd -V snap -l -d shown -a plain
    (( $#parts )) && compadd -V snap -S '' -a parts
    return 0
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _{name}_completion "$@"
else
    compdef _{name}_completion {name}
fi
"""

_FISH = """\
function _{name}_completion
    set -l line (commandline -cp)
    for answer in (env COMP_LINE="$line" {variable}=fish {name} 2> /dev/null)
        set -l parts (string split -- \\t $answer)
        switch $parts[1]
            case plain part
                printf '%s\\t%s\\n' $parts[2] "$parts[3]"
            case file
                __fish_complete_path $parts[2]
            case dir
                __fish_complete_directories $parts[2] ''
        end
    end
end
complete --command {name} --no-files --keep-order --arguments '(_{name}_completion)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The script for a shell, for the name by which the command was started."""
    own = os.path.basename(sys.argv[0])
    name = own if own in _NAMES else _NAMES[0]
    return _SCRIPTS[shell].format(name=name, variable=VARIABLE)


def answer(group: click.Command) -> int:
    """Answers a script. Never raises, never writes to stderr, and gives up after some seconds."""
    passwords.take_environment()
    passwords.never_ask()
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(_PATIENCE_S)
    with contextlib.suppress(BaseException):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for line in _answers(group, os.environ.get(VARIABLE, "")):
            sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.flush()
    os._exit(0)  # what is left to flush or close is not worth a message


def _answers(group: click.Command, shell: str) -> Iterator[str]:
    typed = Typed(_line())
    arguments, word = typed.words[1:-1], typed.words[-1]
    completer = ShellComplete(group, {"obj": Settings()}, "snap", VARIABLE)
    items = completer.get_completions(list(arguments), word)
    assigned = re.match(r"--[\w-]+=", word)
    before = assigned[0] if assigned else ""
    for item in items[:MOST]:
        text = str(item.value)
        if item.type in ("file", "dir"):
            yield f"{item.type}\t{text}"
        elif not _unshowable(text):
            shown = _for_bash(text, before, typed) if shell == "bash" else before + text
            remark = render.plain(item.help or "").replace("\t", " ")
            yield f"{item.type}\t{shown}\t{remark}"
            if shell == "fish" and item.type == "part" and not text.endswith("/"):
                yield f"part\t{shown}:\t{remark}"  # else fish puts a space behind the only one


def _unshowable(text: str) -> bool:
    """Whether a text cannot stand on a command line as it is: it has control characters, or bytes
    that are no text.
    """
    return render.plain(text) != text


# What was typed


def _line() -> str:
    line = os.environb.get(b"COMP_LINE", b"")
    point = os.environ.get("COMP_POINT", "")
    return os.fsdecode(line[: int(point)] if point.isdigit() else line)


class Typed:
    """A line of shell that may end amid a word: the words that it has, the last one to be
    completed; `quote` is the one that is open there.
    """

    def __init__(self, line: str) -> None:
        self.words: list[str] = []
        self.quote = ""
        word: str | None = None
        characters = iter(line)
        for character in characters:
            if self.quote:
                if character == self.quote:
                    self.quote = ""
                elif character == "\\" and self.quote == '"':
                    word = (word or "") + next(characters, "")
                else:
                    word = (word or "") + character
            elif character in "'\"":
                self.quote, word = character, word or ""
            elif character == "\\":
                word = (word or "") + next(characters, "")
            elif character.isspace():
                if word is not None:
                    self.words.append(word)
                word = None
            else:
                word = (word or "") + character
        self.words.append(word or "")
        while len(self.words) > 1 and re.match(r"\w+=", self.words[0]):
            del self.words[0]  # variables set for the command


_BASH_SPECIAL = re.compile(r"[^\w@%+=:,./~^-]")


def _for_bash(text: str, before: str, typed: Typed) -> str:
    """A candidate as readline puts it in place of what it takes for the word: the part behind the
    last character that breaks words, unless a quote is open.
    """
    if typed.quote:
        return re.sub(r'(["$`\\])', r"\\\1", text) if typed.quote == '"' else text
    breaks = [sign for sign in ":@=" if sign in os.environ.get("COMP_WORDBREAKS", ":=")]
    word = typed.words[-1].removeprefix(before)
    kept = max((word.rfind(sign) + 1 for sign in breaks), default=0)
    if text.startswith(word[:kept]):
        text = text[kept:]
    return _BASH_SPECIAL.sub(lambda match: "\\" + match[0], text)


# What a store offers


def references(
    ctx: click.Context, incomplete: str, *, with_path: bool
) -> list[CompletionItem[str]]:
    """Snapshots, and after `REF:` the paths in one."""
    with contextlib.suppress(Exception), open_store(_settings(ctx), "r") as store:
        if with_path and ":" in incomplete:
            found = list(_paths(store, incomplete))
            if found:
                return found
        return list(_snapshots(store, incomplete, "part" if with_path else "plain"))
    return []


def recorded_paths(ctx: click.Context, incomplete: str) -> Items:
    """Paths in the snapshot that the argument `ref` names."""
    with contextlib.suppress(Exception), open_store(_settings(ctx), "r") as store:
        snapshot, _ = store.resolve(ctx.params["ref"])
        return list(_items(store, snapshot, "", incomplete))
    return []


def recorded(ctx: click.Context, field: str, incomplete: str) -> Items:
    """Values that snapshots have in a field: name, tag, host or source."""
    with contextlib.suppress(Exception), open_store(_settings(ctx), "r") as store:
        values: dict[str, None] = {}
        for snapshot in store.snapshots(all=True):
            found = snapshot.tags if field == "tag" else [getattr(snapshot, field)]
            values |= dict.fromkeys(value for value in found if value)
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]
    return []


def jobs(ctx: click.Context, incomplete: str) -> Items:
    """Ids of jobs, the newest first."""
    with contextlib.suppress(Exception), open_store(_settings(ctx), "r") as store:
        return [
            CompletionItem(job.id, help=f"{job.state} {os.fsdecode(job.target)}")
            for job in store.jobs()
            if job.id.startswith(incomplete)
        ]
    return []


def _settings(ctx: click.Context) -> Settings:
    return ctx.find_object(Settings) or Settings()


def _snapshots(store: "Store", incomplete: str, kind: str) -> Iterator[CompletionItem[str]]:
    """`latest` and names, the newest first; ids once a digit is typed, or for want of names."""
    snapshots = store.snapshots(all=True)
    named: dict[str, Snapshot] = {}
    for snapshot in snapshots:
        if snapshot.name:
            named.setdefault(snapshot.name, snapshot)
    if snapshots and "latest".startswith(incomplete):
        yield CompletionItem("latest", type=kind, help="the newest of this host")
    for name, snapshot in named.items():
        if name.startswith(incomplete):
            yield CompletionItem(name, type=kind, help=render.moment(snapshot.created_at))
    if incomplete or not named:
        for snapshot in snapshots:
            id = snapshot.id if len(incomplete) > len(snapshot.short_id) else snapshot.short_id
            if id.startswith(incomplete):
                remark = f"{render.moment(snapshot.created_at)} {snapshot.name or ''}"
                yield CompletionItem(id, type=kind, help=remark.strip())


def _paths(store: "Store", incomplete: str) -> Iterator[CompletionItem[str]]:
    """Paths in the snapshot left of the colon, a component at a time; roots as a whole."""
    snapshot, within = store.resolve(incomplete)
    if within is None:
        return
    typed = os.fsdecode(within)
    yield from _items(store, snapshot, incomplete[: len(incomplete) - len(typed)], typed)


def _items(
    store: "Store", snapshot: "Snapshot", before: str, typed: str
) -> Iterator["CompletionItem[str]"]:
    for path, directory in _below(store, snapshot, typed):
        kind = "part" if directory else "plain"
        yield CompletionItem(before + path + ("/" if directory else ""), type=kind)


def _below(store: "Store", snapshot: "Snapshot", typed: str) -> Iterable[tuple[str, bool]]:
    """Paths that begin with what is typed, and whether each is a directory."""
    found: dict[str, bool] = {}
    for root in snapshot.roots:
        path = os.fsdecode(root.path)
        if path.startswith(typed):
            found[path.rstrip("/")] = root.kind == "directory"
    above, slash, name = typed.rpartition("/")
    if slash or (typed and not found):
        with contextlib.suppress(Exception):
            for listed in store.ls(snapshot.id, os.fsencode(above or slash or ".")):
                base = os.path.basename(os.fsdecode(listed.path))
                if base.startswith(name) and len(found) < MOST:
                    found.setdefault(above + slash + base, listed.entry.type == "directory")
    return found.items()
