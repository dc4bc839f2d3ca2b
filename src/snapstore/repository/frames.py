"""Frames: small objects as records: read and written with their checks, seals and writer nonces."""

import os
from enum import IntEnum

from snapstore import _native
from snapstore.base.errors import DamagedObject
from snapstore.model import names
from snapstore.model.names import Versioned
from snapstore.repository.objects import Hold, ObjectStore

NO_NONCE = bytes(16)


class FrameType(IntEnum):
    """Types of frames, as docs/format/frame.md numbers them."""

    CONFIG = 1
    KEY = 2
    SNAPSHOT = 3
    LABEL = 4
    REFS = 5
    REF = 6
    LEASE = 7
    COLLECTOR = 8


class Frames:
    """The small objects of a store under its keys (None: only what is never sealed)."""

    def __init__(self, objects: ObjectStore, keys: "_native.Keys | None") -> None:
        self.objects = objects
        self.keys = keys

    def read(self, type: FrameType, name: str) -> bytes | None:
        """Payload of an object; None only when it is certainly not there. DamagedObject,
        StoreTooNew, StorageError.
        """
        data = self.objects.get(name)
        return None if data is None else self.decode(type, name, data)[1]

    def write(self, type: FrameType, name: str, payload: bytes) -> None:
        """Writes an object with a nonce of its own."""
        self.objects.put(name, self.encode(type, name, os.urandom(16), payload))

    def hold(self, name: str, payload: bytes) -> Hold:
        """Writes a lease and keeps it alive."""
        frame = self.encode(FrameType.LEASE, name, os.urandom(16), payload)
        return self.objects.hold(name, frame)

    def write_snapshot(self, name: str, payload: bytes) -> None:
        """Writes a snapshot object, which is named by its content alone: the commit."""
        self.objects.put(name, self.encode(FrameType.SNAPSHOT, name, NO_NONCE, payload))

    def write_versioned(self, type: FrameType, snapshot: str, n: int, payload: bytes) -> str:
        """Writes the `n`th label or refs of a snapshot; returns its name."""
        nonce = os.urandom(16)
        prefix = {FrameType.LABEL: "label", FrameType.REFS: "refs"}[type]
        name = Versioned(snapshot, n, self.h8(nonce + payload), prefix).name
        self.objects.put(name, self.encode(type, name, nonce, payload))
        return name

    def read_versioned(self, type: FrameType, name: Versioned) -> bytes | None:
        """Payload of a label or refs, whose name is checked against its content."""
        data = self.objects.get(name.name)
        if data is None:
            return None
        nonce, payload = self.decode(type, name.name, data)
        if self.h8(nonce + payload) != name.h8:
            raise DamagedObject(f"{name.name} is not what its name says", object=name.name)
        return payload

    def read_ref(self, name: str) -> bytes | None:
        """Payload of a ref, whose name is checked against its content; None where none is, and for
        a name that is no ref's.
        """
        parsed = names.REF.fullmatch(name)
        data = self.objects.get(name) if parsed else None
        if data is None or parsed is None:
            return None
        nonce, payload = self.decode(FrameType.REF, name, data)
        if self.h8(nonce + payload) != parsed[4]:
            raise DamagedObject(f"{name} is not what its name says", object=name)
        return payload

    # Under the keys

    def encode(self, type: FrameType, name: str, nonce: bytes, payload: bytes) -> bytes:
        return _native.write_frame(self.keys, type, name, nonce, payload)

    def decode(self, type: FrameType, name: str, data: bytes) -> tuple[bytes, bytes]:
        """(writer nonce, payload)"""
        try:
            return _native.read_frame(self.keys, type, name, data)
        except DamagedObject as error:  # or tampered with
            raise error.__class__(f"{name}: {error}", object=name) from error

    def h8(self, data: bytes) -> str:
        """The 8 digits that tell competing objects apart."""
        assert self.keys is not None
        return self.keys.object_hash(data)[:4].hex()

    def snapshot_id(self, payload: bytes) -> str:
        assert self.keys is not None
        return self.keys.snapshot_id(payload).hex()
