"""Trees that hypothesis thinks up: what to make (`plans`), how to change it (`changes`), and doing
both on disk.

A plan is a list of entries in the order in which they are made; an entry names its directory by a
number, so that every list is a tree. Nothing here depends on anything but the plan, but for names
and rights that the machine does not allow, which are left out.
"""

import contextlib
import os
import random
import shutil
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

ROOT = os.geteuid() == 0
PAGE = 4_096
SECOND = 10**9


@dataclass(frozen=True)
class Part:
    """A piece of content. `what`: noise, text, pages, zeros or hole; `seed`: of which."""

    what: str
    length: int
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """One entry. `pick` chooses, where something is to be chosen: a file to link to."""

    kind: str
    parent: int
    name: bytes
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    parts: tuple[Part, ...] = ()
    target: bytes = b"x"
    device: tuple[int, int] = (1, 3)
    pick: int = 0


@dataclass(frozen=True)
class Change:
    """One change of a tree: which `kind`, to the `pick`-th path (and the `other`-th)."""

    kind: str
    pick: int
    other: int
    seed: int
    plan: Plan


# Strategies

SIZES = [0, 1, 2, 255, 256, 257, 4_095, 4_096, 4_097, 16 << 10, 65_535, 65_536, 65_537, 128 << 10]
ODD_NAMES = [
    b"n" * 255,
    b"\xff\xfe\x80",
    b"a\nb",
    b" ",
    b"-rf",
    b"%41%",
    "ä".encode(),
    b"a\\b\"c'",
    b"\x01\x7f",
    b"...",
    b"*",
]
MODES = [0o644, 0o600, 0o755, 0o4755, 0o2750, 0o1777, 0o7777, 0o444] + [0o000, 0o111] * ROOT
OWNERS = [0, 1, 1000, 65_534, 123_456, 2**32 - 2]
TIMES = [0, -1, 1, -SECOND, -2_000_000_000 * SECOND - 1, 2**32 * SECOND + 7, 2**33 * SECOND - 1]


def _acl(user: int, rights: int) -> bytes:
    """A POSIX ACL with one named user, as the kernel gives it."""
    entries = [(1, 7, -1), (2, rights, user), (4, 4, -1), (0x10, 7, -1), (0x20, 0, -1)]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, right, who & 0xFFFF_FFFF) for tag, right, who in entries
    )


names = st.one_of(
    st.sampled_from([bytes([letter]) for letter in b"abcdefgh"]),
    st.sampled_from(ODD_NAMES),
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b"..")),
)
times = st.one_of(st.sampled_from(TIMES), st.integers(-(2**31) * SECOND + 1, 2**33 * SECOND))
owners = st.tuples(st.sampled_from(OWNERS), st.sampled_from(OWNERS)) if ROOT else st.just((0, 0))
seeds = st.integers(0, 5)
sizes = st.one_of(
    st.sampled_from(SIZES),
    st.integers(0, 600),
    st.integers(0, 300_000),
    st.sampled_from([(1 << 20) - 1] * 6 + [(8 << 20) + 12_345]),
)
whole = st.builds(
    Part, st.sampled_from(["noise", "noise", "text", "pages", "zeros"]), sizes, seeds
).map(lambda part: (part,))
pieces = st.builds(
    Part,
    st.sampled_from(["hole", "hole", "noise", "text", "zeros"]),
    st.integers(1, 12).map(lambda pages: pages * PAGE),
    seeds,
)
sparse = st.builds(
    lambda parts, tail: (*parts, *tail),
    st.lists(pieces, min_size=1, max_size=12),
    st.lists(
        st.builds(Part, st.sampled_from(["hole", "noise"]), st.integers(1, 3 * PAGE), seeds),
        max_size=1,
    ),
)
many_holes = st.integers(33, 80).map(
    lambda count: (Part("noise", PAGE, 1), Part("hole", PAGE)) * count
)
contents = st.one_of(whole, whole, whole, sparse, sparse, many_holes)
user_xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"user.b", b"user.\xff\xfe", b"user." + b"n" * 200]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"v" * 1_500, b"w" * 2_040, bytes(range(256)) * 10]),
    ),
    max_size=2,
).map(lambda found: tuple(found.items()))
root_xattrs = st.sampled_from([(b"trusted.t", b"\0\1"), (b"security.test", b"s")])
acls = st.builds(
    lambda user, rights: (b"system.posix_acl_access", _acl(user, rights)),
    st.sampled_from([1, 1000, 65_534]),
    st.integers(0, 7),
)
default_acls = acls.map(lambda found: (b"system.posix_acl_default", found[1]))
targets = st.one_of(
    st.sampled_from([b"a", b"../..", b"/nowhere", b"t" * 4_095, b"dangling\n\xff"]),
    st.binary(min_size=1, max_size=300).map(lambda raw: raw.replace(b"\0", b"_")),
)
devices = st.sampled_from([(1, 3), (0, 0), (7, 130), (259, 1_048_575), (4_095, 70_000)])
KINDS = ["file"] * 9 + ["directory"] * 4 + ["symlink"] * 2 + ["fifo", "link", "link", "link"]
KINDS += ["chardev", "blockdev"] * ROOT


@st.composite
def plan_entries(draw: st.DrawFn, kind: str | None = None) -> Plan:
    """One entry of any kind, with all that this kind can have."""
    kind = kind or draw(st.sampled_from(KINDS))
    values: dict[str, Any] = {
        "parent": draw(st.integers(0, 30)),
        "name": draw(names),
        "mode": draw(st.sampled_from(MODES)),
        "owner": draw(owners),
        "mtime_ns": draw(times),
        "pick": draw(st.integers(0, 30)),
    }
    attributes: list[tuple[bytes, bytes]] = []
    if draw(st.integers(0, 3)) == 0:
        if kind in ("file", "directory"):
            attributes += draw(user_xattrs)
            attributes += draw(st.lists(acls, max_size=1))
        if kind == "directory":
            attributes += draw(st.lists(default_acls, max_size=1))
        if ROOT:
            attributes += draw(st.lists(root_xattrs, max_size=1))
    values["xattrs"] = tuple(attributes)
    if kind == "file":
        values["parts"] = draw(contents)
    elif kind == "symlink":
        values["target"] = draw(targets)
    elif kind in ("chardev", "blockdev"):
        values["device"] = draw(devices)
    return Plan(kind, **values)


def plans(max_size: int = 24, min_size: int = 0) -> st.SearchStrategy[list[Plan]]:
    """Trees of about so many entries below their top."""
    return st.lists(plan_entries(), min_size=min_size, max_size=max_size)


def changes(max_size: int = 12, min_size: int = 1) -> st.SearchStrategy[list[Change]]:
    """Lists of changes."""
    number = st.integers(0, 60)
    one = st.builds(
        Change, st.sampled_from(sorted(CHANGES)), number, number, number, plan_entries()
    )
    return st.lists(one, min_size=min_size, max_size=max_size)


# Making


def noise(length: int, seed: int) -> bytes:
    """Bytes that do not compress, the same for a seed and, up to the length, for any length."""
    return random.Random(seed).randbytes(length)


def data_of(part: Part) -> bytes:
    """The bytes of a part; a hole's are zeros."""
    if part.what == "noise":
        return noise(part.length, part.seed)
    if part.what == "text":
        line = b"%d: the quick brown fox jumps over the lazy dog\n" % part.seed
        return (line * (part.length // len(line) + 1))[: part.length]
    if part.what == "pages":
        chance = random.Random(part.seed)
        pool = [noise(PAGE, part.seed + n) for n in range(8)] + [bytes(PAGE)] * 3
        pages = [b"SQLite format 3\0" + noise(PAGE - 16, part.seed)]
        pages += [chance.choice(pool) for _ in range(part.length // PAGE)]
        return b"".join(pages)[: part.length]
    return bytes(part.length)


def write_file(path: bytes, parts: Sequence[Part]) -> None:
    """Writes a file with its holes, in place of its content if it is there."""
    with open(path, "wb", buffering=0) as file:
        for part in parts:
            if part.what == "hole":
                file.seek(part.length, os.SEEK_CUR)
            else:
                data = data_of(part)
                while data:
                    data = data[file.write(data) :]
        file.truncate(sum(part.length for part in parts))


def build(top: bytes, tree: Sequence[Plan]) -> None:
    """Makes the directory `top` and all of a plan in it; whatever the machine refuses is left
    out.
    """
    os.mkdir(top)
    directories: list[bytes] = [top]
    others: list[bytes] = []
    made = [(top, Plan("directory", 0, b"", mode=0o755, mtime_ns=1))]
    for plan in tree:
        path = directories[plan.parent % len(directories)] + b"/" + plan.name
        if len(path) > 3_000:
            path = top + b"/" + plan.name
        if not _make(path, plan, others):
            continue
        if plan.kind == "directory":
            directories.append(path)
        else:
            others.append(path)
        if plan.kind != "link":
            made.append((path, plan))
    for path, plan in reversed(made):
        finish(path, plan)


def _make(path: bytes, plan: Plan, others: Sequence[bytes]) -> bool:
    """Makes an entry without its metadata; False where that is not possible."""
    try:
        if os.path.lexists(path):
            return False
        if plan.kind == "file":
            write_file(path, plan.parts)
        elif plan.kind == "directory":
            os.mkdir(path)
        elif plan.kind == "symlink":
            os.symlink(plan.target, path)
        elif plan.kind == "fifo":
            os.mkfifo(path)
        elif plan.kind == "link":
            if not others:
                return False
            os.link(others[plan.pick % len(others)], path, follow_symlinks=False)
        else:
            kind = stat.S_IFCHR if plan.kind == "chardev" else stat.S_IFBLK
            os.mknod(path, kind | 0o600, os.makedev(*plan.device))
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return False
    return True


def finish(path: bytes, plan: Plan) -> None:
    """Gives an entry its metadata."""
    mode = plan.mode if ROOT else plan.mode | (0o700 if plan.kind == "directory" else 0o600)
    if ROOT:
        os.chown(path, *plan.owner, follow_symlinks=False)
    if plan.kind != "symlink":
        os.chmod(path, mode)
    for name, value in plan.xattrs:
        with contextlib.suppress(OSError):  # more than the file system has room for
            os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(0, plan.mtime_ns), follow_symlinks=False)


# Changing


@dataclass
class Tree:
    """The paths of a tree while it is changed."""

    top: bytes
    directories: list[bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)

    def look(self) -> None:
        """Finds out what is there now."""
        self.directories, self.files, self.paths = [self.top], [], []
        for path, inside, files in os.walk(self.top):
            inside.sort()
            for name in sorted(inside + files):
                entry = path + b"/" + name
                self.paths.append(entry)
                mode = os.lstat(entry).st_mode
                if stat.S_ISDIR(mode):
                    self.directories.append(entry)
                elif stat.S_ISREG(mode):
                    self.files.append(entry)


def _edit(tree: Tree, change: Change, quiet: bool = False) -> None:
    path = tree.files[change.pick % len(tree.files)]
    status = os.lstat(path)
    if status.st_size:
        offset = change.seed * 7_919 % status.st_size
        with open(path, "r+b", buffering=0) as file:
            file.seek(offset)
            data = noise(min(1 + change.other * 100, status.st_size - offset), change.seed)
            file.write(data)
    if quiet:
        os.utime(path, ns=(0, status.st_mtime_ns))


def _edit_quietly(tree: Tree, change: Change) -> None:
    """The time of modification is as before; only ctime tells."""
    _edit(tree, change, quiet=True)


def _append(tree: Tree, change: Change) -> None:
    with open(tree.files[change.pick % len(tree.files)], "ab", buffering=0) as file:
        file.write(noise(1 + change.seed * 50, change.seed))


def _truncate(tree: Tree, change: Change) -> None:
    path = tree.files[change.pick % len(tree.files)]
    os.truncate(path, os.lstat(path).st_size * (change.other % 10) // 6)


def _rewrite(tree: Tree, change: Change) -> None:
    """Other holes, and perhaps the same content."""
    path = tree.files[change.pick % len(tree.files)]
    mtime_ns = os.lstat(path).st_mtime_ns
    write_file(path, change.plan.parts or (Part("hole", change.seed * PAGE),))
    os.utime(path, ns=(0, mtime_ns))


def _touch(tree: Tree, change: Change) -> None:
    path = tree.paths[change.pick % len(tree.paths)]
    os.utime(path, ns=(0, change.plan.mtime_ns), follow_symlinks=False)


def _metadata(tree: Tree, change: Change) -> None:
    """Other owner, mode, attributes and time."""
    path = tree.paths[change.pick % len(tree.paths)]
    mode = os.lstat(path).st_mode
    kind = "directory" if stat.S_ISDIR(mode) else "symlink" if stat.S_ISLNK(mode) else "file"
    values = {**vars(change.plan), "kind": kind}
    finish(path, Plan(**values))


def _drop_attribute(tree: Tree, change: Change) -> None:
    path = tree.paths[change.pick % len(tree.paths)]
    for name in os.listxattr(path, follow_symlinks=False)[:1]:
        os.removexattr(path, name, follow_symlinks=False)


def _rename(tree: Tree, change: Change) -> None:
    path = tree.paths[change.pick % len(tree.paths)]
    target = tree.directories[change.other % len(tree.directories)] + b"/" + change.plan.name
    if not (target + b"/").startswith(path + b"/") and not os.path.lexists(target):
        os.rename(path, target)


def _exchange(tree: Tree, change: Change) -> None:
    """Two entries change names; all their times but ctime stay."""
    first = tree.paths[change.pick % len(tree.paths)]
    second = tree.paths[change.other % len(tree.paths)]
    if not (first + b"/").startswith(second + b"/") and not (second + b"/").startswith(
        first + b"/"
    ):
        aside = tree.top + b"/aside"
        os.rename(first, aside)
        os.rename(second, first)
        os.rename(aside, second)


def _delete(tree: Tree, change: Change) -> None:
    path = tree.paths[change.pick % len(tree.paths)]
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _replace(tree: Tree, change: Change) -> None:
    """Something else under the same name, with the same time of modification."""
    path = tree.paths[change.pick % len(tree.paths)]
    mtime_ns = os.lstat(path).st_mtime_ns
    _delete(tree, change)
    if _make(path, change.plan, [name for name in tree.files if os.path.lexists(name)]):
        if change.plan.kind != "link":
            finish(path, change.plan)
        os.utime(path, ns=(0, mtime_ns), follow_symlinks=False)


def _add(tree: Tree, change: Change) -> None:
    directory = tree.directories[change.other % len(tree.directories)]
    path = directory + b"/" + change.plan.name
    if _make(path, change.plan, tree.files) and change.plan.kind != "link":
        finish(path, change.plan)


def _link(tree: Tree, change: Change) -> None:
    path = tree.files[change.pick % len(tree.files)]
    target = tree.directories[change.other % len(tree.directories)] + b"/" + change.plan.name
    if not os.path.lexists(target):
        os.link(path, target)


def _unlink_and_copy(tree: Tree, change: Change) -> None:
    """A link becomes a file of its own with the same content and times."""
    path = tree.files[change.pick % len(tree.files)]
    shutil.copy2(path, tree.top + b"/aside")
    os.rename(tree.top + b"/aside", path)


CHANGES: dict[str, Callable[[Tree, Change], None]] = {
    "add": _add,
    "append": _append,
    "delete": _delete,
    "drop_attribute": _drop_attribute,
    "edit": _edit,
    "edit_quietly": _edit_quietly,
    "exchange": _exchange,
    "link": _link,
    "metadata": _metadata,
    "rename": _rename,
    "replace": _replace,
    "rewrite": _rewrite,
    "touch": _touch,
    "truncate": _truncate,
    "unlink_and_copy": _unlink_and_copy,
}
NEED_FILES = frozenset(
    {"append", "edit", "edit_quietly", "link", "rewrite", "truncate", "unlink_and_copy"}
)


def change_tree(top: bytes, made: Sequence[Change]) -> None:
    """Carries out changes; those that the machine or the tree does not allow are left out."""
    tree = Tree(top)
    for change in made:
        tree.look()
        needed = tree.files if change.kind in NEED_FILES else tree.paths
        if needed or change.kind == "add":
            with contextlib.suppress(PermissionError, FileNotFoundError, OSError):
                CHANGES[change.kind](tree, change)
