"""Stat caches: what a source's last run knew of each file, so that the next one opens only what
changed.

local/ > stat/ > `<series>-<snapshot id>`, with series = the first 32 hexadecimal digits of BLAKE3
over source, NUL, root path. The core reads and writes their contents; a cache counts only while its
snapshot exists.
"""

import contextlib
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from blake3 import blake3

_NAME = re.compile("([0-9a-f]{32})-([0-9a-f]{64})")
_FORGOTTEN_S = 86_400


class StatCaches:
    """The stat caches below one `local/`; all of it may vanish at any time."""

    def __init__(self, local: Path) -> None:
        self._directory = local / "stat"

    def find(self, source: str, path: bytes, snapshots: Collection[str]) -> tuple[Path, str] | None:
        """(file, snapshot id) of the cache of a root, if its snapshot is one of `snapshots`."""
        series = _series(source, path)
        found = [
            (file, match[2])
            for file in self._files()
            if (match := _NAME.fullmatch(file.name)) and match[1] == series
        ]
        usable = [(file, id) for file, id in found if id in snapshots]
        return max(usable, key=lambda item: item[0].stat().st_mtime_ns, default=None)

    def prepare(self, session: str, number: int) -> Path:
        """Where the core is to write the next cache of a root."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        return self._directory / f"new-{session}-{number}"

    def install(self, prepared: Path, source: str, path: bytes, snapshot: str) -> None:
        """Puts a prepared cache into use; the ones before it are removed."""
        series = _series(source, path)
        target = self._directory / f"{series}-{snapshot}"
        with contextlib.suppress(FileNotFoundError):
            os.replace(prepared, target)
            for file in self._files():
                if file.name.startswith(series) and file != target:
                    file.unlink(missing_ok=True)

    def clean(self, snapshots: Collection[str]) -> None:
        """Removes caches whose snapshots are gone, and what killed runs left a day ago."""
        for file in self._files():
            match = _NAME.fullmatch(file.name)
            with contextlib.suppress(FileNotFoundError):
                forgotten = file.stat().st_mtime < time.time() - _FORGOTTEN_S
                if (match and match[2] not in snapshots) or (not match and forgotten):
                    file.unlink()

    def _files(self) -> list[Path]:
        try:
            return list(self._directory.iterdir())
        except FileNotFoundError:
            return []


def _series(source: str, path: bytes) -> str:
    return blake3(source.encode("utf-8", "surrogatepass") + b"\0" + path).hexdigest()[:32]
