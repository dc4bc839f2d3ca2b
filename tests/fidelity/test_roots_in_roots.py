"""Roots that lie within other roots: restored once where they are the same, listed where not."""

import os
import stat
from pathlib import Path

import pytest
from kept_trees import run

import snapstore
from snapstore import Store, rescue
from tree_scan import assert_same, scan


@pytest.fixture
def top(tmp_path: Path) -> Path:
    path = tmp_path / "top"
    (path / "inner/deep").mkdir(parents=True)
    (path / "inner/kept").write_bytes(b"1" * 1_000)
    (path / "inner/deep/left out").write_bytes(b"2")
    (path / "file").write_bytes(b"3")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return snapstore.init(tmp_path / "store")


def below(out: Path, path: Path) -> Path:
    return Path(f"{out}{path}")


@pytest.mark.parametrize("inner", ["inner", "file", "inner/deep"])
def test_the_same_is_restored_once(store: Store, top: Path, tmp_path: Path, inner: str) -> None:
    store.create(top / inner, top)
    result = store.restore("latest", target=tmp_path / "out")
    assert result.problems == []
    assert_same(scan(top), scan(below(tmp_path / "out", top)))
    assert rescue.main([str(store.path), "latest", str(tmp_path / "rescued")]) == 0
    assert_same(scan(top), scan(below(tmp_path / "rescued", top)))


@pytest.mark.parametrize("line", ["/inner/deep", "/inner/deep/left out", "/inner/deep/*"])
def test_something_else_is_listed(store: Store, top: Path, tmp_path: Path, line: str) -> None:
    """An exclude line that begins with a slash counts from each root."""
    out = tmp_path / "out"
    store.create(top, top / "inner", exclude=[line])
    result = store.restore("latest", target=out)
    (problem,) = result.problems
    assert problem[:2] == (os.fsencode(below(out, top / "inner")), "content")
    assert (result.problem_count, result.success) == (1, False)
    store.restore(f"latest:{top}/inner", target=tmp_path / "alone")
    assert_same(scan(top / "inner"), scan(tmp_path / "alone"))


def test_what_is_left_out_as_a_whole_comes_from_the_inner_root(
    store: Store, top: Path, tmp_path: Path
) -> None:
    store.create(top, top / "inner", exclude=["/inner"])
    assert store.restore("latest", target=tmp_path / "out").problems == []
    restored = scan(below(tmp_path / "out", top))
    assert restored.keys() == scan(top).keys()


@pytest.mark.needs("mknod", "loop")
def test_the_contents_of_a_device_node_are_listed(store: Store, top: Path, tmp_path: Path) -> None:
    """Node and contents cannot both be at one place."""
    (tmp_path / "image").write_bytes(bytes(range(256)) * 4_096)
    device = run("losetup", "--find", "--show", tmp_path / "image").strip()
    try:
        number = os.stat(device).st_rdev
        os.mknod(top / "node", stat.S_IFBLK | 0o600, number)
        store.create(top, images=[top / "node"])
        result = store.restore("latest", target=tmp_path / "out")
        assert [problem[1] for problem in result.problems] == ["content"]
        alone = store.restore(f"latest:{top}/node", target=tmp_path / "alone")
        assert alone.problems == []
        assert (tmp_path / "alone/node").read_bytes() == (tmp_path / "image").read_bytes()
    finally:
        run("losetup", "--detach", device)
