"""A log of all that was sealed under a key, by what anybody can read of it: whether a nonce was
used for different bytes.

Epoch and salt stand for the key. What is sealed is the plaintext with what is bound to it, so two
ciphertexts, or one under two tags, are different bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from attacks import PACKS, blocks, type_of
from blake3 import blake3
from sealed_world import objects_of

Key = tuple[str, bytes, bytes]
"""Pack or frame (their keys are derived apart), epoch, salt."""


@dataclass
class NonceLog:
    sealed: dict[tuple[Key, bytes], bytes] = field(default_factory=dict)
    salts: dict[Key, int] = field(default_factory=dict)
    """By key, how many objects say that they are sealed under it."""
    reused: list[str] = field(default_factory=list)
    repeated: int = 0
    """Nonces that were used again, for the same bytes."""
    pieces: int = 0

    def take_store(self, path: Path) -> None:
        for name, data in objects_of(path).items():
            self.take(name, data)

    def take(self, name: str, data: bytes) -> None:
        """An object of a store."""
        if type_of(name) in PACKS:
            key = self._key("pack", data[12:16], data[32:64])
            for number, (at, end) in enumerate(blocks(data)):
                body = data[at + 24 : end - 8]
                self._note(key, body, data[at : at + 24], f"block {number} of {name}")
        elif data[7]:
            key = self._key("frame", data[32:36], data[36:68])
            self._note(key, data[68:-8], data[:32], name)

    def _key(self, use: str, epoch: bytes, salt: bytes) -> Key:
        key = use, epoch, salt
        self.salts[key] = self.salts.get(key, 0) + 1
        return key

    def _note(self, key: Key, body: bytes, bound: bytes, what: str) -> None:
        self.pieces += 1
        digest = blake3(bound + body).digest()
        before = self.sealed.get((key, body[:12]))
        if before is None:
            self.sealed[key, body[:12]] = digest
        elif before == digest:
            self.repeated += 1
        else:
            self.reused.append(f"{what}: nonce {body[:12].hex()}")


def log_of(paths: Iterable[Path]) -> NonceLog:
    log = NonceLog()
    for path in paths:
        log.take_store(path)
    return log
