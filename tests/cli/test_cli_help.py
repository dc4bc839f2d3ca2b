"""What the command says about itself, and what it costs to ask."""

import re
import subprocess
import sys

import click
import pytest
from cli_runner import Snap

from snapstore.cli.main import COMMANDS
from snapstore.cli.main import snap as group
from snapstore.cli.verbs import NEIGHBOURS, NOT_YET


def test_no_arguments(snap: Snap) -> None:
    run = snap()
    assert run.status == 2
    assert run.stdout == b""
    assert b"Usage: snap [OPTIONS] COMMAND" in run.stderr


def test_help_lists_all_commands(snap: Snap) -> None:
    run = snap("--help")
    assert run.status == 0
    shown = " ".join(run.stdout.decode().split())
    for name, summary in COMMANDS.items():
        assert f" {name} {summary} " in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_examples(snap: Snap, name: str) -> None:
    run = snap(name, "--help")
    assert run.status == 0
    assert b"Options of every command:" in run.stdout
    examples = run.stdout.decode().partition("Examples:\n")[2]
    assert f"snap {name}" in examples


@pytest.mark.parametrize("name", COMMANDS)
def test_summary_is_the_first_line_of_the_help(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, param.name


def imported(snap: Snap, *arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    code = (
        "import sys; from snapstore.cli.main import run; run(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr)"
    )
    run = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=snap.environment)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["create", "--help"]])
def test_help_imports_nothing_heavy(snap: Snap, arguments: list[str]) -> None:
    heavy = {"rich", "lmdb", "snapstore._native", "snapstore.api", "zstandard"}
    assert heavy.isdisjoint(imported(snap, *arguments))


def test_a_list_imports_nothing_that_it_can_do_without(filled: Snap) -> None:
    """Imports are nearly all of the time that it takes."""
    heavy = {"rich", "lmdb", "zstandard", "hashlib", "socket", "shutil", "snapstore.model.results"}
    loaded = imported(filled, "list")
    assert "snapstore._native" in loaded
    assert heavy.isdisjoint(loaded)


def test_version(snap: Snap) -> None:
    run = snap("--version")
    assert re.fullmatch(rb"snap \d+\.\d+\.\d+\S*\n", run.stdout)


def test_neighbours_verb(snap: Snap) -> None:
    assert str(snap("backup", "/etc")) == (
        "--- stderr\n"
        "snap: error: there is no command 'backup'\n"
        "snap: hint: here it is: snap create\n"
        "--- status 2\n"
    )


def test_verb_of_a_later_version(snap: Snap) -> None:
    assert str(snap("repair")) == (
        "--- stderr\n"
        "snap: error: there is no command 'repair' in this version yet\n"
        "snap: hint: what comes nearest to it: snap check\n"
        "--- status 2\n"
    )
    assert "in this version yet" in str(snap("prune"))


def test_typo(snap: Snap) -> None:
    assert str(snap("crate")) == (
        "--- stderr\n"
        "snap: error: there is no command 'crate'\n"
        "snap: hint: did you mean: snap create\n"
        "--- status 2\n"
    )
    assert "snap --help lists the commands there are" in str(snap("xyzzy"))


def test_suggested_verbs_exist() -> None:
    assert set(NEIGHBOURS.values()) <= {*COMMANDS, "--help", "--version"}
    assert {verb for verb in NOT_YET.values() if verb} <= set(COMMANDS)
    assert set(COMMANDS).isdisjoint(NEIGHBOURS)
    assert set(COMMANDS).isdisjoint(NOT_YET)


def test_unknown_option(snap: Snap) -> None:
    run = snap("list", "--frobnicate")
    assert run.status == 2
    assert "snap: error: No such option '--frobnicate'." in str(run)
    assert "snap: hint: snap list --help shows the options and examples" in str(run)
