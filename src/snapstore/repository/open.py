"""Repository: an open store: config, keys, objects, snapshots, and the index that goes with it."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snapstore import _native
from snapstore.base.errors import (
    UNREAD,
    DamagedObject,
    IndexDamaged,
    InvalidArgument,
    NoSpace,
    NotAStore,
    OperationDenied,
    SnapstoreError,
    StorageError,
    StoreAppendOnly,
    StoreExists,
    StoreFailed,
    StoreNotFound,
    StoreReadOnly,
    StoreTooNew,
)
from snapstore.model import names
from snapstore.model.config import Config
from snapstore.model.keys import Kdf, KeyInfo, Password
from snapstore.model.names import META
from snapstore.model.refs import PackRef, Refs
from snapstore.model.snapshot import Snapshot
from snapstore.repository import keys, making, medium, memory
from snapstore.repository.catalog import Catalog
from snapstore.repository.frames import NO_NONCE, Frames, FrameType
from snapstore.repository.memory import Memory
from snapstore.repository.objects import (
    MAX_OBJECT_BYTES,
    LocalObjects,
    open_at_once,
    storage_error,
)

if TYPE_CHECKING:
    from snapstore.index import DedupView, Index, PackRow
    from snapstore.repository.heads import Heads
    from snapstore.repository.jobs import Jobs
    from snapstore.repository.session import Session
    from snapstore.repository.statcache import StatCaches

GARBAGE_SHARE = 0.5
"""Share of records of deleted packs at which the index is rebuilt."""
MAX_PRELOADED = 1000
"""Packs of tree nodes whose tables are read ahead."""
FEW = 2
"""Snapshots whose packs are entered one by one; for more, all packs are looked at."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A pack whose table could not be read."""

    name: str
    error: SnapstoreError


class Repository:
    """An open store. Thread-safe. Its index is opened when it is first needed.

    `writable`: whether writing is possible and was asked for. `host`: name of this machine.
    `warnings`: what is not as it was when this machine last saw the store.
    """

    def __init__(
        self,
        path: Path,
        objects: LocalObjects,
        frames: Frames,
        config: Config,
        *,
        mode: str,
        cache_dir: Path | None,
        memory: Memory,
        key: str | None,
    ) -> None:
        assert frames.keys is not None
        self.path = path
        self.objects = objects
        self.frames = frames
        self.keys = frames.keys
        self.config = config
        self.mode = mode
        self.writable = mode != "r" and medium.writable(path) and medium.writable(path / "snap")
        self.memory = memory
        self.warnings: list[str] = []
        self._key = key
        self.host = os.uname().nodename
        self._cache_dir = cache_dir
        self._lock = threading.RLock()
        self._closed = False
        self._index: Index | None = None
        self._reader: _native.Reader | None = None
        self.local = self._choose_local()
        self.catalog = Catalog(objects, frames, self.local)

    # Making and opening

    @classmethod
    def init(
        cls,
        path: Path,
        config: Config,
        *,
        cache_dir: Path | None = None,
        password: bytes | bytearray | None = None,
        key_name: str = "password",
        kdf: Kdf | None = None,
    ) -> "Repository":
        """Makes a store at `path`, which is missing or an empty directory, and opens it. When that
        fails, nothing is left. StoreExists, NoSpace, StorageError.
        """
        with making.place(path):
            objects = LocalObjects(path)
            plain = Frames(objects, None)
            if config.sealed:
                assert password is not None
                made = _native.Keys.random(config.family)
                id, payload = keys.wrap(made, config, password, key_name, kdf or keys.calibrated())
                plain.write(FrameType.KEY, names.key(id), payload)
            frame = plain.encode(FrameType.CONFIG, names.CONFIG, NO_NONCE, config.encode())
            try:
                objects.put(names.CONFIG, frame)
            except DamagedObject as error:  # another process was faster, where there are no locks
                raise StoreExists(f"{path} exists already", path=os.fspath(path)) from error
        return cls.open(path, mode="rw", cache_dir=cache_dir, password=password)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        mode: str = "rw",
        cache_dir: Path | None = None,
        password: Password | None = None,
        handed: "_native.Keys | None" = None,
    ) -> "Repository":
        """Opens the store at `path`; `mode`: "r", "append" or "rw"; `handed`: keys from a process
        that has it open. StoreNotFound, NotAStore, StoreTooNew, OperationDenied, StorageError, and
        what `keys.open_keys` and `Memory.check_place` raise.
        """
        path = Path(os.path.abspath(path))
        payload = _read_config(path)
        config = Config.decode(payload)
        try:
            objects = LocalObjects(path, networked=medium.network_kind(path) is not None)
        except OSError as error:
            raise storage_error("open", path, error) from error
        known = Memory(cache_dir, path, config)
        said = known.check_place()
        if handed is not None:
            opened = keys.Opened(keys.fitting(handed, config), None)
        else:
            plain, last = Frames(objects, None), known.last_key()
            opened = keys.open_keys(plain, config, payload, password, first=last)
        repository = cls(
            path,
            objects,
            Frames(objects, opened.keys),
            config,
            mode=mode,
            cache_dir=cache_dir,
            memory=known,
            key=opened.slot,
        )
        repository.remember(said)
        return repository

    def close(self) -> None:
        """Commits and closes the index. Trouble with it is no failure of what was done: it is read
        again from the packs.
        """
        with self._lock:
            self._closed = True
            self._reader = None
            if self._index is not None:
                index, self._index = self._index, None
                with contextlib.suppress(IndexDamaged, NoSpace, StorageError):
                    index.close()

    def _choose_local(self) -> Path | None:
        """The directory for what is derived: in the store if that can be trusted, else in the
        cache, else nowhere. Names and ids of a sealed store never stand in it unsealed.
        """
        local = self.path / "local"
        if not self.objects.networked and not self.config.sealed:
            if self.writable:
                with contextlib.suppress(OSError):
                    local.mkdir(mode=0o700)
            if medium.private(local) and medium.writable(local):
                return local
        if self._cache_dir is None:
            return None
        cache = self._cache_dir / self.config.store.hex()
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return None
        return cache if medium.private(cache) and medium.writable(cache) else None

    # Encryption

    @property
    def key_ring(self) -> keys.KeyRing:
        """The store's passwords. InvalidArgument for one that is not encrypted."""
        if not self.config.sealed:
            raise InvalidArgument("the store is not encrypted: it has no keys")
        return keys.KeyRing(self.frames, self.config, self.keys, self._key)

    def remember(self, said: str | None) -> None:
        """Compares an encrypted store with what this machine saw of it, and remembers what it is
        now. What there is to say is added to `warnings`.
        """
        self.memory.keep_place(self._key)
        missing = self.memory.missing(self.objects)
        if said is not None:
            self.warnings.append(said)
        if missing:
            self.warnings.append(
                f"{missing} objects that this machine saw in the store are gone: an older state "
                "of it may have been put back; if that was you: snap doctor --trust"
            )

    def opened_by(self, info: KeyInfo) -> None:
        """Says that a key took the place of the one that opened the store."""
        if info.current:
            self._key = info.id
            self.memory.keep_place(info.id)

    def trust(self) -> None:
        """Remembers the store as it is now."""
        self.memory.trust(self.objects)
        self.memory.keep_place(self._key)
        self.warnings.clear()

    def require_deleting(self) -> None:
        """StoreReadOnly, StoreAppendOnly unless objects may be deleted here."""
        self.require_writable()
        if self.config.append_only or self.mode == "append":
            what = "the store is" if self.config.append_only else "the store was opened as"
            raise StoreAppendOnly(f"{what} append-only: nothing in it is deleted")

    # Sessions

    @contextlib.contextmanager
    def session(self, purpose: str) -> "Iterator[Session]":
        """A lease for as long as the block runs. StoreReadOnly when the store cannot be written."""
        from snapstore.repository.session import Session

        self.require_writable()
        session = Session(self.frames, purpose=purpose, host=self.host, pid=os.getpid())
        try:
            session.begin()
            yield session
        finally:
            session.end()
            self.memory.note(session.published)

    @contextlib.contextmanager
    def reading(self, purpose: str = "restore") -> Iterator[None]:
        """Keeps what long reads need from being collected, as far as the store can be written."""
        session = self.lease(purpose)
        try:
            yield
        finally:
            if session is not None:
                session.end()

    def lease(self, purpose: str) -> "Session | None":
        """A session for long reads, to be ended. None where none is possible: what stops a lease
        (a full disk, a damaged record) does not stop reading.
        """
        from snapstore.repository.session import Session

        stops = (DamagedObject, NoSpace, StorageError, OperationDenied, StoreTooNew)
        session = Session(self.frames, purpose=purpose, host=self.host, pid=os.getpid())
        with contextlib.ExitStack() as failed:
            failed.callback(session.end)
            try:
                self.require_writable()
                session.begin()
            except stops:
                return None
            failed.pop_all()
        return session

    def require_writable(self) -> None:
        """StoreReadOnly unless snapshots can be written here."""
        if not self.writable:
            raise StoreReadOnly(f"the store at {self.path} is open for reading only")
        unknown = self.config.unknown_optional
        if unknown:
            raise StoreTooNew(
                f"writing needs features that this version does not know: {', '.join(unknown)}",
                features=list(unknown),
            )

    def prepare_writing(self) -> None:
        """Clears away what dead writers left and sets the reserve aside."""
        self.objects.clean()
        if self.local == self.path / "local":
            self.objects.make_reserve(self.local)

    @property
    def cache_dir(self) -> Path | None:
        """Where what is derived goes when it cannot be in the store."""
        return self._cache_dir

    @property
    def jobs(self) -> "Jobs | None":
        """Restores that run on by themselves; None where nothing derived is kept."""
        from snapstore.repository.jobs import Jobs

        return Jobs(self.local) if self.local else None

    @property
    def heads(self) -> "Heads | None":
        """From which snapshots what is on disk comes; None where nothing derived is kept."""
        from snapstore.repository.heads import Heads

        return Heads(self.local) if self.local else None

    def head(self, source: str, host: str) -> Snapshot | None:
        """The snapshot from which what is on disk of a source comes: what was restored since it was
        last taken, else the newest one.
        """
        known = self.heads.find(source) if self.heads is not None else None
        if known is not None and known.snapshot is not None and host == self.host:
            found = self.catalog.snapshot(known.snapshot)
            if found is not None and found.status == "ready":
                return found
        return self.catalog.newest(source, host)

    # Packs and the index

    @property
    def stat_caches(self) -> "StatCaches | None":
        from snapstore.repository.statcache import StatCaches

        return StatCaches(self.local) if self.local else None

    def index(self) -> "Index":
        """The index. One that is damaged, foreign or missing is made anew (empty).

        StoreFailed after `close`: what is still being read would open it for nobody to close.
        """
        with self._lock:
            if self._closed:
                raise StoreFailed("the store was closed")
            if self._index is None:
                self._index = self._open_index()
            return self._index

    def _open_index(self) -> "Index":
        from snapstore.index import Index

        if self.local is None:
            return Index.temporary(self.config.store, _number_of)
        return Index.obtain(self.local, self.config.store, _number_of)

    def synchronise(self) -> tuple[dict[bytes, int], list[Unread]]:
        """Makes the index agree with the packs that there are.

        Gives the packs (id to kind), and those whose tables cannot be read: they are not in the
        index.
        """
        with self._lock:
            try:
                # Before the packs are listed: what another process enters later is not yet there,
                # which must not look as if it were no longer there.
                rows = self.index().rows()
                packs = self._packs()
                return packs, self._synchronise(rows, packs)
            except IndexDamaged:
                packs = self._packs()
                return packs, self.rebuild(packs)

    def _packs(self) -> dict[bytes, int]:
        return {id: kind for kind, id in self.objects.packs()}

    def _synchronise(self, rows: "Sequence[PackRow]", packs: dict[bytes, int]) -> list[Unread]:
        index = self.index()
        if (packs and not rows) or index.garbage_share() > GARBAGE_SHARE:
            return self.rebuild(packs)
        index.drop_packs([row.number for row in rows if row.id not in packs])
        known = {row.id for row in rows if row.present}
        unread: list[Unread] = []
        for table in self.tables((id for id in packs if id not in known), packs, unread):
            index.add_pack(table)
        index.flush()
        return unread

    def rebuild(
        self, packs: dict[bytes, int], note: Callable[[bytes], None] | None = None
    ) -> list[Unread]:
        """Makes the index anew from the tables of `packs`; gives those that cannot be read.

        `note` hears of each pack before it is read.
        """
        unread: list[Unread] = []
        ids: Iterable[bytes] = packs
        if note is not None:
            ids = (note(id) or id for id in packs)
        self.index().rebuild(self.tables(ids, packs, unread))
        return unread

    def tables(
        self, ids: Iterable[bytes], kinds: dict[bytes, int], unread: list[Unread]
    ) -> "Iterator[_native.PackTable]":
        """Tables of packs; those that cannot be read go to `unread`."""
        for id in ids:
            name = names.pack(kinds[id], id)
            try:
                yield _native.read_pack_table(
                    self.keys, os.fsencode(self.path / name), id, kinds[id]
                )
            except UNREAD as error:
                unread.append(Unread(name, error))

    def cover(self, packs: Iterable[PackRef]) -> None:
        """Makes sure that the index knows these packs, as far as they exist and can be read."""
        wanted = {pack.id: pack.kind for pack in packs}
        index = self.index()
        known = index.numbers(wanted)
        for table in self.tables((id for id in wanted if id not in known), wanted, []):
            index.add_pack(table)

    def reader(self, snapshot: Snapshot | None = None) -> "_native.Reader":
        """A reader of trees and content; with a snapshot, one that finds all that it needs."""
        with self._lock:
            if snapshot is not None:
                self.cover_snapshot(snapshot)
            if self._reader is None:
                self._reader = self.reader_of(self.index())
            return self._reader

    def reader_of_whole(self, snapshot: Snapshot) -> "_native.Reader":
        """A reader that finds all that a snapshot needs, and knows at once where: most of it will
        be read.
        """
        reader = self.reader(snapshot)
        refs = self.catalog.usable_refs(snapshot.id)
        if refs is not None:
            reader.preload([(pack.kind, pack.id) for pack in refs.packs])
        return reader

    def reader_of_all(self, snapshots: Sequence[Snapshot]) -> "_native.Reader":
        """A reader that finds all that these snapshots need, and knows where most of their tree
        nodes are: asking the index for each directory would take longer than reading it.
        """
        with self._lock:
            if len({snapshot.id for snapshot in snapshots}) > FEW:
                self.synchronise()
                meta = [row.id for row in self.index().rows() if row.present and row.kind == META]
            else:
                refs = [self.cover_snapshot(snapshot) for snapshot in snapshots]
                meta = [pack.id for ref in refs if ref for pack in ref.packs if pack.kind == META]
            reader = self.reader()
        reader.preload([(META, id) for id in dict.fromkeys(meta[-MAX_PRELOADED:])])
        return reader

    def reader_with(self, nodes: "_native.Nodes | None") -> "_native.Reader":
        """A reader that also finds nodes which are in memory only."""
        return _native.Reader(os.fsencode(self.path), self.keys, self.index(), nodes=nodes)

    def reader_of(self, index: "Index | DedupView") -> "_native.Reader":
        """A reader that finds what `index` knows."""
        return _native.Reader(os.fsencode(self.path), self.keys, index)

    def cover_snapshot(self, snapshot: Snapshot) -> Refs | None:
        """Makes sure that the index knows all packs that a snapshot needs, and gives their names as
        far as they are known.
        """
        refs = self.catalog.usable_refs(snapshot.id)
        if refs is None:  # then all packs are looked at
            self.synchronise()
        else:
            try:
                self.cover(refs.packs)
            except IndexDamaged:
                self.rebuild(self._packs())
        return refs


def forget_place(path: Path, cache_dir: Path) -> None:
    """Forgets which store was at `path` when this machine last saw it."""
    memory.forget_place(cache_dir, Path(os.path.abspath(path)))


def id_at(path: Path) -> str:
    """The id of the store at `path`."""
    return Config.decode(_read_config(Path(os.path.abspath(path)))).store.hex()


def import_into(path: Path, key: bytes) -> KeyInfo:
    """Puts an exported key back into the store at `path`. Raises what `keys.put_back` does, and for
    a store that is missing, not encrypted or not writable.
    """
    path = Path(os.path.abspath(path))
    if not Config.decode(_read_config(path)).sealed:
        raise InvalidArgument("the store is not encrypted: it has no keys")
    return keys.put_back(Frames(LocalObjects(path), None), key)


def _number_of(location: bytes) -> int:
    return _native.location(location)[0]


def _read_config(path: Path) -> bytes:
    """Payload of the object `config`: what makes a directory a store."""
    name = path / names.CONFIG
    try:
        if not path.is_dir():
            os.stat(path)
            raise NotAStore(f"{path} is not a directory")
        with open(name, "rb", opener=open_at_once) as file:
            data = file.read(MAX_OBJECT_BYTES)
    except FileNotFoundError:
        if name.exists():  # it was made just now
            return _read_config(path)
        raise _no_store(path) from None
    except PermissionError as error:
        raise OperationDenied(
            f"cannot read {name}: {error.strerror}", hint="to read it, be the owner of the store"
        ) from error
    except OSError as error:
        raise storage_error("read", name, error) from error
    try:
        return _native.read_frame(None, FrameType.CONFIG, names.CONFIG, data)[1]
    except DamagedObject as error:
        raise NotAStore(f"{name} is not a store's config: {error}") from error


def _no_store(path: Path) -> SnapstoreError:
    """What is said of a path at which no config is."""
    try:
        if path.is_dir() and not making.vacant(path):
            return NotAStore(
                f"{path} has files but is not a store", hint="init makes one in a new directory"
            )
    except OSError as error:
        return storage_error("list", path, error)
    return StoreNotFound(
        f"there is no store at {path}", hint="init makes one", path=os.fspath(path)
    )


def new_id() -> bytes:
    """A random store or family id."""
    return os.urandom(16)
