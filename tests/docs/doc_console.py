"""Fenced examples of a page, and running those that are shell."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "\x1e"

# What differs from run to run, in the page and in what is printed.
_LOOSE = (
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{8}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? [+-]\d\d:\d\d"), "TIME"),
    (re.compile(r"\b\d[\d.,]* (B|KiB|MiB|GiB|s)\b"), "N"),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Example:
    """A command and what the page says that it prints."""

    command: str
    expected: str


def fenced(page: Path, language: str) -> list[str]:
    """The contents of the page's blocks in a language."""
    return [text for found, text in _FENCE.findall(page.read_text()) if found == language]


def examples(page: Path) -> list[Example]:
    """The commands of all `console` blocks in order."""
    found = []
    for block in fenced(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            found.append(Example(command, expected))
    return found


def run(commands: list[str], cwd: Path, environment: dict[str, str]) -> list[str]:
    """Types the commands into one shell and returns what each printed, on both channels."""
    step = "(exit $last)\n{}\nlast=$?; printf '\\036'\n"
    script = "last=0\n" + "".join(step.format(command) for command in commands)
    done = subprocess.run(
        ["bash"],
        input=script.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=environment,
        check=False,
    )
    return done.stdout.decode().split(_MARK)[: len(commands)]


def matches(expected: str, printed: str) -> bool:
    """Whether the text is as expected, where ids, times and sizes may differ and `…` stands for
    anything.
    """
    parts = [re.escape(part) for part in loosened(expected).split("…")]
    return re.fullmatch(".*".join(parts), loosened(printed), re.DOTALL) is not None


def loosened(text: str) -> str:
    """The text with all that differs from run to run replaced."""
    for pattern, replacement in _LOOSE:
        text = pattern.sub(replacement, text)
    return text.strip()
