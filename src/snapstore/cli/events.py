"""Events of a restore on the command line: as JSON lines, or told in words."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from snapstore.base.bytestext import from_text
from snapstore.base.progress import Observer, Progress
from snapstore.cli import render

if TYPE_CHECKING:
    from snapstore import Event


def as_lines(events: "Iterable[Event]") -> None:
    """Prints each as it comes, one to a line, so that a reader has it at once."""
    for event in events:
        sys.stdout.write(json.dumps(event.to_dict()) + "\n")
        sys.stdout.flush()


def in_words(events: "Iterable[Event]", progress: Observer | None) -> None:
    """Tells what happens; progress goes to whoever shows that."""
    for event in events:
        if event.event == "progress":
            if progress is not None:
                progress(_progress(event.data))
        elif event.event in _WORDS:
            render.out(_WORDS[event.event](event.data))
            sys.stdout.flush()


def _plan(data: dict[str, Any]) -> str:
    counts = ", ".join(f"{count['entries']:,} {word}" for word, count in data["counts"].items())
    return f"plan: {counts or 'nothing differs'}"


def _path(data: dict[str, Any]) -> str:
    return render.name(from_text(data["path"]))


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "plan": _plan,
    "conflict": lambda data: f"conflict: {_path(data)} (the {data['taken']} one is taken)",
    "verified": lambda data: f"verified: {render.amount(data['files'], 'file')}",
    "file": lambda data: f"{data['action']}: {_path(data)}",
}


def _progress(data: dict[str, Any]) -> Progress:
    facts = {key: value for key, value in data.items() if key != "current_b64"}
    return Progress(**{**facts, "current": from_text(data["current"])})
