"""The cases: which data, which tools in which order, and what must be reached.

Within a run every tool takes its turn at a step before any tool goes on to the next, and each run
starts with another tool.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import datasets, targets
from benchmarks.bench import Bench, Mounted, Record, drop_caches
from benchmarks.datasets import Dataset
from benchmarks.measure import Command, memory
from benchmarks.peers import PEERS, Dd, Peer, Place, Snap, archived, listed, walked
from benchmarks.targets import Target

STORES = ("snap", "restic", "borg")
OURS_ENCRYPTED = "snap encrypted"
ENCRYPTED = ("snap", OURS_ENCRYPTED, "restic", "borg encrypted")
MOUNTS = (*STORES, "squashfuse", "squashfs")
GIB = 1 << 30


@dataclass(frozen=True)
class Case:
    """`measure` fills the bench with records; `targets` judge them."""

    name: str
    text: str
    tools: tuple[str, ...]
    measure: Callable[[Bench], None]
    targets: tuple[Target, ...]
    data: str = ""  # the dataset whose facts the report shows
    at_least: int = 1  # runs, where a single one takes milliseconds
    at_most: int = 1000
    on_request: bool = False


def _create(bench: Bench, step: str, tools: tuple[str, ...], source: Path, size: int) -> None:
    """One step: each tool takes a snapshot into its place of this run."""
    for peer in bench.turn(*tools):
        place = bench.place(peer)
        if not place.store.exists():
            place.root.mkdir(parents=True, exist_ok=True)
            bench.prepare(peer.init(place))
        if source.is_file():  # gigabytes, of which the kernel may have dropped some meanwhile
            datasets.warm(source)
        command = peer.create(place, source, step.replace(" ", "-"))
        bench.measure(step, peer, command, data=size, place=place)


def _start(bench: Bench, data: Dataset) -> int:
    """Bring the data to its first version; returns its size in bytes."""
    data.switch(1)
    data.warm()
    bench.rest()
    size = data.facts["bytes"]
    assert isinstance(size, int)
    return size


def _keep(bench: Bench, tools: tuple[str, ...], source: Path) -> None:
    """Each tool's place for all runs, with a snapshot `first` of `source`."""
    for peer in bench.turn(*tools):
        place = bench.shared_place(peer)
        place.root.mkdir(parents=True)
        bench.prepare(peer.init(place))
        bench.prepare(peer.create(place, source, "first"))


def kernel_create(bench: Bench) -> None:
    data = datasets.kernel(bench.work)
    for _ in bench.runs():
        size = _start(bench, data)
        everyone = (*STORES, "mksquashfs", "tar+zstd", "rsync")
        _create(bench, "create", everyone, data.live, size)
        _create(bench, "again", (*STORES, "rsync", "find"), data.live, size)
        data.switch(2)
        bench.rest()
        _create(bench, "second version", (*STORES, "rsync"), data.live, size)


def kernel_restore(bench: Bench) -> None:
    data = datasets.kernel(bench.work)
    _start(bench, data)
    archives = (*STORES, "mksquashfs", "tar+zstd")
    _keep(bench, archives, data.live)
    for number in bench.runs():
        for peer in bench.turn(*archives, "cp -a"):
            if peer.name == "cp -a":
                bench.measure("restore", peer, peer.create(bench.place(peer), data.live, "tree"))
                continue
            target = bench.target(peer, "restore")
            command = peer.restore(bench.shared_place(peer), target, "first")
            bench.measure("restore", peer, command)
            if number == 0 and peer.name == targets.OURS:
                bench.check_restored(peer, data.live, target)


def rollback(bench: Bench) -> None:
    """Our restore takes a safety snapshot of what is there first; what that costs others is the
    step `safety`. Every tool finds the same tree, updated anew for it."""
    data = datasets.kernel(bench.work)
    size = data.facts["bytes"]
    assert isinstance(size, int)
    folder = bench.work / "runs" / bench.case
    folder.mkdir(parents=True)
    data = data.copy(folder / "tree")
    tools = (*STORES, "rsync")
    for _ in bench.runs():
        data.warm()
        bench.rest()
        places = {}
        for peer in bench.turn(*tools):
            place = bench.shared_place(peer) if peer.many_files else bench.place(peer)
            places[peer.name] = place
            if not place.store.exists():
                place.root.mkdir(parents=True, exist_ok=True)
                bench.prepare(peer.init(place))
                bench.prepare(peer.create(place, data.live, "first"))
        for peer in bench.turn(*tools):
            place = places[peer.name]
            data.switch(2)
            bench.rest()
            if peer.name in ("restic", "borg"):
                command = peer.create(place, data.live, "second")
                bench.measure("safety", peer, command, data=size)
            bench.measure("rollback", peer, peer.rollback(place, data.live, "first"), data=size)
            bench.check_tree("rollback", peer, data.root / "v1", data.live)
            data.reset()  # nobody meets what another one left


def restore_equal(bench: Bench) -> None:
    """The two take turns in being first."""
    data = datasets.kernel(bench.work)
    size = _start(bench, data)
    for peer in bench.turn(targets.OURS):
        place = bench.shared_place(peer)
        place.root.mkdir(parents=True)
        bench.prepare(peer.init(place))
        bench.prepare(peer.create(place, data.live, "first"))
        for number in bench.runs():
            steps = [
                ("again", peer.create(place, data.live, f"again-{number + 1}")),
                ("restore", peer.rollback(place, data.live, "first")),
            ]
            for step, command in steps if number % 2 == 0 else reversed(steps):
                bench.measure(step, peer, command, data=size)


def image_rollback(bench: Bench) -> None:
    """All tools work on one copy of the image, which has no holes and is changed anew for each. It
    is restored as the file that it is; dd only reads it, in the state in which others find it."""
    data = datasets.image(bench.work)
    first, later = data.root / "v1.img", data.root / "v2.img"
    pieces = datasets.changes(first, later, 0.01)
    folder = bench.work / "runs" / bench.case
    folder.mkdir(parents=True)
    live = folder / "disk"
    tools = (*STORES, "rsync")
    for _ in bench.runs():
        live.unlink(missing_ok=True)
        subprocess.run(("cp", "--sparse=never", str(first), str(live)), check=True)
        size, mtime = live.stat().st_size, live.stat().st_mtime_ns
        bench.rest()
        for peer in bench.turn(*tools):
            place = bench.place(peer)
            place.root.mkdir(parents=True)
            bench.prepare(peer.init(place))
            bench.prepare(peer.create(place, live, "first"))
        for peer in bench.turn(*tools, "dd"):
            place = bench.place(peer)
            datasets.change(live, later, pieces)
            bench.rest()
            if isinstance(peer, Dd):
                bench.measure("rollback", peer, peer.read(live), data=size, cold=True)
                continue
            command = peer.rollback(place, live, "first")
            bench.measure("rollback", peer, command, data=size, cold=True)
            bench.check_file("rollback", peer, first, live, mtime)
        (bench.place(PEERS["rsync"]).store / "copy").unlink(missing_ok=True)


def export(bench: Bench) -> None:
    data = datasets.kernel(bench.work)
    size = _start(bench, data)
    tools = ("snap", "borg", "tar+zstd")
    _keep(bench, tools, data.live)
    for _ in bench.runs():
        for peer in bench.turn(*tools):
            command = peer.export(bench.shared_place(peer), "first")
            bench.measure("export", peer, command, data=size)


def image_create(bench: Bench) -> None:
    data = datasets.image(bench.work)
    for _ in bench.runs():
        size = _start(bench, data)
        _create(bench, "create", (*STORES, "mksquashfs"), data.live, size)
        data.switch(2)
        data.warm()
        bench.rest()
        _create(bench, "second version", STORES, data.live, size)


def encrypted_tree(bench: Bench) -> None:
    _encrypted(bench, datasets.kernel(bench.work))


def encrypted_image(bench: Bench) -> None:
    _encrypted(bench, datasets.image(bench.work))


def _encrypted(bench: Bench, data: Dataset) -> None:
    """A create into a new store, and a restore from it."""
    for number in bench.runs():
        size = _start(bench, data)
        _create(bench, "create", ENCRYPTED, data.live, size)
        for peer in bench.turn(*ENCRYPTED):
            target = bench.target(peer, "restore")
            command = peer.restore(bench.place(peer), target, "create")
            bench.measure("restore", peer, command, data=size)
            if number == 0 and peer.name == OURS_ENCRYPTED and data.live.is_dir():
                bench.check_restored(peer, data.live, target)


def opening(bench: Bench) -> None:
    """Argon2id by itself is measured in a process of its own."""
    place = bench.shared_place(PEERS[OURS_ENCRYPTED])
    place.root.mkdir(parents=True)
    for peer in bench.turn(OURS_ENCRYPTED):
        bench.prepare(peer.init(place))
    for number in bench.runs():
        for peer in bench.turn(OURS_ENCRYPTED):
            bench.measure("list", peer, peer.listing(place))
        wall = float(subprocess.run(_unlock(place), capture_output=True, text=True).stdout)
        bench.add(Record("argon2id", OURS_ENCRYPTED, number, wall))


def _unlock(place: Place) -> tuple[str, ...]:
    """A command that prints how long a password of a store is worked on."""
    code = (
        "import sys, time, snapstore; from snapstore import _native\n"
        "store = snapstore.open(sys.argv[1], mode='r', password=b'benchmark')\n"
        "kdf = store.list_keys()[0].kdf; begun = time.perf_counter()\n"
        "_native.derive_key(b'benchmark', kdf.with_salt(bytes(32)))\n"
        "print(time.perf_counter() - begun)"
    )
    return (sys.executable, "-c", code, str(place.store))


def random_reads(bench: Bench) -> None:
    """Small reads at random places of the image, at the default block size and a smaller one."""
    data = datasets.image(bench.work)
    _start(bench, data)
    snap = PEERS["snap"]
    assert isinstance(snap, Snap)
    places = {}
    for step, options in (("1 MiB blocks", ()), ("256 KiB blocks", ("--block-bytes", "262144"))):
        place = places[step] = Place(bench.shared_place(snap).root / step.replace(" ", "-"))
        place.root.mkdir(parents=True)
        bench.prepare(snap.init(place, *options))
        bench.prepare(snap.create(place, data.live, "first"))
    for number in bench.runs():
        for step, place in places.items():
            command = (sys.executable, "-m", "benchmarks.random_reads", str(place.store))
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                bench.failures.append(step)
                continue
            spent = json.loads(done.stdout)
            for name, share in (("median", 0.5), ("99 %", 0.99)):
                wall = spent[int(len(spent) * share)]
                bench.add(Record(f"{step}, {name}", targets.OURS, number, wall))


def blob_create(bench: Bench) -> None:
    data = datasets.blob(bench.work)
    for _ in bench.runs():
        size = _start(bench, data)
        _create(bench, "create", (*STORES, "dd"), data.live, size)
        _create(bench, "another name", STORES, data.root / "same.bin", size)
        data.switch(2)
        data.warm()
        bench.rest()
        _create(bench, "edited", STORES, data.live, size)


def tiny_create(bench: Bench) -> None:
    data = datasets.tiny(bench.work)
    for _ in bench.runs():
        size = _start(bench, data)
        _create(bench, "create", (*STORES, "tar+zstd"), data.live, size)
        _create(bench, "again", (*STORES, "find"), data.live, size)
        data.switch(2)
        bench.rest()
        _create(bench, "second version", STORES, data.live, size)


def memory_stream(bench: Bench) -> None:
    """The peer is shown once only: its 20 GiB take minutes."""
    datasets.kernel(bench.work)
    for number in bench.runs():
        for gibibytes in (1, 20):
            for peer in bench.turn("snap", *(("restic",) if number == 0 else ())):
                _stream(bench, peer.name, gibibytes)


def _stream(bench: Bench, tool: str, gibibytes: int) -> None:
    peer = PEERS[tool]
    place = bench.place(peer)
    if not place.store.exists():
        place.root.mkdir(parents=True, exist_ok=True)
        bench.prepare(peer.init(place))
    size = gibibytes * GIB
    feeder = (sys.executable, "-m", "benchmarks.stream", "--work", str(bench.work))
    command = peer.create_stream(place, (*feeder, "--bytes", str(size)), f"stream-{gibibytes}")
    bench.measure(f"create {gibibytes} GiB", peer, command, data=size, place=place)
    target = bench.target(peer, f"restore {gibibytes} GiB")
    command = peer.restore(place, target, f"stream-{gibibytes}")
    bench.measure(f"restore {gibibytes} GiB", peer, command, data=size)
    for path in target.rglob("*"):
        if path.is_file():
            path.unlink()  # one large file: no later step creates many, and space is dear


def memory_tree(bench: Bench) -> None:
    small, large = datasets.kernel(bench.work), datasets.laps(bench.work)
    for _ in bench.runs():
        for step, data in (("create 1.3 GB tree", small), ("create 20 GB tree", large)):
            size = data.facts["bytes"]
            assert isinstance(size, int)
            bench.rest()
            _create(bench, step, ("snap",), data.live, size)


def startup(bench: Bench) -> None:
    _keep(bench, STORES, Path(__file__).parent / "README.md")
    for _ in bench.runs():
        for peer in bench.turn(*STORES):
            place = bench.shared_place(peer)
            bench.measure("list", peer, peer.listing(place))
            if isinstance(peer, Snap):
                bench.measure("--help", peer, peer.help(place))


def _two_versions(bench: Bench, tools: tuple[str, ...], each: int = 1) -> None:
    """Snapshots `first-1`… of the tree, then `second-1`… of its next version, in shared places."""
    data = datasets.kernel(bench.work)
    _start(bench, data)
    for peer in bench.turn(*tools):
        place = bench.shared_place(peer)
        place.root.mkdir(parents=True)
        bench.prepare(peer.init(place))
    for version, name in ((1, "first"), (2, "second")):
        data.switch(version)
        bench.rest()
        for number in range(each):
            for peer in bench.turn(*tools):
                place = bench.shared_place(peer)
                bench.prepare(peer.create(place, data.live, f"{name}-{number + 1}"))


def listing(bench: Bench) -> None:
    _two_versions(bench, STORES)
    for _ in bench.runs():
        for peer in bench.turn(*STORES):
            bench.measure("all paths", peer, peer.files(bench.shared_place(peer), "first-1"))


def diff(bench: Bench) -> None:
    _two_versions(bench, STORES)
    for _ in bench.runs():
        for peer in bench.turn(*STORES):
            place = bench.shared_place(peer)
            bench.measure("two versions", peer, peer.diff(place, "first-1", "second-1"))


def find(bench: Bench) -> None:
    """A rare name and a frequent one, in 50 snapshots of each version; then the history of a file
    in 1,000 small snapshots."""
    _two_versions(bench, ("snap", "restic"), each=50)
    peer = PEERS["snap"]
    place = Place(bench.shared_place(peer).root / "history")
    path = _history(bench, peer, place, 1000)
    for _ in bench.runs():
        for step, name in (("one file", "fork.c"), ("many files", "Makefile")):
            for peer in bench.turn("snap", "restic"):
                bench.measure(step, peer, peer.find(bench.shared_place(peer), name))
        for peer in bench.turn("snap"):
            assert isinstance(peer, Snap)
            bench.measure("log", peer, peer.log(place, path))


def _history(bench: Bench, peer: Peer, place: Place, count: int) -> Path:
    """Fills a place with small snapshots, in every third of which the returned file changes."""
    source = place.root / "source"
    (source / "below").mkdir(parents=True)
    for number in range(200):
        (source / f"file{number}").write_text(str(number))
    path = source / "below" / "file"
    bench.prepare(peer.init(place))
    for number in range(count):
        path.write_text(str(number // 3))
        bench.prepare(peer.create(place, source, f"take-{number}"))
    return path


def mount(bench: Bench) -> None:
    """Mounting all snapshots. A thousand of theirs take others a quarter of an hour to make, so
    that they are met at a hundred."""
    many = {"100 snapshots": (100, STORES), "1,000 snapshots": (1000, (targets.OURS,))}
    for step, (count, tools) in many.items():
        for peer in bench.turn(*tools):
            _history(bench, peer, _place_of(bench, peer, step), count)
    for _ in bench.runs():
        for step, (_, tools) in many.items():
            for cold in (True, False):
                for peer in bench.turn(*tools):
                    place = _place_of(bench, peer, step)
                    with bench.mount_point(peer, place) as point:
                        command = listed(peer.mount(place, point, None), point)
                        name = f"first ls, {step}{'' if cold else ', warm'}"
                        bench.measure(name, peer, command, cold=cold)


def _place_of(bench: Bench, peer: Peer, what: str) -> Place:
    """One of several places of a tool, for all runs."""
    return Place(bench.shared_place(peer).root / re.sub(r"\W", "-", what))


def mount_tree(bench: Bench) -> None:
    data = datasets.kernel(bench.work)
    size = _start(bench, data)
    entries = 1 + sum(len(names) + len(files) for _, names, files in os.walk(data.live))
    _keep(bench, MOUNTS, data.live)
    for number in bench.runs():
        for peer in bench.turn(*MOUNTS):
            _in_mount(bench, "find -ls", peer, data.live, walked, entries)
        for peer in bench.turn(*MOUNTS):
            _in_mount(bench, "tar", peer, data.live, archived, size)
        for peer in bench.turn(targets.OURS) if number == 0 else ():
            with bench.mounted(peer, bench.shared_place(peer), data.live) as mounted:
                if mounted:
                    bench.check_tree("mount", peer, data.live, mounted.path)


def _in_mount(
    bench: Bench,
    step: str,
    peer: Peer,
    source: Path,
    work: Callable[[Path], Command],
    data: int,
) -> None:
    """Measure what `work` does with a snapshot that was mounted for it and not yet looked at."""
    with bench.mounted(peer, bench.shared_place(peer), source) as mounted:
        if mounted:
            command = replace(work(mounted.path), beside=mounted.servers)
            bench.measure(step, peer, command, data=data, cold=True)


def mount_database(bench: Bench) -> None:
    data = datasets.database(bench.work)
    data.warm()
    bench.rest()
    size, mtime = data.live.stat().st_size, data.live.stat().st_mtime_ns
    _keep(bench, MOUNTS, data.live)
    small = "256 KiB blocks"
    for peer in bench.turn(targets.OURS):
        assert isinstance(peer, Snap)
        place = _place_of(bench, peer, small)
        place.root.mkdir(parents=True)
        bench.prepare(peer.init(place, "--block-bytes", "262144"))
        bench.prepare(peer.create(place, data.live, "first"))
    for number in bench.runs():
        for peer in bench.turn(*MOUNTS):
            _in_mount(bench, "dd", peer, data.live, Dd.read, size)
        for peer in bench.turn(*MOUNTS):
            with bench.mounted(peer, bench.shared_place(peer), data.live) as mounted:
                _mounted_reads(bench, "4 KiB", peer, mounted)
        for peer in bench.turn(targets.OURS):
            with bench.mounted(peer, _place_of(bench, peer, small), data.live) as mounted:
                _mounted_reads(bench, f"4 KiB, {small}", peer, mounted)
                if mounted and number == 0:
                    bench.check_file("mount", peer, data.live, mounted.path, mtime)


def _mounted_reads(bench: Bench, step: str, peer: Peer, mounted: Mounted | None) -> None:
    """Random reads that nothing was read before, then the same from the kernel's cache."""
    if mounted is None:
        return
    bench.settle()
    drop_caches()
    command = (sys.executable, "-m", "benchmarks.mounted_reads", str(mounted.path))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        bench.failures.append(f"{step}, {peer.name}")
        return
    served = [memory(server) for server in mounted.servers]
    resident, anonymous = (sum(each[at] for each in served) for at in (0, 1))
    for name, spent in json.loads(done.stdout).items():
        wall = spent[len(spent) // 2]
        bench.add(Record(f"{step}, {name}", peer.name, bench.run, wall, 0, resident, anonymous))


def mount_memory(bench: Bench) -> None:
    data = datasets.million(bench.work)
    files = data.facts["files"]
    assert isinstance(files, int)
    bench.rest()
    _keep(bench, MOUNTS, data.live)
    for _ in bench.runs():
        for peer in bench.turn(*MOUNTS):
            _in_mount(bench, "find -ls", peer, data.live, walked, files)


def index(bench: Bench) -> None:
    """The index measures itself, in a process of its own, and prints one line per million."""
    command = (sys.executable, "-m", "benchmarks.index_curve", "--json", "--work", str(bench.work))
    for number in bench.runs():
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            bench.failures.append("index")
        for line in done.stdout.splitlines():
            point = json.loads(line)
            for step in ("insert", "lookup"):
                bench.add(
                    Record(
                        f"{step} at {point['entries'] / 1e6:g} M",
                        *(targets.OURS, number, point[f"{step}_seconds"], 0.0),
                        *(point["resident"], point["anonymous"]),
                        data=point[f"{step}s"],
                        stored=point["stored"],
                    )
                )


def _encrypted_targets() -> tuple[Target, ...]:
    steps = ("create", "restore")
    return (
        *(targets.within(step, "snap", 1.15, OURS_ENCRYPTED) for step in steps),
        *(targets.faster(step, "restic", 3.5, OURS_ENCRYPTED) for step in steps),
        *(targets.faster(step, "borg encrypted", 5, OURS_ENCRYPTED) for step in steps),
        targets.larger("create", OURS_ENCRYPTED, 2),
    )


CASES = (
    Case(
        "kernel-create",
        "A Linux source tree: first create, nothing changed, a later package version",
        (*STORES, "mksquashfs", "tar+zstd", "rsync", "find"),
        kernel_create,
        (
            targets.within("create", "tar+zstd", 1.25),
            targets.faster("create", "restic", 3.5),
            targets.faster("again", "restic", 8),
            targets.seconds("again", 0.5),
            targets.faster("second version", "restic", 5),
            targets.smaller("second version", 20),
            targets.smaller_with_caches("second version", 20),
            targets.memory("create"),
        ),
        data="kernel",
    ),
    Case(
        "kernel-restore",
        "The same tree, restored to a new directory",
        (*STORES, "mksquashfs", "tar+zstd", "cp -a"),
        kernel_restore,
        (
            targets.faster("restore", "restic", 3),
            targets.within("restore", "cp -a", 0.7),
            targets.within("restore", "mksquashfs", 1),
            targets.memory("restore"),
        ),
        data="kernel",
    ),
    Case(
        "rollback",
        "The same tree after an update, rolled back in place, with a way back to the update",
        (*STORES, "rsync"),
        rollback,
        (
            targets.faster_with("safety", "rollback", "restic", 8),
            targets.faster_with("safety", "rollback", "borg", 8),
            targets.faster("rollback", "restic", 8),
            targets.faster("rollback", "borg", 8),
            targets.within("rollback", "rsync", 1),
            targets.memory("rollback"),
        ),
        data="kernel",
    ),
    Case(
        "restore-equal",
        "The same tree, restored in place while nothing differs",
        ("snap",),
        restore_equal,
        (targets.within_own("restore", "again", 1.5),),
        data="kernel",
        at_least=5,
    ),
    Case(
        "export",
        "The same tree, written as a tar archive into a pipe",
        ("snap", "borg", "tar+zstd"),
        export,
        (targets.faster("export", "borg", 2), targets.memory("export")),
        data="kernel",
    ),
    Case(
        "image",
        "A 4 GiB disk image, then after packages were removed and installed in it",
        (*STORES, "mksquashfs"),
        image_create,
        (
            targets.faster("create", "restic", 3),
            targets.within("create", "mksquashfs", 1),
            targets.smaller("second version", 3),
            targets.smaller_with_caches("second version", 3),
            targets.memory("create"),
        ),
        data="image",
    ),
    Case(
        "image-rollback",
        "The image without holes, 1 % of it changed in pieces of 64 KiB, rolled back; cold cache",
        (*STORES, "rsync", "dd"),
        image_rollback,
        (targets.within("rollback", "dd", 1.3), targets.memory("rollback")),
        data="image",
    ),
    Case(
        "random-reads",
        "4 KiB at 3,000 random places of the image, each from a block not yet in memory",
        ("snap",),
        random_reads,
        (
            targets.milliseconds("1 MiB blocks, median", 0.7),
            targets.milliseconds("256 KiB blocks, median", 0.35),
        ),
        data="image",
    ),
    Case(
        "blob",
        "2 GiB that do not compress; the same bytes under another name; 200 insertions",
        (*STORES, "dd"),
        blob_create,
        (
            targets.faster("create", "dd", 0.9),
            targets.throughput("another name", 2),
            targets.growth("another name", "edited", "restic", 0.5),
        ),
        data="blob",
    ),
    Case(
        "tiny",
        "200 000 files of 50 to 4 000 bytes",
        (*STORES, "tar+zstd", "find"),
        tiny_create,
        (
            targets.faster("create", "restic", 4),
            targets.faster("again", "restic", 8),
            targets.smaller("second version", 30),
            targets.smaller_with_caches("second version", 30),
            targets.memory("create"),
        ),
        data="tiny",
    ),
    Case(
        "memory",
        "A stream of real text, 1 and 20 GiB, created and restored",
        ("snap", "restic"),
        memory_stream,
        (
            *(targets.memory(f"{verb} 20 GiB") for verb in ("create", "restore")),
            *(
                targets.flat_memory(f"{verb} 1 GiB", f"{verb} 20 GiB", 1.2)
                for verb in ("create", "restore")
            ),
        ),
    ),
    Case(
        "memory-tree",
        "1.3 GB in 79 thousand files against 20 GB in 1.2 million (on request: 22 GB of data)",
        ("snap",),
        memory_tree,
        (
            targets.memory("create 20 GB tree"),
            targets.flat_memory("create 1.3 GB tree", "create 20 GB tree", 1.2),
        ),
        data="laps",
        on_request=True,
    ),
    Case(
        "startup",
        "How long the command takes to do next to nothing",
        STORES,
        startup,
        (targets.seconds("list", 0.15), targets.seconds("--help", 0.15)),
        at_least=11,
    ),
    Case(
        "listing",
        "All paths of a Linux source tree",
        STORES,
        listing,
        (targets.seconds("all paths", 1), targets.faster("all paths", "restic", 1)),
        data="kernel",
        at_least=5,
    ),
    Case(
        "diff",
        "What is different between its two versions",
        STORES,
        diff,
        (
            targets.faster("two versions", "restic", 5),
            targets.seconds("two versions", 0.5),
            targets.memory("two versions"),
        ),
        data="kernel",
        at_least=5,
    ),
    Case(
        "find",
        "A name in 100 snapshots of the tree; the history of a file in 1,000 small snapshots",
        ("snap", "restic"),
        find,
        (
            targets.faster("one file", "restic", 10),
            targets.faster("many files", "restic", 10),
            targets.memory("many files"),
            targets.seconds("log", 1),
        ),
        data="kernel",
        at_least=5,
    ),
    Case(
        "encrypted",
        "A Linux source tree, created in a new encrypted store and restored from it",
        ENCRYPTED,
        encrypted_tree,
        _encrypted_targets(),
        data="kernel",
    ),
    Case(
        "encrypted-image",
        "A 4 GiB disk image, created in a new encrypted store and restored from it",
        ENCRYPTED,
        encrypted_image,
        _encrypted_targets(),
        data="image",
    ),
    Case(
        "opening",
        "An empty encrypted store listed, and how much of that is Argon2id",
        (OURS_ENCRYPTED,),
        opening,
        (targets.beyond("list", "argon2id", OURS_ENCRYPTED, 0.3),),
        at_least=5,
    ),
    Case(
        "mount",
        "From the command that mounts all snapshots until `ls` has listed the mount; cold cache",
        STORES,
        mount,
        (targets.seconds("first ls, 1,000 snapshots", 0.5),),
        at_least=5,
    ),
    Case(
        "mount-tree",
        "A mounted Linux source tree: all names with attributes, all content; cold cache",
        MOUNTS,
        mount_tree,
        (
            targets.microseconds_each("find -ls", 20),
            targets.seconds("tar", 10),
            targets.memory("tar"),
        ),
        data="kernel",
    ),
    Case(
        "mount-database",
        "A mounted 1 GiB database: read to its end, then 4 KiB at 2,000 random places, median;"
        " cold cache",
        MOUNTS,
        mount_database,
        (
            targets.throughput("dd", 0.8),
            targets.milliseconds("4 KiB, first", 0.7),
            targets.milliseconds("4 KiB, 256 KiB blocks, first", 0.35),
            targets.milliseconds("4 KiB, again", 0.01),
            targets.memory("dd"),
        ),
        data="database",
    ),
    Case(
        "mount-memory",
        "All names of a million mounted files (on request: 5 GB of data); cold cache",
        MOUNTS,
        mount_memory,
        (targets.memory("find -ls"),),
        data="million",
        on_request=True,
    ),
    Case(
        "index",
        "The index by itself, while it grows",
        ("snap",),
        index,
        (targets.rate("insert at 10 M", 100_000), targets.rate("lookup at 10 M", 300_000)),
        at_most=1,
    ),
)
