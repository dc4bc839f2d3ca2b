"""Views of trees that hypothesis thinks up: what is seen through them is what is on disk.

By default a few examples; `-m slow` runs many (SNAP_EXAMPLES says how many).
"""

import os
import random
import stat
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from test_trees import MANY, examples, workplace

import snapstore
from snapstore import SnapshotView
from tree_plans import Plan, build, plans
from tree_scan import Fact, Facts, assert_same, scan


def facts_by_view(view: SnapshotView) -> Facts:
    """Facts of all that is in a view."""
    paths = [b"/", *(entry.path for entry in view.walk())]
    inodes = {path: view.stat(path).ino for path in paths}
    names: dict[int, list[bytes]] = {}
    for path, inode in inodes.items():
        names.setdefault(inode, []).append(path[1:])
    return {path[1:]: _fact(view, path, names[inodes[path]]) for path in paths}


def _fact(view: SnapshotView, path: bytes, names: list[bytes]) -> Fact:
    status = view.stat(path)
    if status.type != "directory":
        assert status.nlink == len(names)
    values = {}
    if status.type == "file":
        with view.open(path) as file:
            content = file.read()
        assert len(content) == status.size
        holes = tuple(_holes(view, path, status.size))
        values = {"size": status.size, "content": blake3(content).hexdigest(), "holes": holes}
    return Fact(
        status.type,
        status.mode,
        status.uid,
        status.gid,
        status.mtime_ns,
        **values,
        target=status.target,
        device=status.device,
        xattrs=view.xattrs(path),
        group=min(names) if len(names) > 1 else None,
    )


def _holes(view: SnapshotView, path: bytes, size: int) -> list[tuple[int, int]]:
    holes, at = [], 0
    while at < size:
        start = view.seek_hole(path, at)
        assert start is not None
        if start == size:
            break
        at = view.seek_data(path, start) or size
        holes.append((start, at - start))
    return holes


def check_statuses(view: SnapshotView, top: Path) -> None:
    """What scanning says is what asking for each path says, and what the disk says."""
    for entry in view.walk():
        source = os.lstat(os.fsencode(top) + entry.path)
        status = entry.stat()
        assert status == view.stat(entry.path)
        assert (entry.is_directory, entry.target) == (status.type == "directory", status.target)
        assert status.st_mode == source.st_mode
        if not stat.S_ISDIR(source.st_mode):
            assert (status.nlink, status.size) == (source.st_nlink, source.st_size)
        else:
            above = {found.name for found in view.scan(entry.path)}
            assert above == set(os.listdir(os.fsencode(top) + entry.path))


def check_reads(view: SnapshotView, top: Path, seed: int) -> None:
    chance = random.Random(seed)
    for entry in view.walk():
        size = entry.stat().size
        if entry.stat().type != "file" or not size:
            continue
        with open(os.fsencode(top) + entry.path, "rb") as source, view.open(entry.path) as file:
            for _ in range(5):
                offset, count = chance.randrange(size + 5), chance.choice([1, 100, 70_000])
                source.seek(offset)
                expected = source.read(count)
                file.seek(offset)
                assert file.read(count) == expected
                assert view.read_at(entry.path, offset, count) == expected


def check_view(tree: list[Plan]) -> None:
    with workplace() as place:
        build(os.fsencode(place / "top"), tree)
        with snapstore.init(place / "store", chunk_bytes=8 << 10) as store:
            store.create(place / "top")
            with store.view(f"latest:{place}/top", cache_bytes="8M") as view:
                assert_same(scan(place / "top"), facts_by_view(view))
                check_statuses(view, place / "top")
                check_reads(view, place / "top", len(tree))


@examples(15)
@given(plans(min_size=3))
def test_a_view_is_what_is_on_disk(tree: list[Plan]) -> None:
    check_view(tree)


@pytest.mark.slow
@examples(MANY)
@given(plans())
def test_many_views_are_what_is_on_disk(tree: list[Plan]) -> None:
    check_view(tree)
