"""Running the command and showing what it did as a transcript."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

# What differs from run to run.
_TIDY = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<store>"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "<short>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? [+-]\d\d:\d\d"), "<time>"),
    (re.compile(r"\b\d[\d.e-]* s\b"), "<s>"),
    (re.compile(r"\b\d[\d.]* (B|KiB|MiB) stored"), "<size> stored"),
)


@dataclass(frozen=True)
class Run:
    """A run that has ended. As text: stdout, then stderr and the status if there is anything to
    say.
    """

    stdout: bytes
    stderr: bytes
    status: int
    places: dict[str, str]

    def __str__(self) -> str:
        text = self.tidy(self.stdout)
        if self.stderr:
            text += "--- stderr\n" + self.tidy(self.stderr)
        if self.status:
            text += f"--- status {self.status}\n"
        return text

    def tidy(self, output: bytes) -> str:
        """The output with places, ids, times and durations replaced."""
        text = output.decode("utf-8", "backslashreplace")
        for place, name in self.places.items():
            text = text.replace(place, name)
        for pattern, replacement in _TIDY:
            text = pattern.sub(replacement, text)
        return text


@dataclass
class Snap:
    """The command, in an environment of its own. `SNAP_STORE` names a store that need not exist."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.home / "store"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "SNAP_STORE": str(self.store),
            **self.environment,
        }

    def __call__(
        self,
        *arguments: str | bytes | Path,
        input: bytes = b"",
        rights: bool = True,
        **environment: str | None,
    ) -> Run:
        """Runs `snap ARGUMENTS…`; variables given here are set, or removed where None.

        Without `rights`, what root may do beyond others is given up first.
        """
        changed = {**self.environment, **environment}
        prefix = [] if rights or os.geteuid() != 0 else _DROP_RIGHTS
        done = subprocess.run(
            [*prefix, *command(), *arguments],
            input=input,
            capture_output=True,
            cwd=self.home,
            env={name: value for name, value in changed.items() if value is not None},
            check=False,
        )
        return Run(done.stdout, done.stderr, done.returncode, {str(self.home): "~"})


_DROP_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


def command() -> list[str]:
    """How the command is started."""
    return [sys.executable, "-m", "snapstore.cli"]
