"""A disk that remembers, and fails when it is told to: a file system with one file (FUSE, without a
library), in which a loop device finds an image. Each write, and each flush, goes to a log in the
order in which it came.

Called with a mount point, the image, the log, and a file that says what is wrong with the disk;
ends when it is unmounted. The log has a record for each request: offset and length (8 bytes each,
little-endian), and the bytes. A flush has the offset 2^64 - 1.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FLUSH = 2**64 - 1
MAX_WRITE = 1 << 20
HEAD = struct.Struct("<QQ")
FILE = "disk"
READ, WRITE, FSYNC = 15, 16, 20
FAILING = {"reads fail": {READ}, "all fails": {READ, WRITE, FSYNC}}
STANDS = "stands still"
"""What may be wrong: of `FAILING`, the requests that are answered with EIO; or that none is."""


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes


def read_log(path: Path, end: int | None = None) -> Iterator[Write | None]:
    """The requests in a log, up to the position `end`; None: a flush."""
    log = path.read_bytes()[:end]
    at = 0
    while at < len(log):
        offset, length = HEAD.unpack_from(log, at)
        at += HEAD.size
        yield None if offset == FLUSH else Write(offset, log[at : at + length])
        at += length


@contextlib.contextmanager
def recorded(place: Path, image: Path, log: Path, fault: Path | None = None) -> Iterator[Path]:
    """A file with the content of `image`, writes to which are recorded. What is wrong with it
    stands in `fault`, and may be changed at any time.
    """
    place.mkdir()
    server = subprocess.Popen(
        [sys.executable, __file__, place, image, log, fault or os.devnull], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        yield place / FILE
    finally:
        subprocess.run(["umount", place], check=True, timeout=60)
        server.wait(60)
        server.stdout.close()


class Disk:
    """Answers the kernel's requests."""

    def __init__(self, device: int, image: int, log: int, fault: int) -> None:
        self.device, self.image, self.log, self.fault = device, image, log, fault

    def heed(self, operation: int) -> None:
        """Fails as it is told to, or waits for as long."""
        if operation not in (READ, WRITE, FSYNC):
            return
        while (fault := os.pread(self.fault, 100, 0).decode()) == STANDS:
            time.sleep(0.01)
        if operation in FAILING.get(fault, ()):
            raise OSError(errno.EIO, "")

    def attributes(self, node: int) -> bytes:
        size = os.fstat(self.image).st_size if node == 2 else 0
        mode = stat.S_IFREG | 0o600 if node == 2 else stat.S_IFDIR | 0o700
        times = (0,) * 6
        return struct.pack(
            "<6Q10I", node, size, size // 512, *times[:3], *times[:3], mode, 1, 0, 0, 0, 4096, 0
        )

    def answer(self, operation: int, node: int, body: bytes) -> bytes | None:
        """What is answered; None: nothing is. OSError: an error is."""
        self.heed(operation)
        match operation:
            case 1 if body == FILE.encode() + b"\0":  # LOOKUP
                return struct.pack("<4Q2I", 2, 0, 3600, 3600, 0, 0) + self.attributes(2)
            case 1:
                raise OSError(errno.ENOENT, "")
            case 2 | 36 | 42:  # FORGET, INTERRUPT, BATCH_FORGET
                return None
            case 3 | 4:  # GETATTR, SETATTR
                return struct.pack("<Q2I", 3600, 0, 0) + self.attributes(node)
            case 14 | 27:  # OPEN, OPENDIR
                return struct.pack("<Q2I", 0, 0, 0)
            case 15:  # READ
                _, offset, size = struct.unpack_from("<2QI", body)
                return os.pread(self.image, size, offset)
            case 16:  # WRITE
                _, offset, size = struct.unpack_from("<2QI", body)
                data = body[40 : 40 + size]
                os.pwrite(self.image, data, offset)
                os.write(self.log, HEAD.pack(offset, size) + data)
                return struct.pack("<2I", size, 0)
            case 17:  # STATFS
                return struct.pack("<5Q10I", *(0,) * 5, 4096, 255, 4096, *(0,) * 7)
            case 20:  # FSYNC
                os.write(self.log, HEAD.pack(FLUSH, 0))
                return b""
            case 18 | 25 | 29 | 34 | 38:  # RELEASE, FLUSH, RELEASEDIR, ACCESS, DESTROY
                return b""
            case 26:  # INIT
                return struct.pack(
                    "<4I2H2I2HI7I", 7, 31, 1 << 17, 0, 16, 12, MAX_WRITE, 1, *(0,) * 10
                )
        raise OSError(errno.ENOSYS, "")

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, operation, unique, node = struct.unpack_from("<2I2Q", request)
            try:
                body, code = self.answer(operation, node, request[40:]), 0
            except OSError as error:
                body, code = b"", -(error.errno or errno.EIO)
            if body is not None:
                os.write(self.device, struct.pack("<IiQ", 16 + len(body), code, unique) + body)


def main(place: str, image: str, log: str, fault: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40700,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"snap-disk", os.fsencode(place), b"fuse.snap-disk", 0, options):
        raise OSError(ctypes.get_errno(), "cannot mount")
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    disk = Disk(device, os.open(image, os.O_RDWR), log_file, os.open(fault, os.O_RDONLY))
    os.write(1, b"ready\n")
    disk.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
