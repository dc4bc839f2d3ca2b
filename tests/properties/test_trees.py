"""Trees that hypothesis thinks up: what goes into a store comes back, exactly; what is taken
incrementally is what is taken afresh; and the independent reader agrees.

By default a few examples of each; `-m slow` runs many (SNAP_EXAMPLES says how many).
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import snapstore
from snapstore import Store
from tree_plans import Change, Part, Plan, build, change_tree, changes, noise, plans, write_file
from tree_scan import Facts, assert_same, scan
from tree_store import facts_by_library, facts_by_rescue, rescue

MANY = int(os.environ.get("SNAP_EXAMPLES", "400"))
SETTLED_S = 3.1
"""How old entries must be before the stat cache trusts them; in whole seconds of difference."""


def examples(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for one example."""
    path = Path(tempfile.mkdtemp(prefix="snap-trees-"))
    try:
        yield path
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", path], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(path)


def root_id(store: Store, top: Path, **options: object) -> str:
    """Id of the root that taking `top` gives."""
    result = store.create(top, **options)  # type: ignore[arg-type]
    assert result.snapshot is not None and not result.unreadable and not result.changed
    (root,) = result.snapshot.roots
    assert root.entries == result.files + result.directories + _others(top)
    return root.id


def _others(top: Path) -> int:
    return sum(1 for fact in scan(top).values() if fact.type not in ("file", "directory"))


def fresh_id(place: Path, top: Path) -> str:
    """Id of the root, taken into a store that has never seen anything."""
    with snapstore.init(place) as store:
        return root_id(store, top)


# Back, exactly


def counts(facts: Facts) -> tuple[int, int]:
    """Directories, and files with content of their own: of hard links one."""
    files = [path for path, fact in facts.items() if fact.type == "file"]
    directories = sum(fact.type == "directory" for fact in facts.values())
    return directories, sum(facts[path].group in (None, path) for path in files)


def check_round_trip(tree: list[Plan], chunk_bytes: int) -> None:
    with workplace() as place:
        top, out = place / "tree", place / "out"
        build(os.fsencode(top), tree)
        before = scan(top)
        with snapstore.init(place / "store", chunk_bytes=chunk_bytes) as store:
            id = root_id(store, top)
            assert_same(before, scan(top))  # taking changes nothing
            result = store.restore("latest", target=out, verify=True)
            assert result.problems == []
            assert_same(before, scan(out))
            assert (result.directories, result.verified_files) == counts(before)
            assert result.files + result.directories + result.others == len(before)
            assert root_id(store, out) == id
            assert_same(before, facts_by_library(store._repository.reader(), id))
        reader = rescue().Store(place / "store")
        assert_same(before, facts_by_rescue(reader, id))
        assert not list(reader.check())


def check_rescue_restores(tree: list[Plan]) -> None:
    with workplace() as place:
        top = place / "tree"
        build(os.fsencode(top), tree)
        with snapstore.init(place / "store") as store:
            result = store.create(top)
        assert result.snapshot is not None
        command = [str(place / "store"), result.snapshot.id, str(place / "out")]
        assert rescue().main(command) == 0
        assert_same(scan(top), scan(place / "out"))


def check_archive(tree: list[Plan]) -> None:
    """An export holds all that a snapshot does; GNU tar, where it can, agrees on both."""
    with workplace() as place:
        top, archive = place / "tree", place / "x.tar"
        build(os.fsencode(top), tree)
        with snapstore.init(place / "store") as store:
            id = root_id(store, top)
            store.export("latest", archive)
            imported = store.import_tar(archive).snapshot
            assert imported is not None and imported.roots[0].id == id
            assert_same(scan(top), facts_by_library(store._repository.reader(), id))
            if shutil.which("tar") and gnu_tar_sees_all(top):
                command = ["tar", "-C", top, "--format=posix", "-S", "-cf", archive, "."]
                command[1:1] = ["--xattrs", "--xattrs-include=*"]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
                imported = store.import_tar(archive).snapshot
                assert imported is not None and imported.roots[0].id == id


def gnu_tar_sees_all(top: Path) -> bool:
    """GNU tar does not see that two FIFOs or devices are one, nor holes in a file that takes as
    many blocks as its size asks for (its attributes may take one).
    """
    for path, fact in scan(top).items():
        status = os.lstat(os.path.join(os.fsencode(top), path))
        if fact.group and fact.type in ("fifo", "chardev", "blockdev"):
            return False
        if fact.holes and status.st_blocks * 512 >= status.st_size:
            return False
    return True


sizes_of_chunks = st.sampled_from([8_192, 32_768, 32_768])


@examples(30)
@given(plans(), sizes_of_chunks)
def test_what_is_taken_comes_back(tree: list[Plan], chunk_bytes: int) -> None:
    check_round_trip(tree, chunk_bytes)


@pytest.mark.slow
@examples(MANY)
@given(plans(60), sizes_of_chunks)
def test_what_is_taken_comes_back_many(tree: list[Plan], chunk_bytes: int) -> None:
    check_round_trip(tree, chunk_bytes)


@examples(25)
@given(plans())
def test_an_archive_holds_all(tree: list[Plan]) -> None:
    check_archive(tree)


@pytest.mark.slow
@examples(MANY)
@given(plans(60))
def test_an_archive_holds_all_many(tree: list[Plan]) -> None:
    check_archive(tree)


@examples(12)
@given(plans())
def test_the_independent_reader_restores_the_same(tree: list[Plan]) -> None:
    check_rescue_restores(tree)


@pytest.mark.slow
@examples(MANY)
@given(plans(60))
def test_the_independent_reader_restores_the_same_many(tree: list[Plan]) -> None:
    check_rescue_restores(tree)


def test_a_restore_counts_links_as_what_they_are(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_bytes(b"1")
    os.mkfifo(top / "fifo")
    for name in ("file", "fifo"):
        os.link(top / name, top / f"{name} again")
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        result = store.restore("latest", target=tmp_path / "out", verify=True)
    assert (result.files, result.directories, result.others) == (2, 1, 2)
    assert result.verified_files == 1


def test_links_that_are_taken_twice_are_sound(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    top.mkdir()
    (top / "file").write_bytes(b"1")
    os.link(top / "file", top / "link")
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        store.create(top)
        assert store.check(read_data=True).problems == []
    assert not rescue().Store(tmp_path / "store").check()


# Incrementally


def check_increments(tree: list[Plan], steps: list[list[Change]], wait_s: float = 0) -> None:
    """After each step: taken with the stat cache, afresh, and with `rehash`, the same root."""
    with workplace() as place:
        top = place / "tree"
        build(os.fsencode(top), tree)
        with snapstore.init(place / "store") as store:
            time.sleep(wait_s)
            root_id(store, top)
            for number, step in enumerate(steps):
                change_tree(os.fsencode(top), step)
                id = root_id(store, top)
                assert id == fresh_id(place / f"fresh{number}", top)
                assert id == root_id(store, top, rehash=True)
                time.sleep(wait_s if number + 1 < len(steps) else 0)
            out = place / "out"
            assert store.restore("latest", target=out).problems == []
            assert_same(scan(top), scan(out))


@examples(20)
@given(plans(), st.lists(changes(), min_size=1, max_size=2))
def test_an_increment_is_what_is_taken_afresh(tree: list[Plan], steps: list[list[Change]]) -> None:
    check_increments(tree, steps)


@examples(5)
@given(plans(60, min_size=25), changes(20, min_size=10))
def test_an_increment_over_settled_files_is_what_is_taken_afresh(
    tree: list[Plan], step: list[Change]
) -> None:
    check_increments(tree, [step], wait_s=SETTLED_S)


@pytest.mark.slow
@examples(MANY // 4)
@given(plans(60, min_size=10), st.lists(changes(20, min_size=5), min_size=1, max_size=3))
def test_an_increment_over_settled_files_is_what_is_taken_afresh_many(
    tree: list[Plan], steps: list[list[Change]]
) -> None:
    check_increments(tree, steps, wait_s=SETTLED_S)


@pytest.mark.parametrize("rehash", [False, True])
def test_no_change_of_a_settled_file_is_so_quiet_that_it_is_missed(
    tmp_path: Path, rehash: bool
) -> None:
    """Each change leaves name, type, size and time of modification as they were."""
    top = tmp_path / "tree"
    top.mkdir()
    names = ["edited", "replaced", "one", "other", "mode", "attribute", "holes", "linked", "copied"]
    for number, name in enumerate(names):
        (top / name).write_bytes(noise(20_000, number))
        os.utime(top / name, ns=(0, 10**18))
    os.link(top / "copied", top / "copied too")
    os.symlink("a", top / "symlink")
    os.utime(top / "symlink", ns=(0, 10**18), follow_symlinks=False)
    with snapstore.init(tmp_path / "store") as store:
        time.sleep(SETTLED_S)
        os.utime(top, ns=(0, 10**18))
        ids = [root_id(store, top)]
        for number, (name, change) in enumerate(quiet_changes(top)):
            change()
            os.utime(top / name, ns=(0, 10**18), follow_symlinks=False)
            os.utime(top, ns=(0, 10**18))
            ids.append(root_id(store, top, rehash=rehash))
            assert ids[-1] != ids[-2], name
            assert ids[-1] == fresh_id(tmp_path / f"fresh{number}", top), name


def quiet_changes(top: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The name that is changed, and how. All others stay settled."""

    def replace() -> None:
        (top / "new").write_bytes(noise(20_000, 99))
        os.utime(top / "new", ns=(0, 10**18))
        (top / "new").rename(top / "replaced")

    def exchange() -> None:
        (top / "one").rename(top / "aside")
        (top / "other").rename(top / "one")
        (top / "aside").rename(top / "other")

    def point_elsewhere() -> None:
        (top / "symlink").unlink()
        (top / "symlink").symlink_to("b")

    def unlink() -> None:
        shutil.copy2(top / "copied", top / "new")
        (top / "new").rename(top / "copied")

    yield "edited", lambda: (top / "edited").write_bytes(noise(20_000, 98))
    yield "replaced", replace
    yield "one", exchange
    yield "mode", lambda: (top / "mode").chmod(0o4711)
    yield "holes", lambda: write_file(os.fsencode(top / "holes"), [Part("hole", 20_000)])
    yield "linked", lambda: os.link(top / "linked", top / "linked too")
    yield "copied", unlink
    yield "symlink", point_elsewhere
    with contextlib.suppress(OSError):
        os.setxattr(top / "attribute", "user.a", b"1")
        yield "attribute", lambda: os.setxattr(top / "attribute", "user.a", b"2")


# Not opened


def settled_tree(top: Path) -> None:
    """Files in two directories, with links, attributes and holes; old enough to be trusted."""
    for directory in ("a", "b/deep"):
        (top / directory).mkdir(parents=True)
        for number in range(20):
            (top / directory / f"file{number}").write_bytes(noise(10_000 * number, number))
    write_file(
        os.fsencode(top / "sparse"), [Part("hole", 1 << 20), Part("noise", 4_096), Part("hole", 99)]
    )
    os.link(top / "a/file3", top / "b/linked")
    (top / "symlink").symlink_to("a")
    time.sleep(SETTLED_S)


def test_what_is_unchanged_is_not_read(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    settled_tree(top)
    files = sum(fact.type == "file" for fact in scan(top).values())
    with snapstore.init(tmp_path / "store") as store:
        first = store.create(top)
        again = store.create(top)
        assert (first.new_files, first.unchanged_files) == (files, 0)
        assert (again.new_files, again.changed_files, again.unchanged_files) == (0, 0, files)
        assert (again.read_bytes, again.new_bytes) == (0, 0)
        assert again.snapshot is not None and first.snapshot is not None
        assert again.snapshot.roots == first.snapshot.roots

        (top / "b/deep/file7").write_bytes(b"changed" * 1_000)
        one = store.create(top)
        assert (one.new_files, one.changed_files, one.unchanged_files) == (0, 1, files - 1)
        assert one.read_bytes == 7_000
        assert store.restore("latest", target=tmp_path / "out").success
    assert_same(scan(top), scan(tmp_path / "out"))


@pytest.mark.needs("trace")
def test_what_is_unchanged_is_not_opened(tmp_path: Path) -> None:
    top, trace = tmp_path / "tree", tmp_path / "trace"
    settled_tree(top)
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
    (top / "a/file5").write_bytes(b"changed")
    script = "import sys, snapstore; snapstore.open(sys.argv[1]).create(sys.argv[2])"
    traced: list[str | Path] = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2"]
    run = [*traced, "-o", trace, sys.executable, "-c", script, tmp_path / "store", top]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in top.rglob("*") if path.is_file()}
    opened = [line.split('"')[1] for line in trace.read_text().splitlines() if '"' in line]
    assert [path for path in opened if os.path.basename(path) in names] == ["file5"]
