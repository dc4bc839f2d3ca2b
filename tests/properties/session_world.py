"""A model world for the session protocol: objects in memory, packs as sets of chunks, writers,
readers, a collector.

The writers run the library's own `Session` and `commit_steps`; only taking content, packs and the
collector are models. Every actor is a generator: whoever drives the world decides who goes next,
and who dies.
"""

import hashlib
import json
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import lru_cache

from snapstore.base.errors import StoreBusy
from snapstore.model import names
from snapstore.model.ids import ulid_text
from snapstore.model.names import GenerationName
from snapstore.model.records import Generation, Lease
from snapstore.model.refs import PackRef, Refs
from snapstore.repository.commit import Taken, commit_steps
from snapstore.repository.frames import Frames, FrameType
from snapstore.repository.session import Session, Steps

Chunks = frozenset[int]


# Objects


@dataclass
class MemoryHold:
    objects: "MemoryObjects"
    name: str

    def release(self) -> None:
        self.objects.locked.discard(self.name)


class MemoryObjects:
    """Objects in memory. `locked`: leases whose process lives; `expired`: sessions wrongly taken
    for dead.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.locked: set[str] = set()
        self.expired: set[str] = set()

    def list(self, prefix: str) -> list[str]:
        return sorted(name for name in self.contents if name.startswith(prefix))

    def get(self, name: str) -> bytes | None:
        return self.contents.get(name)

    def put(self, name: str, data: bytes) -> None:
        assert name not in self.contents, f"{name} written twice"
        self.contents[name] = data

    def delete(self, name: str) -> None:
        self.contents.pop(name, None)

    def hold(self, name: str, data: bytes) -> MemoryHold:
        self.locked.add(name)
        self.put(name, data)
        return MemoryHold(self, name)

    def held(self, name: str) -> bool:
        lease = names.parse_lease(name)
        return name in self.locked and lease is not None and lease.session not in self.expired


class PlainFrames(Frames):
    """Frames without a frame: nonce and payload."""

    def __init__(self, objects: MemoryObjects) -> None:
        super().__init__(objects, None)

    def encode(self, type: FrameType, name: str, nonce: bytes, payload: bytes) -> bytes:
        return nonce + payload

    def decode(self, type: FrameType, name: str, data: bytes) -> tuple[bytes, bytes]:
        return data[:16], data[16:]

    def h8(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:8]

    def snapshot_id(self, payload: bytes) -> str:
        return hashlib.sha256(payload).hexdigest()


# The world

decode_lease = lru_cache(maxsize=None)(Lease.decode)
decode_generation = lru_cache(maxsize=None)(Generation.decode)


@dataclass
class Pack:
    chunks: Chunks
    session: str


@dataclass
class Rules:
    """How the actors behave; a mutant changes one thing."""

    session: type[Session] = Session
    remark: bool = True
    void_by_listing: bool = True


@dataclass
class World:
    rules: Rules = field(default_factory=Rules)
    objects: MemoryObjects = field(default_factory=MemoryObjects)
    packs: dict[bytes, Pack] = field(default_factory=dict)
    reported: dict[str, Chunks] = field(default_factory=dict)
    """Snapshots that were reported as saved, and not forgotten since."""
    abandoned: list[GenerationName] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.frames = PlainFrames(self.objects)

    def write_pack(self, chunks: Chunks, session: str) -> bytes:
        id = self.chance.randbytes(32)
        self.packs[id] = Pack(chunks, session)
        return id

    def snapshots(self) -> dict[str, Chunks]:
        """Chunks of each snapshot that can be seen."""
        found = {}
        for name in self.objects.list("snap/"):
            payload = self.frames.read(FrameType.SNAPSHOT, name)
            assert payload is not None
            found[name.removeprefix("snap/")] = frozenset(json.loads(payload)["chunks"])
        return found

    def generations(self) -> dict[GenerationName, set[str]]:
        states: dict[GenerationName, set[str]] = {}
        for name in self.objects.list("gc/"):
            parsed = names.parse_generation(name)
            assert parsed is not None
            states.setdefault(GenerationName(parsed.n, parsed.nonce), set()).add(parsed.state)
        return states

    def condemned(self, name: GenerationName) -> frozenset[bytes]:
        payload = self.frames.read(FrameType.COLLECTOR, name.name)
        assert payload is not None
        return decode_generation(payload).condemned

    def live_leases(self) -> dict[str, int]:
        """What each living session has settled."""
        settled: dict[str, int] = {}
        for name in self.objects.list("sess/"):
            if self.objects.held(name):
                payload = self.frames.read(FrameType.LEASE, name)
                assert payload is not None
                lease = decode_lease(payload)
                settled[lease.session] = max(settled.get(lease.session, 0), lease.settled)
        return settled

    def missing(self) -> list[str]:
        """Reported snapshots that lack a chunk."""
        there = frozenset().union(*(pack.chunks for pack in self.packs.values()))
        return [id for id, chunks in self.reported.items() if not chunks <= there]


# Actors


@dataclass
class Actor:
    """Somebody at work. `crash` is what its process's end does: its locks go, nothing else."""

    world: World
    session: Session
    steps: Generator[str, None, object]
    over: bool = False
    at: str = ""
    failed: bool = False

    @property
    def ulid(self) -> str:
        return self.session.ulid

    def step(self) -> None:
        if self.over:
            return
        try:
            self.at = next(self.steps)
        except StopIteration:
            self.over = True
        except StoreBusy:
            # A create may fail so only when its lease was taken for dead.
            assert self.ulid in self.world.objects.expired, "a living session was taken for dead"
            self.failed = True
            self.crash()

    def until(self, at: str) -> None:
        """Steps until that has been done."""
        for _ in range(100):
            self.step()
            if self.at == at:
                return
        raise AssertionError(f"never came to {at!r}")

    def finish(self) -> None:
        for _ in range(100):
            self.step()

    def crash(self) -> None:
        self.over = True
        locked = self.world.objects.locked
        locked -= {name for name in locked if name.startswith(f"sess/{self.ulid}-")}


def new_session(world: World, kind: type[Session], purpose: str) -> Session:
    return kind(
        world.frames,
        purpose=purpose,
        host="h",
        pid=1,
        ulid=ulid_text(world.chance.getrandbits(128)),
    )


def writer(world: World, chunks: Chunks, reuse: bool) -> Actor:
    """A create of `chunks`; with `reuse`, what some snapshot has of them is not even looked up."""
    session = new_session(world, world.rules.session, "create")
    passes = 0

    def take(condemned: frozenset[bytes]) -> Steps[Taken]:
        nonlocal passes
        passes += 1
        assert passes < 20, "a create never ends"
        present = {id: pack.chunks for id, pack in world.packs.items()}
        yield "packs listed"
        used: set[bytes] = set()
        have: set[int] = set()
        if reuse:
            kept, packs = _reusable(world, chunks, condemned, frozenset(present))
            have |= kept
            used |= packs
            yield "stat cache read"
        for chunk in sorted(chunks - have):
            found = [id for id, held in present.items() if chunk in held and id not in condemned]
            used.add(found[0] if found else world.write_pack(frozenset([chunk]), session.ulid))
            yield "chunk taken"
        record = {"chunks": sorted(chunks), "session": session.ulid, "pass": passes}
        packs_used = tuple(PackRef(id, 1, 1) for id in sorted(used))
        return Taken(Refs(packs_used, exact=False), json.dumps(record).encode(), b"{}")

    def steps() -> Generator[str, None, None]:
        yield from session.begin_steps()
        id = yield from commit_steps(session, take)
        assert id is not None
        world.reported[id] = chunks
        session.end()

    return Actor(world, session, steps())


def _reusable(
    world: World, chunks: Chunks, condemned: frozenset[bytes], present: frozenset[bytes]
) -> tuple[Chunks, frozenset[bytes]]:
    """Chunks that a snapshot vouches for, and its packs, if all of these are there to stay."""
    for id, held in world.snapshots().items():
        for name in world.objects.list(f"refs/{id}-"):
            parsed = names.parse_versioned(name)
            assert parsed is not None
            payload = world.frames.read_versioned(FrameType.REFS, parsed)
            assert payload is not None
            packs = frozenset(pack.id for pack in Refs.decode(payload).packs)
            if packs <= present and not packs & condemned and held & chunks:
                return held & chunks, packs
    return frozenset(), frozenset()


def reader(world: World, snapshot: str) -> Actor:
    """Reads a snapshot under a lease: everything is there as long as it has not been forgotten."""
    session = new_session(world, world.rules.session, "restore")

    def steps() -> Generator[str, None, None]:
        yield from session.begin_steps()
        for chunk in sorted(world.reported.get(snapshot, ())):
            yield "chunk read"
            if snapshot in world.reported:
                assert any(chunk in pack.chunks for pack in world.packs.values())
        session.end()

    return Actor(world, session, steps())


def collector(world: World, choose: Callable[[list[bytes]], list[bytes]]) -> Actor:
    """One collection, by session.md. `choose` picks victims among the packs that may be."""
    session = new_session(world, Session, "collect")

    def steps() -> Generator[str, None, None]:
        yield from session.begin_steps()
        n = max((g.n for g in world.generations()), default=0) + 1
        nonce = world.chance.randbytes(16).hex()
        name = GenerationName(n, nonce)
        yield "generation claimed"
        live = frozenset().union(*world.snapshots().values())
        yield "marked"
        alive = world.live_leases()
        victims = choose([id for id, pack in world.packs.items() if pack.session not in alive])
        yield "victims chosen"
        yield from _copy(world, live, victims, session.ulid)
        record = Generation(n, frozenset(victims), 0)
        world.frames.write(FrameType.COLLECTOR, name.name, record.encode())
        world.abandoned.append(name)
        yield "generation written"
        rivals = [g for g in world.generations() if g.n == n and g != name]
        void = [r for r in rivals if world.rules.void_by_listing or r.nonce < nonce]
        if not void:
            yield from _sweep(world, name, session.ulid)
        session.end()

    return Actor(world, session, steps())


def resumed_collector(world: World, name: GenerationName) -> Actor:
    """Sweeps a generation whose collector has died."""
    session = new_session(world, Session, "collect")

    def steps() -> Generator[str, None, None]:
        yield from session.begin_steps()
        yield from _sweep(world, name, session.ulid)
        session.end()

    return Actor(world, session, steps())


def _copy(
    world: World, live: Chunks, victims: list[bytes], session: str
) -> Generator[str, None, None]:
    """Live chunks of victims go to new packs, unless a pack that stays has them."""
    condemned = frozenset().union(*map(world.condemned, world.generations()), victims)
    kept = [pack.chunks for id, pack in world.packs.items() if id not in condemned]
    held = frozenset().union(*(world.packs[v].chunks for v in victims if v in world.packs))
    needed = live & held
    for chunk in sorted(needed - frozenset().union(*kept)):
        world.write_pack(frozenset([chunk]), session)
        yield "chunk copied"


def _sweep(world: World, name: GenerationName, own: str) -> Generator[str, None, None]:
    while any(done < name.n for ulid, done in world.live_leases().items() if ulid != own):
        yield "waiting for sessions"
    sweep = GenerationName(name.n, name.nonce, "sweep").name
    if world.objects.get(sweep) is None:
        world.frames.write(FrameType.COLLECTOR, sweep, b"{}")
    yield "sweep written"
    victims = set(world.condemned(name))
    if world.rules.remark:
        live = frozenset().union(*world.snapshots().values())
        yield "snapshots listed again"
        undone = [g for g, states in world.generations().items() if "done" not in states]
        condemned = frozenset().union(*map(world.condemned, undone))
        kept = frozenset().union(
            *(pack.chunks for id, pack in world.packs.items() if id not in condemned)
        )
        victims = {
            v for v in victims & world.packs.keys() if not world.packs[v].chunks & live - kept
        }
    for victim in sorted(victims):
        world.packs.pop(victim, None)
        yield "pack deleted"
    world.frames.write(FrameType.COLLECTOR, GenerationName(name.n, name.nonce, "done").name, b"{}")
    world.abandoned.remove(name)
