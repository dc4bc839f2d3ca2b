"""Heads: from which snapshot what is on disk comes, for each source that was restored in place.

local/ > heads/ > the first 32 hexadecimal digits of BLAKE3 over the source: one record in JSON.
Like all of `local/` it may vanish; then the newest snapshot of a source is its head, and the newest
safety snapshot is what an undo goes back to.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from blake3 import blake3


@dataclass(frozen=True, slots=True)
class Head:
    """`snapshot`: what was restored last, of all paths of the source; None: the newest one of it.
    `safety`: the snapshot by which that is taken back, None when there is none. `paths`: what was
    restored, on disk.
    """

    source: str
    snapshot: str | None
    safety: str | None
    paths: tuple[str, ...]
    time_ns: int


class Heads:
    """The records below one `local/`."""

    def __init__(self, local: Path) -> None:
        self._directory = local / "heads"

    def find(self, source: str) -> Head | None:
        """The head of a source, if it was restored since it was last taken."""
        return _read(self._file(source))

    def all(self) -> list[Head]:
        """All heads, that of the last restore first."""
        return sorted(self._records(), key=lambda head: head.time_ns, reverse=True)

    def put(self, head: Head) -> None:
        """Replaces the head of its source."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        file = self._file(head.source)
        new = file.with_name(f"{file.name}.{os.getpid()}")
        with open(new, "w", encoding="utf-8", errors="surrogateescape") as stream:
            json.dump(asdict(head), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, file)

    def restored(self, head: Head, *, undoes: bool) -> None:
        """A restore makes `head` that of its source. When it was of some paths only (no snapshot),
        the snapshot stays what it was, unless it `undoes` another.
        """
        if head.snapshot is None and not undoes:
            known = self.find(head.source)
            head = replace(head, snapshot=known.snapshot if known is not None else None)
        with contextlib.suppress(OSError):  # then the newest snapshot is taken for the head
            self.put(head)

    def taken(self, source: str, id: str) -> None:
        """A create makes `id`, the snapshot that it took, the head."""
        head = self.find(source)
        if head is not None:
            with contextlib.suppress(OSError):
                self.put(Head(head.source, id, head.safety, head.paths, head.time_ns))

    def _file(self, source: str) -> Path:
        digest = blake3(source.encode("utf-8", "surrogateescape")).hexdigest()
        return self._directory / digest[:32]

    def _records(self) -> Iterator[Head]:
        with contextlib.suppress(FileNotFoundError):
            for file in self._directory.iterdir():
                head = _read(file)
                if head is not None and file.name == self._file(head.source).name:
                    yield head


def _read(file: Path) -> Head | None:
    """A record; None for none, and for one that cannot be one: it only says what is likely."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            record = json.load(stream)
        head = Head(**{**record, "paths": tuple(record["paths"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    texts = [head.source, *head.paths]
    optional = [text for text in (head.snapshot, head.safety) if text is not None]
    ok = all(isinstance(text, str) for text in texts + optional) and isinstance(head.time_ns, int)
    return head if ok else None
