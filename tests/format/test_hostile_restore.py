"""Restores over a living tree, of snapshots that somebody made to do harm, and while somebody swaps
directories for symbolic links: nothing outside the target ever changes, every failure is a clean
error, and nothing is left half done without a journal.

By default some hundreds of trees and some seconds; `-m slow` is 10,000 and ten minutes.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mini_writer as mini
import pytest

import snapstore
from snapstore import RestoreUnfinished, SnapstoreError, Store
from snapstore.ops import inplace
from tree_scan import Facts, assert_same, scan

NAMES = [b"a", b"b", b"c", b"d", b"link", b"secret", b"deep"]
BAD_NAMES = [b"..", b".", b"", b"a/b", b"../canary", b"/", b"a\0b", b"n" * 300, b"b/secret", b"\0"]
BAD_NAMES += [b"../new", b"../canary/new", b"../../new", b"../../canary/new"]
PATHS = [b"a", b"b/secret", b"c/d", b"../canary/secret", b"/etc/passwd", b"", b".", b"link/deep"]
HUGE = 1 << 50


class Hostile(mini.MiniStore):
    """Directories whose members are what they are: unsorted, twice, with any name, miscounted."""

    lies = 0

    def directory(self, item: mini.Item) -> bytes:
        members: Sequence[tuple[bytes, mini.Item]] = getattr(item, "listed", None) or ()
        if not members:
            return mini.varint(0)
        columns = self.columns(members)
        top = self.node(bytes([1, 0]) + mini.varint(len(members)) + columns)
        entries = sum(1 + len(getattr(member, "listed", ())) for _, member in members)
        return mini.varint(len(members)) + top + mini.varint(entries + self.lies) + mini.varint(0)


def hostile_directory(chance: random.Random, canary: bytes, depth: int) -> mini.Item:
    members = []
    for _ in range(chance.randint(0, 6)):
        name = chance.choice(BAD_NAMES if chance.random() < 0.015 else NAMES)
        members.append((name, hostile_entry(chance, canary, depth)))
    if chance.random() < 0.97:
        members.sort(key=lambda member: member[0])  # the same name twice, in order
    if chance.random() < 0.97:
        members = list(dict(members).items())
    found = mini.directory(mode=chance.choice([0o755, 0o700, 0o000, 0o7777]))
    found.listed = members  # type: ignore[attr-defined]
    return found


def hostile_entry(chance: random.Random, canary: bytes, depth: int) -> mini.Item:
    kind = chance.choice(
        ["directory"] * (5 if depth else 0) + ["file"] * 4 + ["symlink"] * 3 + ["x"]
    )
    if kind == "directory":
        return hostile_directory(chance, canary, depth - 1)
    if kind == "symlink":
        return mini.Item(
            mini.SYMLINK,
            target=chance.choice([canary, canary + b"/secret", b"..", b"/", b"a", b"../canary"]),
        )
    if kind == "file":
        if chance.random() < 0.05:
            return mini.file(parts=[(HUGE, None)], holes=[(0, HUGE)])
        xattrs = {b"user.x": b"1"} if chance.random() < 0.2 else {}
        data = chance.choice([b"", b"hostile", b"x" * 300, b"y" * 20_000])
        return mini.file(data, mode=chance.choice([0o644, 0o6777]), xattrs=xattrs)
    which = chance.choice([mini.FIFO, mini.CHARACTER, mini.BLOCK])
    device = chance.choice([(1, 3), (0, 0), (1 << 31, 1 << 31), (259, 5)])
    return mini.Item(which, device=device if which != mini.FIFO else (0, 0))


def hostile_snapshot(store: Hostile, chance: random.Random, canary: bytes) -> str:
    links = {
        chance.choice(PATHS + NAMES): chance.choice(PATHS + NAMES)
        for _ in range(chance.choice([0, 0, 1, 4]))
    }
    store.lies = chance.choice([0, 0, 0, 0, 1, 1 << 60])
    top = hostile_directory(chance, canary, 3)
    return store.snapshot([store.root(top, b"/data", links)])


def make_canary(place: Path) -> Path:
    canary = place / "canary"
    (canary / "deep").mkdir(parents=True)
    for name in ("secret", "a", "deep/secret", "deep/a"):
        (canary / name).write_bytes(b"precious " + name.encode())
        (canary / name).chmod(0o640)
    return canary


def make_target(place: Path, canary: Path, chance: random.Random) -> Path:
    """A tree with links to the canary in places where a snapshot may have directories."""
    target = place / "target"
    (target / "c/d").mkdir(parents=True)
    for directory in (target, target / "c", target / "c/d"):
        for name in NAMES:
            path, what = directory / os.fsdecode(name), chance.randint(0, 5)
            if os.path.lexists(path) or what == 0:
                continue
            if what <= 2:
                path.symlink_to(chance.choice([canary, canary / "secret", canary / "deep"]))
            elif what == 3:
                path.mkdir()
                (path / "secret").symlink_to(canary / "secret")
            else:
                path.write_bytes(b"mine")
    return target


def staging(top: Path) -> list[Path]:
    return list(top.glob(".snapstore-restore-*"))


def check_hostile(place: Path, seed: int) -> str:
    """One snapshot over one tree; what came of it."""
    chance = random.Random(seed)
    canary = make_canary(place)
    target = make_target(place, canary, chance)
    canary_was, target_was = scan(canary), scan(target)
    id = hostile_snapshot(Hostile(place / "store"), chance, os.fsencode(canary))
    options = {
        "delete": chance.random() < 0.5,
        "strategy": chance.choice(["overwrite", "newer", "merge"]),
        "on_error": chance.choice(["rollback", "rollback", "keep-going"]),
        "verify": chance.random() < 0.2,
    }
    with snapstore.open(place / "store") as store:
        came = "restored"
        try:
            store.restore(id, target=target, **options)  # type: ignore[arg-type]
        except SnapstoreError as error:
            came = error.kind
            assert came not in ("internal", "restore-unfinished"), error
            assert_same(target_was, scan(target))
        assert_same(canary_was, scan(canary))
        assert staging(target) == []
        assert sorted(os.listdir(place)) == ["canary", "store", "target"]
        if came == "restored":
            with contextlib.suppress(snapstore.NothingToUndo):
                store.undo(target)
                assert_same(target_was, scan(target))
        assert_same(canary_was, scan(canary))
    return came


def check_many(place: Path, seeds: range) -> None:
    came: dict[str, int] = {}
    for seed in seeds:
        work = place / str(seed)
        work.mkdir()
        kind = check_hostile(work, seed)
        came[kind] = came.get(kind, 0) + 1
        subprocess.run(["rm", "-rf", work], check=True)
    print(f"seeds {seeds.start} to {seeds.stop - 1}: {came}")
    assert min(came["restored"], came["damaged"]) > len(seeds) // 10, came


def test_no_hostile_tree_reaches_out_of_the_target(quick_path: Path) -> None:
    check_many(quick_path, range(250))


@pytest.mark.slow
def test_no_hostile_tree_reaches_out_of_the_target_many(quick_path: Path) -> None:
    check_many(quick_path, range(1_000, 11_000))


def test_a_journal_that_others_could_write_is_not_followed(tmp_path: Path) -> None:
    """It would say what is to be done, and where, with the rights of whoever finishes it."""
    top = tmp_path / "tree"
    fill(top, "1")
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        (top / "d0/e0/a").write_bytes(b"changed")
        fill(top, "2")
        with snapstore.open(tmp_path / "store", mode="r") as reading:
            reading.restore("latest")
        (journal,) = staging(top)
        journal.chmod(0o777)
        before = scan(top)
        acts: list[Callable[[], object]] = [
            lambda: store.restore("latest"),
            lambda: store.resume(top),
            lambda: store.abort(top),
        ]
        for act in acts:
            with pytest.raises(RestoreUnfinished):
                act()
            assert_same(before, scan(top))
        journal.chmod(0o700)
        assert store.undo(top).success


# Somebody swaps directories while a restore is under way

SWAPPER = """
import os, random, signal, sys, time
ends = []
signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
top, canary = map(os.fsencode, sys.argv[1:3])
chance = random.Random(1)
while not ends:
    found = [os.path.join(at, name) for at, names, _ in os.walk(top) for name in names]
    found = [path for path in found if b".snapstore" not in path and not path.endswith(b"~")]
    for path in chance.sample(found, 0 if ends else min(len(found), 8)):
        aside = path + b"~"
        try:
            os.rename(path, aside)
        except OSError:
            continue
        try:
            os.symlink(canary, path)
            time.sleep(chance.random() / 300)
            os.unlink(path)
        except OSError:
            pass
        try:
            os.rename(aside, path)
        except OSError:
            pass
"""


@pytest.mark.parametrize("change", ["new", "replaced", "deleted", "attributes"])
def test_a_directory_swapped_when_all_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The exchange does not go through the link that stands in its place."""
    top, canary = tmp_path / "tree", tmp_path / "canary"
    (top / "dir").mkdir(parents=True)
    canary.mkdir()
    file, other = top / "dir" / "file", canary / "file"
    if change != "deleted":
        file.write_text("taken")
    apply = inplace._Restoring._apply

    def swapped(*arguments: Any) -> Any:
        (top / "dir").rename(top / "aside")
        (top / "dir").symlink_to(canary)
        try:
            return apply(*arguments)
        finally:
            (top / "dir").unlink()
            (top / "aside").rename(top / "dir")

    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        match change:
            case "new":
                file.unlink()
            case "replaced" | "deleted":
                file.write_text("mine")
            case "attributes":
                file.chmod(0o604)
        if change != "new":
            os.link(file, other)
        before, canary_was = scan(top), scan(canary)
        monkeypatch.setattr(inplace._Restoring, "_apply", swapped)
        with pytest.raises(SnapstoreError):
            store.restore("latest", delete=True)
        assert_same(canary_was, scan(canary))
        monkeypatch.undo()
        if store.unfinished(top):
            store.abort(top)
        assert_same(before, scan(top), ignore=["mtime_ns"])
        assert staging(top) == []


def fill(top: Path, text: str) -> None:
    for number in range(12):
        directory = top / f"d{number % 4}" / f"e{number}"
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("secret", "a", f"only{text}"):
            (directory / name).write_text(text * 50)


def settled(store: Store, top: Path) -> bool:
    """Takes back, or finishes, what was left behind; whether that could be done. What stood in the
    way is printed, for when nothing should any more.
    """
    for act in (store.abort, store.resume) * 3:
        if not store.unfinished(top):
            break
        try:
            act(top)
        except SnapstoreError as error:
            print(f"{act.__name__}: {error!r}")
    for left in staging(top):
        print(left, sorted(os.listdir(top / left)), store.unfinished(top))
    return staging(top) == []


@contextlib.contextmanager
def swapping(top: Path, canary: Path) -> Iterator[None]:
    swapper = subprocess.Popen([sys.executable, "-c", SWAPPER, top, canary])
    try:
        yield
    finally:
        swapper.send_signal(signal.SIGTERM)
        assert swapper.wait() == 0


def attack_one(store: Store, top: Path, ids: list[str], came: dict[str, int]) -> bool:
    """One restore; False when what it left cannot be brought to an end before the swapping is."""
    try:
        store.restore(ids[(came["restored"] + came["failed"]) % 2], delete=True)
        came["restored"] += 1
    except RestoreUnfinished:
        came["failed"] += 1
        assert staging(top)
        return settled(store, top)
    except SnapstoreError as error:
        came["failed"] += 1
        assert error.kind != "internal", error
        assert staging(top) == []
    return True


def check_swapped(place: Path, seconds: float) -> None:
    canary, top = make_canary(place), place / "tree"
    canary_was: Facts = scan(canary)
    taken, ids = [], []
    with snapstore.init(place / "store") as store:
        for text in ("1", "2"):
            subprocess.run(["rm", "-rf", top], check=True)
            fill(top, text)
            snapshot = store.create(top).snapshot
            assert snapshot is not None
            ids.append(snapshot.id)
            taken.append(scan(top))
        end, came = time.monotonic() + seconds, {"restored": 0, "failed": 0}
        while time.monotonic() < end:
            with swapping(top, canary):
                while time.monotonic() < end and attack_one(store, top, ids, came):
                    pass
            # Nobody disturbs it now: what was left behind can be brought to an end.
            assert settled(store, top)
            assert_same(canary_was, scan(canary))
        print(f"{seconds} s: {came}")
        assert came["failed"], came
        assert_same(canary_was, scan(canary))
        for id, facts in zip(ids, taken, strict=True):
            store.restore(id, delete=True)
            assert_same(facts, scan(top))
        assert_same(canary_was, scan(canary))


def test_swapped_directories_lead_nowhere(quick_path: Path) -> None:
    check_swapped(quick_path, 6)


@pytest.mark.slow
def test_swapped_directories_lead_nowhere_for_long(quick_path: Path) -> None:
    check_swapped(quick_path, 600)
