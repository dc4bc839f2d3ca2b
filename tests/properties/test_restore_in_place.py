"""Restores over living trees that hypothesis thinks up: what is on disk afterwards is what a model
says (tests/restore_model.py), an undo brings everything back, and undoing that restores again.

By default some examples of each; `-m slow` runs many (SNAP_EXAMPLES says how many).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import snapstore
from restore_model import InTheWay, Model, Outcome, alone, below, check_links
from snapstore import ConflictsFound, NothingToUndo, Store, TargetInvalid
from snapstore.model.results import RestoreResult
from tree_plans import Change, Plan, build, change_tree, changes, plans
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
    """What the pattern `/h`, and `h` anywhere below, leaves out."""
    return b"h" in path.split(b"/")


def check_counts(plan: Any, outcome: Outcome, result: RestoreResult, top: Path) -> None:
    assert plan is not None
    around = len(os.fsencode(top)) + 1
    conflicts = {conflict.path[around:]: conflict.taken for conflict in plan.conflicts}
    assert conflicts == outcome.conflicts, (conflicts, outcome.conflicts)
    assert plan.extra_count == len(outcome.extras), (plan.extras, outcome.extras)
    assert result.problems == [], result.problems


def restore_and_back(
    store: Store,
    ref: str,
    scope: Path,
    expected: Facts,
    outcome: Outcome,
    undo: Path,
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
    check_counts(result.plan, outcome, result, undo)
    if result.plan.is_empty:
        assert_same(before, after)
        assert result.safety_snapshot is None
        event("nothing to do")
        return
    assert result.safety_snapshot is not None
    event("restored")
    back = store.undo(undo)
    assert back.problems == []
    assert_same(before, scan(scope))
    again = store.undo(undo)
    assert again.problems == []
    assert_same(after, scan(scope))
    last = store.restore(ref, **options)
    assert last.plan is not None
    assert last.plan.is_empty, last.plan.to_dict()["steps"]
    assert_same(after, scan(scope))


def check_whole(
    tree: list[Plan],
    first: list[Change],
    second: list[Change],
    *,
    restored: int,
    strategy: str = "overwrite",
    delete: bool = False,
    hides: bool = False,
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
            expected = {
                path: fact for path, fact in around.items() if not path.startswith(b"tree")
            }
            expected |= {b"tree/" + path if path else b"tree": f for path, f in outcome.tree.items()}
            restore_and_back(store, id, top.parent, expected, outcome, top, **options)
            if strategy == "overwrite":
                check_links(outcome, live, wanted, scan(top))


numbers = st.sampled_from([0, 0, 1])


@examples(60)
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


@examples(60)
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
