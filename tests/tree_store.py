"""Trees in stores: what the library, and what the independent reader, says that a snapshot holds,
as the same facts that `tree_scan` reads from disk.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from tree_scan import PIECE, Fact, Facts

Errors = tuple[type[Exception], ...]
SOURCE = Path(__file__).parents[1] / "src" / "snapstore" / "rescue.py"


@cache
def rescue() -> Any:
    """The independent reader as a single file, without the package around it."""
    spec = importlib.util.spec_from_file_location("rescue_alone", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rescue_alone"] = module
    spec.loader.exec_module(module)
    return module


def _group(table: Mapping[bytes, bytes], path: bytes) -> bytes | None:
    return table.get(path, path if path in table.values() else None)


def facts_by_rescue(store: Any, root_id: str, skip: Errors = ()) -> Facts:
    """Facts of a root, through the independent reader's `Store`; without the entries that cannot be
    had because of the errors `skip`, and what is below them.
    """
    root = bytes.fromhex(root_id)
    links: dict[bytes, bytes] = {}
    found: Facts = {}
    with contextlib.suppress(*skip):
        links = store.links(root)
    with contextlib.suppress(*skip):
        for path, entry in store.walk(root, (lambda path, error: None) if skip else None):
            with contextlib.suppress(*skip):
                found[path] = _fact_by_rescue(store, entry, _group(links, path))
    return found


def _fact_by_rescue(store: Any, entry: Any, group: bytes | None) -> Fact:
    names = {1: "file", 2: "directory", 3: "symlink", 4: "fifo", 5: "chardev", 6: "blockdev"}
    values: dict[str, Any] = {}
    if entry.kind == 1:
        digest = blake3()
        for _, length, data in store.content(entry):
            _update(digest, length, data)
        holes = tuple((offset, length) for offset, length in store.holes(entry))
        values = {"size": entry.size, "content": digest.hexdigest(), "holes": holes}
    elif entry.kind == 3:
        values = {"target": entry.target}
    elif entry.kind in (5, 6):
        values = {"device": tuple(entry.device)}
    return Fact(
        names[entry.kind],
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        **values,
        xattrs=dict(store.attributes(entry)),
        group=group,
    )


def facts_by_library(reader: Any, root_id: str, skip: Errors = ()) -> Facts:
    """Facts of a root, through the native `Reader`; without the entries that cannot be had because
    of the errors `skip`, and what is below them.
    """
    root = bytes.fromhex(root_id)
    links: dict[bytes, bytes] = {}
    found: Facts = {}
    waiting: list[tuple[bytes, Any]] = []
    with contextlib.suppress(*skip):
        links = dict(reader.links(root))
    with contextlib.suppress(*skip):
        waiting = [(b"", reader.root(root))]
    while waiting:
        path, entry = waiting.pop()
        with contextlib.suppress(*skip):
            found[path] = _fact_by_library(reader, entry, _group(links, path))
        if entry.type == "directory":
            with contextlib.suppress(*skip):
                waiting += [
                    (path + b"/" + child.name if path else child.name, child)
                    for child in reader.children(entry)
                ]
    return found


def _fact_by_library(reader: Any, entry: Any, group: bytes | None) -> Fact:
    values: dict[str, Any] = {"target": entry.target, "device": entry.device}
    if entry.type == "file":
        digest = blake3()
        for offset in range(0, entry.size, PIECE):
            digest.update(reader.read(entry, offset, min(PIECE, entry.size - offset)))
        holes = tuple(reader.holes(entry))
        values |= {"size": entry.size, "content": digest.hexdigest(), "holes": holes}
    return Fact(
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        **values,
        xattrs=dict(reader.xattrs(entry)),
        group=group,
    )


def _update(digest: Any, length: int, data: bytes | None) -> None:
    if data is not None:
        digest.update(data)
        return
    while length:
        step = min(length, PIECE)
        digest.update(bytes(step))
        length -= step
