"""The golden vectors as files: what is expected of each store, and synthetic contents."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from mini_writer import text

from tree_scan import Fact, Facts

VECTORS = Path(__file__).parent / "vectors"
NAMES = ("paged", "sealed", "several-roots", "stream", "tree")


@dataclass(frozen=True)
class Vector:
    """A store, and what its readers must find in it: the facts of each root by its id."""

    name: str
    store: Path
    password: bytes | None
    snapshots: dict[str, Any]
    roots: dict[str, Facts]


def load(name: str) -> Vector:
    """A vector by its name."""
    expected = load_json(f"{name}/expected.json")
    password = expected["password"]
    roots = {id: facts_from_json(listing) for id, listing in expected["roots"].items()}
    return Vector(
        name,
        VECTORS / name / "store",
        None if password is None else password.encode(),
        expected["snapshots"],
        roots,
    )


def load_json(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


# Facts as JSON: what an entry does not have is left out.


def raw(value: str) -> bytes:
    """The bytes that stand as text in JSON (docs/format/README.md, "Byte strings in JSON")."""
    parts = re.split("(%[0-9A-F]{2})", value)
    return b"".join(
        bytes([int(part[1:], 16)]) if number % 2 else part.encode()
        for number, part in enumerate(parts)
    )


def facts_to_json(facts: Facts) -> list[dict[str, Any]]:
    return [_fact_to_json(path, facts[path]) for path in sorted(facts)]


def _fact_to_json(path: bytes, fact: Fact) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "path": text(path),
        "type": fact.type,
        "mode": f"{fact.mode:04o}",
        "uid": fact.uid,
        "gid": fact.gid,
        "mtime_ns": fact.mtime_ns,
    }
    if fact.type == "file":
        entry |= {"size": fact.size, "blake3": fact.content}
    if fact.holes:
        entry["holes"] = [list(hole) for hole in fact.holes]
    if fact.target is not None:
        entry["target"] = text(fact.target)
    if fact.device is not None:
        entry["device"] = list(fact.device)
    if fact.xattrs:
        entry["xattrs"] = {text(name): fact.xattrs[name].hex() for name in sorted(fact.xattrs)}
    if fact.group is not None:
        entry["group"] = text(fact.group)
    return entry


def facts_from_json(listing: list[dict[str, Any]]) -> Facts:
    return {raw(entry["path"]): _fact_from_json(entry) for entry in listing}


def _fact_from_json(entry: dict[str, Any]) -> Fact:
    return Fact(
        entry["type"],
        int(entry["mode"], 8),
        entry["uid"],
        entry["gid"],
        entry["mtime_ns"],
        size=entry.get("size", 0),
        content=entry.get("blake3", ""),
        holes=tuple((offset, length) for offset, length in entry.get("holes", ())),
        target=raw(entry["target"]) if "target" in entry else None,
        device=tuple(entry["device"]) if "device" in entry else None,
        xattrs={raw(name): bytes.fromhex(v) for name, v in entry.get("xattrs", {}).items()},
        group=raw(entry["group"]) if "group" in entry else None,
    )


# Synthetic contents


def content(parts: list[list[Any]], patches: list[list[Any]]) -> bytes:
    """A content from its description in chunking.json.

    `parts`: ["xof", label, length]: the first bytes of BLAKE3's extended output for the label;
    ["repeat", label, period, length]: the first `period` of those again and again; ["zeros",
    length]. `patches`: [offset, hexadecimal digits] written over it.
    """
    out = bytearray()
    for kind, *rest in parts:
        if kind == "xof":
            label, length = rest
            out += blake3(label.encode()).digest(length=length)
        elif kind == "repeat":
            label, period, length = rest
            piece = blake3(label.encode()).digest(length=period)
            out += (piece * (length // period + 1))[:length]
        else:
            out += bytes(rest[0])
    for offset, digits in patches:
        patch = bytes.fromhex(digits)
        out[offset : offset + len(patch)] = patch
    return bytes(out)
