"""`snap completion`."""

import os

import click

from snapstore.cli import render
from snapstore.cli.errors import Usage
from snapstore.cli.settings import Settings, declare

SHELLS = ("bash", "zsh", "fish")


@declare(
    "completion",
    examples="""
    eval "$(snap completion bash)"                # in ~/.bashrc
    snap completion zsh > ~/.zfunc/_snap          # a directory in $fpath
    snap completion fish > ~/.config/fish/completions/snap.fish
    """,
)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_obj
def command(settings: Settings, /, shell: str | None) -> None:
    """Print the script that lets a shell complete what you type.

    Commands, options, snapshots and the paths in them are completed. Without SHELL, the script is
    for the shell in $SHELL.
    """
    from snapstore.cli import completing

    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in SHELLS:
        raise Usage("for which shell?", f"snap completion {'|'.join(SHELLS)}")
    script = completing.script(shell)
    if settings.json:
        render.document({"shell": shell, "script": script})
    else:
        render.out(script.rstrip("\n"))
