"""A process that reads in a mount of all snapshots, in every way in which programs do, and compares
each byte with the tree that was taken. In the snapshots this stands under its own path: `known`,
which never changes, and `new`, in which a file is called after its content (`SEED-SIZE`).

Called with the mount point, the tree and a seed. For each line on standard input it says in one
what came of all since the last, as JSON; it ends with its input. A name in the mount is found
through a handle that stays open, so that an unmount does not change what is read.
"""

import errno
import json
import mmap
import os
import random
import select
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

MAPPED = "SIGBUS"
"""What a program gets for a page of a mapping that cannot be read."""
MAX_WRONG = 20
PAGE = 4096
LENGTHS = [1, 100, PAGE, 70_000, 300_000, 1 << 20]
REST_S = 0.002


class Wrong(Exception):
    """Something was shown that is not so."""


def noise(name: str) -> bytes:
    seed, size = map(int, name.split("-"))
    return random.Random(seed).randbytes(size)


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{what}: {str(found)[:200]} instead of {str(expected)[:200]}")


def xattrs(handle: int) -> dict[str, bytes]:
    return {name: os.getxattr(handle, name) for name in os.listxattr(handle)}


def facts(status: os.stat_result) -> tuple[int, ...]:
    # A tree's own file system knows of what a directory's size is; a mount does not.
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns


class Model:
    """What is known of the tree."""

    def __init__(self, top: str) -> None:
        self.files: dict[str, int] = {}
        self.content: dict[str, mmap.mmap | bytes] = {}
        self.names: dict[str, set[str]] = {}
        self.all: dict[str, os.stat_result] = {}
        self.links: dict[str, str] = {}
        for here, directories, files in os.walk(f"{top}/known"):
            below = os.path.relpath(here, top)
            self.names[below] = {*directories, *files}
            self.all[below] = os.lstat(here)
            for name in [*directories, *files]:
                path = os.path.join(below, name)
                self.all[path] = status = os.lstat(os.path.join(top, path))
                if stat.S_ISLNK(status.st_mode):
                    self.links[path] = os.readlink(os.path.join(top, path))
                elif stat.S_ISREG(status.st_mode):
                    self._add(path, os.path.join(top, path), status.st_size)

    def _add(self, path: str, live: str, size: int) -> None:
        self.files[path] = handle = os.open(live, os.O_RDONLY)
        self.content[path] = mmap.mmap(handle, size, prot=mmap.PROT_READ) if size else b""


class Reader:
    """Reads, and keeps account."""

    def __init__(self, mounted: str, top: str, seed: int) -> None:
        self.root = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY)
        self.top, self.chance = top.lstrip("/"), random.Random(seed)
        self.model = Model(top)
        self.paths = list(self.model.files)
        self.large = sorted(self.paths, key=lambda path: len(self.model.content[path]))[-4:]
        self.copied = os.memfd_create("mapped")
        self.ids = sorted(os.listdir(self._listing("by-id")))
        self.calls: list[Callable[[str], int]] = [
            *[self.pread] * 8,
            *[self.whole, self.mapped] * 3,
            *[
                self.listing,
                self.stat,
                self.seek,
                self.xattr,
                self.chunks,
                self.new,
                self.snapshots,
            ],
        ]
        self.clear()

    def clear(self) -> None:
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.bytes, self.slowest_s = 0, 0.0

    def report(self) -> dict[str, Any]:
        said = {
            "calls": dict(self.done),
            "bytes": self.bytes,
            "errors": dict(self.errors),
            "wrong": self.wrong,
            "slowest_s": self.slowest_s,
        }
        self.clear()
        return said

    def step(self) -> None:
        call = self.chance.choice(self.calls)
        id = self.chance.choice([self.chance.choice(self.ids), self.ids[-1]])
        begin = time.monotonic()
        try:
            self.bytes += call(f"by-id/{id}/{self.top}")
            self.done[call.__name__] += 1
        except OSError as error:
            name = MAPPED if error.errno == errno.EFAULT else errno.errorcode[error.errno or 0]
            self.errors[name] += 1
            time.sleep(REST_S)
        except Wrong as error:
            if len(self.wrong) < MAX_WRONG:
                self.wrong.append(f"{call.__name__} in {id[:8]}: {error}")
        self.slowest_s = max(self.slowest_s, time.monotonic() - begin)

    # Ways to read. Each is given where the tree is, and says how many bytes it compared.

    def _open(self, path: str) -> int:
        handle = os.open(path, os.O_RDONLY, dir_fd=self.root)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # the kernel is to ask again
        if self.chance.random() < 0.5:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        return handle

    def _pick(self) -> str:
        return self.chance.choice([self.chance.choice(self.paths), self.chance.choice(self.large)])

    def _listing(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.root)

    def pread(self, tree: str) -> int:
        path = self._pick()
        content = self.model.content[path]
        offset = self.chance.randrange(len(content) + PAGE)
        expected = content[offset : offset + self.chance.choice(LENGTHS)]
        handle = self._open(f"{tree}/{path}")
        try:
            return self._compare(path, expected, lambda at: os.pread(handle, at[1], offset + at[0]))
        finally:
            os.close(handle)

    def whole(self, tree: str) -> int:
        path = self._pick()
        handle = self._open(f"{tree}/{path}")
        try:
            done = self._compare(
                path, self.model.content[path], lambda at: os.read(handle, min(at[1], 1 << 20))
            )
            same(f"{path}, behind its end", os.read(handle, 100), b"")
            return done
        finally:
            os.close(handle)

    def _compare(self, path: str, expected: Any, read: Callable[[tuple[int, int]], bytes]) -> int:
        """Reads until all is there: the kernel may stop before a page that cannot be read, and says
        why when it is asked for that.
        """
        done, size = 0, len(expected)
        while done < size:
            data = read((done, size - done))
            if not data or data != expected[done : done + len(data)]:
                raise Wrong(f"{path}: bytes {done} to {done + len(data)} of {size}")
            done += len(data)
        return done

    def mapped(self, tree: str) -> int:
        path = self._pick()
        content = self.model.content[path]
        if not content:
            return 0
        offset = self.chance.randrange(len(content))
        expected = content[offset : offset + self.chance.choice(LENGTHS)]
        handle = self._open(f"{tree}/{path}")
        try:
            same(f"size of {path}", os.fstat(handle).st_size, len(content))
            pages = mmap.mmap(handle, len(content), prot=mmap.PROT_READ)
            view = memoryview(pages)
            try:  # by way of the kernel, which then gets an error where we would get a signal
                return self._compare(
                    f"{path}, mapped",
                    expected,
                    lambda at: self._copied(view, offset + at[0], at[1]),
                )
            finally:
                view.release()
                pages.close()
        finally:
            os.close(handle)

    def _copied(self, view: memoryview, offset: int, length: int) -> bytes:
        with view[offset : offset + length] as part:
            return os.pread(self.copied, os.pwrite(self.copied, part, 0), 0)

    def listing(self, tree: str) -> int:
        path = self.chance.choice(list(self.model.names))
        handle = self._listing(f"{tree}/{path}")
        try:
            found = os.listdir(handle)
        finally:
            os.close(handle)
        same(f"names in {path}", sorted(found), sorted(self.model.names[path]))
        return 0

    def stat(self, tree: str) -> int:
        path = self.chance.choice(list(self.model.all))
        found = os.stat(f"{tree}/{path}", dir_fd=self.root, follow_symlinks=False)
        same(f"attributes of {path}", facts(found), facts(self.model.all[path]))
        if path in self.model.links:
            target = os.readlink(f"{tree}/{path}", dir_fd=self.root)
            same(f"target of {path}", target, self.model.links[path])
        return 0

    def seek(self, tree: str) -> int:
        path = self._pick()
        offset = self.chance.randrange(len(self.model.content[path]) + PAGE)
        whence = self.chance.choice([os.SEEK_HOLE, os.SEEK_DATA])
        handle = self._open(f"{tree}/{path}")
        try:
            found = self._sought(handle, offset, whence)
        finally:
            os.close(handle)
        expected = self._sought(self.model.files[path], offset, whence)
        same(f"{path}: {whence} from {offset}", found, expected)
        return 0

    def _sought(self, handle: int, offset: int, whence: int) -> int | None:
        try:
            return os.lseek(handle, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    def xattr(self, tree: str) -> int:
        path = self._pick()
        handle = self._open(f"{tree}/{path}")
        try:
            same(f"xattrs of {path}", xattrs(handle), xattrs(self.model.files[path]))
        finally:
            os.close(handle)
        return 0

    def chunks(self, tree: str) -> int:
        path = self.chance.choice(self.large)  # small ones consist of none
        handle = self._open(f"{tree}/{path}")
        try:
            lines = os.getxattr(handle, "user.snap.chunks").decode().splitlines()
        finally:
            os.close(handle)
        size = sum(int(line.split()[1]) for line in lines)
        same(f"{path}: length of its chunks", size, len(self.model.content[path]))
        return 0

    def new(self, tree: str) -> int:
        handle = self._listing(f"{tree}/new")
        try:
            name = self.chance.choice(os.listdir(handle))
        finally:
            os.close(handle)
        handle = self._open(f"{tree}/new/{name}")
        try:
            return self._compare(
                f"new/{name}", noise(name), lambda at: os.pread(handle, at[1], at[0])
            )
        finally:
            os.close(handle)

    def snapshots(self, tree: str) -> int:
        """None goes; those that come are read."""
        handle = self._listing("by-id")
        try:
            found = os.listdir(handle)
        finally:
            os.close(handle)
        gone = set(self.ids) - set(found)
        same("snapshots that are gone", gone, set())
        self.ids += sorted(set(found) - set(self.ids))
        return 0


def main(mounted: str, top: str, seed: str) -> None:
    reader = Reader(mounted, top, int(seed))
    os.write(1, b"ready\n")
    while True:
        if select.select([0], [], [], 0)[0]:
            if not os.read(0, 1):
                return
            os.write(1, json.dumps(reader.report()).encode() + b"\n")
        reader.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
