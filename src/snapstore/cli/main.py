"""The command line as a whole: which commands there are, and how a run begins and ends."""

import importlib
import os
import sys
from collections.abc import Sequence

import click

import snapstore
from snapstore.cli import passwords
from snapstore.cli.settings import HelpMixin, Settings, shared_options

# Name (of the command and of its module) and first line of its help, known without importing it.
COMMANDS = {
    "init": "Make an empty store.",
    "create": "Take a snapshot of files, directories, disk images or streams.",
    "list": "List snapshots, the newest first.",
    "show": "Show everything that is recorded about a snapshot.",
    "ls": "List the files of a snapshot.",
    "cat": "Print files of a snapshot.",
    "diff": "Show what is different between snapshots, or on disk.",
    "find": "Find files by name, size, time and type in all snapshots.",
    "log": "Show all versions of one path.",
    "du": "Show what snapshots take, and what each alone holds.",
    "restore": "Put a snapshot, or part of it, back in place, or elsewhere.",
    "undo": "Take back the last restore.",
    "jobs": "List restores that run on by themselves, or show one.",
    "mount": "Show snapshots as a file system, to look into them and copy out of them.",
    "umount": "End a mount of snapshots.",
    "export": "Write a snapshot, or a part of it, as a tar or zip archive.",
    "import-tar": "Take a snapshot of what a tar archive holds.",
    "check": "Check the store, and name the files that damage hits.",
    "stats": "Show how much the store holds and saves.",
    "reindex": "Rebuild the local index from the store's objects.",
    "key": "Passwords of an encrypted store: list, add, change, remove, export, import.",
    "doctor": "Look whether this machine and the store have what is needed.",
    "completion": "Print the script that lets a shell complete what you type.",
    "man": "Write the manual pages of all commands.",
}


class LazyGroup(HelpMixin, click.Group):
    """A group whose commands are modules of this package, imported when they are invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"snapstore.cli.{cmd_name.replace('-', '_')}")
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from snapstore.cli import verbs

            raise verbs.unknown(args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list["click.shell_completion.CompletionItem[str]"]:
        """Commands without importing them, and options."""
        from click.shell_completion import CompletionItem

        options = click.Command.shell_complete(self, ctx, incomplete)
        found = [(name, text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*(CompletionItem(name, help=text) for name, text in found), *options]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        super().format_options(ctx, formatter)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        sys.stdout.write(f"snap {snapstore.__version__}\n")
        ctx.exit()


@click.command(
    "snap",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND …",
    epilog="""
    Examples:
      snap create /etc /srv/app --name before-upgrade
      snap list
      snap restore before-upgrade:/etc --target /tmp/etc

    `snap COMMAND --help` shows a command's options and examples.
    """,
)
@shared_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def snap() -> None:
    """Keep snapshots of files and disk images: fast, small, and exact.

    Snapshots are kept in a store, a directory in which every distinct piece of content is kept
    once.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status. Never raises."""
    passwords.take_environment()
    _occupy_streams()
    settings = Settings(json="--json" in arguments, no_pager="--no-pager" in arguments)
    try:
        for stream in (sys.stdout, sys.stderr):
            # A terminal of another encoding shows an escape where it has no character.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        status = _invoke(arguments, settings)
        sys.stdout.flush()
        return status
    except BaseException as error:
        from snapstore.cli import errors

        return errors.report(error, settings)
    finally:
        passwords.wipe()


def _occupy_streams() -> None:
    """Puts /dev/null where standard streams are closed (`>&-`): else a file of the store would be
    opened as such a number, and get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Standard input for writing: to read what was never given is an error, not an empty
            # file.
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _invoke(arguments: Sequence[str], settings: Settings) -> int:
    try:
        with snap.make_context("snap", list(arguments), obj=settings) as context:
            return snap.invoke(context) or 0
    except click.exceptions.Exit as end:  # help or the version was printed
        return end.exit_code
