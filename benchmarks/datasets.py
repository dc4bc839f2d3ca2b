"""Builds the benchmark data once, in a work folder, out of things other people wrote.

work > dataset > `v1`, `v2` (never touched again) and the live copy that tools are pointed at.
Each finished dataset has a `done.json` with the facts that the report shows; deleting the
dataset's folder builds it anew.

    python -m benchmarks.datasets [--work DIR] [NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

Facts = dict[str, object]

KERNEL_DISTANCE = 14  # upstream point releases between the two trees: about 3 400 changed files
EDIT_EVERY = 24  # only when a single version is offered: change one source file in so many
TINY_FILES = 200_000
TINY_SIZES = (50, 4000)
TINY_PER_DIRECTORY = 200
BLOB_BYTES = 2 << 30
BLOB_INSERTIONS = 200
IMAGE_BYTES = 4 << 30
IMAGE_PACKAGES = ("linux-image-amd64", "g++", "clang", "python3", "git", "vim")
IMAGE_INSTALL = ("gdb", "gfortran", "perl-doc", "php-cli", "ruby")
IMAGE_REMOVE = ("^libllvm", "git", "vim")  # with all that needs LLVM: clang and its libraries
PIECE_BYTES = 64 << 10  # of an image that is changed here and there
DATABASE_BYTES = 1 << 30
DATABASE_LINES = 8  # of a source file in one row
MILLION_FOLDERS = 1000
MILLION_FILES_EACH = 1000
TREE_LAPS = 15  # copies of the kernel tree that make about 20 GB


@dataclass(frozen=True)
class Dataset:
    """A built dataset: `live` is what tools read, `switch` makes it equal to one version."""

    root: Path
    live: Path
    facts: Facts

    def switch(self, version: int) -> None:
        """Bring `live` to a version as an update in place would: what is equal stays untouched."""
        source = self.root / f"v{version}{self.live.suffix}"
        if self.live.is_dir():
            # By content and without times: packages differ in the time of every file, and an
            # update leaves equal files alone, with their inode and change time.
            _sh("rsync", "-rlp", "--checksum", "--delete", f"{source}/", f"{self.live}/")
        else:
            self.live.unlink()
            os.link(source, self.live)

    def copy(self, live: Path) -> Dataset:
        """The same with a live copy of its own, at the first version with its times."""
        _sh("cp", "-a", f"{self.root / 'v1'}/.", live)
        return replace(self, live=live)

    def reset(self) -> None:
        """Bring a live tree back to the first version, with its times, as a rollback would."""
        _sh("rsync", "-a", "--delete", f"{self.root / 'v1'}/", f"{self.live}/")

    def warm(self) -> None:
        """Read everything once, so that every tool finds it in the page cache."""
        warm(self.live)


def warm(source: Path) -> None:
    """Read a file, or all files below a directory."""
    for path in walk(source) if source.is_dir() else [source]:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def walk(root: Path) -> Iterator[Path]:
    """Every regular file below `root`, in a fixed order."""
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def default_work() -> Path:
    return Path(os.environ.get("SNAP_BENCH_DIR", Path(__file__).with_name(".data")))


def kernel(work: Path) -> Dataset:
    """A Linux source tree in two package versions."""
    return _once(work / "kernel", "tree", _build_kernel)


def tiny(work: Path) -> Dataset:
    """200 000 files of 50 to 4 000 bytes: pieces of the kernel's files, in its two versions."""
    sources = kernel(work).root
    return _once(work / "tiny", "tree", lambda root: _build_tiny(root, sources))


def image(work: Path) -> Dataset:
    """A 4 GiB ext4 image of a Debian system, before and after its package manager ran inside."""
    return _once(work / "image", "live.img", _build_image)


def blob(work: Path) -> Dataset:
    """2 GiB that do not compress, the same again in a second file, a version with insertions."""
    return _once(work / "blob", "live.bin", _build_blob)


def laps(work: Path) -> Dataset:
    """About 20 GB and 1.2 million files: the kernel tree under 15 different byte substitutions."""
    source = kernel(work).root / "v1"
    return _once(work / "laps", "tree", lambda root: _build_laps(root, source))


def database(work: Path) -> Dataset:
    """A 1 GiB SQLite database: the kernel's source text, a few lines in a row, with an index."""
    source = kernel(work).root / "v1"
    return _once(work / "database", "database.sqlite", lambda root: _build_database(root, source))


def million(work: Path) -> Dataset:
    """A million files in a thousand folders: each holds a few lines of the kernel's source."""
    source = kernel(work).root / "v1"
    return _once(work / "million", "tree", lambda root: _build_million(root, source))


BUILDERS: dict[str, Callable[[Path], Dataset]] = {
    "kernel": kernel,
    "tiny": tiny,
    "image": image,
    "blob": blob,
    "laps": laps,
    "database": database,
    "million": million,
}


def _once(root: Path, live: str, build: Callable[[Path], Facts]) -> Dataset:
    """Build into `root` unless its marker says that this was done; what is half built goes away."""
    marker = root / "done.json"
    if not marker.exists():
        print(f"building {root.name} (once)", flush=True)
        if root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True)
        started = time.monotonic()
        facts = build(root)
        (root.parent / "removed").touch()  # builders remove folders of many files: see await_calm
        marker.write_text(json.dumps(facts, indent=2) + "\n")
        print(f"  {facts} in {time.monotonic() - started:.0f} s", flush=True)
    return Dataset(root, root / live, json.loads(marker.read_text()))


def _sh(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


# --- kernel ----------------------------------------------------------------------------------


def _build_kernel(root: Path) -> Facts:
    package, versions = _kernel_versions()
    for number, version in enumerate(versions, 1):
        _unpack_kernel(root, package, version, f"v{number}")
    edited = len(versions) == 1
    if edited:
        _sh("cp", "-a", root / "v1", root / "v2")
        _edit_tree(root / "v2")
    _sh("cp", "-a", root / "v1", root / "tree")
    files, size = _totals(root / "v1")
    return {
        "source": f"Debian package {package}",
        "versions": list(versions),
        "second_version_edited_here": edited,
        "files": files,
        "bytes": size,
        "changed_files": _count_changes(root / "v1", root / "v2"),
    }


def _kernel_versions() -> tuple[str, tuple[str, ...]]:
    """The package, and the two offered versions whose distance is nearest to the wanted one."""
    found = re.search(
        r"Depends: (linux-source-[\d.]+)", _sh("apt-cache", "depends", "linux-source")
    )
    package = found.group(1) if found else "linux-source-6.1"
    offered = [
        line.split("|")[1].strip() for line in _sh("apt-cache", "madison", package).splitlines()
    ]
    by_release = {_point_release(version): version for version in reversed(offered)}
    releases = sorted(by_release)
    if not releases:
        raise RuntimeError(f"apt offers no {package}")
    pairs = [(old, new) for old in releases for new in releases if old < new]
    if not pairs:
        return package, (by_release[releases[0]],)
    old, new = min(pairs, key=lambda pair: (abs(pair[1] - pair[0] - KERNEL_DISTANCE), pair))
    return package, (by_release[old], by_release[new])


def _point_release(version: str) -> int:
    return int(re.split(r"[.-]", version)[2])


def _unpack_kernel(root: Path, package: str, version: str, name: str) -> None:
    downloads = root.parent / "downloads"
    downloads.mkdir(exist_ok=True)
    pattern = f"{package}_{version.replace(':', '%3a')}_*.deb"
    if not list(downloads.glob(pattern)):
        _sh("apt-get", "download", f"{package}={version}", cwd=downloads)
    deb = next(downloads.glob(pattern))
    with _folder(root / "unpacked") as unpacked:
        _sh("dpkg-deb", "-x", deb, unpacked)
        archive = next(unpacked.glob("usr/src/*.tar.*"))
        (root / name).mkdir()
        _sh("tar", "-xf", archive, "-C", root / name, "--strip-components=1")


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _edit_tree(root: Path) -> None:
    """Stand-in for a second version: a piece of the next source file goes into every 24th one."""
    sources = [path for path in walk(root) if path.suffix in {".c", ".h"}]
    for path, neighbour in list(itertools.pairwise(sources))[::EDIT_EVERY]:
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + neighbour.read_bytes()[:1000] + data[middle:])


def _totals(root: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in walk(root)]
    return len(sizes), sum(sizes)


def _count_changes(old: Path, new: Path) -> int:
    """Regular files that are new, gone or different."""
    before = {path.relative_to(old) for path in walk(old)}
    after = {path.relative_to(new) for path in walk(new)}
    different = sum(
        (old / name).read_bytes() != (new / name).read_bytes() for name in before & after
    )
    return len(before ^ after) + different


# --- tiny files ------------------------------------------------------------------------------


def _build_tiny(root: Path, sources: Path) -> Facts:
    chosen = [path.relative_to(sources / "v1") for path in walk(sources / "v1")]
    random.Random(1).shuffle(chosen)
    homes = _write_pieces(sources / "v1", root / "v1", _assign_folders(sources / "v1", chosen))
    _write_pieces(sources / "v2", root / "v2", homes)
    _sh("cp", "-a", root / "v1", root / "tree")
    files, size = _totals(root / "v1")
    return {
        "source": "pieces of the kernel tree's files, in its two versions",
        "files": files,
        "bytes": size,
        "changed_files": _count_changes(root / "v1", root / "v2"),
    }


def _assign_folders(source: Path, chosen: Sequence[Path]) -> list[tuple[Path, int]]:
    """Which source file goes into which folder: decided on the first version, kept for both."""
    homes = []
    total = 0
    for name in chosen:
        if total >= TINY_FILES:
            break
        homes.append((name, total // TINY_PER_DIRECTORY))
        total += len(_pieces(name, (source / name).read_bytes()))
    return homes


def _pieces(name: Path, data: bytes) -> list[bytes]:
    """Cut `data` at places that depend on its name alone, so both versions are cut alike."""
    lengths = random.Random(str(name))
    smallest, largest = TINY_SIZES
    pieces = []
    start = 0
    while len(data) - start >= smallest:
        length = lengths.randint(smallest, largest)
        pieces.append(data[start : start + length])
        start += length
    return pieces


def _write_pieces(
    source: Path, target: Path, homes: list[tuple[Path, int]]
) -> list[tuple[Path, int]]:
    for number, (name, folder) in enumerate(homes):
        if not (source / name).is_file():
            continue  # gone in the second version
        home = target / f"{folder // 100:02}" / f"{folder:04}"
        home.mkdir(parents=True, exist_ok=True)
        for index, piece in enumerate(_pieces(name, (source / name).read_bytes())):
            (home / f"{number:06}-{index:04}").write_bytes(piece)
    return homes


# --- disk image ------------------------------------------------------------------------------


def _build_image(root: Path) -> Facts:
    if os.geteuid() != 0:
        raise RuntimeError("the disk image needs root (debootstrap, loop mount)")
    first, second = root / "v1.img", root / "v2.img"
    with _folder(root / "system") as system:
        codename, mirror = _debian_suite()
        wanted = ",".join(IMAGE_PACKAGES)
        _sh("debootstrap", "--variant=minbase", f"--include={wanted}", codename, system, mirror)
        _sh("chroot", system, "apt-get", "clean")
        with open(first, "wb") as file:
            file.truncate(IMAGE_BYTES)
        _sh("mkfs.ext4", "-q", "-d", system, first)
    _sh("cp", "--sparse=always", first, second)
    _change_packages(second, root / "mnt")
    os.link(first, root / "live.img")
    return {
        "source": f"debootstrap minbase {codename} with {' '.join(IMAGE_PACKAGES)}",
        "second_version": f"removed {' '.join(IMAGE_REMOVE)}; added {' '.join(IMAGE_INSTALL)}",
        "bytes": IMAGE_BYTES,
        "allocated_bytes": [path.stat().st_blocks * 512 for path in (first, second)],
        "changed_mib": _count_changed_mib(first, second),
    }


def _debian_suite() -> tuple[str, str]:
    """This machine's release and the mirror that its own package sources name."""
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    if not found:
        raise RuntimeError("this release has no code name")
    targets = _sh(
        *("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"),
        "Created-By: Packages",
    )
    for line in targets.splitlines():
        uri, codename, component = line.split()
        if (codename, component) == (found.group(1), "main"):
            return codename, uri
    raise RuntimeError(f"no package source for {found.group(1)} main")


def _change_packages(image_path: Path, mount: Path) -> None:
    """Run the image's own package manager in it, as a day of use would."""
    mount.mkdir()
    # noinit_itable: the kernel would otherwise go on zeroing inode tables in the background.
    _sh("mount", "-o", "loop,noinit_itable", image_path, mount)
    try:
        quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q")
        _sh("chroot", mount, *quiet, "purge", "--auto-remove", *IMAGE_REMOVE)
        _sh("chroot", mount, *quiet, "install", "--no-install-recommends", *IMAGE_INSTALL)
        _sh("chroot", mount, "apt-get", "clean")
    finally:
        _sh("umount", mount)
        mount.rmdir()


def _count_changed_mib(old: Path, new: Path) -> int:
    """Mebibytes of the image in which at least one byte differs."""
    step = 1 << 20
    with open(old, "rb") as a, open(new, "rb") as b:
        return sum(a.read(step) != b.read(step) for _ in range(IMAGE_BYTES // step))


def changes(old: Path, new: Path, share: float) -> list[int]:
    """Where to take pieces of a later version to change `share` of a file: an even sample of what
    differs, always the same."""
    step = 16 * PIECE_BYTES
    found = []
    with open(old, "rb", buffering=0) as a, open(new, "rb", buffering=0) as b:
        for start in range(0, old.stat().st_size, step):
            was, now = a.read(step), b.read(step)
            if was != now:
                pieces = range(0, len(was), PIECE_BYTES)
                end = PIECE_BYTES
                found += [start + at for at in pieces if was[at : at + end] != now[at : at + end]]
    wanted = round(old.stat().st_size * share / PIECE_BYTES)
    if len(found) < wanted:
        raise RuntimeError(f"only {len(found)} pieces of {old.name} differ, {wanted} are wanted")
    return sorted(random.Random(7).sample(found, wanted))


def change(live: Path, new: Path, pieces: Sequence[int]) -> None:
    """Write pieces of a later version into `live`, in place."""
    with open(new, "rb", buffering=0) as source, open(live, "r+b", buffering=0) as target:
        for start in pieces:
            os.pwrite(target.fileno(), os.pread(source.fileno(), PIECE_BYTES, start), start)


# --- incompressible file ---------------------------------------------------------------------


def _build_blob(root: Path) -> Facts:
    first = root / "v1.bin"
    with open(first, "wb") as file:
        _write_noise(file.fileno(), BLOB_BYTES)
    inserted = _insert_noise(first, root / "v2.bin")
    _sh("cp", "--reflink=never", first, root / "same.bin")
    os.link(first, root / "live.bin")
    return {
        "source": "AES-256-CTR key stream of a fixed key",
        "bytes": BLOB_BYTES,
        "insertions": BLOB_INSERTIONS,
        "inserted_bytes": inserted,
    }


def _write_noise(output: int, size: int) -> None:
    cipher = ("openssl", "enc", "-aes-256-ctr", "-nosalt", "-K", "5a" * 32, "-iv", "00" * 16)
    with (
        open("/dev/zero", "rb") as zeros,
        subprocess.Popen(
            cipher, stdin=zeros, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as stream,
    ):
        assert stream.stdout is not None
        left = size
        while left:
            data = stream.stdout.read(min(left, 1 << 20))
            if not data:
                raise RuntimeError("openssl ended early")
            left -= os.write(output, data)
        stream.stdout.close()
        stream.kill()


def _insert_noise(source: Path, target: Path) -> int:
    """Copy with 1 to 100 KB of new bytes at random places; returns how many bytes came in."""
    chance = random.Random(2)
    places = sorted(chance.randrange(BLOB_BYTES) for _ in range(BLOB_INSERTIONS))
    inserted = 0
    with open(source, "rb") as old, open(target, "wb") as new:
        for place in places:
            _copy_bytes(old.fileno(), new.fileno(), place - old.seek(0, os.SEEK_CUR))
            piece = chance.randbytes(chance.randint(1000, 100_000))
            inserted += os.write(new.fileno(), piece)
        _copy_bytes(old.fileno(), new.fileno(), BLOB_BYTES - old.seek(0, os.SEEK_CUR))
    return inserted


def _copy_bytes(source: int, target: int, size: int) -> None:
    while size:
        done = os.copy_file_range(source, target, size)
        if not done:
            raise RuntimeError("the source ended early")
        size -= done


# --- rows and files of a few lines -----------------------------------------------------------


def _some_lines(source: Path) -> Iterator[tuple[str, int, str]]:
    """The text of a tree, a few lines at a time: path, number of the first line, the lines."""
    for path in walk(source):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        for start in range(0, len(lines), DATABASE_LINES):
            text = "".join(lines[start : start + DATABASE_LINES])
            yield str(path.relative_to(source)), start + 1, text


def _build_database(root: Path, source: Path) -> Facts:
    path = root / "database.sqlite"
    rows = 0
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as built:
        built.execute("PRAGMA journal_mode = OFF")
        built.execute("PRAGMA synchronous = OFF")
        built.execute("CREATE TABLE piece (id INTEGER PRIMARY KEY, path TEXT, line INT, text TEXT)")
        built.execute("CREATE INDEX piece_path ON piece (path, line)")
        (page,) = built.execute("PRAGMA page_size").fetchone()
        pieces = _some_lines(source)
        for some in iter(lambda: list(itertools.islice(pieces, 10_000)), []):
            built.execute("BEGIN")
            built.executemany("INSERT INTO piece (path, line, text) VALUES (?, ?, ?)", some)
            built.execute("COMMIT")
            rows += len(some)
            (pages,) = built.execute("PRAGMA page_count").fetchone()
            if pages * page >= DATABASE_BYTES:
                break
    size = path.stat().st_size
    return {"source": "text of the kernel tree, in SQLite", "rows": rows, "bytes": size}


def _build_million(root: Path, source: Path) -> Facts:
    pieces = itertools.cycle(_some_lines(source))
    size = 0
    for folder in range(MILLION_FOLDERS):
        home = root / "tree" / f"{folder:03}"
        home.mkdir(parents=True)
        for number, (_, _, text) in enumerate(itertools.islice(pieces, MILLION_FILES_EACH)):
            size += (home / f"{number:03}.txt").write_bytes(text.encode())
    files = MILLION_FOLDERS * MILLION_FILES_EACH
    return {"source": "text of the kernel tree, a few lines each", "files": files, "bytes": size}


# --- 20 GB of real text ----------------------------------------------------------------------


def substitution(lap: int) -> bytes:
    """A table that maps bytes to bytes, another for each lap: text keeps its compressibility,
    and no chunk of one lap equals a chunk of another."""
    table = list(range(256))
    random.Random(lap).shuffle(table)
    return bytes(table)


def _build_laps(root: Path, source: Path) -> Facts:
    for lap in range(TREE_LAPS):
        table = substitution(lap)
        for path in walk(source):
            target = root / "tree" / f"{lap:02}" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes().translate(table))
    files, size = _totals(root / "tree")
    return {"source": f"kernel tree, {TREE_LAPS} byte substitutions", "files": files, "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder for the data")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BUILDERS))
    options = parser.parse_args()
    for name in options.names or ("kernel", "tiny", "image", "blob"):
        built = BUILDERS[name](options.work)
        print(f"{name}: {json.dumps(built.facts)}")


if __name__ == "__main__":
    main()
