"""Restores over living trees that hypothesis thinks up: what is on disk afterwards is what a model
says (tests/restore_model.py), an undo brings everything back, and undoing that restores again.

By default some examples of each; `-m slow` runs many (SNAP_EXAMPLES says how many).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import snapstore
from restore_model import InTheWay, Model, Outcome, below, check_links, join, partition
from snapstore import ConflictsFound, NothingToUndo, RestoreUnfinished, Store, TargetInvalid
from snapstore.model.results import RestoreResult
from tree_plans import (
    Change,
    Part,
    Plan,
    build,
    change_tree,
    changes,
    noise,
    plan_entries,
    plans,
    write_file,
)
from tree_scan import Facts, assert_same, scan

MANY = int(os.environ.get("SNAP_EXAMPLES", "400"))
STRATEGIES = ["overwrite", "overwrite", "merge", "keep-original", "newer", "fail"]


def examples(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for one example."""
    path = Path(tempfile.mkdtemp(prefix="snap-place-")).resolve()
    try:
        yield path
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", path], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(path)


def no_links(tree: Facts) -> Facts:
    return {path: replace(fact, group=None) for path, fact in tree.items()}


def strip_hidden(tree: Facts, hidden: bool) -> Facts:
    return {path: fact for path, fact in tree.items() if not (hidden and is_hidden(path))}


def is_hidden(path: bytes) -> bool:
    """What the pattern `h` leaves out."""
    return b"h" in path.split(b"/")


def check_counts(plan: Any, outcome: Outcome, result: RestoreResult, scope: Path) -> None:
    assert plan is not None
    around = len(os.fsencode(scope)) + 1
    conflicts = {conflict.path[around:]: conflict.taken for conflict in plan.conflicts}
    assert conflicts == outcome.conflicts, (conflicts, outcome.conflicts)
    assert plan.extra_count == len(outcome.extras), (plan.extras, outcome.extras)
    assert result.problems == [], result.problems


def assert_as(expected: Facts, actual: Facts, seen: Callable[[bytes], bool] | None) -> None:
    """The same in all respects. Which links go to paths that the restore does not see (all others
    are `seen`) it cannot know.
    """
    if seen is None:
        assert_same(expected, actual)
        return
    assert_same(no_links(expected), no_links(actual))
    paths = [path for path in expected if seen(path)]
    assert partition(actual, paths) == partition(expected, paths)


def restore_and_back(
    store: Store,
    ref: str,
    scope: Path,
    expected: Facts,
    outcome: Outcome,
    undo: Path,
    seen: Callable[[bytes], bool] | None = None,
    **options: Any,
) -> None:
    """Restores, holds that against what is expected of `scope`, undoes, and undoes the undo."""
    before = scan(scope)
    predicted = store.restore(ref, dry_run=True, **options)
    assert_same(before, scan(scope))
    result = store.restore(ref, **options)
    after = scan(scope)
    assert_same(no_links(expected), no_links(after))
    assert result.plan is not None and predicted.plan is not None
    assert predicted.plan.to_dict() == result.plan.to_dict()
    check_counts(result.plan, outcome, result, scope)
    if result.plan.is_empty:
        assert_same(before, after)
        assert result.safety_snapshot is None
        event("nothing to do")
        return
    assert result.safety_snapshot is not None
    event("restored")
    back = store.undo(undo)
    assert back.problems == [], back.problems
    assert_as(before, scan(scope), seen)
    again = store.undo(undo)
    assert again.problems == [], again.problems
    after_again = scan(scope)
    assert_as(after, after_again, seen)
    last = store.restore(ref, **options)
    if last.in_place:  # else the target is empty
        assert last.plan is not None
        assert last.plan.is_empty, last.plan.to_dict()["steps"]
    assert_same(after_again, scan(scope))


def restore_unsaved(
    store: Store, ref: str, scope: Path, expected: Facts, undo: Path, **options: Any
) -> None:
    """Without a safety snapshot: what a store that can be written does not keep is gone; one that
    cannot has it kept beside the target.
    """
    before, saved = scan(scope), options.get("safety", True)
    result = store.restore(ref, **options)
    assert result.plan is not None and result.safety_snapshot is None
    keeps = saved and not result.plan.is_empty
    after = {path: fact for path, fact in scan(scope).items() if b".snapstore-" not in path}
    assert_same(no_links(expected), no_links(after))
    if not keeps:
        with pytest.raises(NothingToUndo):
            store.undo(undo)
        return
    with pytest.raises(RestoreUnfinished, match="kept in"):
        store.restore(ref, **options)
    store.undo(undo, dry_run=True)
    assert store.undo(undo).problems == []
    assert_same(before, scan(scope))  # all that was there: links to anything, too
    with pytest.raises(NothingToUndo):
        store.undo(undo)


def check_whole(
    tree: list[Plan],
    first: list[Change],
    second: list[Change],
    *,
    restored: int,
    strategy: str = "overwrite",
    delete: bool = False,
    hides: bool = False,
    saves: str = "safety",
) -> None:
    """Two snapshots with changes after each; one of them is restored."""
    with workplace() as place:
        top = place / "live/tree"
        top.parent.mkdir()
        build(os.fsencode(top), tree)
        rules: dict[str, Any] = {"exclude": ["h"]} if hides else {}
        with snapstore.init(place / "store") as store:
            taken = []
            for made in (first, second):
                result = store.create(top, **rules)
                assert result.snapshot is not None and not result.unreadable
                taken.append((result.snapshot.id, strip_hidden(scan(top), hides)))
                change_tree(os.fsencode(top), made)
            id, wanted = taken[restored]
            live, around = scan(top), scan(top.parent)
            model = Model(
                live,
                wanted,
                taken[-1][1],
                strategy=strategy,
                delete=delete,
                hidden=is_hidden if hides else lambda path: False,
            )
            options = {"strategy": strategy, "delete": delete}
            try:
                outcome = model.run()
            except InTheWay:
                with pytest.raises(TargetInvalid):
                    store.restore(id, **options)
                assert_same(around, scan(top.parent))
                event("in the way")
                return
            if strategy == "fail" and outcome.conflicts:
                with pytest.raises(ConflictsFound):
                    store.restore(id, **options)
                assert_same(around, scan(top.parent))
                return
            expected, whole = placed(around, {b"tree": outcome})
            if saves != "safety":
                mode = "rw" if saves == "nothing" else "r"
                options["safety"] = mode == "r"
                with snapstore.open(place / "store", mode=mode) as again:
                    restore_unsaved(again, id, top.parent, expected, top, **options)
                return
            seen = (lambda path: not is_hidden(path)) if hides else None
            restore_and_back(store, id, top.parent, expected, whole, top, seen, **options)
            if strategy == "overwrite":
                check_links(outcome, live, wanted, scan(top), model.hidden)


numbers = st.sampled_from([0, 0, 1])


@examples(40)
@given(plans(), changes(), changes(), numbers, st.booleans(), st.booleans())
def test_what_is_restored_is_what_was_taken(
    tree: list[Plan],
    first: list[Change],
    second: list[Change],
    restored: int,
    delete: bool,
    hides: bool,
) -> None:
    check_whole(tree, first, second, restored=restored, delete=delete, hides=hides)


@pytest.mark.slow
@examples(MANY)
@given(plans(60), changes(20), changes(20), numbers, st.booleans(), st.booleans())
def test_what_is_restored_is_what_was_taken_many(
    tree: list[Plan],
    first: list[Change],
    second: list[Change],
    restored: int,
    delete: bool,
    hides: bool,
) -> None:
    check_whole(tree, first, second, restored=restored, delete=delete, hides=hides)


strategies = st.sampled_from(STRATEGIES)


@examples(40)
@given(plans(), changes(), changes(), numbers, strategies, st.booleans(), st.booleans())
def test_strategies_decide_as_the_model_says(
    tree: list[Plan],
    first: list[Change],
    second: list[Change],
    restored: int,
    strategy: str,
    delete: bool,
    hides: bool,
) -> None:
    options = {"strategy": strategy, "delete": delete, "hides": hides}
    check_whole(tree, first, second, restored=restored, **options)


@examples(30)
@given(plans(), changes(), changes(), strategies, st.booleans(), st.booleans(), st.booleans())
def test_without_a_safety_snapshot(
    tree: list[Plan],
    first: list[Change],
    second: list[Change],
    strategy: str,
    delete: bool,
    hides: bool,
    reads: bool,
) -> None:
    options = {"strategy": strategy, "delete": delete, "hides": hides}
    saves = "beside the target" if reads else "nothing"
    check_whole(tree, first, second, restored=0, saves=saves, **options)


# Parts, other places, several roots


def placed(around: Facts, outcomes: dict[bytes, Outcome]) -> tuple[Facts, Outcome]:
    """A tree with what becomes of some of its paths, and all that comes of it."""
    expected = dict(around)
    whole = Outcome()
    for name, outcome in outcomes.items():
        for path in below(around, name):
            del expected[join(name, path)]
        expected |= {join(name, path): fact for path, fact in outcome.tree.items()}
        whole.conflicts |= {join(name, path): taken for path, taken in outcome.conflicts.items()}
        whole.extras |= {join(name, path) for path in outcome.extras}
    return expected, whole


def check_part(
    tree: list[Plan], made: list[Change], picks: list[int], delete: bool, within: bool
) -> None:
    """Chosen paths come back, and nothing else changes."""
    with workplace() as place:
        top = place / "live/tree"
        top.parent.mkdir()
        build(os.fsencode(top), tree)
        with snapstore.init(place / "store") as store:
            result = store.create(top)
            assert result.snapshot is not None
            id, wanted = result.snapshot.id, scan(top)
            change_tree(os.fsencode(top), made)
            live, around = scan(top), scan(top.parent)
            chosen = {sorted(wanted)[pick % len(wanted)] for pick in picks[: 1 if within else 3]}
            paths = [os.path.join(os.fsencode(top), path).rstrip(b"/") for path in chosen]
            model = Model(live, wanted, wanted, delete=delete, chosen=chosen)
            options: dict[str, Any] = {"delete": delete}
            if within:
                id = f"{id}:{os.fsdecode(paths[0])}"
            else:
                options["paths"] = paths
            expected, outcome = placed(around, {b"tree": model.run()})
            seen = lambda path: model.is_chosen(path[len(b"tree/") :])  # noqa: E731
            restore_and_back(store, id, top.parent, expected, outcome, top.parent, seen, **options)


@examples(25)
@given(plans(), changes(), st.lists(st.integers(0, 60), min_size=1), st.booleans(), st.booleans())
def test_chosen_paths_come_back_and_nothing_else(
    tree: list[Plan], made: list[Change], picks: list[int], delete: bool, within: bool
) -> None:
    check_part(tree, made, picks, delete, within)


def check_elsewhere(
    tree: list[Plan], other: list[Plan], made: list[Change], pick: int | None, delete: bool
) -> None:
    """A snapshot, or a directory in it, becomes a directory of another place that has entries."""
    with workplace() as place:
        top, target = place / "tree", place / "live/other"
        target.parent.mkdir()
        build(os.fsencode(top), tree)
        with snapstore.init(place / "store") as store:
            result = store.create(top)
            assert result.snapshot is not None
            id, wanted = result.snapshot.id, scan(top)
            build(os.fsencode(target), other or tree)
            change_tree(os.fsencode(target), made)
            live, around = scan(target), scan(target.parent)
            if len(live) == 1:
                return  # an empty target is not restored over
            directories = sorted(p for p, fact in wanted.items() if fact.type == "directory")
            if pick is not None:
                path = directories[pick % len(directories)]
                wanted = below(wanted, path)
                id = f"{id}:{os.fsdecode(os.path.join(os.fsencode(top), path).rstrip(b'/'))}"
            model = Model(live, wanted, None, delete=delete)
            expected, outcome = placed(around, {b"other": model.run()})
            options: dict[str, Any] = {"delete": delete, "target": target}
            seen = None if pick is None else lambda path: True
            restore_and_back(store, id, target.parent, expected, outcome, target, seen, **options)


@examples(25)
@given(plans(), plans(12), changes(), st.none() | st.integers(0, 9), st.booleans())
def test_another_place_becomes_what_was_taken(
    tree: list[Plan], other: list[Plan], made: list[Change], pick: int | None, delete: bool
) -> None:
    check_elsewhere(tree, other, made, pick, delete)


def check_roots(
    trees: list[list[Plan]], file: Plan, made: list[list[Change]], gone: list[bool], delete: bool
) -> None:
    """Two directories and a file are roots of their own; each may be gone or be something else."""
    with workplace() as place:
        live = place / "live"
        live.mkdir()
        tops = [live / "one", live / "two", live / "file"]
        for top, tree in zip(tops, trees, strict=False):
            build(os.fsencode(top), tree)
        build(os.fsencode(live / "scrap"), [replace(file, parent=0, name=b"x")])
        if not os.path.lexists(live / "scrap/x"):
            return
        (live / "scrap/x").rename(tops[2])
        with snapstore.init(place / "store") as store:
            result = store.create(*tops)
            assert result.snapshot is not None
            wanted = [scan(top) for top in tops]
            for top, step in zip(tops, made, strict=False):
                change_tree(os.fsencode(top), step)
            for top, is_gone in zip(tops, gone, strict=True):
                if is_gone and not top.is_symlink() and top.is_dir():
                    shutil.rmtree(top)
                elif is_gone:
                    top.unlink()
            around = scan(live)
            outcomes = {}
            for top, facts in zip(tops, wanted, strict=True):
                name = os.fsencode(top.name)
                model = Model(below(around, name), facts, facts, delete=delete)
                outcomes[name] = model.run()
            expected, outcome = placed(around, outcomes)
            options = {"delete": delete}
            if result.snapshot.status == "ready":
                id = result.snapshot.id
                restore_and_back(
                    store, id, live, expected, outcome, live, lambda path: True, **options
                )


@examples(25)
@given(
    st.lists(plans(10), min_size=2, max_size=2),
    plan_entries().filter(lambda plan: plan.kind not in ("directory", "link")),
    st.lists(changes(6), min_size=2, max_size=2),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.booleans(),
)
def test_several_roots_come_back(
    trees: list[list[Plan]],
    file: Plan,
    made: list[list[Change]],
    gone: list[bool],
    delete: bool,
) -> None:
    check_roots(trees, file, made, gone, delete)


# What was found once


def simple(place: Path) -> Path:
    """A directory with two files, `a` and `b`."""
    top = place / "tree"
    top.mkdir()
    for name in ("a", "b"):
        (top / name).write_bytes(name.encode())
    return top


def test_a_file_that_gets_attributes_and_a_link(tmp_path: Path) -> None:
    """The link is made before the attributes are set: that changes the file's ctime."""
    top = simple(tmp_path)
    (top / "b").unlink()
    os.link(top / "a", top / "b")
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        taken = scan(top)
        (top / "b").unlink()
        (top / "a").chmod(0o600)
        changed = scan(top)
        assert store.restore("latest").success
        assert_same(taken, scan(top))
        store.undo(top)
        assert_same(changed, scan(top))


@pytest.mark.parametrize("strategy", ["merge", "keep-original"])
def test_what_is_in_a_directory_counts_with_it_where_the_snapshot_has_none(
    tmp_path: Path, strategy: str
) -> None:
    """Head: a directory. On disk a file in it was edited; the snapshot has a file there."""
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d/file").write_bytes(b"1")
    with snapstore.init(tmp_path / "store") as store:
        head = store.create(top).snapshot
        shutil.rmtree(top / "d")
        (top / "d").write_bytes(b"no directory")
        other = store.create(top).snapshot
        assert head is not None and other is not None
        store.restore(head.id)
        (top / "d/file").write_bytes(b"2")
        live = scan(top)
        result = store.restore(other.id, strategy=strategy)
        assert [conflict.path for conflict in result.conflicts] == [os.fsencode(top / "d")]
        assert (top / "d/file").read_bytes() == b"2"
        assert_same({b"d": live[b"d"]}, {b"d": scan(top)[b"d"]})


def test_links_are_made_to_what_stands_of_the_paths_that_were_chosen(tmp_path: Path) -> None:
    """The first link of a file was not chosen, another one is there already: the third joins it."""
    top = simple(tmp_path)
    for name in ("c", "d"):
        os.link(top / "a", top / name)
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        (top / "a").unlink()
        (top / "c").unlink()
        assert store.restore("latest", paths=[top / "c", top / "d"]).success
        assert (top / "c").stat().st_ino == (top / "d").stat().st_ino
        again = store.restore("latest", paths=[top / "c", top / "d"])
        assert again.plan is not None and again.plan.is_empty


def test_a_link_of_what_merge_keeps_is_not_restored_again_and_again(tmp_path: Path) -> None:
    top = simple(tmp_path)
    os.link(top / "a", top / "c")
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        shutil.copy2(top / "a", top / "new")
        (top / "new").rename(top / "c")
        (top / "a").write_bytes(b"changed")
        store.restore("latest", strategy="merge")
        again = store.restore("latest", strategy="merge")
        assert again.plan is not None and again.plan.is_empty


# Large files, of which only ranges are written

MIB = 1 << 20
edits = st.tuples(
    st.sampled_from(["write", "punch", "zeros", "truncate", "extend", "mode", "xattr"]),
    st.integers(0, 11 * MIB),
    st.integers(1, 300_000),
)


def edit(path: Path, what: str, at: int, length: int) -> None:
    """Changes a large file; it stays large enough to be patched."""
    size = path.stat().st_size
    if what == "mode":
        path.chmod(0o600 + length % 0o100)
    elif what == "xattr":
        with suppress(OSError):
            os.setxattr(path, "user.edited", b"%d" % length)
    elif what == "truncate":
        os.truncate(path, max(8 * MIB, size - length))
    elif what == "extend":
        os.truncate(path, size + length)
    else:
        at %= size
        length = min(length, size - at)
        with open(path, "r+b", buffering=0) as file:
            file.seek(at)
            file.write(bytes(length) if what != "write" else noise(length, at))
        if what == "punch":
            command = ["fallocate", "-p", "-o", str(at), "-l", str(length), path]
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


def check_large(first: list[Any], second: list[Any], sparse: bool, linked: bool, mode: str) -> None:
    with workplace() as place:
        top, path = place / "tree", place / "tree/image"
        top.mkdir()
        hole = [Part("hole", MIB)] if sparse else []
        write_file(os.fsencode(path), [Part("noise", 6 * MIB, 1), *hole, Part("noise", 4 * MIB, 2)])
        with snapstore.init(place / "store") as store:
            for made in (first, second):
                result = store.create(top)
                for change in made:
                    edit(path, *change)
            assert result.snapshot is not None
            if linked:
                os.link(path, top / "link")
            before = scan(top)
        with snapstore.open(place / "store", mode=mode) as store:
            for snapshot in store.snapshots():
                done = store.restore(snapshot.id, verify=True)
                if done.plan is None or done.plan.is_empty:
                    continue
                event("patched" if "patch" in done.plan.counts else "not patched")
                assert done.problems == []
                after = {p: fact for p, fact in scan(top).items() if b".snapstore" not in p}
                with TemporaryDirectory(dir=place) as fresh:
                    store.restore(snapshot.id, target=fresh)
                    wanted = scan(fresh)
                assert_same(no_links({b"image": wanted[b"image"]}), no_links(pick(after)))
                assert store.undo(top).problems == []
                assert_as(before, scan(top), lambda path: path != b"link")
                if mode == "rw":
                    store.undo(top)
                    assert_same(no_links(after), no_links(scan(top)))
                    store.undo(top)


def pick(tree: Facts) -> Facts:
    return {b"image": tree[b"image"]}


@pytest.mark.needs("holes")
@examples(8)
@given(
    st.lists(edits, max_size=4),
    st.lists(edits, min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([False, False, True]),
    st.sampled_from(["rw", "rw", "r"]),
)
def test_a_large_file_is_patched_and_back(
    first: list[Any], second: list[Any], sparse: bool, linked: bool, mode: str
) -> None:
    check_large(first, second, sparse, linked, mode)


@pytest.mark.needs("holes")
def test_a_hole_at_the_end_comes_back_where_the_last_block_is_not_full(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    parts = [Part("noise", 10 * MIB, 1), Part("hole", 70_123)]
    write_file(os.fsencode(top / "image"), parts)
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        taken = scan(top)
        with open(top / "image", "r+b") as file:
            file.seek(10 * MIB)
            file.write(noise(70_123, 2))
        changed = scan(top)
        store.restore("latest")
        assert_same(taken, scan(top))
        store.undo(top)
        assert_same(changed, scan(top))
