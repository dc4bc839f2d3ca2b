"""The index: what it finds, what it hides, and when it must not be used."""

import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
import pytest

from snapstore.base.errors import IndexDamaged, StoreFailed, StoreForked
from snapstore.index import DedupView, Index, environment
from snapstore.index.index import BATCH

STORE = b"s" * 16


@dataclass
class Table:
    """A pack's table with chosen chunks."""

    id: bytes
    ids: list[bytes]
    kind: int = 1
    size: int = 1000
    session: bytes = b"u" * 16
    plain_bytes: int = 5000
    read: list[int] = field(default_factory=list)

    @property
    def chunks(self) -> int:
        return len(self.ids)

    def records(self, number: int) -> list[tuple[bytes, bytes]]:
        self.read.append(number)
        return sorted((id, place(number, at)) for at, id in enumerate(self.ids))


def place(number: int, at: int) -> bytes:
    return number.to_bytes(4, "little") + at.to_bytes(8, "little") + b"chek"


def number_of(location: bytes) -> int:
    return int.from_bytes(location[:4], "little")


def chunk(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def pack(number: int) -> bytes:
    return random.Random(f"pack {number}").randbytes(32)


def table(number: int, *chunks: int) -> Table:
    return Table(pack(number), [chunk(n) for n in chunks])


def numbers(index: Index | DedupView, *chunks: int) -> list[int]:
    """Pack numbers of chunks; 0 where nothing is found."""
    found = index.locate(b"".join(map(chunk, chunks)))
    return [number_of(found[at : at + 16]) for at in range(0, len(found), 16)]


def reopen(index: Index, local: Path, store: bytes = STORE) -> Index:
    index.close()
    path = environment.newest(local)
    assert path is not None
    return Index.open(path, store, number_of)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def index(local: Path) -> Index:
    return Index.create(local, STORE, number_of)


def test_chunks_are_found_at_once_and_after_a_commit(index: Index, local: Path) -> None:
    index.add_pack(table(1, 1, 2, 3))
    index.add_pack(table(2, 4, 5))
    assert numbers(index, 5, 9, 1, 4, 1) == [2, 0, 1, 2, 1]
    index = reopen(index, local)
    assert numbers(index, 5, 9, 1, 4, 1) == [2, 0, 1, 2, 1]
    assert index.pack(2) == b"\1" + pack(2)
    assert index.numbers([pack(1), pack(9)]) == {pack(1): 1}
    assert index.entries == 5
    index.close()


def test_nothing_is_located_for_nothing(index: Index) -> None:
    assert index.locate(b"") == b""


def test_a_pack_is_taken_once(index: Index) -> None:
    index.add_pack(table(1, 1))
    index.flush()
    again = table(1, 1)
    index.add_pack(again)
    assert not again.read
    assert [row.number for row in index.rows()] == [1]


def test_many_records_are_committed_in_several_transactions(index: Index, local: Path) -> None:
    many = list(range(2 * BATCH + 500))
    index.add_pack(table(1, *many))
    index = reopen(index, local)
    assert numbers(index, *many) == [1] * len(many)
    index.close()


def test_a_pack_that_was_committed_in_part_is_taken_again(index: Index, local: Path) -> None:
    index.add_pack(table(1, 1, 2))
    environment.release(index._shared)  # as if the process had ended before the commit
    path = environment.newest(local)
    assert path is not None
    index = Index.open(path, STORE, number_of)
    assert [row.present for row in index.rows()] == [False]
    assert numbers(index, 1) == [0]
    index.add_pack(table(1, 1, 2))
    index.flush()
    assert [(row.present, row.number) for row in index.rows()] == [(True, 1)]
    assert numbers(index, 1, 2) == [1, 1]
    index.close()


def test_unknown_pack_numbers_mean_damage(index: Index) -> None:
    with pytest.raises(IndexDamaged):
        index.pack(7)


# Hiding


def test_a_view_does_not_offer_excluded_packs(index: Index) -> None:
    index.add_pack(table(1, 1, 2))
    index.add_pack(table(2, 2, 3))
    for _ in range(2):  # pending, then committed
        assert numbers(DedupView(index, {1}), 1, 3) == [0, 2]
        assert numbers(DedupView(index, {1, 2}), 1, 2, 3) == [0, 0, 0]
        index.flush()
    assert numbers(DedupView(index, {1}), 1, 2, 3) == [0, 2, 2]
    assert numbers(DedupView(index, {2}), 1, 2, 3) == [1, 1, 0]
    assert numbers(index, 1, 2, 3) == [1, 1, 2]


def test_deleted_packs_hide_their_chunks_and_show_other_copies(index: Index, local: Path) -> None:
    for number in (1, 2, 3):
        index.add_pack(table(number, 1, 10 + number))
        index.flush()
    index.drop_packs([1])
    assert numbers(index, 1, 11, 12) == [2, 0, 2]
    index.drop_packs([2])
    index = reopen(index, local)
    assert numbers(index, 1, 11, 12, 13) == [3, 0, 0, 3]
    assert index.numbers([pack(1), pack(3)]) == {pack(3): 3}
    assert index.garbage_share() == pytest.approx(2 / 3)
    index.add_pack(table(1, 1, 11))
    assert numbers(index, 1, 11) == [1, 1]
    index.add_pack(table(2, 1, 12))
    index.drop_packs([])
    assert {row.number: row.present for row in index.rows()} == {1: True, 2: True, 3: True}
    index.close()


def test_a_pack_that_was_deleted_half_entered_is_entered_whole(index: Index, local: Path) -> None:
    """Its writer was killed between the row and the records."""
    index.add_pack(table(1, 1, 2))
    index._forget_pending()
    index.drop_packs([1])
    index.add_pack(table(1, 1, 2))
    index = reopen(index, local)
    assert index.missing(table(1, 1, 2).records(1)) == 0
    assert numbers(index, 1, 2) == [1, 1]
    index.close()


def test_missing_counts_records_that_are_nowhere(index: Index) -> None:
    index.add_pack(table(1, 1, 2))
    index.add_pack(table(2, 2, 3))
    index.flush()
    assert index.missing(table(1, 1, 2).records(1)) == 0
    assert index.missing(table(2, 2, 3).records(2)) == 0
    assert index.missing(table(2, 3, 2).records(2)) == 2  # at other places in the pack
    assert index.missing(table(2, 9).records(2)) == 1


# Rebuilding


def test_a_rebuild_keeps_numbers_and_drops_what_is_gone(index: Index, local: Path) -> None:
    tables = [table(n, *range(n * 10, n * 10 + 20)) for n in range(1, 9)]
    for each in tables:
        index.add_pack(each)
    index.drop_packs([3])
    before = environment.newest(local)
    kept = [each for each in tables if each.id != pack(3)]
    index.rebuild([*kept, table(20, 1, 2), kept[0]])
    assert environment.newest(local) != before
    assert before is not None and not before.exists()
    assert index.numbers([pack(n) for n in (1, 3, 8, 20)]) == {pack(1): 1, pack(8): 8, pack(20): 9}
    assert numbers(index, 1, 10, 95) == [9, 1, 8]
    hidden = DedupView(index, {1, 2})
    assert numbers(hidden, 20, 30) == [0, 0]
    assert numbers(hidden, 40) == [4]
    assert index.garbage_share() == 0
    index = reopen(index, local)
    index.add_pack(table(21, 500))
    assert index.numbers([pack(21)]) == {pack(21): 10}
    index.close()


def test_readers_go_on_during_rebuilds(index: Index) -> None:
    tables = [table(n, *range(n * 100, n * 100 + 100)) for n in range(1, 20)]
    for each in tables:
        index.add_pack(each)
    over = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not over.is_set():
            if numbers(index, 150, 1950) != [1, 19]:
                wrong.append("lost")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        index.rebuild(tables)
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    index.close()


def test_writers_at_once(index: Index, local: Path) -> None:
    def add(start: int) -> None:
        for number in range(start, start + 20):
            index.add_pack(table(number, *range(number * 1000, number * 1000 + 300)))

    threads = [threading.Thread(target=add, args=(100 * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index = reopen(index, local)
    rows = index.rows()
    assert len({row.number for row in rows}) == len(rows) == 80
    assert 0 not in numbers(index, *range(419_000, 419_300))
    index.close()


# What must not be used


def test_an_index_of_another_store_is_refused(index: Index, local: Path) -> None:
    with pytest.raises(IndexDamaged, match="another store"):
        reopen(index, local, b"t" * 16)


def data_file(local: Path) -> Path:
    path = environment.newest(local)
    assert path is not None
    return path / "data.mdb"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_index_is_refused_before_it_is_mapped(
    index: Index, local: Path, share: float
) -> None:
    index.add_pack(table(1, *range(3000)))
    index.close()
    file = data_file(local)
    used = file.stat().st_size - environment._MARGIN_BYTES  # what is beyond may go
    os.truncate(file, int(used * share))
    with pytest.raises(IndexDamaged):
        Index.open(file.parent, STORE, number_of)


def test_a_file_that_grows_meanwhile_is_not_cut_off(
    index: Index, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may add pages between the look at the size and the lengthening."""
    index.add_pack(table(1, *range(3000)))
    index.flush()
    file = data_file(local)
    with file.open("r+b") as other:
        other.truncate(file.stat().st_size + 1_000_000)
    grown = file.stat().st_size
    before = os.stat_result((0,) * 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path: before)
        index.sync()
    assert file.stat().st_size == grown


def test_the_file_is_longer_than_its_pages(index: Index, local: Path) -> None:
    """A damaged offset that reaches beyond them must not end the process."""
    index.add_pack(table(1, *range(3000)))
    index.close()
    file = data_file(local)

    def margin() -> int:
        heads, size = file.read_bytes(), environment._META.size
        _, page_bytes = environment._meta(heads[:size], file)
        both = (heads[at : at + size] for at in (0, page_bytes))
        pages = max(environment._meta(head, file)[0] for head in both)
        return file.stat().st_size - pages * page_bytes

    assert margin() >= environment._MARGIN_BYTES
    os.truncate(file, file.stat().st_size - environment._MARGIN_BYTES)
    Index.open(file.parent, STORE, number_of).close()
    assert margin() >= environment._MARGIN_BYTES


@pytest.mark.parametrize("content", [b"", b"text", os.urandom(20_000), bytes(50_000)])
def test_a_file_that_is_no_index_is_refused(index: Index, local: Path, content: bytes) -> None:
    index.close()
    data_file(local).write_bytes(content)
    with pytest.raises(IndexDamaged):
        Index.open(data_file(local).parent, STORE, number_of)


def test_a_missing_file_is_damage(index: Index, local: Path) -> None:
    index.close()
    file = data_file(local)
    file.unlink()
    with pytest.raises(IndexDamaged):
        Index.open(file.parent, STORE, number_of)


def test_what_others_can_write_is_never_mapped(index: Index, local: Path) -> None:
    index.close()
    file = data_file(local)
    for path in (file, file.parent):
        mode = path.stat().st_mode
        for bits in (0o020, 0o002):
            path.chmod(mode | bits)
            with pytest.raises(IndexDamaged, match="others"):
                Index.open(file.parent, STORE, number_of)
        path.chmod(mode)
    target = file.with_name("elsewhere")
    file.rename(target)
    file.symlink_to(target)
    with pytest.raises(IndexDamaged):
        Index.open(file.parent, STORE, number_of)


def test_an_index_left_by_another_boot_is_refused(
    index: Index, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_pack(table(1, 1))
    index.flush()
    path = index._shared.path
    assert len(list(path.glob("mark-*"))) == 1
    copy = local.parent / "copy"
    copy.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", path, copy], check=True)
    index.close()
    assert not list(path.glob("mark-*"))
    left = copy / path.name
    Index.open(left, STORE, number_of).close()
    subprocess.run(["cp", "-a", path, copy / "again"], check=True)
    (copy / "again" / "mark-0123").write_text("another boot")
    with pytest.raises(IndexDamaged, match="went down"):
        Index.open(copy / "again", STORE, number_of)


def test_marks_of_killed_processes_go_with_the_next_sync(index: Index, local: Path) -> None:
    path = index._shared.path
    (path / "mark-dead").write_text(environment._boot())
    index.add_pack(table(1, 1))
    index.close()
    assert not list(path.glob("mark-*"))


def test_obtaining_heals_what_is_damaged(index: Index, local: Path) -> None:
    index.add_pack(table(1, 1))
    index.close()
    os.truncate(data_file(local), 5000)
    index = Index.obtain(local, STORE, number_of)
    assert index.rows() == []
    index.close()
    assert [path.name for path in local.glob("index-0*")] == ["index-00000002"]


_FLIP = """
import random, sys
from pathlib import Path
from snapstore.base.errors import SnapstoreError
from snapstore.index import Index
path, seed = Path(sys.argv[1]), int(sys.argv[2])
number_of = lambda location: int.from_bytes(location[:4], "little")
data = path / "data.mdb"
sound = data.read_bytes()
chance = random.Random(seed)
ids = b"".join(random.Random(n).randbytes(32) for n in range(3000))
for _ in range(150):
    flipped = bytearray(sound)
    flipped[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
    data.write_bytes(flipped)
    try:
        index = Index.open(path, b"s" * 16, number_of)
        try:
            index.locate(ids)
            index.rows()
        finally:
            index.close()
    except SnapstoreError:
        pass
    for mark in path.glob("mark-*"):
        mark.unlink()
print("alive")
"""


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_never_kill_the_process(index: Index, local: Path, seed: int) -> None:
    """What they falsify is found by each record's check value and by the packs themselves."""
    index.add_pack(table(1, *range(3000)))
    index.close()
    done = subprocess.run(
        [sys.executable, "-c", _FLIP, data_file(local).parent, str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "alive\n", done.stderr


# Processes


def test_one_environment_in_a_process(index: Index, local: Path) -> None:
    path = index._shared.path
    second = Index.open(path, STORE, number_of)
    assert second._shared is index._shared
    index.add_pack(table(1, 1))
    index.flush()
    index.close()
    assert numbers(second, 1) == [1]
    second.close()
    with pytest.raises(StoreFailed, match="closed"):
        second.locate(chunk(1))


def test_use_after_a_fork_is_refused(index: Index, local: Path) -> None:
    index.add_pack(table(1, 1))
    index.flush()
    path = index._shared.path
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.raises(StoreForked):
                index.locate(chunk(1))
            fresh = Index.open(path, STORE, number_of)
            for number in range(1000, 1050):
                fresh.add_pack(table(number, number))
                fresh.flush()
            code = 0 if numbers(fresh, 1) == [1] else 2
            fresh.close()
        finally:
            os._exit(code)
    for number in range(2, 52):
        index.add_pack(table(number, number))
        index.flush()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(set(numbers(index, *range(1, 52), *range(1000, 1050)))) == 101
    index.close()


def test_two_processes_write_at_once(index: Index, local: Path) -> None:
    script = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_index import *
index = Index.open(Path(sys.argv[1]), STORE, number_of)
for number in range(1000, 1100):
    index.add_pack(table(number, number))
    index.flush()
index.close()
"""
    path = index._shared.path
    here = str(Path(__file__).parent)
    other = subprocess.Popen([sys.executable, "-c", script, str(path), here])
    for number in range(1, 101):
        index.add_pack(table(number, number))
        index.flush()
    assert other.wait() == 0
    rows = index.rows()
    assert len(rows) == len({row.number for row in rows}) == 200
    assert len(set(numbers(index, *range(1, 101), *range(1000, 1100)))) == 200
    index.close()


def test_a_temporary_index_leaves_nothing() -> None:
    index = Index.temporary(STORE, number_of)
    index.add_pack(table(1, 1))
    path = index._shared.path
    assert numbers(index, 1) == [1]
    index.close()
    assert not path.parent.exists()


def test_the_engine_is_the_one_whose_files_are_checked(index: Index) -> None:
    assert index._shared.env.lib_version()[:2] == (0, 9)
    assert lmdb.version(lib_version=0)[:2] == (0, 9)
