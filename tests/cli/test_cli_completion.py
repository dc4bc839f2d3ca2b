"""`snap completion`, and what its scripts are answered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Snap, command
from terminal import on_terminal

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def store(filled: Snap, files: Path) -> Snap:
    (files / "docs" / "a file").touch()
    (files / "docs" / "$odd").touch()
    (files / "docs" / "new\nline").touch()
    (files / "docs" / "\udcff").touch()
    filled("create", files, "--name", "second", "--tag", "prod", "--host", "web1")
    return filled


def answers(snap: Snap, line: str, shell: str = "bash", **environment: str) -> list[list[str]]:
    """Candidates for what would stand at the end of the line: kind, text, remark."""
    run = snap(_SNAP_COMPLETE=shell, COMP_LINE=line, **environment)
    assert (run.stderr, run.status) == (b"", 0)
    return [answer.split("\t") for answer in run.stdout.decode().splitlines()]


def texts(snap: Snap, line: str, shell: str = "bash", **environment: str) -> list[str]:
    return [answer[1] for answer in answers(snap, line, shell, **environment)]


def test_commands(snap: Snap) -> None:
    assert {"create", "list", "doctor"} <= set(texts(snap, "snap "))
    assert answers(snap, "snap re") == [
        ["plain", "restore", "Put a snapshot, or part of it, back in place, or elsewhere."],
        ["plain", "reindex", "Rebuild the local index from the store's objects."],
    ]


def test_options_and_their_values(store: Snap) -> None:
    assert texts(store, "snap list --so") == ["--source", "--sort"]
    assert texts(store, "snap list --sort s") == ["size", "source"]
    assert texts(store, "snap list --tag ") == ["prod"]
    assert texts(store, "snap list --host w") == ["web1"]
    assert texts(store, "snap create --name s") == ["second"]
    assert "--version" in texts(store, "snap --v")
    assert texts(store, "snap --version ") != []  # does not print the version


def test_values_behind_an_equals_sign(store: Snap) -> None:
    """Bash takes what is behind the sign for the word, the others the whole."""
    assert texts(store, "snap list --tag=p") == ["prod"]
    assert texts(store, "snap list --tag=p", "zsh") == ["--tag=prod"]
    assert texts(store, "snap list --tag=p", "fish") == ["--tag=prod"]


def test_files(snap: Snap) -> None:
    assert answers(snap, "snap create /et") == [["file", "/et"]]
    assert answers(snap, "snap -s /ba") == [["dir", "/ba"]]
    assert answers(snap, "snap log no") == [["file", "no"]]
    assert answers(snap, "snap list --path no") == [["file", "no"]]


@pytest.mark.parametrize("word", ["/mnt/o", "./o", "~/wo"])
def test_a_directory_to_compare_with(store: Snap, word: str) -> None:
    assert answers(store, f"snap diff first {word}") == [["dir", word]]
    assert texts(store, "snap diff first se") == ["second"]


def test_snapshots(store: Snap) -> None:
    assert texts(store, "snap show ") == ["latest", "second", "first"]
    assert [kind for kind, *_ in answers(store, "snap show ")] == ["plain"] * 3
    assert [kind for kind, *_ in answers(store, "snap ls ")] == ["part"] * 3
    assert texts(store, "snap show f") == ["first"] or len(texts(store, "snap show f")) == 2
    assert texts(store, "snap check first s") == ["second"]
    assert texts(store, "snap create --parent fir") == ["first"]


def test_ids(store: Snap) -> None:
    (whole,) = store("list", "--name", "first", "--format", "{id}").stdout.decode().split()
    assert texts(store, f"snap show {whole[:5]}") == [whole[:8]]
    assert texts(store, f"snap show {whole[:10]}") == [whole]


def test_paths_in_a_snapshot(store: Snap) -> None:
    top = f"{store.home}/files"
    assert texts(store, "snap ls first:", "zsh") == [f"first:{top}/"]
    assert answers(store, f"snap ls first:{top}/d", "zsh") == [
        ["plain", f"first:{top}/data.bin", ""],
        ["part", f"first:{top}/docs/", ""],
    ]
    assert texts(store, "snap restore first:docs/n", "zsh") == ["first:docs/note.txt"]
    assert texts(store, "snap ls first~0:docs/n", "zsh") == ["first~0:docs/note.txt"]
    assert texts(store, "snap ls first:/no/such/", "zsh") == []
    assert texts(store, "snap restore first docs/n") == ["docs/note.txt"]
    assert texts(store, f"snap restore first x {top}/da", "zsh") == [f"{top}/data.bin"]


def test_names_that_a_shell_would_take_apart(store: Snap) -> None:
    """Names with control characters, or of bytes that are no text, are not offered at all."""
    line = f"snap ls second:{store.home}/files/docs/"
    assert texts(store, line, "zsh") == [
        f"second:{store.home}/files/docs/{name}" for name in ("$odd", "a file", "note.txt")
    ]
    within = [text.rpartition("/")[2] for text in texts(store, line)]
    assert within == ["\\$odd", "a\\ file", "note.txt"]
    assert texts(store, 'snap ls "second:docs/') == [
        "second:docs/\\$odd", "second:docs/a file", "second:docs/note.txt",
    ]  # fmt: skip


def test_words_that_bash_breaks(store: Snap) -> None:
    assert texts(store, "snap ls first:docs/n") == ["docs/note.txt"]
    assert texts(store, "snap ls first:docs/n", COMP_WORDBREAKS=" ") == ["first:docs/note.txt"]
    assert texts(store, "snap ls first:docs/n", COMP_POINT="10") == ["first"]
    assert texts(store, "X=1 snap show fir") == ["first"]


def test_fish_is_offered_the_colon(store: Snap) -> None:
    assert texts(store, "snap ls fir", "fish") == ["first", "first:"]


@pytest.mark.parametrize(
    "line",
    ["", "snap", "snap xyzzy ", "snap ls 'unclosed", "snap ls \\", "snap -s /nowhere ls ",
     "snap ls first:/x\0", "snap list --limit x --tag ", "snap ls nothing:", "snap ls @x:"],
)  # fmt: skip
@pytest.mark.parametrize("shell", [*SHELLS, "xyzzy"])
def test_nothing_is_ever_said_on_stderr(store: Snap, line: str, shell: str) -> None:
    answers(store, line.replace("\0", ""), shell)


def test_no_store_at_all(snap: Snap) -> None:
    assert answers(snap, "snap ls ", SNAP_STORE="") == []


def test_a_damaged_store(store: Snap) -> None:
    for path in (store.store / "snap").iterdir():
        path.write_bytes(b"damaged")
    assert len(texts(store, "snap show ")) == 3  # their ids


def test_completing_commands_imports_nothing_heavy(snap: Snap) -> None:
    code = (
        "import sys, os; os._exit = lambda _: print(*sys.modules); "
        "from snapstore.cli import main; main()"
    )
    environment = {**snap.environment, "_SNAP_COMPLETE": "bash", "COMP_LINE": "snap li"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert "plain\tlist\t" in done.stdout
    heavy = {"rich", "lmdb", "snapstore._native", "snapstore.api"}
    assert heavy.isdisjoint(done.stdout.split())


# The scripts


def test_scripts(snap: Snap) -> None:
    for shell in SHELLS:
        run = snap("completion", shell)
        assert run.status == 0
        assert b"_SNAP_COMPLETE=" + shell.encode() in run.stdout
    assert snap("completion", SHELL="/usr/bin/zsh").stdout == snap("completion", "zsh").stdout
    run = snap("completion", SHELL="/bin/tcsh")
    assert run.status == 2
    assert "snap: hint: snap completion bash|zsh|fish" in str(run)


def in_shell(snap: Snap, argv: list[str], source: bytes, typed: bytes, until: bytes) -> bytes:
    """Types into an interactive shell until it answers with something."""
    script = snap.home / "bin" / "snap"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{snap.environment['PATH']}"
    environment = {**snap.environment, "PATH": path, "TERM": "vt100"}
    shown, _ = on_terminal(
        argv,
        environment,
        columns=300,
        keys=[(b"", source + b"; echo rea''dy\n"), (b"ready\r\n", typed), (until, b"")],
        ends=False,
    )
    return shown


@pytest.mark.needs("bash")
def test_bash(store: Snap) -> None:
    (store.home / "bash.rc").write_text("")
    shown = in_shell(
        store,
        ["bash", "--noprofile", "--rcfile", str(store.home / "bash.rc"), "-i"],
        b'eval "$(snap completion bash)"',
        b"snap ls second:docs/a\t",
        b"a\\ file ",
    )
    assert b"snap ls second:docs/a\\ file " in shown


@pytest.mark.needs("zsh")
def test_zsh(store: Snap) -> None:
    shown = in_shell(
        store,
        ["zsh", "-f", "-i"],
        b'autoload -Uz compinit; compinit -u -D; eval "$(snap completion zsh)"',
        b"snap ls second:docs/a\t",
        b"a\\ file",
    )
    assert b"docs/a\\ file" in shown


@pytest.mark.needs("fish")
def test_fish(store: Snap) -> None:
    shown = in_shell(
        store,
        ["fish", "--no-config"],
        b"snap completion fish | source",
        b"snap ls second:docs/a\t",
        b"a\\ file",
    )
    assert b"docs/a\\ file" in shown
