"""Restores over a living tree in processes of their own, which end or fail at any call; the trees,
and what must hold afterwards.
"""

import contextlib
import json
import os
import random
import selectors
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import snapstore
from snapstore.base.errors import RestoreUnfinished
from tree_scan import Fact, Facts, differences, scan

SERVER = Path(__file__).with_name("restore_server.py")
PATIENCE_S = 60.0
STAGING = ".snapstore-restore-"
WAYS = ("resume", "abort")
RESTORE = {"delete": True}
PATCHED = b"large"
"""The file of which only a part is written, where it stands."""


@dataclass
class Outcome:
    """How an operation ended: its exit status (negative: a signal), and what it said. `log`: the
    calls that were counted.
    """

    status: int
    calls: int
    log: list[str]
    error: str | None = None
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    problems: list[list[str]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    @property
    def was_killed(self) -> bool:
        return self.status == -9

    def last(self, count: int = 6) -> str:
        return "\n".join(self.log[-count:])


def build_trap(place: Path) -> Path:
    """The library that asks about calls."""
    library, source = place / "trap.so", Path(__file__).with_name("trap.c")
    build = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source]
    subprocess.run(build, check=True)
    return library


class Operations:
    """Operations on stores in processes that are forked off one server. `always`: what each of
    them meets. `refused`: flags with which renames fail, with the error `refusal`.
    """

    def __init__(self, trap: Path, **always: Any) -> None:
        self._trap, self.always = trap, always
        self._buffer = b""

    def __enter__(self) -> "Operations":
        self._server = subprocess.Popen(
            [sys.executable, SERVER, self._trap],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:
            self._server.kill()
        self._server.stdin.close()
        self._server.wait(PATIENCE_S)
        self._server.stdout.close()

    def run(
        self, store: Path, op: str, *arguments: str, options: Any = None, **failure: Any
    ) -> Outcome:
        """One operation. `at`: which call meets what `mode` says: `kill`, `fail` (with `error`),
        `pass over`; `for_good`: later ones too; `first`: calls before one with such a name do not
        count. `forgotten`: the first call with such a line in the log is passed over. `mutant`: a
        step that is taken out of the library.
        """
        request = {"store": os.fspath(store), "op": op, "arguments": arguments}
        request |= {**self.always, **failure}
        line = json.dumps({**request, "options": options or {}}) + "\n"
        self._server.stdin.write(line.encode())
        self._server.stdin.flush()
        return Outcome(**json.loads(self._line()))

    def _line(self) -> bytes:
        end = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.stdout, selectors.EVENT_READ)
            while not self._buffer.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"nothing was heard for {PATIENCE_S} s")
                data = os.read(self._server.stdout.fileno(), 1 << 20)
                if not data:
                    raise EOFError("the server ended")
                self._buffer += data
        line, self._buffer = self._buffer, b""
        return line


# Trees


def _pattern(chance: random.Random, size: int, changed: int = -1) -> bytes:
    """Content that takes little room in a store, with one place changed."""
    block = chance.randbytes(1 << 16)
    parts = [block + number.to_bytes(8, "big") for number in range(size // len(block))]
    if changed >= 0:
        parts[changed] = block[::-1] + b"changed."
    return b"".join(parts)


def _file(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(mode)


def _attribute(path: Path, name: str, value: bytes | None) -> None:
    with contextlib.suppress(OSError):  # file systems without
        if value is None:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, value)


def _own(path: Path, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, gid, follow_symlinks=False)


def make_wanted(top: Path) -> None:
    """The tree that is taken."""
    chance = random.Random(4)
    for number in range(3):
        _file(top / "kept" / f"file {number}", chance.randbytes(700))
    _file(top / "replaced", chance.randbytes(40_000))
    _file(top / "emptied", b"")
    _file(top / "large", _pattern(random.Random(5), 9 << 20))
    _file(top / "file or directory", "a file")
    _file(top / "directory or file" / "deep" / "one", "one")
    _file(top / "directory or file" / "two", "two")
    _file(top / "file or link", "a file")
    (top / "link or file").symlink_to("kept/file 0")
    _file(top / "directory or link" / "in it", "in it")
    (top / "link or directory").symlink_to("kept")
    (top / "link").symlink_to("kept/file 1")
    os.mkfifo(top / "fifo or file")
    # Three names for one file, of which one will be replaced and the others kept.
    _file(top / "links" / "a", "linked")
    os.link(top / "links" / "a", top / "links" / "b")
    os.link(top / "links" / "a", top / "kept" / "c")
    # Two that will be apart, and two apart that will be linked.
    _file(top / "links" / "u", "one file")
    os.link(top / "links" / "u", top / "links" / "v")
    _file(top / "links" / "x", "same")
    _file(top / "links" / "y", "same")
    # Two that will both have other content.
    _file(top / "links" / "p", "was")
    os.link(top / "links" / "p", top / "links" / "q")
    _file(top / "attributes" / "mode", "mode", 0o640)
    _file(top / "attributes" / "owner", "owner", 0o4755)
    _own(top / "attributes" / "owner", 12, 34)
    (top / "attributes" / "owner").chmod(0o4755)
    _file(top / "attributes" / "added", "x")
    _file(top / "attributes" / "removed", "x")
    _attribute(top / "attributes" / "removed", "user.was", b"there")
    _attribute(top / "attributes" / "added", "user.same", b"same")
    (top / "attributes" / "directory").mkdir(mode=0o750)
    _file(top / "attributes" / "directory" / "kept", "kept")
    _attribute(top / "attributes", "user.top", b"1")
    _file(top / "new" / "deep" / "file", chance.randbytes(9_000))
    _file(top / "new" / "deep" / "read-only" / "file", "file", 0o400)
    (top / "new" / "deep" / "read-only").chmod(0o500)
    (top / "new" / "link").symlink_to("deep/file")
    os.link(top / "new" / "deep" / "file", top / "new" / "other")
    (top / "new" / "empty").mkdir()
    _file(top / "read-only" / "replaced", "wanted")
    _file(top / "read-only" / "kept", "kept")
    _file(top / "read-only" / "new", "new")
    (top / "read-only").chmod(0o555)
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"data", 1 << 19)
    for path in sorted(top.rglob("*"), reverse=True):
        time_ns = 1_600_000_000_000_000_000 + chance.randrange(10**17)
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    os.utime(top, ns=(1_500_000_000_000_000_001,) * 2)


def change(top: Path) -> None:
    """Makes of it the tree that is there when it is to be restored."""
    chance = random.Random(6)
    writable = [path for path in top.rglob("*") if not path.is_symlink() and path.is_dir()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in writable}
    for path in writable:
        path.chmod(0o755)
    _file(top / "replaced", chance.randbytes(30_000))
    _file(top / "emptied", "not empty")
    data = _pattern(random.Random(5), 9 << 20, changed=70)
    with open(top / "large", "r+b") as file:
        file.write(data)
    (top / "file or directory").unlink()
    _file(top / "file or directory" / "deep" / "er", "in the way")
    _file(top / "file or directory" / "two", "in the way", 0o600)
    shutil.rmtree(top / "directory or file")
    _file(top / "directory or file", "a file")
    (top / "file or link").unlink()
    (top / "file or link").symlink_to("nowhere")
    (top / "link or file").unlink()
    _file(top / "link or file", "a file")
    shutil.rmtree(top / "directory or link")
    (top / "directory or link").symlink_to("kept")
    (top / "link or directory").unlink()
    _file(top / "link or directory" / "in it", "in it")
    (top / "link").unlink()
    (top / "link").symlink_to("kept/file 2")
    (top / "fifo or file").unlink()
    _file(top / "fifo or file", "a file")
    (top / "links" / "a").unlink()
    _file(top / "links" / "a", "not linked")
    (top / "links" / "v").unlink()
    _file(top / "links" / "v", "one file")
    (top / "links" / "y").unlink()
    os.link(top / "links" / "x", top / "links" / "y")
    _file(top / "links" / "p", "is")
    _file(top / "attributes" / "mode", "mode", 0o600)
    _own(top / "attributes" / "owner", 56, 78)
    (top / "attributes" / "owner").chmod(0o711)
    _attribute(top / "attributes" / "added", "user.new", b"new")
    _attribute(top / "attributes" / "removed", "user.was", None)
    (top / "attributes" / "directory").chmod(0o700)
    _attribute(top / "attributes", "user.top", b"2")
    shutil.rmtree(top / "new")
    _file(top / "extra", "deleted")
    _file(top / "more" / "deep" / "extra", "deleted")
    os.link(top / "more" / "deep" / "extra", top / "more" / "linked")
    (top / "more" / "link").symlink_to("/")
    _file(top / "more" / "read-only" / "file", "deleted", 0o444)
    _file(top / "read-only" / "replaced", "there")
    (top / "read-only" / "new").unlink()
    _file(top / "read-only" / "extra", "deleted")
    os.truncate(top / "sparse", 1 << 19)
    modes[top / "attributes" / "directory"] = 0o700
    modes[top / "more" / "read-only"] = 0o555
    for path, mode in modes.items():
        if not path.is_symlink() and path.is_dir():
            path.chmod(mode)
    (top / "more" / "read-only").chmod(0o555)
    os.utime(top / "read-only", ns=(1_650_000_000_000_000_001,) * 2)
    os.utime(top, ns=(1_700_000_000_000_000_001,) * 2)


class Scene:
    """A store with a snapshot, and a tree that has become another since: both can be had anew.
    `mounts`: directories of the tree that are file systems of their own.
    """

    def __init__(
        self,
        place: Path,
        make: Callable[[Path], None] = make_wanted,
        change: Callable[[Path], None] = change,
        mounts: Sequence[str] = (),
    ) -> None:
        self.place, self.mounts = place, mounts
        self.store, self.top = place / "scene" / "store", place / "scene" / "tree"
        self._mount()
        make(self.top)
        self.wanted = scan(self.top)
        with snapstore.init(self.store) as store:
            self.id = store.create(self.top).snapshot.id
        change(self.top)
        self.before = scan(self.top)
        self.saved = place / "saved"
        subprocess.run(["cp", "-a", place / "scene", self.saved], check=True)

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves nothing that somebody who is not root could not remove."""
        self._unmount()
        subprocess.run(["chmod", "-R", "u+rwX", self.place], check=True)

    def renew(self) -> None:
        """Everything as it was at first. Inodes are others."""
        scene = self.place / "scene"
        self._unmount()
        if scene.exists():
            remove(scene)
        self._mount()
        subprocess.run(["cp", "-a", f"{self.saved}/.", scene], check=True)

    def _mount(self) -> None:
        self.top.mkdir(parents=True)
        for name in self.mounts:
            (self.top / name).mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", self.top / name]
            subprocess.run(mount, check=True)

    def _unmount(self) -> None:
        for name in self.mounts:
            if (self.top / name).is_mount():
                subprocess.run(["umount", "-l", self.top / name], check=True)

    def staging(self) -> list[str]:
        places = [self.top, *(self.top / name for name in self.mounts)]
        return [name for at in places for name in os.listdir(at) if name.startswith(STAGING)]

    def look(self) -> Facts:
        """The tree, without staging directories and the hard links in them."""
        mark = b"/" + STAGING.encode()
        found = {path: fact for path, fact in scan(self.top).items() if mark not in b"/" + path}
        groups: dict[bytes, list[bytes]] = {}
        for path, fact in found.items():
            if fact.group is not None:
                groups.setdefault(fact.group, []).append(path)
        for paths in groups.values():
            first = min(paths) if len(paths) > 1 else None
            found |= {path: replace(found[path], group=first) for path in paths}
        return found


def remove(tree: Path) -> None:
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", tree], check=True)
    shutil.rmtree(tree)


# What must hold


def substance(fact: Fact | None) -> Any:
    return fact and (fact.type, fact.size, fact.content, fact.target)


def assert_whole(scene: Scene, found: Facts, *, announced: bool, away: int = 0) -> None:
    """Every entry is wholly the old or wholly the new one, and none that both have is away. Only of
    what is patched where it stands a part may be written, and a journal must say so; `away`: so
    many entries may be between two renames then.
    """
    for path in scene.before.keys() | scene.wanted.keys() | found.keys():
        sides = {substance(scene.before.get(path)), substance(scene.wanted.get(path))}
        if path == PATCHED and announced:
            assert found[path].type == "file"
        elif path not in found and announced and away > 0:
            away -= path in scene.before and path in scene.wanted
        else:
            assert substance(found.get(path)) in sides, (path, found.get(path))


def only_time_of_top(lines: Sequence[str]) -> bool:
    return len(lines) == 1 and lines[0].startswith(("b'': mtime_ns", "b'mounted': mtime_ns"))


def assert_unfinished(act: Callable[[str], None], op: str) -> None:
    try:
        act(op)
    except RestoreUnfinished:
        return
    raise AssertionError("it must not be possible")


class Judge:
    """What is found after a restore had trouble, and what becomes of it. `operations`: those by
    which it is ended, where that meets something too; else it is ended by this process.
    """

    def __init__(self, scene: Scene, operations: Operations | None = None) -> None:
        self.scene, self.operations = scene, operations
        self.states: Counter[str] = Counter()
        self.faults: list[str] = []

    def may_miss_time(self, outcome: Outcome) -> bool:
        """Whether it died between the call that made or removed a staging directory, and that which
        sets the time of the directory around it again.
        """
        if not outcome.was_killed or len(outcome.log) < 2:
            return False
        call, name, *_ = outcome.log[-2].split(" ")
        return call in ("mkdirat", "unlinkat") and name.startswith(STAGING)

    def act(self, op: str, **options: Any) -> None:
        """Resumes, aborts or undoes."""
        if self.operations is None or not self.operations.always:
            with snapstore.open(self.scene.store) as store:
                getattr(store, op)(self.scene.top, **options)
            return
        top = str(self.scene.top)
        outcome = self.operations.run(self.scene.store, op, top, options=options)
        if outcome.error == "restore-unfinished":
            raise RestoreUnfinished(outcome.message)
        assert (outcome.error, outcome.status) == (None, 0), outcome.message

    def expect(self, what: str, expected: str, outcome: Outcome) -> None:
        lines = differences(getattr(self.scene, expected), self.scene.look())
        if lines and not (only_time_of_top(lines) and self.may_miss_time(outcome)):
            raise AssertionError(f"{what}: not as {expected}:\n" + "\n".join(lines[:6]))

    def judge(self, outcome: Outcome, way: str, name: str, then: str = "wanted") -> None:
        """Notes what is wrong after `outcome`, and after going `way` from there. `then`: the tree
        that is there when it came through.
        """
        try:
            self.look(outcome, way, then)
        except (AssertionError, snapstore.SnapstoreError) as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            self.faults.append(f"{name}, {way}, after\n{outcome.last()}\n{kind}{error}\n")

    def look(self, outcome: Outcome, way: str, then: str = "wanted") -> None:
        scene = self.scene
        with snapstore.open(scene.store) as store:
            journals = store.unfinished(scene.top)
            states = [journal.state for journal in journals]
            self.states[",".join(states) or "none"] += 1
            assert len(journals) == min(1, len(scene.staging())), (states, scene.staging())
            announced = states in (["ready"], ["reverting"])
            away = int(self.operations is not None and bool(self.operations.always))
            assert_whole(scene, scene.look(), announced=announced, away=away)
            if not states:
                expected = "before" if outcome.error else then
                if outcome.was_killed:
                    is_former = not differences(scene.before, scene.look(), ignore=["mtime_ns"])
                    expected = "before" if is_former else "wanted"
                self.expect("without a journal", expected, outcome)
                return
            state = states[0]
            if state == "staging":
                self.expect("while it was staged", "before", outcome)
            if way == "resume":
                if state == "reverting":
                    assert_unfinished(self.act, "resume")
                    way = "abort"
                else:
                    self.act("resume")
                    after = "before" if state == "staging" else "wanted"
            if way == "abort":
                after = "before"
                if state == "removing":
                    assert_unfinished(self.act, "abort")
                    self.act("resume")
                    self.expect("after resuming what was being removed", "wanted", outcome)
                    self.act("undo", delete=True)
                else:
                    self.act("abort")
            self.expect(f"{way} from {state}", after, outcome)
            assert not store.unfinished(scene.top)
            assert not scene.staging()

    def verdict(self) -> None:
        print(dict(self.states))
        assert not self.faults, f"{len(self.faults)} faults:\n" + "\n".join(self.faults[:20])
