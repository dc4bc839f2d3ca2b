"""Reading, comparing and searching snapshots of trees that hypothesis thinks up, with naive models
as the measure.
"""

import fnmatch
import itertools
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_trees import MANY, examples, workplace

import snapstore
from snapstore import Change, Store
from tree_plans import Change as Edit
from tree_plans import Plan, build, change_tree, changes, plans
from tree_scan import Fact, Facts, scan

# Which field of an entry an attribute of a fact is.
FIELD_OF = {
    "mode": "mode",
    "uid": "owner",
    "gid": "owner",
    "mtime_ns": "mtime",
    "size": "content",
    "content": "content",
    "holes": "holes",
    "target": "target",
    "device": "device",
    "xattrs": "xattrs",
}


def differing(old: Fact, new: Fact) -> set[str]:
    names = (item.name for item in fields(Fact) if item.name in FIELD_OF)
    return {FIELD_OF[name] for name in names if getattr(old, name) != getattr(new, name)}


def expected_changes(old: Facts, new: Facts) -> dict[bytes, tuple[str, set[str]]]:
    """Kind and fields by path."""
    found: dict[bytes, tuple[str, set[str]]] = {}
    for path in old.keys() | new.keys():
        if path not in old:
            found[path] = "added", set()
        elif path not in new:
            found[path] = "removed", set()
        elif old[path].type != new[path].type:
            found[path] = "type", set()
        elif different := differing(old[path], new[path]):
            substance = different & {"content", "target", "device"}
            found[path] = "content" if substance else "metadata", different
    return found


def by_path(found: list[Change], top: bytes) -> dict[bytes, tuple[str, set[str]]]:
    result = {one.path[len(top) + 1 :]: (one.kind, set(one.fields)) for one in found}
    assert len(result) == len(found)
    return result


def settle(found: dict[bytes, Any], expected: dict[bytes, Any]) -> None:
    """Other holes may cut the same bytes elsewhere, and then the content is said to differ."""
    for path, (_, different) in expected.items():
        if "holes" in different and path in found and "content" in found[path][1]:
            expected[path] = "content", {*different, "content"}


def facts_without_groups(facts: Facts) -> Facts:
    return {path: fact for path, fact in facts.items() if fact.type != "socket"}


def check_diff(tree: list[Plan], edits: list[Edit]) -> None:
    with workplace() as place:
        top = os.fsencode(place / "tree")
        build(top, tree)
        before = facts_without_groups(scan(top))
        with snapstore.init(place / "store") as store:
            store.create(top, name="old")
            change_tree(top, edits)
            after = facts_without_groups(scan(top))
            store.create(top, name="new", rehash=True)
            check_pair(store, top, before, after)
            check_pair(store, top, after, before, ("new", "old"))
            assert list(store.diff("old", "old")) == []
            live = list(store.diff_directory("old", top, content=True, ignore=["holes"]))
            wanted = {
                path: (
                    kind if different - {"holes"} or not different else "",
                    different - {"holes"},
                )
                for path, (kind, different) in expected_changes(before, after).items()
            }
            assert by_path(live, top) == {path: one for path, one in wanted.items() if one[0]}
            assert store.restore("old", target=place / "out").success
            assert list(store.diff_directory("old", place / "out", content=True)) == []
            assert list(store.diff_directory("new", top, content=True)) == []


def check_pair(
    store: Store,
    top: bytes,
    before: Facts,
    after: Facts,
    names: tuple[str, str] = ("old", "new"),
) -> None:
    found = by_path(list(store.diff(*names, renames=False)), top)
    expected = expected_changes(before, after)
    settle(found, expected)
    assert found == expected
    paths = [change.path.split(b"/") for change in store.diff(*names, renames=False)]
    assert paths == sorted(paths)
    # Renames say the same in other words.
    model = dict(before)
    renamed = [change for change in store.diff(*names) if change.kind == "renamed"]
    for change in store.diff(*names):
        path = change.path[len(top) + 1 :]
        if change.kind == "renamed":
            assert change.old_path is not None
            source = change.old_path[len(top) + 1 :]
            assert source not in after and path not in before
            assert before[source].content == after[path].content
            assert after[path].size > 0
            model.pop(source)
        if change.kind == "removed":
            model.pop(path)
        else:
            model[path] = after[path]
    assert model.keys() == after.keys()
    assert not [one for one in renamed if "content" in one.fields]


@examples(25)
@given(plans(), changes())
def test_diff_is_what_a_naive_comparison_finds(tree: list[Plan], edits: list[Edit]) -> None:
    check_diff(tree, edits)


@pytest.mark.slow
@examples(MANY)
@given(plans(), changes(30))
def test_diff_is_what_a_naive_comparison_finds_slow(tree: list[Plan], edits: list[Edit]) -> None:
    check_diff(tree, edits)


# find

PATTERNS = ["*", "a", "[a-c]*", "?", "*[!a-z]*", "n*n", "%*", "**", "*\\**"]
sizes = st.one_of(st.none(), st.sampled_from([0, 1, 255, 4_096, 65_536]))
bounds = st.one_of(st.none(), st.sampled_from([0, 10**18, -1]))
kinds = st.lists(st.sampled_from(["file", "directory", "symlink", "fifo"]), max_size=2)


@examples(25)
@given(
    plans(),
    changes(4),
    st.sampled_from(PATTERNS),
    st.booleans(),
    sizes,
    sizes,
    bounds,
    bounds,
    kinds,
)
def test_find_is_a_naive_walk(
    tree: list[Plan],
    edits: list[Edit],
    pattern: str,
    on_path: bool,
    larger: int | None,
    smaller: int | None,
    newer: int | None,
    older: int | None,
    types: list[str],
) -> None:
    with workplace() as place:
        top = os.fsencode(place / "tree")
        build(top, tree)
        expected: list[tuple[str, bytes]] = []
        with snapstore.init(place / "store") as store:
            for number in range(3):
                if number == 2:
                    change_tree(top, edits)
                made = store.create(top, rehash=True).snapshot
                assert made is not None
                found = [
                    (made.id, b"/".join(filter(None, [top, path])))
                    for path, fact in scan(top).items()
                    if (not types or fact.type in types)
                    and (larger is None or _size(fact) > larger)
                    and (smaller is None or _size(fact) < smaller)
                    and (newer is None or fact.mtime_ns > newer)
                    and (older is None or fact.mtime_ns < older)
                    and fact.type != "socket"
                ]
                name = pattern.replace("\\*", "[*]").replace("**", "*")
                found = [one for one in found if _matches(os.path.basename(one[1]), name)]
                expected += found
            asked = f"{os.fsdecode(top)}/**/{pattern}" if on_path else pattern
            if on_path:
                expected = [one for one in expected if one[1] != top]
            results = list(
                store.find(
                    asked,
                    larger_than=larger,
                    smaller_than=smaller,
                    newer_than=newer,
                    older_than=older,
                    types=types,
                )
            )
            assert sorted((one.snapshot.id, one.path) for one in results) == sorted(expected)
            for _, group in itertools.groupby(results, lambda one: one.snapshot.id):
                paths = [one.path.split(b"/") for one in group]
                assert paths == sorted(paths)


def _size(fact: Fact) -> int:
    return fact.size if fact.type == "file" else 0


def _matches(name: bytes, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.decode("latin-1"), pattern)


# du


@examples(15)
@given(plans(), changes())
def test_unique_bytes_are_what_one_snapshot_adds(tree: list[Plan], edits: list[Edit]) -> None:
    with workplace() as place:
        top = place / "tree"
        build(os.fsencode(top), tree)
        with snapstore.init(place / "store") as store:
            store.create(top, name="old")
            only_old = store.stats().plain_bytes
            assert [one.unique_bytes for one in store.du()] == [only_old]
            change_tree(os.fsencode(top), edits)
            store.create(top, name="new", rehash=True)
            both = store.stats().plain_bytes
            with snapstore.init(place / "fresh") as fresh:
                fresh.create(top)
                only_new = fresh.stats().plain_bytes
            new, old = store.du()
            assert (new.unique_bytes, old.unique_bytes) == (both - only_old, both - only_new)
            assert [*store.du("new"), *store.du("old")] == [new, old]
            (whole,) = store.du(f"new:{top}")
            assert (whole.unique_bytes, whole.logical_bytes) == (
                new.unique_bytes,
                new.logical_bytes,
            )
            assert whole.entries == new.entries


# log

STATES = [None, b"a", b"b", "directory"]


@examples(20)
@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=7))
def test_log_is_the_history_of_a_path(states: list[bytes | str | None]) -> None:
    with workplace() as place:
        top = place / "tree"
        ids = []
        with snapstore.init(place / "store") as store:
            for state in states:
                _put(top, state)
                made = store.create(top, rehash=True).snapshot
                assert made is not None
                ids.append(made.id)
            pairs = itertools.groupby(zip(states, ids, strict=True), lambda pair: pair[0])
            groups = [(state, [id for _, id in group]) for state, group in pairs]
            if groups[0][0] is None:
                del groups[0]
            if not groups:
                with pytest.raises(snapstore.PathNotFound):
                    store.log(top / "x")
                return
            versions = store.log(top / "x")
            assert [[s.id for s in one.snapshots] for one in versions] == [
                ids[::-1] for _, ids in groups[::-1]
            ]
            before: bytes | str | None = None
            for version, (state, _) in zip(reversed(versions), groups, strict=True):
                kind = "removed" if state is None else "added" if before is None else "changed"
                assert version.change == kind
                if kind == "changed":
                    same_type = isinstance(state, bytes) == isinstance(before, bytes)
                    assert version.fields == (("content",) if same_type else ("type",))
                before = state


def _put(top: Path, state: bytes | str | None) -> None:
    """Makes `x` in a directory be that, with the same metadata always."""
    path = top / "x"
    top.mkdir(exist_ok=True)
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if isinstance(state, bytes):
        path.write_bytes(state)
    elif state is not None:
        path.mkdir()
    for one in filter(os.path.lexists, (path, top)):
        os.utime(one, ns=(0, 10**18))


# ls


@examples(15)
@given(plans())
def test_listing_is_the_tree_in_order(tree: list[Plan]) -> None:
    with workplace() as place:
        top = os.fsencode(place / "tree")
        build(top, tree)
        with snapstore.init(place / "store") as store:
            store.create(top)
            listed = [one.path for one in store.ls("latest", recursive=True)]
            facts = scan(top)
            assert sorted(listed) == sorted(b"/".join(filter(None, [top, path])) for path in facts)
            split = [path.split(b"/") for path in listed]
            assert split == sorted(split)
