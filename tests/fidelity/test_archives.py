"""Archives: what an export holds, by the word of other programs, and what an import makes of
theirs.
"""

import gzip
import hashlib
import io
import lzma
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from kept_trees import run

import snapstore
from snapstore import Store
from tree_scan import Facts, assert_same, scan

LONG = b"n" * 120
HALF_SECOND = 500_000_000


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A tree with something of everything."""
    top = os.fsencode(tmp_path / "tree")
    for folder in (b"a", b"a.d/deep", b"a.d/" + LONG + b"/" + LONG, b"empty", b"\xff"):
        os.makedirs(top + b"/" + folder)
    files = {
        b"a/small": b"hello\n",
        b"a/none": b"",
        b"a.b": b"comes before a/",
        b"large": bytes(range(256)) * 40_000,
        b"a.d/" + LONG + b"/" + LONG + b"/" + LONG: b"long",
        b"\xff/\xfe" + LONG: b"not text",
        b"-name": b"like an option",
        b"new\nline": b"x" * 513,
    }
    for name, data in files.items():
        with open(top + b"/" + name, "wb") as file:
            file.write(data)
    os.link(top + b"/a/small", top + b"/a.a")
    os.link(top + b"/a/small", top + b"/z")
    os.symlink(b"../no/where", top + b"/a/link")
    os.symlink(b"t" * 300, top + b"/a/long")
    os.mkfifo(top + b"/a/fifo", 0o640)
    os.chmod(top + b"/large", 0o6751)
    os.utime(top + b"/large", ns=(0, -3 * 10**9 - HALF_SECOND))
    os.utime(top + b"/a.b", ns=(0, 1_234_567_890_123_456_789))
    os.utime(top + b"/a", ns=(0, 10**18))
    return Path(os.fsdecode(top))


@pytest.fixture
def sparse(top: Path, require: Callable[..., None]) -> Path:
    """The tree with sparse files too."""
    require("holes")
    for name, size, places in (
        ("hole", 3 << 20, []),
        ("many", 12 << 20, range(0, 12 << 20, 128 << 10)),
        ("ends with data", (1 << 20) + 5, [(1 << 20) - 4096]),
        ("long", 70 << 20, [1 << 20, 40 << 20]),
    ):
        with open(top / name, "wb") as file:
            file.truncate(size)
            for place in places:
                file.seek(place)
                file.write(b"data" * 2_000 if place < size - 8_000 else b"end")
    return top


def taken(store: Store, top: Path) -> str:
    result = store.create(top)
    assert result.snapshot is not None and not result.unreadable
    return result.snapshot.roots[0].id


def exported(store: Store, path: Path, format: str = "pax") -> Path:
    store.export("latest", path, format=format)
    return path


def imported(store: Store, file: object) -> str:
    snapshot = store.import_tar(file).snapshot
    assert snapshot is not None
    return snapshot.roots[0].id


def unpacked(archive: Path, target: Path) -> Facts:
    """What GNU tar makes of an archive."""
    target.mkdir()
    every = ["--xattrs", "--xattrs-include=*"]
    run("tar", "-C", target, *every, "--same-owner", "-xpf", archive)
    return scan(target)


# Export


@pytest.mark.needs("tar")
def test_gnu_tar_restores_an_export_exactly(sparse: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, sparse)
        archive = exported(store, tmp_path / "x.tar")
        assert_same(scan(sparse), unpacked(archive, tmp_path / "out"))
        assert imported(store, archive) == id


@pytest.mark.needs("bsdtar")
def test_bsdtar_restores_an_export_exactly(sparse: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        taken(store, sparse)
        archive = exported(store, tmp_path / "x.tar")
    (tmp_path / "out").mkdir()
    run("bsdtar", "-C", tmp_path / "out", "-xpSf", archive)
    was, found = scan(sparse), scan(tmp_path / "out")
    for name in (b"", b"large"):  # it leaves the time of `./` alone, and reads -3.5 s as -2.5 s
        del was[name], found[name]
    assert_same(was, found, ignore=["holes"])


@pytest.mark.needs("tar")
def test_the_gnu_format_loses_only_fractions_of_seconds(sparse: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        taken(store, sparse)
        archive = exported(store, tmp_path / "x.tar", "gnu")
        found = unpacked(archive, tmp_path / "out")
        assert_same(scan(sparse), found, ignore=["mtime_ns"])
        assert all(fact.mtime_ns % 10**9 == 0 for fact in found.values())
        assert imported(store, archive) == taken(store, tmp_path / "out")


@pytest.mark.needs("tar", "xattr")
def test_attributes_are_in_an_export(top: Path, tmp_path: Path) -> None:
    os.setxattr(top / "a", "user.one", b"\0\xff=\n")
    os.setxattr(top / "large", "user.a=b%", b"v" * 3_000)
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, top)
        archive = exported(store, tmp_path / "x.tar")
        assert_same(scan(top), unpacked(archive, tmp_path / "out"))
        assert imported(store, archive) == id


@pytest.fixture
def with_acls(top: Path, require: Callable[..., None]) -> Path:
    """The tree with ACLs: of a file, of a directory, and for what is made in one."""
    require("setfacl")
    run("setfacl", "-m", "u:54321:r,u:0:rw,g:0:x", top / "large")
    run("setfacl", "-m", "u:54321:rwx,g:54322:-", top / "a")
    run("setfacl", "-m", "d:u:54321:rx,d:o::-", top / "empty")
    return top


PACKERS = {
    "tar --acls": ("tar", "--format=posix", "--acls"),
    "tar --acls --xattrs": ("tar", "--acls", "--xattrs", "--xattrs-include=*"),
    "bsdtar": ("bsdtar", "--format=pax"),
}
UNPACKERS = {
    "tar --acls": ("tar", "--acls", "-xpf"),
    "tar --xattrs": ("tar", "--xattrs", "--xattrs-include=*", "-xpf"),
    "both": ("tar", "--acls", "--xattrs", "--xattrs-include=*", "-xpf"),
    "bsdtar": ("bsdtar", "--acls", "-xpf"),
}


def acls(top: Path) -> dict[str, str]:
    """Modes and ACLs of the files that have some."""
    names = ["large", "a", "empty"]
    facls = {name: run("getfacl", "-nc", "--absolute-names", top / name) for name in names}
    return {name: f"{(top / name).stat().st_mode:o}\n{facls[name]}" for name in names}


@pytest.mark.parametrize("packer", PACKERS)
def test_acls_as_text_are_what_create_takes(
    packer: str, with_acls: Path, tmp_path: Path, require: Callable[..., None]
) -> None:
    os.utime(with_acls / "large", ns=(0, 0))  # for bsdtar
    command, *options = PACKERS[packer]
    require(command)
    run(command, *options, "-C", with_acls, "-cf", tmp_path / "x.tar", ".")
    with snapstore.init(tmp_path / "store") as store:
        assert imported(store, tmp_path / "x.tar") == taken(store, with_acls)


@pytest.mark.parametrize("unpacker", UNPACKERS)
def test_acls_of_an_export_come_back(
    unpacker: str, with_acls: Path, tmp_path: Path, require: Callable[..., None]
) -> None:
    command, *options = UNPACKERS[unpacker]
    require(command)
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, with_acls)
        archive = exported(store, tmp_path / "x.tar")
        assert imported(store, archive) == id
    (tmp_path / "out").mkdir()
    run(command, "-C", tmp_path / "out", *options, archive)
    assert acls(tmp_path / "out") == acls(with_acls)


@pytest.mark.needs("tar", "mknod", "root")
def test_devices_and_large_owners(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.mknod(top / "loop", 0o60600, os.makedev(7, 1 << 19))
    os.chown(top / "loop", 4_000_000_000, 3_000_000)
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, top)
        for format in ("pax", "gnu"):
            archive = exported(store, tmp_path / f"{format}.tar", format)
            assert_same(scan(top), unpacked(archive, tmp_path / format), ignore=["mtime_ns"])
        assert imported(store, tmp_path / "pax.tar") == id


def test_python_reads_an_export(sparse: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        taken(store, sparse)
        archive = exported(store, tmp_path / "x.tar")
    facts = scan(sparse)
    with tarfile.open(archive) as tar:
        members = {os.fsencode(os.path.normpath(m.name)): m for m in tar}
        assert {b"" if name == b"." else name for name in members} == set(facts)
        content = tar.extractfile(members[b"many"])
        assert content is not None
        assert content.read() == (sparse / "many").read_bytes()
        assert members[b"many"].size == 12 << 20
        assert members[b"a.a"].isreg() and members[b"a/small"].linkname == "./a.a"
        assert {m.uname for m in members.values()} == {_user(os.geteuid())}


def _user(uid: int) -> str:
    import pwd

    return pwd.getpwuid(uid).pw_name


@pytest.mark.parametrize("format", ["pax", "gnu", "zip"])
def test_the_same_snapshot_gives_the_same_bytes(top: Path, tmp_path: Path, format: str) -> None:
    digests = set()
    with snapstore.init(tmp_path / "store") as store:
        taken(store, top)
        for number in range(3):
            archive = exported(store, tmp_path / f"x{number}", format)
            digests.add(hashlib.sha256(archive.read_bytes()).hexdigest())
        with open(tmp_path / "piped", "wb") as file:
            cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
            store.export("latest", cat.stdin, format=format)
            assert cat.stdin is not None
            cat.stdin.close()
            assert cat.wait() == 0
    digests.add(hashlib.sha256((tmp_path / "piped").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_part_with_links_to_what_is_not_exported(top: Path, tmp_path: Path) -> None:
    os.link(top / "a" / "small", top / "a" / "twin")
    with snapstore.init(tmp_path / "store") as store:
        taken(store, top)
        store.export(f"latest:{top}/a", tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getmember("./small").isreg()
        assert tar.getmember("./twin").linkname == "./small"


def test_a_single_file_and_several_roots(top: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        taken(store, top)
        store.export("latest", tmp_path / "one.tar", path=top / "large")
        store.create(top / "a", top / "large", top / "a.d")
        store.export("latest", tmp_path / "more.tar")
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["large"]
    with tarfile.open(tmp_path / "more.tar") as tar:
        names = tar.getnames()
    base = str(top).lstrip("/")
    assert f"{base}/a/small" in names and f"{base}/a.d/deep" in names and f"{base}/large" in names
    assert not any(name.startswith(("/", "..")) for name in names)


# Zip


def test_python_reads_a_zip(sparse: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        taken(store, sparse)
        result = store.export("latest", tmp_path / "x.zip", format="zip")
    assert result.omitted == [b"a/fifo"]
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.testzip() is None
        found = {info.filename: info for info in archive.infolist()}
        assert len(found) == len(scan(sparse)) - 2  # neither the top nor the FIFO
        assert archive.read("many") == (sparse / "many").read_bytes()
        assert archive.read("z") == archive.read("a/small") == b"hello\n"
        assert archive.read("a/link") == b"../no/where"
        assert stat.S_ISLNK(found["a/link"].external_attr >> 16)
        assert found["large"].external_attr >> 16 == stat.S_IFREG | 0o6751


@pytest.mark.needs("unzip")
def test_unzip_restores_a_zip(top: Path, tmp_path: Path) -> None:
    os.unlink(top / "a" / "fifo")
    for name in os.listdir(os.fsencode(top)):
        if not name.isascii() or b"\n" in name:  # unzip gives them other names
            run("rm", "-r", os.fsdecode(os.fsencode(top) + b"/" + name))
    with snapstore.init(tmp_path / "store") as store:
        taken(store, top)
        with open(tmp_path / "x.zip", "wb") as file:
            cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
            store.export("latest", cat.stdin, format="zip")
            assert cat.stdin is not None
            cat.stdin.close()
            cat.wait()
    run("unzip", "-X", "-K", "-q", tmp_path / "x.zip", "-d", tmp_path / "out")
    before, after = scan(top), scan(tmp_path / "out")
    del before[b""], after[b""]
    assert_same(before, after, ignore=["mtime_ns", "group", "holes"])
    seconds = {path: fact.mtime_ns // 10**9 for path, fact in before.items()}
    # A time before 1970 is not for unzip.
    files = [path for path, f in before.items() if f.type == "file" and f.mtime_ns > 0]
    assert {p: after[p].mtime_ns // 10**9 for p in files} == {p: seconds[p] for p in files}


# Import


def gnu_tar(top: Path, *options: str) -> bytes:
    done = subprocess.run(
        ["tar", "-C", top, *options, "-cf", "-", "."],
        capture_output=True,
        check=True,
    )
    return done.stdout


def through_pipe(store: Store, data: bytes) -> str:
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert cat.stdin is not None and cat.stdout is not None
    import threading

    feeder = threading.Thread(target=lambda: (cat.stdin.write(data), cat.stdin.close()))
    feeder.start()
    try:
        return imported(store, cat.stdout)
    finally:
        feeder.join()
        cat.wait()


@pytest.mark.needs("tar")
@pytest.mark.parametrize("version", ["1.0", "0.1", "0.0"])
def test_what_gnu_tar_packs_is_what_create_takes(
    sparse: Path, tmp_path: Path, version: str
) -> None:
    options = ("--format=posix", "--xattrs", "-S", f"--sparse-version={version}")
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, sparse)
        assert through_pipe(store, gnu_tar(sparse, *options)) == id
        assert through_pipe(store, gnu_tar(sparse, *options, "--sort=inode")) == id


@pytest.mark.needs("tar")
def test_the_gnu_format_is_read(sparse: Path, tmp_path: Path) -> None:
    for folder, _, files in os.walk(os.fsencode(sparse), topdown=False):
        for name in (*files, b"."):
            os.utime(folder + b"/" + name, ns=(0, 5 * 10**9), follow_symlinks=False)
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, sparse)
        assert through_pipe(store, gnu_tar(sparse, "--format=gnu", "-S")) == id
        assert through_pipe(store, gnu_tar(sparse, "--format=oldgnu", "-S")) == id


@pytest.mark.needs("bsdtar")
def test_what_bsdtar_packs_is_what_create_takes(sparse: Path, tmp_path: Path) -> None:
    os.utime(sparse / "large", ns=(0, 0))  # its times before 1970 are a second off
    run("bsdtar", "--format=pax", "-C", sparse, "-cf", tmp_path / "x.tar", ".")
    with snapstore.init(tmp_path / "store") as store:
        assert imported(store, tmp_path / "x.tar") == taken(store, sparse)


def zstd_frames(data: bytes) -> bytes:
    half = len(data) // 2
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    return compress(data[:half]) + compress(data[half:])


@pytest.mark.parametrize(
    "compress", [gzip.compress, lzma.compress, zstd_frames], ids=["gzip", "xz", "zstd"]
)
def test_compressed_archives(top: Path, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    with snapstore.init(tmp_path / "store") as store:
        id = taken(store, top)
        packed = tmp_path / "x.tar.any"
        packed.write_bytes(compress(exported(store, tmp_path / "x.tar").read_bytes()))
        assert imported(store, packed) == id
        data = packed.read_bytes()
        for bad in (data[: len(data) // 2], data[:-3], data[:600] + b"!" + data[601:]):
            packed.write_bytes(bad)
            with pytest.raises(snapstore.ArchiveInvalid):
                imported(store, packed)


def test_names_of_owners_come_from_the_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.uid, member.gid, member.uname, member.gname = 777_001, 777_002, "ann", "staff"
        tar.addfile(member)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    with snapstore.init(tmp_path / "store") as store:
        snapshot = store.import_tar(tmp_path / "x.tar", root="/srv/app", name="n").snapshot
        assert snapshot is not None
        assert snapshot.owners["users"]["777001"] == "ann"
        assert snapshot.owners["groups"]["777002"] == "staff"
        assert snapshot.roots[0].path == b"/srv/app"
        store.export("n", tmp_path / "y.tar")
    with tarfile.open(tmp_path / "y.tar") as tar:
        assert tar.getmember("./file").uname == "ann"


def test_an_import_follows_the_creates_of_its_path(top: Path, tmp_path: Path) -> None:
    with snapstore.init(tmp_path / "store") as store:
        first = store.create(top).snapshot
        archive = exported(store, tmp_path / "x.tar")
        again = store.import_tar(archive, root=top)
        assert first is not None and again.parent == first.id
        assert again.new_bytes == 0
        assert store.import_tar(archive, root=top, skip_if_unchanged=True).skipped
        assert store.import_tar(archive, dry_run=True).snapshot is None
        assert len(store.snapshots()) == 2
