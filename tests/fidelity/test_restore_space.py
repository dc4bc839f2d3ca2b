"""A restore that does not fit is refused before anything changes, and says what it would take."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kept_trees import run

import snapstore
from snapstore import NoSpace
from tree_scan import assert_same, scan

pytestmark = pytest.mark.needs("root", "mount")

MIB = 1 << 20
FREE = 8 * MIB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={FREE}", "none", place)
    (place / "target").mkdir()
    yield place / "target"
    run("umount", place)


def some_files(top: Path) -> None:
    """A wholly new directory: one item of the plan."""
    for number in range(10):
        path = top / "new" / "deep" / f"{number % 3}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(MIB))


def one_file(top: Path) -> None:
    (top / "new").write_bytes(os.urandom(10 * MIB))


def many_small(top: Path) -> None:
    """Files side by side that exist, and differ."""
    for number in range(10):
        (top / f"{number}").write_bytes(os.urandom(MIB))


def in_two_roots(top: Path) -> None:
    """Two parts on one file system, each of which would fit."""
    for name in ("one", "two"):
        (top / name / "new").mkdir(parents=True)
        (top / name / "new" / "file").write_bytes(os.urandom(5 * MIB))


@pytest.mark.parametrize("make", [some_files, one_file, many_small])
def test_what_does_not_fit_is_refused(
    tmp_path: Path, small: Path, make: Callable[[Path], None]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make(source)
    with snapstore.init(tmp_path / "store") as store:
        store.create(source)
        (small / "mine").write_text("mine")
        if make is many_small:
            for number in range(10):
                (small / f"{number}").write_text("other")
        check_refused(store, small, 10 * MIB, lambda: store.restore("latest", target=small))


def test_parts_on_one_file_system_are_counted_together(tmp_path: Path, small: Path) -> None:
    source = tmp_path / "source"
    in_two_roots(source)
    with snapstore.init(tmp_path / "store") as store:
        store.create(source / "one", source / "two")
        parts = str(source).lstrip("/")
        for name in ("one", "two"):
            (small / parts / name).mkdir(parents=True)
            (small / parts / name / "mine").write_text("mine")
        check_refused(store, small, 10 * MIB, lambda: store.restore("latest", target=small))


def check_refused(
    store: snapstore.Store, top: Path, needed: int, restore: Callable[[], object]
) -> None:
    before, space = scan(top), os.statvfs(top)
    with pytest.raises(NoSpace) as failed:
        restore()
    says = re.search(
        r"needs (\d+) bytes beside the target, where (\d+) are free", str(failed.value)
    )
    assert says, failed.value
    assert int(says[1]) == needed
    # The staging directory takes some pages.
    free = space.f_bfree * space.f_frsize
    assert free - 64 * 4096 <= int(says[2]) <= free
    assert_same(before, scan(top))
    assert not list(top.rglob(".snapstore-restore-*"))
    assert not store.unfinished(top)


@pytest.mark.parametrize("new", [True, False])
def test_holes_and_names_of_one_file_take_no_space(tmp_path: Path, small: Path, new: bool) -> None:
    """Of 5 MiB under three names and 100 MiB of which 1 MiB is no hole, 6 MiB are written."""
    source = tmp_path / "source"
    top = source / "new" if new else source
    top.mkdir(parents=True)
    (top / "a").write_bytes(os.urandom(5 * MIB))
    for name in ("b", "c"):
        os.link(top / "a", top / name)
    with open(top / "sparse", "wb") as file:
        file.truncate(100 * MIB)
        os.pwrite(file.fileno(), os.urandom(MIB), 50 * MIB)
    with snapstore.init(tmp_path / "store") as store:
        store.create(source)
        (small / "mine").write_text("mine")
        if not new:
            for name in ("a", "b", "c", "sparse"):
                (small / name).write_text("other")
        assert store.restore("latest", target=small, delete=True).success
        assert_same(scan(source), scan(small))
