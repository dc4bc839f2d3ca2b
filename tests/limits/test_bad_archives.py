"""Archives that are cut off, damaged or hostile: a clear error, no snapshot, bounded memory, and
nothing is written but to the store.
"""

import errno
import gzip
import io
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import snapstore
from snapstore import ArchiveInvalid, Store
from snapstore.ops import outputs


@pytest.fixture
def store(quick_path: Path) -> Iterator[Store]:
    with snapstore.init(quick_path / "store") as opened:
        yield opened


@pytest.fixture
def file(quick_path: Path) -> Path:
    return quick_path / "x.tar"


class Maker:
    """Archives, member by member."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(
        self,
        name: str,
        data: bytes = b"",
        kind: bytes = tarfile.REGTYPE,
        link: str = "",
        **pax: str,
    ) -> "Maker":
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, len(data)
        member.pax_headers = {key.replace("__", "."): value for key, value in pax.items()}
        self._tar.addfile(member, io.BytesIO(data))
        return self

    def raw(self, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> "Maker":
        """A header alone, whatever its size claims."""
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, size
        self._buffer.write(member.tobuf(tarfile.GNU_FORMAT))
        return self

    def done(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def refused(store: Store, file: Path, data: bytes) -> str:
    """The message; nothing has been committed."""
    file.write_bytes(data)
    with pytest.raises(ArchiveInvalid) as caught:
        store.import_tar(file)
    assert store.snapshots(all=True) == []
    return str(caught.value)


SYMLINK, LINK = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "up": (Maker().add("a").add("../out"), "at byte 512, member ../out: its name leads out"),
    "up inside": (Maker().add("a/../../out"), "leads out"),
    "below a file": (Maker().add("a", b"x").add("a/b"), "member a/b: it lies below a, which is no"),
    "below a link": (Maker().add("a", b"", SYMLINK, "/etc").add("a/passwd"), "it lies below a"),
    "link out": (Maker().add("a", b"", LINK, "../../etc/passwd"), "leads out"),
    "link to nothing": (Maker().add("a", b"", LINK, "/etc/passwd"), "no earlier file"),
    "link to a directory": (
        Maker().add("d", b"", tarfile.DIRTYPE).add("a", b"", LINK, "d"),
        "no earlier file",
    ),
    "empty link": (Maker().add("a", b"", SYMLINK, ""), "target of the link"),
    "long part": (Maker().add("n" * 256), "more than 255 bytes"),
    "deep": (Maker().add("d/" * 5000 + "f"), "nested too deeply"),
    "NUL": (Maker().add("x", path="a\0b"), "NUL"),
    "no name": (Maker().add("."), "no name"),
    "replaces a directory": (Maker().add("a/b").add("a", b"x"), "has entries"),
    "unknown type": (Maker().add("a", b"", b"?"), "unknown type"),
    "volume": (Maker().add("a", b"x", b"M"), "another volume"),
    "negative size": (Maker().add("a", size="-1"), "out of bounds"),
    "no number": (Maker().add("a", mtime="soon"), "time"),
    "far time": (Maker().add("a", mtime="9" * 30), "time"),
    "claims 2^60 bytes": (Maker().raw("a", 1 << 60), "cut off"),
    "pax of 8 GiB": (Maker().raw("a", 1 << 33, b"x"), "claims 8589934592 bytes"),
    "long name of 1 TiB": (Maker().raw("a", 1 << 40, b"L"), "claims"),
    "sparse beyond its size": (
        Maker().add("a", b"x" * 10, GNU__sparse__size="5", GNU__sparse__map="0,10"),
        "sparse map",
    ),
    "sparse overlap": (
        Maker().add("a", b"x" * 10, GNU__sparse__size="50", GNU__sparse__map="5,5,7,5"),
        "sparse map",
    ),
    "sparse with less data": (
        Maker().add("a", b"x" * 9, GNU__sparse__size="50", GNU__sparse__map="0,10"),
        "sparse map",
    ),
    "sparse map of 2^60": (
        Maker().add(
            "a",
            b"1152921504606846976\n" + b"0\n" * 246,
            GNU__sparse__major="1",
            GNU__sparse__minor="0",
            GNU__sparse__realsize="10",
        ),
        "sparse map",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused(name: str, store: Store, file: Path) -> None:
    maker, message = HOSTILE[name]
    assert message in refused(store, file, maker.done())


def test_no_archive_at_all(store: Store, file: Path) -> None:
    assert "empty" in refused(store, file, b"")
    assert "not a tar archive" in refused(store, file, b"text " * 1000)
    assert "cut off" in refused(store, file, b"short")


def test_every_cut_is_noticed(store: Store, file: Path) -> None:
    data = Maker().add("a", b"x" * 700).add("n" * 200, b"y").add("c").done()
    end = data.rstrip(b"\0")
    for length in (*range(1, len(end), 97), len(end), (len(end) + 511) // 512 * 512):
        assert "at byte" in refused(store, file, data[:length])
    file.write_bytes(data[: (len(end) + 511) // 512 * 512 + 512])
    assert store.import_tar(file).files == 3


def test_every_changed_byte_of_a_header_is_noticed(store: Store, file: Path) -> None:
    data = Maker().add("a", b"x").add("b").done()
    for at in range(0, 512, 37):
        changed = bytearray(data)
        changed[1024 + at] ^= 0x41
        message = refused(store, file, bytes(changed))
        assert "at byte 1024: the checksum" in message or "no tar header" in message


def test_the_last_of_several_members_counts(store: Store, file: Path) -> None:
    maker = Maker().add("a", b"one").add("b", b"", LINK, "a").add("a", b"two")
    maker.add("d", b"", tarfile.DIRTYPE).add("d", b"file").add("/abs/./x//y", b"z")
    file.write_bytes(maker.done())
    store.import_tar(file, name="n")
    read = {name: b"".join(store.read("n", name)) for name in ("a", "b", "d", "abs/x/y")}
    assert read == {"a": b"two", "b": b"one", "d": b"file", "abs/x/y": b"z"}


def test_acls_that_mean_nothing_here_are_left_out_and_reported(store: Store, file: Path) -> None:
    plain = "user::rw-,group::r--,other::---"
    maker = Maker().add("mode", SCHILY__acl__access="u::rwx,g::rx,o::")
    maker.add("d/name", SCHILY__acl__access=f"{plain},mask::r,user:no one:r")
    maker.add("number", SCHILY__acl__access=f"{plain},mask::r,user:no one:r:7")
    maker.add("bad", SCHILY__acl__access="!" * 100_000, SCHILY__acl__default="user::rwx")
    file.write_bytes(maker.done())
    result = store.import_tar(file, name="n")
    assert result.partial and result.unreadable_count == 3
    assert [(os.path.basename(path), why[:21]) for path, why in result.unreadable] == [
        (b"bad", "its ACL was left out:"),
        (b"bad", "its ACL was left out:"),
        (b"name", "its ACL was left out:"),
    ]
    assert "this machine has no user no one" in result.unreadable[2][1]
    listed = store.ls("n", recursive=True)
    modes = {os.path.basename(one.path): one.entry.mode for one in listed}
    assert modes[b"mode"] == 0o750 and modes[b"number"] == 0o640 and modes[b"name"] == 0o644


def test_a_file_of_2_to_the_60_that_is_all_hole(store: Store, file: Path) -> None:
    size = 1 << 60
    pax = {"GNU__sparse__size": str(size), "GNU__sparse__map": f"{size},0"}
    file.write_bytes(Maker().add("a", b"", **pax).done())
    assert store.import_tar(file).bytes == size


def test_headers_without_a_member_have_a_bound(store: Store, file: Path) -> None:
    size = 1 << 20
    with open(file, "wb") as out:
        for number in range(22):
            start = f"{size} k{number}=".encode()
            out.write(Maker().raw("a", size, b"x")._buffer.getvalue())
            out.write(start + b"x" * (size - len(start) - 1) + b"\n")
    with pytest.raises(ArchiveInvalid, match="headers before one member are too long"):
        store.import_tar(file)


@pytest.mark.parametrize("bomb", ["entries", "pax"])
def test_memory_is_bounded(bomb: str, store: Store, quick_path: Path) -> None:
    """Archives that compress a thousandfold."""
    packed = quick_path / "bomb.tar.gz"
    with gzip.open(packed, "wb", compresslevel=1) as out:
        if bomb == "pax":
            out.write(Maker().raw("a", (20 << 20) - 1, b"x")._buffer.getvalue())
            for _ in range(400):
                out.write(bytes(1 << 20))
        else:
            many = io.BytesIO()
            for number in range(20_000):
                many.write(tarfile.TarInfo(f"{number}").tobuf())
            for _ in range(30):
                out.write(many.getvalue())
            out.write(bytes(1024))
    code = (
        "import sys, snapstore\n"
        "with snapstore.open(sys.argv[1]) as store:\n"
        "    try: store.import_tar(sys.argv[2])\n"
        "    except snapstore.ArchiveInvalid as error: print(error)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )  # not ru_maxrss, in which the process that started this one may count

    done = subprocess.run(
        [sys.executable, "-c", code, store.path, packed], capture_output=True, text=True, check=True
    )
    kibibytes = int(done.stdout.split()[-1])
    assert kibibytes < 600_000 if bomb == "entries" else kibibytes < 300_000


class Stop(Exception):
    """What an observer raises to end a call."""


def stop(progress: object) -> None:
    raise Stop


def test_an_export_that_nobody_reads_is_cancelled(store: Store) -> None:
    source = store.path.parent / "source"
    source.write_bytes(os.urandom(4 << 20))
    store.create(source, name="n")
    reading, writing = os.pipe()
    start = time.monotonic()
    with pytest.raises(Stop):
        store.export("n", writing, progress=stop)
    assert time.monotonic() - start < 5
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_an_import_that_nobody_feeds_is_cancelled(store: Store, packed: bool) -> None:
    reading, writing = os.pipe()
    data = b"".join(tarfile.TarInfo(str(number)).tobuf() for number in range(100))
    os.write(writing, gzip.compress(data) if packed else data)
    start = time.monotonic()
    with pytest.raises(Stop):
        store.import_tar(reading, progress=stop)
    assert time.monotonic() - start < 5
    os.close(writing)
    os.close(reading)
    assert store.snapshots() == []


def test_the_reader_of_a_pipe_goes(store: Store) -> None:
    source = store.path.parent / "source"
    source.write_bytes(os.urandom(4 << 20))
    store.create(source, name="n")
    for format in ("pax", "zip"):
        reading, writing = os.pipe()
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            store.export("n", writing, format=format)
        os.close(writing)


def test_a_file_is_there_when_it_is_whole(store: Store, quick_path: Path) -> None:
    source, out = quick_path / "source", quick_path / "out"
    source.write_bytes(os.urandom(1 << 20))
    out.mkdir()
    (out / "x.tar").write_bytes(b"old")
    store.create(source, name="n")
    for format in ("pax", "zip"):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
            with pytest.raises(snapstore.StorageError):
                store.export("n", out / "x.tar", format=format)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == {"x.tar": b"old"}
    store.export("n", out / "x.tar")
    assert [path.name for path in out.iterdir()] == ["x.tar"]
    assert tarfile.is_tarfile(out / "x.tar")
    store.export("n", "/dev/null")
    assert not Path("/dev/null").is_file()
    for bad in (out / "missing" / "x", out, store.path / "x"):
        with pytest.raises(snapstore.TargetInvalid):
            store.export("n", bad)


@pytest.mark.parametrize("format", ["pax", "zip"])
@pytest.mark.parametrize("size", [10, 4 << 20])
def test_no_space_for_an_archive(store: Store, quick_path: Path, format: str, size: int) -> None:
    """Whether the disk is found full amid the archive or at its end."""
    source = quick_path / "source"
    source.write_bytes(os.urandom(size))
    store.create(source, name="n")
    with pytest.raises(snapstore.NoSpace, match="cannot write"):
        store.export("n", "/dev/full", format=format)
    with open("/dev/full", "wb") as full, pytest.raises(snapstore.NoSpace, match="the output"):
        store.export("n", full, format=format)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EDQUOT, snapstore.NoSpace), (errno.EIO, snapstore.StorageError)],
)
def test_an_archive_that_cannot_be_finished(
    store: Store,
    quick_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    expected: type[snapstore.SnapstoreError],
) -> None:
    source, out = quick_path / "source", quick_path / "out"
    source.write_bytes(b"x")
    out.mkdir()
    store.create(source, name="n")

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(outputs.os, call, fail)
    with pytest.raises(expected, match="cannot write"):
        store.export("n", out / "x.tar")
    monkeypatch.undo()
    assert list(out.iterdir()) == []


def test_damage_ends_an_export(store: Store, quick_path: Path) -> None:
    source = quick_path / "source"
    source.write_bytes(os.urandom(1 << 20))
    store.create(source, name="n")
    pack = next(path for path in (store.path / "data").rglob("*") if path.is_file())
    data = bytearray(pack.read_bytes())
    data[5_000] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    for format in ("pax", "zip"):
        with pytest.raises(snapstore.DamagedObject):
            store.export("n", quick_path / "x", format=format)
    assert not (quick_path / "x").exists()
