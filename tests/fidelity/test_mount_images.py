"""Disk images in a mount: loop devices on them, and their partitions as files."""

import contextlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_trees import Require, file_system, public_place, run

import snapstore
from snapstore import Store
from tree_scan import assert_same, scan

pytestmark = pytest.mark.needs("fuse", "fusermount3")

MIB = 1 << 20
SECTOR = 512
LINUX, EXTENDED = 0x83, 0x05


def mbr(*slots: tuple[int, int, int]) -> bytes:
    """A boot record: type, first sector and number of sectors of each partition."""
    table = b"".join(struct.pack("<4xB3xII", *slot) for slot in slots)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def make_disk(path: Path, mib: int, first_record: bytes) -> None:
    """An image with noise in its middle and holes around it."""
    with open(path, "wb") as file:
        file.truncate(mib * MIB)
        file.write(first_record)
        file.seek(mib * MIB // 4 + 5000)
        file.write(os.urandom(mib * MIB // 4))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with snapstore.init(tmp_path / "store") as store:
        yield store


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@contextlib.contextmanager
def loop_mounted(image: Path, place: Path, options: str = "loop,ro") -> Iterator[Path]:
    place.mkdir()
    run("mount", "-o", options, image, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def make_tree(top: Path) -> None:
    (top / "deep" / "er").mkdir(parents=True)
    (top / "deep" / "file").write_bytes(os.urandom(3 * MIB))
    (top / "deep" / "er" / "text").write_text("words\n" * 1000)
    (top / "link").symlink_to("deep/file")
    os.link(top / "deep" / "file", top / "twin")
    with open(top / "sparse", "wb") as file:
        file.truncate(20 * MIB)
        file.seek(7 * MIB)
        file.write(b"x" * 10_000)
    os.setxattr(top / "deep", "user.color", b"green")
    os.utime(top / "deep" / "er" / "text", ns=(1, 1_234_567_890_123_456_789))


def assert_parts(disk: Path, image: Path, expected: dict[str, tuple[int, int]]) -> None:
    """That a directory has these partitions (first byte, bytes) of an image, and nothing else."""
    assert sorted(os.listdir(disk)) == sorted(expected)
    status = image.stat()
    numbers = {status.st_ino, disk.stat().st_ino}
    for name, (start, size) in expected.items():
        part = disk / name
        found = part.stat()
        assert (found.st_size, found.st_mode, found.st_uid) == (size, status.st_mode, status.st_uid)
        assert found.st_mtime_ns == status.st_mtime_ns
        numbers.add(found.st_ino)
        with open(image, "rb") as whole, open(part, "rb") as file:
            whole.seek(start)
            assert whole.read(size) == file.read(), name
            for offset in (0, 4095, size // 2, size - 1):
                file.seek(offset)
                whole.seek(start + offset)
                assert file.read(100) == whole.read(min(100, size - offset))
        assert data_in(part, 0, size) == data_in(image, start, size)
        holes = size - sum(end - start for start, end in data_in(part, 0, size))
        assert found.st_blocks == -(-(size - holes) // 4096) * 8
    assert len(numbers) == 2 + len(expected)


def data_in(path: Path, start: int, size: int) -> list[tuple[int, int]]:
    """Where a file has data within a part of it, as SEEK_DATA and SEEK_HOLE tell."""
    found, at = [], start
    with open(path, "rb") as file:
        while at < start + size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                break
            if data >= start + size:
                break
            at = min(os.lseek(file.fileno(), data, os.SEEK_HOLE), start + size)
            found.append((data - start, at - start))
    return found


def test_partitions_are_files_beside_their_image(
    store: Store, tmp_path: Path, mountpoint: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    slots = (LINUX, 2048, 4096), (EXTENDED, 8192, 20_000), (LINUX, 30_000, 2768)
    make_disk(top / "disk.IMG", 16, mbr(*slots))
    with open(top / "disk.IMG", "r+b") as file:
        file.seek(8192 * SECTOR)
        file.write(mbr((LINUX, 64, 5000), (EXTENDED, 10_000, 10_000)))
        file.seek(18_192 * SECTOR)
        file.write(mbr((LINUX, 64, 5000), (EXTENDED, 0, 10_000)))  # a loop
    for name in ("same.dd", "disk.txt"):
        shutil.copy(top / "disk.IMG", top / name)
    make_disk(top / "plain.img", 2, b"")
    (top / "small.img").write_bytes(mbr((LINUX, 1, 1)) + bytes(1024))
    shutil.copy(top / "disk.IMG", top / "taken.img")
    (top / "taken.img.partitions").write_text("a file of its own")
    (top / "deep").mkdir()
    make_disk(top / "deep" / "late.raw", 2, mbr((LINUX, 10, 100), (LINUX, 4000, 97)))
    os.chmod(top / "disk.IMG", 0o640)
    os.chown(top / "disk.IMG", 1000, 1001)
    os.utime(top / "disk.IMG", ns=(5, 10**18 + 7))
    expected = {
        "1": (2048 * SECTOR, 4096 * SECTOR),
        "3": (30_000 * SECTOR, 2768 * SECTOR),
        "5": ((8192 + 64) * SECTOR, 5000 * SECTOR),
        "6": ((18_192 + 64) * SECTOR, 5000 * SECTOR),
    }
    store.create(top)
    with store.mounted(mountpoint, "latest", partitions=True):
        shown = mountpoint / str(top).lstrip("/")
        own = set(os.listdir(top))
        made = {"disk.IMG.partitions", "same.dd.partitions"}
        assert sorted(os.listdir(shown)) == sorted(own | made)
        assert_parts(shown / "disk.IMG.partitions", shown / "disk.IMG", expected)
        assert_parts(shown / "same.dd.partitions", shown / "same.dd", expected)
        assert os.stat(shown / "disk.IMG.partitions").st_mode == 0o40750
        assert (shown / "taken.img.partitions").read_text() == "a file of its own"
        late = {"1": (10 * SECTOR, 100 * SECTOR)}  # the other reaches behind the end
        assert_parts(shown / "deep" / "late.raw.partitions", shown / "deep" / "late.raw", late)
        for name in ("plain.img", "small.img", "disk.txt", "deep", "none.img"):
            assert not (shown / f"{name}.partitions").exists()
        for name in ("0", "01", "2", "4", "7", "1.partitions", "x"):
            assert not (shown / "disk.IMG.partitions" / name).exists()
        found = run("find", shown, "-name", "[1-6]", "-type", "f")
        assert len(found.splitlines()) == 2 * len(expected) + len(late)
    with store.mounted(mountpoint, "latest"):
        assert set(os.listdir(mountpoint / str(top).lstrip("/"))) == own


def test_many_images_are_listed_once_each(store: Store, tmp_path: Path, mountpoint: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make_disk(top / "0.img", 1, mbr((LINUX, 10, 100)))
    for number in range(1, 700):
        name = f"{number}-{'long' * 40}.{'img' if number % 2 else 'other'}"
        os.link(top / "0.img", top / name)
    store.create(top)
    with store.mounted(mountpoint, "latest", partitions=True):
        listed = os.listdir(mountpoint / str(top).lstrip("/"))
    images = [name for name in os.listdir(top) if name.endswith(".img")]
    assert sorted(listed) == sorted([*os.listdir(top), *(f"{name}.partitions" for name in images)])


def test_a_root_that_is_an_image_may_have_any_name(
    store: Store, tmp_path: Path, mountpoint: Path
) -> None:
    image = tmp_path / "disk"
    make_disk(image, 4, mbr((LINUX, 2048, 4096)))
    store.create(images=[image])
    with store.mounted(mountpoint, partitions=True):
        shown = mountpoint / "latest" / "disk"
        assert shown.is_symlink()
        disk = mountpoint / "latest" / "disk.partitions"
        assert_parts(disk, shown, {"1": (2048 * SECTOR, 4096 * SECTOR)})
        assert "disk.partitions" in os.listdir(shown.resolve().parent)
    with store.mounted(mountpoint, "latest", partitions=True, only=[image]):
        below = mountpoint / str(tmp_path).lstrip("/")
        assert sorted(os.listdir(below)) == ["disk", "disk.partitions"]
        assert os.listdir(below / "disk.partitions") == ["1"]
    disk = tmp_path / "disk.partitions"
    with store.mounted(mountpoint, "latest", partitions=True, only=[disk]):
        assert os.listdir(below) == ["disk.partitions"]
        assert (below / "disk.partitions" / "1").stat().st_size == 2 * MIB


def test_versions_of_a_partition(store: Store, tmp_path: Path, mountpoint: Path) -> None:
    image = tmp_path / "disk.img"
    make_disk(image, 4, mbr((LINUX, 2048, 4096)))
    for _ in range(2):
        store.create(images=[image])
    with open(image, "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed")
    store.create(images=[image])
    with store.mounted(mountpoint, partitions=True):
        versions = mountpoint / "versions" / str(image).lstrip("/")
        part = Path(f"{versions}.partitions") / "1"
        assert len(os.listdir(part)) == len(os.listdir(versions)) == 2
        contents = {(part / name).read_bytes() for name in os.listdir(part)}
        assert {content[MIB : MIB + 7] == b"changed" for content in contents} == {True, False}


@pytest.mark.needs("sfdisk")
@pytest.mark.parametrize("kind", ["gpt", "dos"])
def test_tables_of_sfdisk(store: Store, tmp_path: Path, mountpoint: Path, kind: str) -> None:
    image = tmp_path / "disk.img"
    make_disk(image, 32, b"")
    script = {
        "gpt": "label: gpt\nsize=4MiB\n,3MiB\nstart=20MiB, size=5MiB\n",
        "dos": "label: dos\nsize=4MiB\n,12MiB,E\nsize=2MiB\nsize=3MiB\nsize=4MiB\n",
    }[kind]
    subprocess.run(["sfdisk", image], input=script, text=True, check=True, capture_output=True)
    expected = {}
    for line in run("sfdisk", "--dump", image).splitlines():
        name, _, fields = line.partition(" : ")
        numbers = dict(one.split("=") for one in fields.replace(" ", "").split(",") if "=" in one)
        if fields and numbers["type"] != "5":
            place = int(numbers["start"]) * SECTOR, int(numbers["size"]) * SECTOR
            expected[name.removeprefix(str(image))] = place
    assert len(expected) >= 3
    store.create(images=[image])
    with store.mounted(mountpoint, "latest", partitions=True):
        shown = mountpoint / str(image).lstrip("/")
        assert_parts(Path(f"{shown}.partitions"), shown, expected)


@pytest.mark.needs("root", "loop", "mount")
@pytest.mark.parametrize(
    ("kind", "options"), [("ext4", "loop,ro,noload"), ("xfs", "loop,ro,norecovery")]
)
def test_a_loop_device_on_an_image(
    store: Store, tmp_path: Path, mountpoint: Path, require: Require, kind: str, options: str
) -> None:
    with public_place() as place:
        with file_system(require, place, kind) as top:
            make_tree(top)
            before = scan(top)
        os.rename(place / f"{kind}.image", place / "disk.img")
        store.create(images=[place / "disk.img"])
    with store.mounted(mountpoint):
        image = mountpoint / "latest" / "disk.img"
        for how in ("loop,ro", options):
            with loop_mounted(image, tmp_path / "inside", how) as inside:
                assert_same(before, scan(inside))


@pytest.mark.needs("root", "loop", "mount", "mkfs.ext4")
def test_a_loop_device_on_a_partition(
    store: Store, tmp_path: Path, mountpoint: Path, require: Require
) -> None:
    image = tmp_path / "disk.img"
    with public_place() as place:
        with file_system(require, place, "ext4", mib=64) as top:
            make_tree(top)
            before = scan(top)
        sectors = 64 * MIB // SECTOR
        make_disk(image, 80, mbr((LINUX, 2048, 2048), (LINUX, 4096, sectors)))
        run("dd", f"if={place}/ext4.image", f"of={image}", "bs=2M", "seek=1", "conv=notrunc")
    store.create(images=[image])
    with store.mounted(mountpoint, partitions=True):
        part = mountpoint / "latest" / "disk.img.partitions" / "2"
        with loop_mounted(part, tmp_path / "inside") as inside:
            assert_same(before, scan(inside))
