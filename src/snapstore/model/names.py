"""Names of objects: the grammar of docs/format/README.md, both ways.

Each `parse` function gives None for a name that is not of its kind; readers ignore such names.
"""

import re
from dataclasses import dataclass

CONFIG = "config"

ANY = re.compile(r"[0-9a-z-]+(?:/[0-9a-z-]+){0,2}")
PRIVATE = ("tmp", "local")

_PACK = re.compile(r"(data|meta)/([0-9a-f]{2})/(\2[0-9a-f]{62})")
_KEY = re.compile(r"key/([0-9a-f]{64})")
_SNAPSHOT = re.compile(r"snap/([0-9a-f]{64})")
_VERSIONED = re.compile(r"(label|refs)/([0-9a-f]{64})-(\d{8})-([0-9a-f]{8})")
REF = re.compile(r"ref/([a-z]+)/([0-9a-f]{32})-(\d{8})-([0-9a-f]{8})")
_LEASE = re.compile(r"sess/([0-7][0-9a-hjkmnp-tv-z]{25})-(\d{4})")
_GENERATION = re.compile(r"gc/(\d{8})-([0-9a-f]{32})(?:-(sweep|done))?")

DATA, META = 1, 2
"""Kinds of packs: of content, and of trees."""
KIND_DIRECTORIES = {DATA: "data", META: "meta"}
_KINDS = {name: kind for kind, name in KIND_DIRECTORIES.items()}


@dataclass(frozen=True, slots=True, order=True)
class Versioned:
    """One of several competing objects about a snapshot, in the order in which they count."""

    snapshot: str
    n: int
    h8: str
    prefix: str

    @property
    def name(self) -> str:
        return f"{self.prefix}/{self.snapshot}-{self.n:08d}-{self.h8}"


@dataclass(frozen=True, slots=True, order=True)
class LeaseName:
    """A lease of a session; the highest `k` is in force."""

    session: str
    k: int

    @property
    def name(self) -> str:
        return f"sess/{self.session}-{self.k:04d}"


@dataclass(frozen=True, slots=True, order=True)
class GenerationName:
    """A collector's record; `state` is empty, `sweep` or `done`."""

    n: int
    nonce: str
    state: str = ""

    @property
    def name(self) -> str:
        return f"gc/{self.n:08d}-{self.nonce}" + (f"-{self.state}" if self.state else "")


def pack(kind: int, id: bytes) -> str:
    """Name of a pack; `kind`: DATA or META."""
    text = id.hex()
    return f"{KIND_DIRECTORIES[kind]}/{text[:2]}/{text}"


def parse_pack(name: str) -> tuple[int, bytes] | None:
    """(kind, id) of a pack."""
    match = _PACK.fullmatch(name)
    return (_KINDS[match[1]], bytes.fromhex(match[3])) if match else None


def snapshot(id: str) -> str:
    return f"snap/{id}"


def parse_snapshot(name: str) -> str | None:
    """Id (hexadecimal) of a snapshot."""
    match = _SNAPSHOT.fullmatch(name)
    return match[1] if match else None


def key(id: str) -> str:
    return f"key/{id}"


def parse_key(name: str) -> str | None:
    match = _KEY.fullmatch(name)
    return match[1] if match else None


def parse_versioned(name: str) -> Versioned | None:
    match = _VERSIONED.fullmatch(name)
    return Versioned(match[2], int(match[3]), match[4], match[1]) if match else None


def parse_lease(name: str) -> LeaseName | None:
    match = _LEASE.fullmatch(name)
    return LeaseName(match[1], int(match[2])) if match else None


def parse_generation(name: str) -> GenerationName | None:
    match = _GENERATION.fullmatch(name)
    return GenerationName(int(match[1]), match[2], match[3] or "") if match else None


def known(name: str) -> bool:
    """Whether a name is one that this version gives a meaning to."""
    return name == CONFIG or any(
        pattern.fullmatch(name)
        for pattern in (_PACK, _KEY, _SNAPSHOT, _VERSIONED, REF, _LEASE, _GENERATION)
    )
