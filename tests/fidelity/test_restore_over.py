"""Restoring over what is there, on file systems and devices that differ in what they can."""

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_trees import Require, file_system, public_place, run

import snapstore
from snapstore import Store, TargetInvalid, TargetRefused
from tree_scan import assert_same, scan

MIB = 1 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    with public_place() as path:
        yield path


def left_over(top: Path) -> list[Path]:
    return list(top.rglob(".snapstore-restore-*"))


def test_a_tree_goes_back_and_forth(require: Require, place: Path, kind: str = "ext4") -> None:
    over(require, place, kind)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_tree_with_reflinks_goes_back_and_forth(require: Require, place: Path, kind: str) -> None:
    over(require, place, kind)


def over(require: Require, place: Path, kind: str) -> None:
    """A large file that is patched, types that change, directories that come and go."""
    with file_system(require, place, kind, mib=400) as mounted:
        top = mounted / "top"
        (top / "becomes a file").mkdir(parents=True)
        (top / "becomes a directory").write_text("file")
        (top / "goes/deep").mkdir(parents=True)
        (top / "goes/deep/file").write_text("here")
        content = bytearray(random.Random(1).randbytes(24 * MIB))
        (top / "large").write_bytes(content)
        with snapstore.init(place / "store") as store:
            first = store.create(top).snapshot
            assert first is not None
            before = scan(top)
            with open(top / "large", "r+b") as file:
                file.seek(12 * MIB)
                file.write(b"changed")
                file.truncate(25 * MIB)
            (top / "becomes a file").rmdir()
            (top / "becomes a file").write_text("now")
            (top / "becomes a directory").unlink()
            (top / "becomes a directory").mkdir()
            (top / "becomes a directory/new").write_text("new")
            run("rm", "-r", top / "goes")
            (top / "since").mkdir()
            (top / "since/file").write_text("since")
            after = scan(top)
            restored = store.restore(first.id, delete=True)
            assert restored.plan is not None
            assert restored.plan.counts["patch"][0] == 1
            assert restored.bytes < 2 * MIB
            assert (restored.problems, restored.warnings) == ([], [])
            assert_same(before, scan(top))
            store.undo()
            assert_same(after, scan(top))
            store.undo()
            assert_same(before, scan(top))
            assert left_over(mounted) == []


@pytest.mark.parametrize("name", ["system.posix_acl_default", "system.posix_acl_access"])
def test_what_is_staged_inherits_nothing(place: Path, name: str) -> None:
    top = place / "top"
    (top / "directory").mkdir(parents=True)
    (top / "file").write_text("first")
    # The owner, user 5, the group, the mask; others may nothing.
    rights = [(1, 7, -1), (2, 7, 5), (4, 7, -1), (16, 7, -1), (32, 0, -1)]
    os.setxattr(
        top, name, struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *one) for one in rights)
    )
    with snapstore.init(place / "store") as store:
        first = store.create(top).snapshot
        assert first is not None
        before = scan(top)
        (top / "file").write_text("second")
        (top / "directory").rmdir()
        store.restore(first.id)
        assert_same(before, scan(top))


@pytest.mark.needs("loop", "mount")
def test_other_file_systems_below(require: Require, place: Path) -> None:
    top = place / "top"
    (top / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", top / "mounted"], check=True)
    try:
        (top / "mounted/directory").mkdir()
        (top / "mounted/directory/file").write_text("1")
        (top / "file").write_text("1")
        with snapstore.init(place / "store") as store:
            across = store.create(top).snapshot
            within = store.create(top, one_file_system=True, source="within").snapshot
            assert across is not None and within is not None
            first = scan(top)
            (top / "mounted/directory/file").write_text("22")
            (top / "mounted/since").write_text("since")
            (top / "file").write_text("22")
            changed = scan(top)
            store.restore(across.id, delete=True)
            assert_same(first, scan(top), ignore=["mtime_ns"])
            store.undo()
            assert_same(changed, scan(top))
            store.restore(within.id, delete=True)
            assert (top / "mounted/since").exists()
            assert (top / "mounted/directory/file").read_text() == "22"
            assert (top / "file").read_text() == "1"
            assert left_over(top) == []
    finally:
        subprocess.run(["umount", top / "mounted"], check=True)


@pytest.mark.needs("mount")
def test_what_is_mounted_since_is_not_written_into(place: Path) -> None:
    top = place / "top"
    (top / "directory/below").mkdir(parents=True)
    (top / "directory/below/file").write_text("1")
    with snapstore.init(place / "store") as store:
        store.create(top, one_file_system=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", top / "directory"], check=True)
        try:
            with pytest.raises(TargetInvalid, match="another file system"):
                store.restore("latest")
            assert os.listdir(top / "directory") == []
            result = store.restore("latest", on_error="keep-going")
            assert [what for _, what, _ in result.problems] == ["in the way"]
            assert os.listdir(top / "directory") == []
        finally:
            subprocess.run(["umount", top / "directory"], check=True)


@pytest.fixture
def image(place: Path) -> Path:
    """32 MiB, of which 8 in the middle are zeros."""
    content = bytearray(random.Random(2).randbytes(32 * MIB))
    content[8 * MIB : 16 * MIB] = bytes(8 * MIB)
    path = place / "image"
    path.write_bytes(content)
    return path


def loop(file: Path) -> str:
    return run("losetup", "--find", "--show", file).strip()


def held(device: str) -> bytes:
    run("blockdev", "--flushbufs", device)
    return Path(device).read_bytes()


@pytest.mark.needs("loop")
def test_a_device_gets_what_differs(place: Path, image: Path) -> None:
    """Stale data where the image has zeros is gone; what is behind the image stays."""
    wanted = image.read_bytes()
    other = bytearray(wanted + b"behind" * 4096)
    other[10 * MIB : 12 * MIB] = b"stale!!!" * (MIB // 4)
    other[20 * MIB : 20 * MIB + 5] = b"other"
    (place / "disk").write_bytes(other + bytes(-len(other) % 4096))
    device = loop(place / "disk")
    try:
        with snapstore.init(place / "store") as store:
            store.create(image)
            before = held(device)
            ref = f"latest:{image}"
            dry = store.restore(ref, target=device, dry_run=True).plan
            assert dry is not None and list(dry.counts) == ["patch"]
            assert held(device) == before
            restored = store.restore(ref, target=device)
            assert restored.bytes < 4 * MIB
            after = held(device)
            assert after[: len(wanted)] == wanted
            assert after[len(wanted) :] == before[len(wanted) :]
            store.undo()
            assert held(device) == before
            store.undo()
            assert held(device) == after
            assert list((store.path / "local").glob(".snapstore-restore-*")) == []
    finally:
        run("losetup", "--detach", device)


@pytest.mark.needs("loop", "mount", "mkfs.ext4")
def test_devices_that_are_refused(place: Path, image: Path) -> None:
    with snapstore.init(place / "store") as store:
        store.create(image)
        (place / "short").write_bytes(bytes(31 * MIB))
        device = loop(place / "short")
        try:
            with pytest.raises(TargetInvalid, match="bytes, and the image"):
                store.restore(f"latest:{image}", target=device)
            assert held(device) == bytes(31 * MIB)
        finally:
            run("losetup", "--detach", device)
        (place / "busy").write_bytes(bytes(40 * MIB))
        run("mkfs.ext4", "-q", place / "busy")
        device = loop(place / "busy")
        try:
            (place / "mounted").mkdir()
            run("mount", device, place / "mounted")
            before = held(device)
            with pytest.raises(TargetInvalid, match="busy"):
                store.restore(f"latest:{image}", target=device)
            assert held(device) == before
        finally:
            run("umount", place / "mounted")
            run("losetup", "--detach", device)


def test_a_file_becomes_the_content_of_another(place: Path, image: Path) -> None:
    wanted = scan(image)[b""]
    with snapstore.init(place / "store") as store:
        store.create(image)
        other = place / "other"
        other.write_bytes(b"short")
        store.restore(f"latest:{image}", target=other)
        assert scan(other)[b""] == wanted
        store.undo()
        assert other.read_bytes() == b"short"


@pytest.fixture
def nested(place: Path) -> Store:
    (place / "top/inner").mkdir(parents=True)
    (place / "top/inner/file").write_text("1")
    return snapstore.init(place / "store")


def test_roots_in_roots_are_restored_once(nested: Store, place: Path) -> None:
    top = place / "top"
    first = nested.create(top, top / "inner").snapshot
    assert first is not None
    before = scan(top)
    (top / "inner/file").write_text("22")
    nested.restore(first.id)
    assert_same(before, scan(top))


def test_an_inner_root_that_the_outer_leaves_out(nested: Store, place: Path) -> None:
    top = place / "top"
    first = nested.create(top, top / "inner", exclude=["/inner"]).snapshot
    assert first is not None
    (top / "inner/file").write_text("22")
    (top / "inner/since").write_text("since")
    nested.restore(first.id, delete=True)
    assert [path.name for path in (top / "inner").iterdir()] == ["file"]
    assert (top / "inner/file").read_text() == "1"


def test_roots_that_hold_different_things_are_refused(nested: Store, place: Path) -> None:
    top = place / "top"
    nested.create(top, top / "inner", exclude=["/inner/file"])
    with pytest.raises(TargetRefused, match="twice"):
        nested.restore("latest")
