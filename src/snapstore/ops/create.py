"""Create: takes paths, images and streams, and commits a snapshot of them."""

import contextlib
import grp
import os
import pwd
import stat
import time as clock
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from snapstore import _native
from snapstore.base import bytestext
from snapstore.base.errors import (
    CommandFailed,
    InvalidArgument,
    StoreBusy,
    StoreFailed,
)
from snapstore.base.progress import Observer
from snapstore.index import DedupView
from snapstore.model import canonical
from snapstore.model import snapshot as records
from snapstore.model.config import LEVELS, compression_name
from snapstore.model.ids import new_ulid, ulid_bytes
from snapstore.model.refs import PackRef, Refs
from snapstore.model.results import CreateResult, Explanation, Stream
from snapstore.model.selection import Selection
from snapstore.model.snapshot import Root, Snapshot
from snapstore.ops import archives, commands
from snapstore.ops.archives import Archive
from snapstore.ops.running import Meter
from snapstore.ops.selection import Place, Rules, listed_record, own_directories, places
from snapstore.ops.selection import explain as explain_path
from snapstore.repository.commit import Taken, commit_steps
from snapstore.repository.open import Repository
from snapstore.repository.session import Steps, drain

_SUMS = (
    "files",
    "directories",
    "new_files",
    "changed_files",
    "unchanged_files",
    "read_bytes",
    "unreadable_count",
    "sockets",
    "excluded",
    "mounts",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a create is asked for. Paths are absolute; `time_ns`: None for now."""

    places: tuple[Place, ...]
    images: tuple[bytes, ...]
    streams: tuple[Stream, ...]
    source: str
    host: str
    kind: str
    tool: str
    label: list[list[Any]]
    created_by: dict[str, Any]
    time_ns: int | None = None
    parent: Snapshot | None = None
    rules: Rules = Rules()  # noqa: RUF009  (it is frozen)
    skip_if_unchanged: bool = False
    dry_run: bool = False
    rehash: bool = False
    ignore_inode: bool = False
    compression: str | None = None
    archive: Archive | None = None
    below: Mapping[bytes, bytes] = field(default_factory=dict)
    """Roots that the rules see elsewhere: as this path below the root that they are for."""
    keep_nodes: bool = False
    """A dry run keeps the nodes that it makes in memory."""

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Paths and images: everything but streams."""
        return tuple(place.path for place in self.places) + self.images


def plan(
    repository: Repository,
    paths: Sequence[str | bytes | os.PathLike[str]],
    *,
    images: Sequence[str | bytes | os.PathLike[str]],
    streams: Sequence[Stream],
    listed: Iterable[str | bytes | os.PathLike[str]],
    selection: Selection,
    **options: Any,
) -> Plan:
    """A plan out of the arguments of `Store.create`. InvalidArgument, SourceUnreadable (a file of
    patterns).
    """
    found = _places(repository, paths, listed)
    devices = tuple(dict.fromkeys(_absolute(path) for path in images))
    names = [_stream_name(stream) for stream in streams]
    everything = [*(place.path for place in found), *devices, *names]
    if not everything:
        raise InvalidArgument("nothing to take", hint="name a path, an image or a stream")
    if len(everything) > records.MAX_ROOTS:
        raise InvalidArgument(
            f"{len(everything):,} paths are too many: a snapshot has {records.MAX_ROOTS:,} roots",
            hint="list the paths (--files-from): together they are one root",
        )
    if len(set(everything)) != len(everything):
        raise InvalidArgument("two roots have the same name")
    return plan_of(
        repository,
        everything,
        places=tuple(found),
        images=devices,
        streams=tuple(streams),
        rules=Rules.of(selection),
        **options,
    )


def plan_of(
    repository: Repository,
    everything: Sequence[bytes],
    *,
    source: str | None,
    host: str | None,
    created_by: Mapping[str, Any] | None,
    name: str | None,
    description: str | None,
    tags: Sequence[str],
    metadata: Mapping[str, Any] | None,
    kind: str,
    **parts: Any,
) -> Plan:
    """A plan that takes `everything`, the names of its roots, with what is recorded about it.
    `parts`: other fields of the plan. InvalidArgument.
    """
    if kind not in records.KINDS:
        raise InvalidArgument(f"a snapshot cannot be of the kind {kind!r}")
    if name is not None and not name:
        raise InvalidArgument("a name cannot be empty")
    if "" in tags:
        raise InvalidArgument("a tag cannot be empty", hint="without tags, give none")
    host = host or repository.host
    plan = Plan(
        source=source or f"{host}:{','.join(sorted(map(bytestext.to_text, everything)))}",
        host=host,
        kind=kind,
        label=records.label_operations(name, description, tags, dict(metadata or {})),
        created_by=dict(created_by or {"type": "user", "id": user()}),
        **parts,
    )
    _require_recordable(plan)
    return plan


def _require_recordable(plan: Plan) -> None:
    """InvalidArgument for what cannot stand in a record: said before anything is read."""
    by = plan.created_by.get("id")
    if not isinstance(by, str):
        raise InvalidArgument("created_by has no text 'id' that says who or what it is")
    records.encode_label(plan.label, by, 0)
    canonical.encode([plan.source, plan.host, plan.created_by])


def _places(
    repository: Repository,
    paths: Iterable[str | bytes | os.PathLike[str]],
    listed: Iterable[str | bytes | os.PathLike[str]],
) -> list[Place]:
    """Roots for what was named and listed; InvalidArgument for what is in the store."""
    roots = tuple(dict.fromkeys(_absolute(path) for path in paths))
    others = [_absolute(path) for path in listed]
    found = places(roots, others)
    store = os.path.realpath(os.fsencode(repository.path)) + b"/"
    candidates = [(place.path, os.path.realpath(place.path)) for place in found]
    candidates += [(path, path) for path in others]
    inside = [path for path, real in candidates if (real + b"/").startswith(store)]
    if inside:
        raise InvalidArgument(f"{bytestext.to_text(inside[0])} is the store itself, or in it")
    return found


def explain(
    repository: Repository,
    path: str | bytes | os.PathLike[str],
    roots: Sequence[str | bytes | os.PathLike[str]],
    listed: Iterable[str | bytes | os.PathLike[str]],
    selection: Selection,
) -> Explanation:
    """Why a create of `roots` takes `path`, or leaves it out."""
    found = _places(repository, roots, listed)
    rules = Rules.of(selection)
    return explain_path(found, rules, own_directories(repository), _absolute(path))


def create(repository: Repository, plan: Plan, observer: Observer | None) -> CreateResult:
    """Carries out a plan.

    The snapshot exists entirely or not at all. What was packed before an interruption or an error
    stays in the store, and the next create finds it. Raises SourceNotFound, CommandFailed,
    StoreReadOnly, NoSpace, StorageError, Cancelled.
    """
    meter = Meter("create", observer)
    if plan.dry_run:
        taker = Taker(repository, plan, meter, new_ulid())
        drain(taker.take(frozenset()))
        return taker.result(None)
    with repository.session("create") as session:
        repository.prepare_writing()
        taker = Taker(repository, plan, meter, session.ulid)
        try:
            id = drain(commit_steps(session, taker.take))
            if id is not None and plan.kind != "safety" and repository.heads is not None:
                repository.heads.taken(plan.source, id)
            return taker.result(id)
        finally:
            taker.discard_caches()


@dataclass(slots=True)
class TakenRoot:
    """A root that was taken, and where its next stat cache waits."""

    path: bytes
    result: "_native.RootResult"
    new_cache: Path | None = None
    stream: dict[str, Any] | None = None
    is_image: bool = False
    """Named as an image; that it is a file is beside the point."""
    owners: dict[str, dict[int, str]] = field(default_factory=dict)
    """Names that the source itself has for users and groups."""


@dataclass(slots=True)
class Taker:
    """Takes everything that a plan names; again when a collector came in between."""

    repository: Repository
    plan: Plan
    meter: Meter
    session: str
    parent: Snapshot | None = None
    roots: list[TakenRoot] = field(default_factory=list)
    written: "_native.WriterResult | None" = None
    nodes: "_native.Nodes | None" = None
    unchanged: bool = False
    prepared: list[Path] = field(default_factory=list)
    times: int = 0

    def take(self, condemned: frozenset[bytes]) -> Steps[Taken]:
        """One pass over all roots, without using the packs in `condemned`."""
        yield from ()
        self.times += 1
        if self.times > 1 and _comes_once(self.plan):
            raise StoreBusy(
                "a collection ran meanwhile, and a stream cannot be read twice", hint="run it again"
            )
        repository = self.repository
        packs, _ = repository.synchronise()
        index = repository.index()
        self.parent = self.plan.parent or repository.head(self.plan.source, self.plan.host)
        self._expect()
        begun_ns = clock.time_ns()
        view = DedupView(index, index.numbers(condemned).values())
        writer = self._writer(view, index_empty=index.entries == 0)
        try:
            caches = _Caches(self, packs, condemned)
            self.roots = list(self._take_roots(writer, caches))
            self.written = self.meter.wait(writer.finish())
            self.nodes = writer.nodes()
            index.flush()  # so that other processes find it too
        except BaseException:
            writer.abort()
            raise
        refs = self._refs(caches.used)
        self.unchanged = self._is_unchanged()
        if self.plan.dry_run or (self.unchanged and self.plan.skip_if_unchanged):
            return Taken(refs, None, b"")
        time_ns = self.plan.time_ns if self.plan.time_ns is not None else begun_ns
        label = records.encode_label(self.plan.label, self.plan.created_by["id"], begun_ns)
        return Taken(refs, self._payload(time_ns), label)

    def _expect(self) -> None:
        """What there was last time is the best guess at what there is, until all has been found."""
        paths = {*self.plan.roots, *map(_stream_name, self.plan.streams)}
        if self.parent is not None and {root.path for root in self.parent.roots} == paths:
            self.meter.expect(sum(root.bytes for root in self.parent.roots))

    def _writer(self, view: DedupView, *, index_empty: bool) -> "_native.Writer":
        config = self.repository.config
        return _native.Writer(
            os.fsencode(self.repository.path),
            self.repository.keys,
            view,
            session=ulid_bytes(self.session),
            chunk_bytes=config.chunk_bytes,
            block_bytes=config.block_bytes,
            meta_block_bytes=config.meta_block_bytes,
            data_pack_bytes=config.data_pack_bytes,
            meta_pack_bytes=config.meta_pack_bytes,
            level=LEVELS[compression_name(self.plan.compression or config.compression)],
            index_empty=index_empty,
            dry_run=self.plan.dry_run,
            keep_nodes=self.plan.keep_nodes,
        )

    # Roots

    def _take_roots(self, writer: "_native.Writer", caches: "_Caches") -> Iterator[TakenRoot]:
        plan, wait = self.plan, partial(self.meter.wait, goes_on=True)
        selection = plan.rules.native(own_directories(self.repository))
        devices = [path for path in plan.images if not _is_plain_file(path)]
        images = [Place(path) for path in plan.images if path not in devices]
        for number, place in enumerate([*plan.places, *images]):
            path = place.path
            cache = caches.find(path)
            new_cache = caches.prepare(number)
            task = writer.take_tree(
                path,
                cache=_encoded(cache),
                new_cache=_encoded(new_cache),
                selection=selection,
                named=place.named,
                whole=place.whole,
                below=plan.below.get(path, b""),
                ignore_inode=plan.ignore_inode,
            )
            yield TakenRoot(path, wait(task), new_cache, is_image=path in plan.images)
        for path in devices:
            yield TakenRoot(path, wait(writer.take_file(path)))
        for stream in plan.streams:
            yield self._take_stream(writer, stream)
        if plan.archive is not None:
            found = archives.take(plan.archive, writer, wait)
            owners = {"users": _as_text(found.users), "groups": _as_text(found.groups)}
            yield TakenRoot(plan.archive.path, found.root, owners=owners)

    def _take_stream(self, writer: "_native.Writer", stream: Stream) -> TakenRoot:
        name = _stream_name(stream)
        if stream.command is None:
            descriptor = stream.fd if isinstance(stream.fd, int) else stream.fd.fileno()
            task = writer.take_stream(descriptor, mtime_ns=clock.time_ns())
            result = self.meter.wait(task, goes_on=True)
            return TakenRoot(name, result, stream={"name": bytestext.to_text(name), "exit": 0})
        with commands.running(stream.command) as process:
            assert process.stdout is not None
            task = writer.take_stream(process.stdout.fileno(), mtime_ns=clock.time_ns())
            result = self.meter.wait(task, goes_on=True)
            code = process.wait()
        shown = commands.shown(stream.command)
        if code:
            how = commands.ending(code)
            raise CommandFailed(
                f"the command for {bytestext.to_text(name)} failed ({how}): {shown}",
                hint="nothing was committed",
                command=shown,
                exit=code,
            )
        record = {"name": bytestext.to_text(name), "command": shown, "exit": code}
        return TakenRoot(name, result, stream=record)

    # What is to be published

    def _refs(self, reused: Collection[PackRef]) -> Refs:
        """Packs that the roots need: those written, those found to hold something, those of reused
        entries.
        """
        assert self.written is not None
        packs = {PackRef(id, kind, size) for kind, id, size in self.written.packs}
        packs.update(reused)
        index = self.repository.index()
        for number in {number for root in self.roots for number in root.result.packs}:
            row = index.row(number)
            packs.add(PackRef(row.id, row.kind, row.size))
        disturbed = any(root.result.changed or root.result.unreadable_count for root in self.roots)
        return Refs(tuple(sorted(packs)), exact=not reused and not disturbed)

    def _is_unchanged(self) -> bool:
        if self.parent is None:
            return False
        now = [(root.path, root.result.id.hex()) for root in self.roots]
        return now == [(root.path, root.id) for root in self.parent.roots]

    def _payload(self, time_ns: int) -> bytes:
        plan, sums = self.plan, self._sums()
        assert self.written is not None
        stats = {name: sums[name] for name in _SUMS[:6]} | {
            "bytes": sum(root.result.bytes for root in self.roots),
            "new_bytes": self.written.new_bytes,
            "new_chunks": self.written.new_chunks,
            "new_nodes": self.written.new_nodes,
            "stored_bytes": self.written.stored_bytes,
            "elapsed_ms": round(self.meter.elapsed_s * 1000),
        }
        rules = plan.rules.record() | listed_record(plan.places)
        return records.encode(
            roots=[_recorded(root) for root in self.roots],
            source=plan.source,
            host=plan.host,
            time_ns=time_ns,
            kind=plan.kind,
            parents=[self.parent.id] if self.parent else [],
            created_by=plan.created_by,
            session=self.session,
            tool=plan.tool,
            stats=stats,
            owners=_owners(self.roots),
            rules=rules,
            unreadable=self._unreadable(),
            unreadable_count=sums["unreadable_count"],
            changed=self._changed(),
            skipped={name: sums[name] for name in ("sockets", "excluded", "mounts")},
            streams=[root.stream for root in self.roots if root.stream],
        )

    def _sums(self) -> dict[str, int]:
        return {name: sum(getattr(r.result, name) for r in self.roots) for name in _SUMS}

    def _unreadable(self) -> list[tuple[bytes, str]]:
        return [
            (_below(r.path, path), why) for r in self.roots for path, why in r.result.unreadable
        ]

    def _changed(self) -> list[bytes]:
        return [_below(root.path, path) for root in self.roots for path in root.result.changed]

    def _unfinished(self) -> list[bytes]:
        return [_below(root.path, path) for root in self.roots for path in root.result.unfinished]

    # Afterwards

    def result(self, id: str | None) -> CreateResult:
        """The result of the create; puts the new stat caches into use."""
        assert self.written is not None
        skipped = id is None and not self.plan.dry_run
        snapshot = self.parent if skipped else None
        if id is not None:
            snapshot = self.repository.catalog.snapshot(id)
            if snapshot is None:
                raise StoreFailed(f"the snapshot {id} vanished right after it was written")
        if snapshot is not None:
            self.install_caches(snapshot.id)
        sums = self._sums()
        return CreateResult(
            snapshot=snapshot,
            skipped=skipped,
            dry_run=self.plan.dry_run,
            parent=self.parent.id if self.parent else None,
            bytes=sum(root.result.bytes for root in self.roots),
            new_bytes=self.written.new_bytes,
            stored_bytes=self.written.stored_bytes,
            unreadable=self._unreadable(),
            changed=self._changed(),
            unfinished=self._unfinished(),
            elapsed_s=self.meter.elapsed_s,
            **sums,
        )

    def install_caches(self, snapshot: str, *, only_missing: bool = False) -> None:
        """Puts the new stat caches into use; with `only_missing`, where there is none."""
        caches = self.repository.stat_caches
        if caches is None:
            return
        ids = self.repository.catalog.ids()
        with contextlib.suppress(OSError):  # without a cache, the next create reads more
            for root in self.roots:
                known = only_missing and caches.find(self.plan.source, root.path, ids)
                if root.new_cache is not None and not known:
                    caches.install(root.new_cache, self.plan.source, root.path, snapshot)
            caches.clean(self.repository.catalog.ids())

    def discard_caches(self) -> None:
        """Removes caches that were prepared and not put into use."""
        for path in self.prepared:
            with contextlib.suppress(OSError):  # it is forgotten after a day
                path.unlink(missing_ok=True)


class _Caches:
    """Stat caches that may be used in one pass, and the packs on which their entries rely."""

    def __init__(self, taker: Taker, packs: Mapping[bytes, int], condemned: frozenset[bytes]):
        self.used: set[PackRef] = set()
        self._taker = taker
        self._packs = packs
        self._condemned = condemned
        self._snapshots = taker.repository.catalog.ids()

    def find(self, path: bytes) -> Path | None:
        """The cache for a root, if all that its entries need is there to stay."""
        caches = self._taker.repository.stat_caches
        if caches is None or self._taker.plan.rehash:
            return None
        found = caches.find(self._taker.plan.source, path, self._snapshots)
        refs = found and self._taker.repository.catalog.usable_refs(found[1])
        if not found or not refs:
            return None
        if any(p.id not in self._packs or p.id in self._condemned for p in refs.packs):
            return None
        self.used.update(refs.packs)
        return found[0]

    def prepare(self, number: int) -> Path | None:
        """Where the next cache of a root is to be written; None when it would not be kept."""
        caches = self._taker.repository.stat_caches
        if caches is None or self._taker.plan.dry_run:
            return None
        try:
            path = caches.prepare(self._taker.session, number)
        except OSError:  # then the next create reads more
            return None
        self._taker.prepared.append(path)
        return path


# Arguments


def _absolute(path: str | bytes | os.PathLike[str]) -> bytes:
    raw = os.fsencode(path)
    if not raw:
        raise InvalidArgument("a path cannot be empty")
    return os.path.abspath(raw)


def _is_plain_file(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _stream_name(stream: Stream) -> bytes:
    name = os.fsencode(stream.name)
    if not name or len(name) > 255 or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise InvalidArgument(f"a stream cannot be called {stream.name!r}")
    return name


def user() -> str:
    """Who is making a snapshot."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _encoded(path: Path | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


# Surroundings


def _comes_once(plan: Plan) -> bool:
    """Whether something cannot be read a second time."""
    streams = any(stream.fd is not None for stream in plan.streams)
    return streams or (plan.archive is not None and plan.archive.once)


def _owners(roots: Sequence[TakenRoot]) -> dict[str, Any]:
    """Names of the users and groups in the roots: an archive's own, else this machine's."""
    users = {uid for root in roots for uid in root.result.uids}
    groups = {gid for root in roots for gid in root.result.gids}
    tables = {
        "users": _names(users, lambda uid: pwd.getpwuid(uid).pw_name),
        "groups": _names(groups, lambda gid: grp.getgrgid(gid).gr_name),
    }
    for root in roots:
        for kind, names in root.owners.items():
            tables[kind] |= {str(id): name for id, name in names.items()}
    return {kind: table for kind, table in tables.items() if table}


def _as_text(names: Sequence[tuple[int, bytes]]) -> dict[int, str]:
    return {id: bytestext.to_text(name) for id, name in names}


def _names(ids: set[int], name_of: Callable[[int], str]) -> dict[str, str]:
    names = {}
    for id in sorted(ids):
        with contextlib.suppress(KeyError, OverflowError):
            names[str(id)] = name_of(id)
    return names


def _recorded(root: TakenRoot) -> Root:
    result = root.result
    kind = "image" if root.is_image else result.kind
    return Root(root.path, kind, result.id.hex(), result.entries, result.bytes)


def _below(root: bytes, path: bytes) -> bytes:
    """A path relative to a root, as an absolute one."""
    return root if not path else root.rstrip(b"/") + b"/" + path
