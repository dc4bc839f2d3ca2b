"""Check: whether everything in the store is what it should be, and what damage hits."""

import contextlib
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from snapstore import _native
from snapstore.base.errors import (
    UNREAD,
    DamagedObject,
    IndexDamaged,
    SnapstoreError,
    StorageError,
)
from snapstore.base.progress import Observer
from snapstore.index import DedupView, Index
from snapstore.model import names
from snapstore.model.config import Config
from snapstore.model.refs import PackRef, Refs
from snapstore.model.results import CheckProblem, CheckReport
from snapstore.model.snapshot import Snapshot
from snapstore.ops import places
from snapstore.ops.running import Meter
from snapstore.repository.frames import FrameType
from snapstore.repository.keys import read_slots
from snapstore.repository.open import Repository

LOCATE_RECORDS = 1000


def check(
    repository: Repository,
    snapshots: Sequence[Snapshot] | None,
    *,
    read_share: float,
    time_limit_s: float | None,
    observer: Observer | None,
) -> CheckReport:
    """Checks the store, or what `snapshots` need.

    Always: every small object, every pack's header, trailer and footer, every tree, the index.
    `read_share` (0 to 1): also the contents of that share of the packs, chosen anew each day. After
    `time_limit_s` it ends with `complete` False. Damage is reported, not raised.
    """
    run = _Check(repository, snapshots, Meter("check", observer), time_limit_s)
    with repository.reading():
        return run.run(read_share)


@dataclass
class _Check:
    """One check on its way."""

    repository: Repository
    chosen: Sequence[Snapshot] | None
    meter: Meter
    time_limit_s: float | None
    problems: list[CheckProblem] = field(default_factory=list)
    unlisted: int = 0
    packs: int = 0
    pack_bytes: int = 0
    complete: bool = True

    def run(self, read_share: float) -> CheckReport:
        whole = self.chosen is None
        catalog = self.repository.catalog
        if self.chosen is None:
            snapshots = catalog.snapshots(fresh=True)
        else:
            snapshots = [catalog.snapshot(snapshot.id) or snapshot for snapshot in self.chosen]
        if whole:
            self._check_config()
            self._check_names()
            self._check_others()
        ready = self._check_snapshots(snapshots)
        refs = self._check_refs(ready)
        present, unread = self.repository.synchronise()
        wanted = (
            set(present) if whole else {p.id for r in refs.values() for p in r.packs} & set(present)
        )
        for pack in unread:
            if names.parse_pack(pack.name)[1] in wanted:  # type: ignore[index]
                self._add("pack", pack.name, str(pack.error))
        bad_packs = {names.parse_pack(pack.name)[1] for pack in unread}  # type: ignore[index]
        bad_ids = self._check_packs(wanted - bad_packs, present, read_share, bad_packs)
        if whole:
            self._check_index()
        nodes = chunks = 0
        try:
            nodes, chunks = self._check_trees(ready, bad_packs, bad_ids)
        except IndexDamaged as error:
            self._add("index", "index", f"{error}; run reindex, then check again")
        return CheckReport(
            snapshots=len(snapshots),
            packs=self.packs,
            bytes=self.pack_bytes,
            nodes=nodes,
            chunks=chunks,
            problems=self.problems,
            problem_count=len(self.problems) + self.unlisted,
            complete=self.complete,
            elapsed_s=self.meter.elapsed_s,
        )

    def _add(
        self, kind: str, name: str, message: str, affected: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        self.problems.append(CheckProblem(kind, name, message, tuple(affected)))

    def _left_s(self) -> float | None:
        """Seconds that are left; None without a limit."""
        if self.time_limit_s is None:
            return None
        return max(0.0, self.time_limit_s - self.meter.elapsed_s)

    # Small objects

    def _check_config(self) -> None:
        try:
            payload = self.repository.frames.read(FrameType.CONFIG, names.CONFIG)
            if payload is None or Config.decode(payload) != self.repository.config:
                self._add("config", names.CONFIG, "it is missing or has changed")
        except UNREAD as error:
            self._add("config", names.CONFIG, str(error))

    def _check_names(self) -> None:
        for name in self.repository.objects.walk():
            if not names.known(name):
                self._add("foreign", name, "not an object of a store: ignored")

    def _check_others(self) -> None:
        """Passwords, refs and collector's records: what no snapshot needs. Leases come and go."""
        frames = self.repository.frames
        if self.repository.config.sealed:
            for error in read_slots(frames)[1]:
                self._add("object", str(error.fields.get("object", "key")), str(error))
        for kind in frames.objects.list("ref/"):
            for name in frames.objects.list(f"{kind}/"):
                with self._reporting("object", name):
                    frames.read_ref(name)
        for name in frames.objects.list("gc/"):
            if names.parse_generation(name):
                with self._reporting("object", name):
                    frames.read(FrameType.COLLECTOR, name)

    def _check_snapshots(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Snapshots that can be read; the others are reported, and labels that cannot."""
        ready = []
        for snapshot in snapshots:
            if snapshot.status == "ready":
                ready.append(snapshot)
            else:
                name = names.snapshot(snapshot.id)
                self._add("snapshot", name, snapshot.error or "", [(snapshot.id, b"")])
        ids = {snapshot.id for snapshot in snapshots}
        for name in self.repository.objects.list("label/"):
            label = names.parse_versioned(name)
            if label is not None and label.snapshot in ids:
                with self._reporting("snapshot", name):
                    self.repository.frames.read_versioned(FrameType.LABEL, label)
        return ready

    def _check_refs(self, snapshots: Sequence[Snapshot]) -> dict[str, Refs]:
        found = {}
        for snapshot in snapshots:
            with self._reporting("snapshot", f"refs/{snapshot.id}"):
                refs = self.repository.catalog.refs(snapshot.id)
                if refs is not None:
                    found[snapshot.id] = refs
        return found

    @contextlib.contextmanager
    def _reporting(self, kind: str, name: str) -> Iterator[None]:
        try:
            yield
        except UNREAD as error:
            self._add(kind, name, str(error))

    # Packs

    def _check_packs(
        self,
        wanted: set[bytes],
        kinds: dict[bytes, int],
        read_share: float,
        bad_packs: set[bytes],
    ) -> list[bytes]:
        """Checks packs; damaged ones go to `bad_packs`. Gives ids of chunks that cannot be read."""
        packs = self._sized(sorted(wanted), kinds)
        deep = _sample(packs, read_share)
        rest = [pack for pack in packs if pack not in deep]
        bad_ids: list[bytes] = []
        for some, read_data in ((rest, False), (sorted(deep, key=_day_order), True)):
            if some:
                bad_ids += self._check_some(some, read_data, bad_packs)
        return bad_ids

    def _check_some(
        self, packs: Sequence[PackRef], read_data: bool, bad_packs: set[bytes]
    ) -> list[bytes]:
        reader = self.repository.reader()
        task = reader.check_packs(
            [(pack.kind, pack.id, pack.size) for pack in packs],
            read_data=read_data,
            time_limit_s=self._left_s(),
        )
        result = self.meter.wait(task)
        self.packs += result.packs
        self.pack_bytes += result.bytes
        self.complete &= result.complete
        self.unlisted += result.problem_count - len(result.problems)
        for kind, id, what in result.problems:
            self._add("pack", names.pack(kind, id), what)
        if not result.bad_ids:
            bad_packs.update(id for _, id, _ in result.problems)
        return result.bad_ids

    def _sized(self, ids: Sequence[bytes], kinds: dict[bytes, int]) -> list[PackRef]:
        found = []
        for id in ids:
            name = names.pack(kinds[id], id)
            size = self.repository.objects.size(name)
            if size is not None:
                found.append(PackRef(id, kinds[id], size))
        return found

    # The index

    def _check_index(self) -> None:
        """Whether the index finds everything that the packs' footers list."""
        index = self.repository.index()
        try:
            rows = [row for row in index.rows() if row.present]
            for number, row in enumerate(rows):
                if self._left_s() == 0:
                    self.complete = False
                    return
                self.meter.note("check", number, len(rows))
                path = os.fsencode(self.repository.path / names.pack(row.kind, row.id))
                with contextlib.suppress(DamagedObject, StorageError):
                    table = _native.read_pack_table(self.repository.keys, path, row.id, row.kind)
                    wrong = _unlocated(index, table.records(row.number))
                    if wrong:
                        name = names.pack(row.kind, row.id)
                        self._add("index", name, f"{wrong} records are wrong; run reindex")
        except SnapstoreError as error:
            self._add("index", "index", f"{error}; run reindex")

    # Trees

    def _check_trees(
        self, snapshots: Sequence[Snapshot], bad_packs: set[bytes], bad_ids: Sequence[bytes]
    ) -> tuple[int, int]:
        """Reads all trees and asks for all chunks, as if damaged packs were not there."""
        roots: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for snapshot in snapshots:
            for root in snapshot.roots:
                roots[root.id].append((snapshot.id, root.path))
        index = self.repository.index()
        view = DedupView(index, index.numbers(bad_packs).values())
        ids = [bytes.fromhex(id) for id in roots]
        task = self.repository.reader_of(view).check_trees(
            ids, bad_ids=bad_ids, time_limit_s=self._left_s()
        )
        result = self.meter.wait(task)
        self.complete &= result.complete
        self.unlisted += result.problem_count - len(result.problems)
        users = list(roots.values())
        for number, below, what in result.problems:
            affected = [(id, places.join(path, below)) for id, path in users[number]]
            self._add("tree", ids[number].hex(), what, affected)
        return result.nodes, result.chunks


def _sample(packs: Sequence[PackRef], share: float) -> set[PackRef]:
    """That share of the packs, at least one of them; the same ones all day, others tomorrow."""
    if share <= 0 or not packs:
        return set()
    count = max(1, round(min(share, 1.0) * len(packs)))
    return set(sorted(packs, key=_day_order)[:count])


def _day_order(pack: PackRef) -> float:
    return random.Random(pack.id + str(int(time.time()) // 86_400).encode()).random()


def _unlocated(index: Index, records: Sequence[tuple[bytes, bytes]]) -> int:
    """How many records the index does not have, neither so nor with another location."""
    wrong = 0
    for start in range(0, len(records), LOCATE_RECORDS):
        part = records[start : start + LOCATE_RECORDS]
        wrong += index.missing(part)
    return wrong
