"""Lease and collector records: the payloads of `sess/` and `gc/`."""

from dataclasses import dataclass

from snapstore.model import canonical
from snapstore.model.fields import take, take_hex, take_int, take_list


@dataclass(frozen=True, slots=True)
class Lease:
    """`settled`: highest generation settled, 0 for none. Host, process and time are for people."""

    session: str
    settled: int
    purpose: str
    host: str
    pid: int
    started_ns: int

    def encode(self) -> bytes:
        return canonical.encode(
            {
                "session": self.session,
                "settled": self.settled,
                "purpose": self.purpose,
                "host": self.host,
                "pid": self.pid,
                "started_ns": self.started_ns,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Lease":
        record = canonical.decode_object(payload)
        return cls(
            session=take(record, "session", str),
            settled=take_int(record, "settled"),
            purpose=take(record, "purpose", str),
            host=take(record, "host", str),
            pid=take_int(record, "pid"),
            started_ns=take_int(record, "started_ns", -(1 << 63)),
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """What a collector condemned: ids of packs, 32 bytes each."""

    n: int
    condemned: frozenset[bytes]
    started_ns: int

    def encode(self) -> bytes:
        return canonical.encode(
            {
                "generation": self.n,
                "condemned": sorted(id.hex() for id in self.condemned),
                "started_ns": self.started_ns,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Generation":
        record = canonical.decode_object(payload)
        ids = take_list(record, "condemned", str)
        return cls(
            n=take_int(record, "generation"),
            condemned=frozenset(take_hex({"condemned": id}, "condemned", 32) for id in ids),
            started_ns=take_int(record, "started_ns", -(1 << 63)),
        )
