"""Index: where each chunk and node is, and which packs there are.

A *location* is 16 bytes that the native core makes and reads (pack number, block, offset, length,
check value); the index only asks for its pack number. A *number* names a pack in this index alone
and is never used again for another pack. The index may lag behind the packs, never lead: it is told
of packs that are durable.
"""

import itertools
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from snapstore.base.errors import IndexDamaged, StoreFailed
from snapstore.index import environment
from snapstore.index.environment import Environment
from snapstore.model.names import KIND_DIRECTORIES

if TYPE_CHECKING:
    import lmdb

    Tables = dict[bytes, lmdb._Database]

VERSION = b"1"
BATCH = 4_000
"""Records of a transaction: in a large index each dirties a page of its own, so this bounds memory
(16 MB).
"""

UNKNOWN = bytes(16)

_ROW = struct.Struct("<BB32sQIQ16s")  # state, kind, id, size, chunks, plain bytes, session
_PARTIAL, _PRESENT, _GONE = 0, 1, 2
"""Some records may be missing; all are there; the pack was deleted, and some may be missing too."""


class PackTable(Protocol):
    """What the index needs of a pack's footer; the native core's PackTable is one."""

    @property
    def id(self) -> bytes: ...
    @property
    def kind(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def session(self) -> bytes: ...
    @property
    def chunks(self) -> int: ...
    @property
    def plain_bytes(self) -> int: ...
    def records(self, number: int) -> Sequence[tuple[bytes, bytes]]: ...


@dataclass(frozen=True, slots=True)
class PackRow:
    """A pack as the index knows it. `kind`: DATA or META; sizes in bytes; `session`: 16 bytes."""

    number: int
    state: int
    kind: int
    id: bytes
    size: int
    chunks: int
    plain_bytes: int
    session: bytes

    @property
    def present(self) -> bool:
        """Whether all its records are in the index and it was there at the last synchronisation."""
        return self.state == _PRESENT

    def pack(self) -> bytes:
        return _ROW.pack(
            self.state, self.kind, self.id, self.size, self.chunks, self.plain_bytes, self.session
        )


def _row(number: int, data: bytes) -> PackRow:
    row = PackRow(number, *_ROW.unpack(data)) if len(data) == _ROW.size else None
    if (
        row is None
        or row.kind not in KIND_DIRECTORIES
        or row.state not in (_PARTIAL, _PRESENT, _GONE)
    ):
        raise IndexDamaged(
            f"the index has a damaged row for pack number {number}", hint="run reindex"
        )
    return row


class Index:
    """The index of one store, for reading and writing, from any thread of the process that opened
    it.

    Made by `open`, `create` or `temporary`; to be closed. Methods raise IndexDamaged when the index
    cannot be trusted (throw it away and rebuild), NoSpace, StorageError, StoreForked.
    """

    def __init__(
        self, shared: Environment, store_id: bytes, number_of: Callable[[bytes], int]
    ) -> None:
        self._shared = shared
        self._store_id = store_id
        self._number_of = number_of
        self._temporary: Path | None = None
        self._lock = threading.RLock()
        self._pending: dict[bytes, bytes] = {}
        self._pending_records: list[tuple[bytes, bytes]] = []
        self._pending_rows: list[PackRow] = []
        self._rows: dict[int, PackRow] = {}
        self.gone: frozenset[int] = frozenset()
        """Numbers of deleted packs, as of the last synchronisation."""

    # Making

    @classmethod
    def open(cls, path: Path, store_id: bytes, number_of: Callable[[bytes], int]) -> "Index":
        """Opens the environment at `path`. IndexDamaged also when it is of another store or
        version.
        """
        shared = environment.acquire(path)
        try:
            index = cls(shared, store_id, number_of)
            with index._reading() as (transaction, tables):
                meta = tables[b"meta"]
                if transaction.get(b"version", db=meta) != VERSION:
                    raise IndexDamaged("the index is of another version")
                if transaction.get(b"store", db=meta) != store_id:
                    raise IndexDamaged("the index belongs to another store")
            index.rows()
        except BaseException:
            environment.release(shared)
            raise
        return index

    @classmethod
    def obtain(cls, local: Path, store_id: bytes, number_of: Callable[[bytes], int]) -> "Index":
        """Opens the index below `local`. One that is damaged, foreign or missing is made anew
        (empty).
        """
        path = environment.newest(local)
        if path is not None:
            with suppress(IndexDamaged):
                return cls.open(path, store_id, number_of)
        with environment.building(local):
            newer = environment.newest(local)
            if newer is not None and newer != path:
                with suppress(IndexDamaged):
                    return cls.open(newer, store_id, number_of)
            return cls.create(local, store_id, number_of)

    @classmethod
    def create(cls, local: Path, store_id: bytes, number_of: Callable[[bytes], int]) -> "Index":
        """Makes an empty index and puts it into use below `local`. Older ones are removed."""
        path = _build(local, _Builder(store_id, {}, 1), ())
        index = cls.open(path, store_id, number_of)
        environment.discard(local, keep=path)
        return index

    @classmethod
    def temporary(cls, store_id: bytes, number_of: Callable[[bytes], int]) -> "Index":
        """Makes an empty index in a private directory that is removed by `close`."""
        directory = Path(tempfile.mkdtemp(prefix="snapstore-"))
        try:
            index = cls.create(directory, store_id, number_of)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        index._temporary = directory
        return index

    def close(self) -> None:
        """Commits what is pending and gives the environment back. The index cannot be used
        afterwards.
        """
        try:
            if os.getpid() == self._shared.pid:
                self.flush()
        finally:
            environment.release(self._shared)
            if os.getpid() == self._shared.pid:
                local = self._shared.path.parent
                environment.discard(local, keep=environment.newest(local))
                if self._temporary is not None:
                    shutil.rmtree(self._temporary, ignore_errors=True)

    def rebuild(self, tables: Iterable[PackTable]) -> None:
        """Replaces all contents by those of `tables`, in sorted order: compact, and fast at any
        size.

        Packs keep their numbers. Readers may go on meanwhile.
        """
        with self._lock:
            old = self._shared
            numbers = self._known_numbers()
            builder = _Builder(self._store_id, numbers, max(numbers.values(), default=0) + 1)
            local = old.path.parent
            with environment.building(local):
                path = _build(local, builder, tables)
                self._shared = environment.acquire(path)
                self._forget_pending()
                self.rows()
                environment.release(old)
                environment.discard(local, keep=path)

    def _known_numbers(self) -> dict[bytes, int]:
        try:
            return {row.id: row.number for row in self.rows()}
        except IndexDamaged:
            return {row.id: row.number for row in self._rows.values()}

    # What the core asks

    def locate(self, ids: bytes) -> bytes:
        """Locations (16 bytes each) of `ids` (32 bytes each), in order; zeros where unknown."""
        return self.locate_outside(ids, self.gone)

    def locate_outside(self, ids: bytes, hidden: Collection[int]) -> bytes:
        """The same, without the packs whose numbers are in `hidden`."""
        keys = struct.unpack("32s" * (len(ids) // 32), ids)
        pending = (
            self._pending
        )  # before the transaction: a commit in between must not hide anything
        with self._reading() as (transaction, tables):
            cursor = transaction.cursor(tables[b"chunk"])
            found = dict(cursor.getmulti(sorted(keys)))  # in key order, each page is visited once
            if hidden:
                self._replace_hidden(transaction.cursor(tables[b"more"]), found, hidden)
        if pending:
            self._find_pending(keys, pending, found, hidden)
        return b"".join(map(found.get, keys, itertools.repeat(UNKNOWN)))

    def pack(self, number: int) -> bytes:
        """Kind (1 byte) and id (32 bytes) of a pack. IndexDamaged when there is no such number."""
        row = self.row(number)
        return bytes([row.kind]) + row.id

    def add_pack(self, table: PackTable) -> None:
        """Takes a pack that is durable under its name. Its chunks are found at once; records are
        committed in batches.
        """
        with self._lock:
            row = self._enter(table)
            if row is None:
                return
            self._rows[row.number] = row
            records = table.records(row.number)
            self._pending_rows.append(row)
            self._pending_records += records
            self._pending.update(records)
            if len(self._pending_records) >= BATCH:
                self.flush()

    # Packs

    def row(self, number: int) -> PackRow:
        """The row of a pack. IndexDamaged when there is no such number."""
        row = self._rows.get(number)
        if row is None:
            with self._reading() as (transaction, tables):
                data = transaction.get(_number(number), db=tables[b"pack"])
            if data is None:
                raise IndexDamaged(
                    f"the index speaks of pack number {number}, which it does not know",
                    hint="run reindex",
                )
            row = self._rows[number] = _row(number, data)
        return row

    def rows(self) -> list[PackRow]:
        """All packs that the index has ever known, by number. Learns which are gone by now."""
        with self._lock:
            self.flush()
            with self._reading() as (transaction, tables):
                cursor = transaction.cursor(tables[b"pack"])
                rows = [_row(int.from_bytes(key, "big"), data) for key, data in cursor]
            self._rows = {row.number: row for row in rows}
            self.gone = frozenset(row.number for row in rows if row.state == _GONE)
            return rows

    def numbers(self, packs: Iterable[bytes]) -> dict[bytes, int]:
        """Numbers of the packs with these ids, as far as they are known and present."""
        with self._reading() as (transaction, tables):
            cursor = transaction.cursor(tables[b"number"])
            known = {id: int.from_bytes(key, "big") for id, key in cursor.getmulti(sorted(packs))}
        return {id: number for id, number in known.items() if number not in self.gone}

    def drop_packs(self, numbers: Collection[int]) -> None:
        """Notes that packs were deleted: nothing is found in them until they are added again."""
        with self._lock:
            self.flush()
            rows = [row for row in map(self.row, numbers) if row.state != _GONE]
            if rows:
                self._put_rows(replace(row, state=_GONE) for row in rows)
                self.gone |= {row.number for row in rows}

    def missing(self, records: Sequence[tuple[bytes, bytes]]) -> int:
        """How many of these records of a pack are not in the index."""
        with self._reading() as (transaction, tables):
            keys = sorted(key for key, _ in records)
            found = dict(transaction.cursor(tables[b"chunk"]).getmulti(keys))
            rest = [(key, place) for key, place in records if found.get(key) != place]
            more = transaction.cursor(tables[b"more"])
            others = set(more.getmulti([key for key, _ in rest], dupdata=True))
        return sum(record not in others for record in rest)

    # Records

    def flush(self) -> None:
        """Commits all pending records."""
        with self._lock:
            if not self._pending_rows:
                return
            records, rows = sorted(self._pending_records), self._pending_rows
            for start in range(0, len(records), BATCH):
                self._insert(records[start : start + BATCH])
            present = [replace(row, state=_PRESENT) for row in rows]
            self._put_rows(present)
            self._forget_pending()

    def sync(self) -> None:
        """Commits all pending records and makes them durable."""
        self.flush()
        self._shared.sync()

    @property
    def entries(self) -> int:
        """Ids in the index."""
        self.flush()
        with self._reading() as (transaction, tables):
            return int(transaction.stat(tables[b"chunk"])["entries"])

    @property
    def size_bytes(self) -> int:
        """Bytes that the index takes on disk."""
        return (self._shared.path / "data.mdb").stat().st_size

    def garbage_share(self) -> float:
        """Share of the records that speak of deleted packs; they go when the index is rebuilt."""
        rows = self.rows()
        gone = sum(row.chunks for row in rows if row.state == _GONE)
        return gone / max(1, sum(row.chunks for row in rows))

    # Inside

    @contextmanager
    def _reading(self) -> "Iterator[tuple[lmdb.Transaction[bytes], Tables]]":
        """A read transaction with its tables, whichever environment is in use just now."""
        shared = self._shared
        shared.check_process()
        while not shared.enter():
            if shared is self._shared:
                raise StoreFailed("the store was closed")
            shared = self._shared
        try:
            with shared.reading() as transaction:
                yield transaction, shared.tables
        finally:
            shared.leave()

    def _forget_pending(self) -> None:
        # New objects: a reader may be looking into the old ones.
        self._pending, self._pending_records, self._pending_rows = {}, [], []

    def _find_pending(
        self,
        keys: Iterable[bytes],
        pending: dict[bytes, bytes],
        found: dict[bytes, bytes],
        hidden: Collection[int],
    ) -> None:
        for key in keys:
            place = pending.get(key)
            if place and key not in found and (not hidden or self._number_of(place) not in hidden):
                found[key] = place

    def _replace_hidden(
        self,
        more: "lmdb.Cursor[bytes]",
        found: dict[bytes, bytes],
        hidden: Collection[int],
    ) -> None:
        """Replaces locations in hidden packs by others, or removes them."""
        number_of = self._number_of
        for key in [key for key, place in found.items() if number_of(place) in hidden]:
            others = [value for _, value in more.getmulti([key], dupdata=True)]
            place = next((value for value in others if number_of(value) not in hidden), None)
            if place is None:
                del found[key]
            else:
                found[key] = place

    def _enter(self, table: PackTable) -> PackRow | None:
        """Gives a pack its number; None when all of it is known already."""
        tables = self._shared.tables
        with self._shared.writing() as transaction:
            key = transaction.get(table.id, db=tables[b"number"])
            if key is not None:
                known = _row(
                    int.from_bytes(key, "big"), transaction.get(key, b"", db=tables[b"pack"])
                )
                if known.present:
                    return None
            else:
                key = transaction.get(b"next", _number(1), db=tables[b"meta"])
                following = _number(int.from_bytes(key, "big") + 1)
                transaction.put(b"next", following, db=tables[b"meta"])
                transaction.put(table.id, key, db=tables[b"number"])
            row = _new_row(int.from_bytes(key, "big"), table, _PARTIAL)
            transaction.put(key, row.pack(), db=tables[b"pack"])
        self.gone -= {row.number}
        return row

    def _insert(self, records: list[tuple[bytes, bytes]]) -> None:
        """Inserts sorted records; where an id has a location, the new one goes beside it."""
        tables = self._shared.tables
        with self._shared.writing() as transaction:
            cursor = transaction.cursor(tables[b"chunk"])
            consumed, added = cursor.putmulti(records, overwrite=False)
            if added < consumed:
                known = dict(cursor.getmulti([key for key, _ in records]))
                others = [(key, place) for key, place in records if known[key] != place]
                transaction.cursor(tables[b"more"]).putmulti(others)

    def _put_rows(self, rows: Iterable[PackRow]) -> None:
        with self._shared.writing() as transaction:
            for row in rows:
                transaction.put(_number(row.number), row.pack(), db=self._shared.tables[b"pack"])
                self._rows[row.number] = row


class DedupView:
    """The index as a writer may use it: without packs against which it must not deduplicate."""

    def __init__(self, index: Index, excluded: Collection[int]) -> None:
        self._index = index
        self._excluded = frozenset(excluded)

    def locate(self, ids: bytes) -> bytes:
        """As Index.locate, with zeros for what only excluded or deleted packs hold."""
        return self._index.locate_outside(ids, self._excluded | self._index.gone)

    def pack(self, number: int) -> bytes:
        return self._index.pack(number)

    def add_pack(self, table: PackTable) -> None:
        self._index.add_pack(table)


def _build(local: Path, builder: "_Builder", tables: Iterable[PackTable]) -> Path:
    """Builds an environment and puts it into use below `local`."""
    staged = environment.staging(local)
    try:
        environment.create(staged)
        builder.run(staged, tables)
        with environment.translated(local):
            return environment.install(local, staged)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


class _Builder:
    """Fills an empty environment in key order, with bounded memory.

    Records go to one file for each first byte, then file by file into the environment.
    """

    def __init__(self, store_id: bytes, numbers: dict[bytes, int], following: int) -> None:
        self.store_id = store_id
        self.numbers = numbers
        self.following = following

    def run(self, path: Path, tables: Iterable[PackTable]) -> None:
        with tempfile.TemporaryDirectory(dir=path, prefix="sort-") as spool:
            files = [Path(spool) / f"{first:02x}" for first in range(256)]
            rows = self._spread(tables, files)
            shared = environment.acquire(path)
            try:
                self._fill(shared, rows, files)
            finally:
                environment.release(shared)

    def _spread(self, tables: Iterable[PackTable], files: list[Path]) -> list[PackRow]:
        rows: dict[bytes, PackRow] = {}
        buckets: list[list[bytes]] = [[] for _ in files]
        waiting = 0
        for table in tables:
            if table.id in rows:
                continue
            row = rows[table.id] = _new_row(self._number(table.id), table, _PRESENT)
            for key, place in table.records(row.number):
                buckets[key[0]].append(key + place)
            waiting += table.chunks
            if waiting > 10 * BATCH:
                _append(files, buckets)
                waiting = 0
        _append(files, buckets)
        return list(rows.values())

    def _number(self, pack: bytes) -> int:
        number = self.numbers.get(pack, self.following)
        self.following = max(self.following, number + 1)
        return number

    def _fill(self, shared: Environment, rows: list[PackRow], files: list[Path]) -> None:
        for file in files:
            if file.exists():
                self._fill_bucket(shared, file.read_bytes())
        tables = shared.tables
        with shared.writing() as transaction:
            for row in rows:
                transaction.put(_number(row.number), row.pack(), db=tables[b"pack"])
            numbers = sorted((row.id, _number(row.number)) for row in rows)
            transaction.cursor(tables[b"number"]).putmulti(numbers)
            transaction.put(b"next", _number(self.following), db=tables[b"meta"])
            transaction.put(b"store", self.store_id, db=tables[b"meta"])
            transaction.put(b"version", VERSION, db=tables[b"meta"])

    def _fill_bucket(self, shared: Environment, data: bytes) -> None:
        records = sorted(data[at : at + 48] for at in range(0, len(data), 48))
        first: list[tuple[bytes, bytes]] = []
        more: list[tuple[bytes, bytes]] = []
        last = b""
        for record in records:
            key = record[:32]
            (more if key == last else first).append((key, record[32:]))
            last = key
        with shared.writing() as transaction:
            transaction.cursor(shared.tables[b"chunk"]).putmulti(first, append=True)
            transaction.cursor(shared.tables[b"more"]).putmulti(more)


def _append(files: list[Path], buckets: list[list[bytes]]) -> None:
    for file, bucket in zip(files, buckets, strict=True):
        if bucket:
            with file.open("ab") as out:
                out.write(b"".join(bucket))
            bucket.clear()


def _number(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _new_row(number: int, table: PackTable, state: int) -> PackRow:
    return PackRow(
        number,
        state,
        table.kind,
        table.id,
        table.size,
        table.chunks,
        table.plain_bytes,
        table.session,
    )
