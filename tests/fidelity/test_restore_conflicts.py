"""Who wins when both sides changed: every combination of what is on disk, in the snapshot, and in
the head that both came from, for each strategy; and which snapshot is the head.
"""

import os
import shutil
from itertools import product
from pathlib import Path

import pytest

import snapstore
from snapstore import ConflictsFound, Store
from snapstore.model.restoring import Conflict

VALUES = ["missing", "one", "two", "directory", "link"]
"""The later ones were modified later; what is missing, never."""


def put(path: Path, value: str) -> None:
    """Makes `path` be of this value."""
    if not path.is_symlink() and path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if value == "missing":
        return
    if value == "directory":
        path.mkdir()
        (path / "inside").write_bytes(b"inside")
        os.utime(path / "inside", (0, 0))
    elif value == "link":
        path.symlink_to("nowhere")
    else:
        path.write_text(value)
    seconds = VALUES.index(value)
    os.utime(path, (seconds, seconds), follow_symlinks=False)


def value_of(path: Path) -> str:
    """The value that `path` is of."""
    if path.is_symlink():
        return "link"
    if not path.exists():
        return "missing"
    if path.is_dir():
        assert os.listdir(path) == ["inside"]
        return "directory"
    return path.read_text()


class World:
    """A tree with a path for each combination, or one with the given combinations alone."""

    def __init__(self, place: Path, rows: list[tuple[str, str, str]], has_head: bool) -> None:
        self.top, self.rows = place / "tree", rows
        self.top.mkdir()
        self.store = snapstore.init(place / "store")
        self.set(1)
        wanted = self.store.create(self.top, source="a").snapshot
        self.set(2)
        head = self.store.create(self.top, source="a" if has_head else "other").snapshot
        assert wanted is not None and head is not None
        self.id, self.head = wanted.id, head.id
        self.set(0)

    def set(self, side: int) -> None:
        for row in self.rows:
            put(self.path(row), row[side])
        os.utime(self.top, (0, 0))

    def path(self, row: tuple[str, str, str]) -> Path:
        return self.top / "-".join(row)

    def values(self) -> dict[tuple[str, str, str], str]:
        return {row: value_of(self.path(row)) for row in self.rows}


def expected(row: tuple[str, str, str], strategy: str, delete: bool) -> tuple[str, bool]:
    """What is there afterwards, and whether it is a conflict: the table of docs/design/004."""
    live, wanted, head = row
    if live == wanted or (wanted == "missing" and not delete):
        return live, False
    if live == head:
        return wanted, False
    newer = max(live, wanted, key=VALUES.index)
    winner = {"overwrite": wanted, "newer": newer}.get(strategy, live)
    return winner, wanted != head


ROWS = list(product(VALUES, repeat=3))


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("strategy", ["overwrite", "keep-original", "newer", "merge"])
def test_each_combination(quick_path: Path, strategy: str, delete: bool) -> None:
    world = World(quick_path, ROWS, has_head=True)
    before = world.values()
    result = world.store.restore(world.id, strategy=strategy, delete=delete)
    outcomes = {row: expected(row, strategy, delete) for row in ROWS}
    assert world.values() == {row: value for row, (value, _) in outcomes.items()}
    conflicts = {os.fsencode(world.path(row)) for row in ROWS if outcomes[row][1]}
    assert {conflict.path for conflict in result.conflicts} == conflicts
    assert result.plan is not None and result.plan.conflict_count == len(conflicts)
    for conflict in result.conflicts:
        check_sides(world, conflict)
    assert result.success == (strategy != "merge")
    world.store.undo(world.top)
    assert world.values() == before


def check_sides(world: World, conflict: Conflict) -> None:
    """A conflict says what each side has, and which one is on disk now."""
    types = {"missing": "missing", "directory": "directory", "link": "symlink"}
    row = tuple(os.path.basename(conflict.path).decode().split("-"))
    live, wanted, head = row
    sides = [conflict.live.type, conflict.snapshot.type, conflict.head.type]
    assert sides == [types.get(value, "file") for value in row]
    assert (live, wanted, head) in world.rows
    assert value_of(world.path((live, wanted, head))) == (
        wanted if conflict.taken == "snapshot" else live
    )


@pytest.mark.parametrize("delete", [False, True])
def test_fail_does_nothing_where_there_is_a_conflict(quick_path: Path, delete: bool) -> None:
    world = World(quick_path, ROWS, has_head=True)
    before = world.values()
    with pytest.raises(ConflictsFound) as caught:
        world.store.restore(world.id, strategy="fail", delete=delete)
    conflicts = [row for row in ROWS if expected(row, "fail", delete)[1]]
    assert len(caught.value.fields["conflicts"]) == len(conflicts)
    assert world.values() == before
    assert world.store.snapshots(all=True)[0].kind != "safety"


@pytest.mark.parametrize("delete", [False, True])
def test_fail_restores_where_there_is_none(quick_path: Path, delete: bool) -> None:
    rows = [row for row in ROWS if not expected(row, "fail", delete)[1]]
    world = World(quick_path, rows, has_head=True)
    world.store.restore(world.id, strategy="fail", delete=delete)
    outcomes = {row: expected(row, "overwrite", delete)[0] for row in rows}
    assert world.values() == outcomes


def test_a_resolver_decides_each_conflict_and_nothing_else(quick_path: Path) -> None:
    world = World(quick_path, ROWS, has_head=True)
    asked: list[bytes] = []

    def resolve(conflict: Conflict) -> str:
        asked.append(conflict.path)
        return "snapshot" if len(asked) % 2 else "live"

    result = world.store.restore(world.id, strategy="merge", delete=True, resolver=resolve)
    taken = {path for number, path in enumerate(asked) if number % 2 == 0}
    for row in ROWS:
        value, is_conflict = expected(row, "merge", True)
        path = os.fsencode(world.path(row))
        if is_conflict:
            value = row[1] if path in taken else row[0]
            assert path in asked
        assert value_of(world.path(row)) == value
    assert len(asked) == len(set(asked)) == sum(expected(row, "merge", True)[1] for row in ROWS)
    assert result.conflicts_left == len(asked) - len(taken)


# Heads


def head_of(store: Store) -> str | None:
    found = store._repository.head("a", store._repository.host)
    return None if found is None else found.id


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_text("1")
    (top / "other").write_text("1")
    return top


def two(store: Store, tree: Path) -> tuple[str, str]:
    """Two snapshots with different contents of both files."""
    ids = []
    for text in ("1", "2"):
        (tree / "file").write_text(text)
        (tree / "other").write_text(text)
        taken = store.create(tree, source="a").snapshot
        assert taken is not None
        ids.append(taken.id)
    return ids[0], ids[1]


def parent_of_next(store: Store, tree: Path) -> str:
    taken = store.create(tree, source="a").snapshot
    assert taken is not None
    assert head_of(store) == taken.id
    return taken.parents[0]


def test_the_head_moves_with_create_restore_undo_and_redo(tmp_path: Path, tree: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        one, other = two(store, tree)
        assert head_of(store) == other
        store.restore(one)
        assert head_of(store) == one
        store.undo(tree)
        assert head_of(store) == other
        store.undo(tree)
        assert head_of(store) == one
        store.restore(one)  # nothing to do
        assert head_of(store) == one
        assert parent_of_next(store, tree) == one


def test_a_restore_of_some_paths_leaves_the_head(tmp_path: Path, tree: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        one, other = two(store, tree)
        for _ in range(2):
            store.restore(one, paths=[tree / "file"])
            assert head_of(store) == other
            store.undo(tree)
            assert head_of(store) == other
            store.undo(tree)
            assert (tree / "file").read_text() == "1"
            assert head_of(store) == other
            store.undo(tree)
        assert parent_of_next(store, tree) == other


def test_what_was_changed_before_a_partial_restore_is_still_a_change(
    tmp_path: Path, tree: Path
) -> None:
    """The safety snapshot of the first restore has the change: it is no head."""
    with snapstore.init(tmp_path / "store") as store:
        one, _ = two(store, tree)
        (tree / "other").write_text("changed here")
        store.restore(one, paths=[tree / "file"])
        result = store.restore(one, strategy="merge")
        assert (tree / "other").read_text() == "changed here"
        assert [conflict.path for conflict in result.conflicts] == [os.fsencode(tree / "other")]


def test_without_heads_the_newest_snapshot_is_the_head(tmp_path: Path, tree: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        one, other = two(store, tree)
        store.restore(one)
        shutil.rmtree(tmp_path / "store/local/heads")
        assert head_of(store) == other
        store.undo(tree)
        assert (tree / "file").read_text() == "2"


def test_another_place_has_a_head_of_its_own(tmp_path: Path, tree: Path) -> None:
    """Undone, it comes from nothing again: what is there is kept by a merge, as a conflict."""
    with snapstore.init(tmp_path / "store") as store:
        one, other = two(store, tree)
        target = tmp_path / "target"
        target.mkdir()
        (target / "file").write_text("of the target")
        store.restore(one, target=target)
        assert head_of(store) == other
        assert store.restore(other, target=target, strategy="merge").conflicts == []
        assert (target / "file").read_text() == "2"
        store.undo(target)
        assert (target / "file").read_text() == "1"
        assert store.restore(other, target=target, strategy="merge").conflicts == []


def test_a_place_whose_first_restore_was_undone_comes_from_nothing(
    tmp_path: Path, tree: Path
) -> None:
    with snapstore.init(tmp_path / "store") as store:
        one, _ = two(store, tree)
        target = tmp_path / "target"
        target.mkdir()
        (target / "file").write_text("of the target")
        store.restore(one, target=target)
        store.undo(target)
        result = store.restore(one, target=target, strategy="merge")
        assert (target / "file").read_text() == "of the target"
        assert os.fsencode(target / "file") in {conflict.path for conflict in result.conflicts}
