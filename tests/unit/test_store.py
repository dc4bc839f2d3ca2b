"""The library as it is called: stores, creates, listings, restores, checks."""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import snapstore
from snapstore import CreateResult, Progress, Store, Stream
from snapstore.base import errors
from snapstore.model import names
from snapstore.model.config import Config
from snapstore.ops import check as checking
from snapstore.ops.running import Meter
from snapstore.repository import medium, objects
from snapstore.repository.open import Repository, new_id

CHEAP = snapstore.Kdf(memory_kib=8192, passes=1, lanes=1)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with snapstore.init(place) as store:
        yield store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree whose files are old enough to be trusted by the stat cache."""
    path = tmp_path / "source"
    (path / "sub" / "deep").mkdir(parents=True)
    (path / "a").write_bytes(b"alpha")
    (path / "empty").write_bytes(b"")
    (path / "sub" / "big").write_bytes(os.urandom(300_000))
    (path / "sub" / "deep" / "c").write_bytes(b"gamma" * 1000)
    (path / "link").symlink_to("sub/big")
    return path


def contents(path: Path) -> dict[str, bytes | str]:
    """Files and links below a directory."""
    found: dict[str, bytes | str] = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_symlink():
            found[name] = os.readlink(file)
        elif file.is_file():
            found[name] = file.read_bytes()
    return found


def made(result: CreateResult) -> snapstore.Snapshot:
    assert result.snapshot is not None
    return result.snapshot


# Stores


def test_a_store_is_private_and_opens_again(place: Path) -> None:
    with snapstore.init(
        place, compression="small", block_bytes=1 << 18, chunk_bytes=1 << 16
    ) as made:
        id = made.id
    assert place.stat().st_mode & 0o777 == 0o700
    with snapstore.open(place) as store:
        assert (store.id, store.writable, store.path) == (id, True, place)
        assert (store.config.compression, store.config.chunk_bytes) == ("small", 1 << 16)


def test_init_only_where_nothing_is(tmp_path: Path, place: Path) -> None:
    place.mkdir()
    snapstore.init(place).close()
    (tmp_path / "file").touch()
    for path in (place, tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.StoreExists):
            snapstore.init(path)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_init_that_fails_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise failure

    for there in (False, True):
        for step in ("fsync", "link"):
            monkeypatch.setattr(os, step, fail)
            with pytest.raises((errors.NoSpace, KeyboardInterrupt)):
                snapstore.init(place)
            monkeypatch.undo()
            assert place.exists() == there
            assert not there or os.listdir(place) == []
        place.mkdir(exist_ok=True)
    snapstore.init(place).close()


def test_an_init_that_was_killed_is_done_again(place: Path) -> None:
    for name in ("data", "tmp", "snap"):
        (place / name).mkdir(parents=True)
    (place / "tmp" / ("ab" * 16)).write_bytes(b"half a config")
    with pytest.raises(errors.StoreNotFound):
        snapstore.open(place)
    (place / "data" / "mine").touch()
    with pytest.raises(errors.StoreExists):
        snapstore.init(place)
    with pytest.raises(errors.NotAStore):
        snapstore.open(place)
    (place / "data" / "mine").unlink()
    snapstore.init(place).close()
    assert len(os.listdir(place)) == 12


def test_of_several_inits_at_once_one_makes_the_store(place: Path, source: Path) -> None:
    done: list[object] = []

    def make() -> None:
        try:
            done.append(snapstore.init(place))
        except errors.StoreExists as error:
            done.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (store,) = (one for one in done if isinstance(one, Store))
    assert len(done) == 8
    assert store.create(source).snapshot is not None
    store.close()
    with snapstore.open(place) as store:
        assert len(store.snapshots()) == 1


def test_open_what_is_no_store(tmp_path: Path, store: Store) -> None:
    for path in (tmp_path / "nowhere", tmp_path / "no" / "where"):
        with pytest.raises(errors.StoreNotFound):
            snapstore.open(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.StoreNotFound):
        snapstore.open(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(errors.NotAStore):
            snapstore.open(path)
    with pytest.raises(errors.InvalidArgument):
        snapstore.open(store.path, mode="w")  # type: ignore[arg-type]


def test_a_damaged_config_is_no_store(store: Store, place: Path) -> None:
    store.close()
    data = bytearray((place / "config").read_bytes())
    data[40] ^= 1
    (place / "config").chmod(0o600)
    (place / "config").write_bytes(data)
    with pytest.raises((errors.NotAStore, errors.DamagedObject)):
        snapstore.open(place)


def test_a_closed_store_is_of_no_use(store: Store, source: Path) -> None:
    store.close()
    store.close()
    for use in (store.snapshots, store.stats, lambda: store.create(source)):
        with pytest.raises(errors.StoreFailed, match="closed"):
            use()


def test_what_a_closed_store_gave_does_not_open_it_again(store: Store, source: Path) -> None:
    store.create(source)
    repository = store._repository
    given = [store.ls("latest", recursive=True), store.read("latest", "a"), store.find("*")]
    store.close()
    for left in given:
        with contextlib.suppress(errors.StoreFailed):
            list(left)
    assert repository._index is None
    for use in (repository.index, repository.reader):
        with pytest.raises(errors.StoreFailed, match="closed"):
            use()


def test_a_path_that_is_not_there_is_told_by_the_call(store: Store, source: Path) -> None:
    """Not by what it gives, which may be used when it is too late to do anything else."""
    store.create(source)
    for call in (store.ls, store.read):
        with pytest.raises(errors.PathNotFound):
            call("latest", "nothing")
    with pytest.raises(errors.InvalidArgument):
        store.read("latest", "sub")


def test_a_forked_store_is_of_no_use(store: Store) -> None:
    child = os.fork()
    if child == 0:
        try:
            store.snapshots()
        except errors.StoreForked:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_importing_is_cheap() -> None:
    code = "import sys, snapstore; print([m for m in ('lmdb', 'blake3') if m in sys.modules])"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(snapstore.__all__) <= set(dir(snapstore))
    assert all(getattr(snapstore, name) is not None for name in snapstore.__all__)
    with pytest.raises(AttributeError):
        snapstore.nothing  # type: ignore[attr-defined]  # noqa: B018


# Creating


def test_what_a_snapshot_says(store: Store, source: Path) -> None:
    seen: list[Progress] = []
    result = store.create(
        source,
        name="n",
        tags=["b", "a", "b"],
        description="text",
        metadata={"k": {"deep": [1, None, True]}},
        time="2026-01-02T03:04:05Z",
        created_by={"type": "system", "id": "cron"},
        kind="system",
        progress=seen.append,
    )
    snapshot = made(result)
    assert (snapshot.name, snapshot.tags, snapshot.description) == ("n", ("a", "b"), "text")
    assert snapshot.metadata == {"k": {"deep": [1, None, True]}}
    assert snapshot.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (snapshot.kind, snapshot.created_by["id"], snapshot.partial) == ("system", "cron", False)
    (root,) = snapshot.roots
    assert (root.path, root.kind, root.bytes) == (os.fsencode(source), "directory", 305_005)
    assert snapshot.source == f"{snapshot.host}:{source}"
    assert (result.files, result.directories, result.new_files) == (4, 3, 4)
    assert result.new_bytes == result.read_bytes == 305_005 or result.new_bytes <= 305_005
    assert not result.partial
    assert seen[-1].phase == "create"
    assert seen[-1].files_done == 4
    json.dumps(result.to_dict())
    assert list((store.path / "tmp").iterdir()) == []
    assert list((store.path / "sess").iterdir()) == []


def test_the_same_again_costs_nothing_and_has_a_parent(store: Store, source: Path) -> None:
    first = store.create(source)
    second = store.create(source)
    assert made(second).parents == (made(first).id,)
    assert second.parent == made(first).id
    assert made(second).roots == made(first).roots
    assert second.stored_bytes == second.new_bytes == 0
    (source / "a").write_bytes(b"changed")
    third = store.create(source, parent=made(first).id)
    assert made(third).parents == (made(first).id,)
    assert made(third).roots != made(first).roots


def test_series_are_kept_apart(store: Store, source: Path) -> None:
    store.create(source, source="one")
    assert made(store.create(source, source="two")).parents == ()
    assert made(store.create(source, source="one", host="elsewhere")).parents == ()
    assert len(made(store.create(source, source="one")).parents) == 1


def test_skip_if_unchanged(store: Store, source: Path) -> None:
    assert not store.create(source, skip_if_unchanged=True).skipped
    again = store.create(source, skip_if_unchanged=True)
    assert again.skipped
    assert made(again).id == store.get("latest").id
    assert len(store.snapshots()) == 1
    (source / "new").touch()
    assert not store.create(source, skip_if_unchanged=True).skipped


def test_a_dry_run_writes_nothing(store: Store, source: Path) -> None:
    def objects() -> set[Path]:
        return {p for p in store.path.rglob("*") if "local" not in p.parts}

    before = objects()
    result = store.create(source, dry_run=True)
    assert result.dry_run
    assert result.snapshot is None
    assert result.new_bytes > 300_000
    assert objects() == before


def test_several_roots_images_and_streams(store: Store, source: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"\1" * 100_000)
    with open(source / "a", "rb") as file:
        result = store.create(
            source,
            source,
            source / "sub",
            images=[image],
            streams=[
                Stream("out", command=["printf", "%s", "a b"]),
                Stream("shell", command="echo hello | tr h j"),
                Stream("file", fd=file),
            ],
        )
    snapshot = made(result)
    kinds = [(root.path.rpartition(b"/")[2], root.kind) for root in snapshot.roots]
    assert kinds == [
        (b"source", "directory"),
        (b"sub", "directory"),
        (b"disk", "image"),
        (b"out", "stream"),
        (b"shell", "stream"),
        (b"file", "stream"),
    ]
    assert b"".join(store.read("latest", "out")) == b"a b"
    assert b"".join(store.read("latest:shell")) == b"jello\n"
    assert b"".join(store.read("latest:file")) == b"alpha"
    assert [stream["exit"] for stream in snapshot.streams] == [0, 0, 0]


@pytest.mark.parametrize(
    "command", ["echo x; exit 3", ["false"], ["/no/such/command"], "kill -9 $$"]
)
def test_a_command_that_fails_commits_nothing(store: Store, source: Path, command: str) -> None:
    with pytest.raises(errors.CommandFailed):
        store.create(source, streams=[Stream("out", command=command)])
    assert store.snapshots() == []
    assert list((store.path / "snap").iterdir()) == []


def test_what_makes_no_sense(store: Store, source: Path, tmp_path: Path) -> None:
    for wrong in (
        lambda: store.create(),
        lambda: store.create(""),
        lambda: store.create(source, kind="other"),
        lambda: store.create(source, name=""),
        lambda: store.create(source, compression="best"),
        lambda: store.create(source, metadata={"k": 1.5}),
        lambda: store.create(source, time="never"),
        lambda: store.create(streams=[Stream("a/b", command="true")]),
        lambda: store.create(streams=[Stream("a", command="true"), Stream("a", command="true")]),
        lambda: Stream("a"),
        lambda: store.snapshots(order="colour"),
        lambda: store.snapshots(limit=-1),
    ):
        with pytest.raises(errors.InvalidArgument):
            wrong()
    with pytest.raises(errors.SnapshotNotFound):
        store.create(source, parent="nobody")
    with pytest.raises(errors.SourceNotFound):
        store.create(tmp_path / "nowhere")
    with pytest.raises(errors.SourceUnreadable):
        store.create(source, exclude_files=[tmp_path / "nowhere"])
    assert store.snapshots() == []


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        {"created_by": {"type": "user"}},
        {"created_by": {"type": "user", "id": 7}},
        {"created_by": {"type": "user", "id": "me", "at": 1.5}},
        {"metadata": {"k": 1 << 64}},
        {"name": "\udcff"},
        {"tags": ["\udcff"]},
        {"description": "\udcff"},
        {"source": "\udcff"},
        {"host": "\udcff"},
    ],
)
def test_what_cannot_be_recorded_is_said_before_anything_is_read(
    store: Store, source: Path, tmp_path: Path, wrong: dict[str, Any], dry_run: bool
) -> None:
    def read(_: Progress) -> None:
        pytest.fail("something was read")

    with pytest.raises(errors.InvalidArgument):
        store.create(source, **wrong, dry_run=dry_run, progress=read)
    with pytest.raises(errors.InvalidArgument):  # not that the archive is missing
        store.import_tar(tmp_path / "nowhere.tar", **wrong, dry_run=dry_run)


def test_a_text_where_a_list_is_meant_is_not_taken_letter_by_letter(
    store: Store, source: Path, tmp_path: Path
) -> None:
    store.create(source)
    calls: dict[str, Callable[..., object]] = {
        "exclude": lambda **one: store.create(source, **one),
        "exclude_files": lambda **one: store.create(source, **one),
        "exclude_if_present": lambda **one: store.explain(source, source, **one),
        "tags": lambda **one: store.create(source, **one),
        "images": lambda **one: store.create(source, **one),
        "listed": lambda **one: store.create(source, **one),
        "paths": lambda **one: store.restore("latest", target=tmp_path / "out", **one),
        "ignore": lambda **one: store.diff("latest", "latest", **one),
        "types": lambda **one: store.find("*", **one),
    }
    for name, call in calls.items():
        for alone in ("a", b"a", Path("a")):
            with pytest.raises(errors.InvalidArgument, match=f"{name} takes a list"):
                call(**{name: alone})
    with pytest.raises(errors.InvalidArgument, match="tags takes a list"):
        store.import_tar(tmp_path / "x.tar", tags="a")
    with pytest.raises(errors.InvalidArgument, match="paths takes a list"):
        store.diff("latest", "latest", paths=os.fspath(source))
    assert len(store.snapshots()) == 1


def test_excludes(store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("# comment\ndeep/\n")
    result = store.create(source, exclude=["*.o", "empty"], exclude_files=[tmp_path / "rules"])
    listed = {entry.path.rpartition(b"/")[2] for entry in store.ls("latest", recursive=True)}
    assert listed == {b"source", b"a", b"link", b"sub", b"big"}
    assert result.excluded == 2
    assert made(result).rules == {"exclude": ["*.o", "empty", "deep/"]}


def test_the_store_is_never_swallowed(store: Store, tmp_path: Path, source: Path) -> None:
    result = store.create(tmp_path)
    paths = [entry.path for entry in store.ls("latest", recursive=True)]
    assert os.fsencode(source / "a") in paths
    assert not any(path.startswith(os.fsencode(store.path) + b"/") for path in paths)
    assert not result.partial


def test_an_interrupted_create_leaves_what_it_packed(store: Store, source: Path) -> None:
    for number in range(40):
        (source / f"f{number}").write_bytes(os.urandom(4 << 20))

    def stop(progress: Progress) -> None:
        if progress.bytes_done > 100 << 20:
            raise KeyboardInterrupt

    with pytest.raises(errors.Cancelled):
        store.create(source, progress=stop)
    assert store.snapshots() == []
    assert list((store.path / "sess").iterdir()) == []
    assert any((store.path / "data").rglob("?" * 64))
    result = store.create(source)
    assert result.new_bytes < 130 << 20
    assert store.check(read_data=True).ok


def test_an_observer_that_fails_ends_the_create(store: Store, source: Path) -> None:
    def fail(progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.create(source, progress=fail)
    assert store.snapshots() == []
    store.create(source)


def test_creates_from_several_threads(store: Store, tmp_path: Path) -> None:
    shared = os.urandom(500_000)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(3):
                path = tmp_path / f"source{number}"
                path.mkdir(exist_ok=True)
                (path / f"f{step}").write_bytes(shared + bytes([number, step]))
                store.create(path, name=f"n{number}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(store.snapshots()) == 12
    assert store.check(read_data=True).ok


# What is published


def test_refs_name_exactly_the_packs_that_are_needed(store: Store, source: Path) -> None:
    snapshot = made(store.create(source))
    repository = store._repository
    refs = repository.catalog.refs(snapshot.id)
    assert refs is not None
    assert refs.exact
    sizes = {(p.kind, p.id): p.size for p in refs.packs}
    packs = list(repository.objects.packs())
    assert sorted(sizes) == sorted(packs)
    for kind, id in packs:
        assert repository.objects.size(names.pack(kind, id)) == sizes[kind, id]
    second = repository.catalog.refs(made(store.create(source, rehash=True)).id)
    assert second is not None
    assert {p.id for p in second.packs} == {p.id for p in refs.packs}


def test_stat_caches_belong_to_snapshots(store: Store, source: Path) -> None:
    caches = store.path / "local" / "stat"
    first = made(store.create(source))
    assert [path.name[33:] for path in caches.iterdir()] == [first.id]
    second = made(store.create(source))
    assert [path.name[33:] for path in caches.iterdir()] == [second.id]
    (store.path / "snap" / second.id).unlink()
    assert store.create(source).unchanged_files == 0


# Listing


def test_snapshots_are_filtered_and_ordered(store: Store, source: Path) -> None:
    store.create(source, name="b", tags=["x"], time="2026-01-02", source="s")
    store.create(source, name="a", tags=["x", "y"], time="2026-01-01", host="h", source="s")
    store.create(source / "sub", name="c", time="2026-01-03", kind="safety", source="t")

    def found(**filters: object) -> str:
        return "".join(s.name or "-" for s in store.snapshots(**filters))  # type: ignore[arg-type]

    assert found() == "ba"
    assert found(all=True) == "cba"
    assert found(kind="safety") == "c"
    assert found(tag="y") == "a"
    assert found(host="h") == "a"
    assert found(name="b") == "b"
    assert found(source="s", order="name") == "ab"
    assert found(order="created_at", all=True, limit=2) == "ab"
    assert found(order="size_bytes", all=True) in ("cab", "cba")
    assert found(partial=True) == ""


def test_references(store: Store, source: Path) -> None:
    first, second = (made(store.create(source, name=name)) for name in ("one", "two:2"))
    assert store.get("latest") == second
    assert store.get("latest~1") == store.get("one") == store.get(first.id[:20]) == first
    assert store.find_one("nobody") is None
    assert store.resolve("two:2") == (second, None)
    assert store.resolve("two:2:/etc") == (second, b"/etc")
    with pytest.raises(errors.SnapshotNotFound):
        store.get("nobody")


def test_ls(store: Store, source: Path) -> None:
    store.create(source)

    def listed(ref: str, path: str = "", recursive: bool = False) -> list[str]:
        entries = store.ls(ref, path, recursive=recursive)
        return [os.fsdecode(entry.path).replace(str(source), "S") for entry in entries]

    assert listed("latest") == ["S"]
    everything = ["S", "S/a", "S/empty", "S/link", "S/sub", "S/sub/big", "S/sub/deep"]
    assert listed("latest", recursive=True) == [*everything, "S/sub/deep/c"]
    below = ["S/sub/big", "S/sub/deep"]
    assert listed("latest", str(source / "sub")) == listed("latest", "sub") == below
    assert listed("latest:sub/") == listed(f"latest:{source}//sub") == below
    assert listed("latest", "sub", recursive=True) == [*below, "S/sub/deep/c"]
    assert listed("latest:a") == ["S/a"]
    assert listed("latest", str(source.parent)) == ["S"]
    assert listed("latest", "/", recursive=True)[0] == "S"
    shown = [entry.to_dict() for entry in store.ls("latest:link")]
    assert (shown[0]["type"], shown[0]["target"], shown[0]["size"]) == ("symlink", "sub/big", 7)
    for wrong in ("nothing", "a/b", "sub/../a", "link/x", "/elsewhere"):
        with pytest.raises(errors.PathNotFound):
            listed("latest", wrong)


def test_read(store: Store, source: Path) -> None:
    store.create(source)
    assert b"".join(store.read("latest:sub/big")) == (source / "sub" / "big").read_bytes()
    assert b"".join(store.read("latest", source / "empty")) == b""
    for wrong in ("sub", "link"):
        with pytest.raises(errors.InvalidArgument):
            list(store.read("latest", wrong))
    with pytest.raises(errors.PathNotFound):
        list(store.read("latest", "nothing"))


# Restoring


def test_one_root_becomes_the_contents_of_the_target(
    store: Store, source: Path, tmp_path: Path
) -> None:
    store.create(source)
    out = tmp_path / "out"
    seen: list[Progress] = []
    result = store.restore("latest", target=out, verify=True, progress=seen.append)
    assert contents(out) == contents(source)
    assert result.success
    assert (result.files, result.target) == (4, os.fsencode(out))
    assert result.verified_files >= 3
    assert seen[-1].phase == "restore"
    json.dumps(result.to_dict())
    assert list((store.path / "sess").iterdir()) == []


def test_several_roots_keep_their_paths(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source / "sub", source / "a", streams=[Stream("out", command="echo x")])
    out = tmp_path / "out"
    store.restore("latest", target=out)
    below = Path(str(out) + str(source))
    assert contents(below / "sub") == contents(source / "sub")
    assert (below / "a").read_bytes() == b"alpha"
    assert (out / "out").read_bytes() == b"x\n"


def test_roots_inside_each_other(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source, source / "sub", source / "a")
    out = tmp_path / "out"
    assert store.restore("latest", target=out).success
    assert contents(Path(str(out) + str(source))) == contents(source)


def test_subtrees_and_chosen_paths(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source)
    whole = contents(source)
    cases: list[tuple[str, list[str | Path], set[str]]] = [
        ("latest:sub", [], {"big", "deep/c"}),
        (f"latest:{source}/sub/deep", [], {"c"}),
        ("latest:sub/deep/c", [], {"c"}),
        ("latest:a", [], {"a"}),
        ("latest", [source / "a", "sub/deep"], {"a", "sub/deep/c"}),
        ("latest", [source], set(whole)),
    ]
    for ref, paths, expected in cases:
        out = tmp_path / "out"
        store.restore(ref, target=out, paths=paths)
        assert set(contents(out)) == expected, ref
        os.system(f"rm -rf '{out}'")
    for ref, paths in [("latest:nothing", []), ("latest", ["a", "nothing"])]:
        with pytest.raises(errors.PathNotFound):
            store.restore(ref, target=tmp_path / "out", paths=paths)
        assert not (tmp_path / "out").exists()


def test_roots_that_are_no_directories(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source / "a")
    store.restore("latest", target=tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"alpha"}


def test_targets_that_cannot_be(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source)
    for target in (source / "a", tmp_path / "no" / "where", store.path / "out", store.path):
        with pytest.raises(errors.TargetInvalid):
            store.restore("latest", target=target)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert store.restore("latest", target=empty).success


# Keeping


def test_check_finds_nothing_wrong(store: Store, source: Path) -> None:
    assert store.check().ok
    store.create(source)
    store.create(source / "sub", name="two")
    (store.path / "README").write_text("foreign")
    for report in (store.check(), store.check(read_data=True), store.check("two", read_data=0.5)):
        assert report.ok
        assert report.complete
        json.dumps(report.to_dict())
    assert [p.kind for p in store.check().problems] == ["foreign"]
    assert store.check("two").problems == []
    assert not store.check(read_data=True, time_limit="0s").complete


def test_a_time_limit_bounds_the_trees_too(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it comes when they are being checked."""
    store.create(source)
    check_trees = checking._Check._check_trees

    def late(self: checking._Check, *arguments: Any) -> tuple[int, int]:
        self._left_s = lambda: 1e-9  # type: ignore[method-assign]
        return check_trees(self, *arguments)

    monkeypatch.setattr(checking._Check, "_check_trees", late)
    report = store.check(time_limit="10m")
    assert (report.ok, report.packs > 0, report.nodes, report.complete) == (True, True, 0, False)


def test_problems_that_are_not_listed_count(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core lists no more than 100,000 of the packs, and of the trees."""
    store.create(source)
    wait = Meter.wait

    def many(self: Meter, task: Any) -> Any:
        result = wait(self, task)
        fields = {name: getattr(result, name) for name in dir(result) if name[0] != "_"}
        return SimpleNamespace(**fields | {"problem_count": 100_001})

    monkeypatch.setattr(Meter, "wait", many)
    report = store.check()
    assert (report.ok, report.problem_count, report.problems) == (False, 200_002, [])


def test_check_says_what_damage_hits(store: Store, source: Path) -> None:
    snapshot = made(store.create(source))
    (pack,) = (store.path / "data").rglob("?" * 64)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    assert store.check().ok  # structure alone
    report = store.check(read_data=True)
    assert not report.ok
    kinds = {problem.kind for problem in report.problems}
    assert kinds == {"pack", "tree"}
    hit = {item for problem in report.problems for item in problem.affected}
    assert (snapshot.id, os.fsencode(source / "sub" / "big")) in hit
    pack.unlink()
    report = store.check()
    assert not report.ok
    assert any(p.affected for p in report.problems)


def test_stats(store: Store, source: Path) -> None:
    assert store.stats().snapshots == 0
    store.create(source)
    store.create(source)
    stats = store.stats()
    assert (stats.snapshots, stats.packs, stats.logical_bytes) == (2, 2, 2 * 305_005)
    files = [p for p in store.path.rglob("*") if p.is_file() and "local" not in p.parts]
    assert stats.stored_bytes == sum(p.stat().st_size for p in files)
    assert stats.total_ratio > 1
    json.dumps(stats.to_dict())


def test_reindex_reads_everything_again(store: Store, source: Path) -> None:
    store.create(source)
    torn = store.path / "data" / "ab" / ("ab" * 32)
    torn.parent.mkdir(exist_ok=True)
    torn.write_bytes(b"SNAPPACK torn")
    seen: list[Progress] = []
    result = store.reindex(progress=seen.append)
    assert result.packs == 2
    assert result.chunks > 5
    assert [name for name, _ in result.unreadable] == [f"data/ab/{torn.name}"]
    assert seen[0].phase == "reindex"
    json.dumps(result.to_dict())
    assert store.create(source, rehash=True).new_bytes == 0
    assert "data/ab/" + torn.name in {p.name for p in store.check().problems}


# The index and where it is


def test_without_an_index_nothing_is_lost(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source)
    store.close()
    os.system(f"rm -rf '{store.path}/local'")
    with snapstore.open(store.path) as again:
        assert again.restore("latest", target=tmp_path / "out").success
        assert again.create(source).new_bytes == 0
    assert contents(tmp_path / "out") == contents(source)


def test_an_index_of_another_store_is_replaced(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source)
    store.close()
    with snapstore.init(tmp_path / "other") as other:
        other.create(source / "sub")
    os.system(f"rm -rf '{store.path}/local'; cp -a '{tmp_path}/other/local' '{store.path}/local'")
    with snapstore.open(store.path) as again:
        assert again.create(source).new_bytes == 0
        assert again.check(read_data=True).ok


def test_packs_that_another_machine_wrote_are_found(
    store: Store, source: Path, tmp_path: Path
) -> None:
    os.system(f"cp -a '{store.path}/local' '{tmp_path}/old'")
    store.create(source)
    store.close()
    os.system(f"rm -rf '{store.path}/local'; cp -a '{tmp_path}/old' '{store.path}/local'")
    with snapstore.open(store.path) as again:
        assert b"".join(again.read("latest:a")) == b"alpha"
        assert again.create(source).new_bytes == 0


def test_packs_that_vanished_are_not_relied_on(store: Store, source: Path) -> None:
    store.create(source)
    for pack in (store.path / "data").rglob("?" * 64):
        pack.unlink()
    result = store.create(source)
    assert result.new_bytes > 300_000
    assert store.check(made(result).id, read_data=True).ok


def test_what_others_can_write_is_left_alone(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source)
    store.close()
    (store.path / "local").chmod(0o777)
    cache = tmp_path / "cache"
    with snapstore.open(store.path, cache_dir=cache) as again:
        assert again.create(source).new_bytes == 0
        assert list((cache / store.id).glob("index-*"))
    with snapstore.open(store.path) as again:  # a temporary one
        assert again.create(source).new_bytes == 0


def test_a_pack_that_comes_while_packs_are_listed_is_not_taken_for_deleted(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(source)
    objects = store._repository.objects
    listing = objects.packs

    def slow_listing() -> object:
        found = listing()
        if not (source / "new").exists():
            (source / "new").write_bytes(os.urandom(50_000))
            with snapstore.open(store.path) as other:
                other.create(source)
        return found

    monkeypatch.setattr(objects, "packs", slow_listing)
    store._repository.synchronise()
    assert store._repository.index().gone == frozenset()
    assert len(store._repository.index().rows()) == len(listing())


def test_on_a_network_file_system_the_index_is_elsewhere(
    store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    os.system(f"rm -rf '{store.path}/local'")
    monkeypatch.setattr(medium, "network_kind", lambda path: "nfs")
    for cache in (tmp_path / "cache", None):
        with snapstore.open(store.path, cache_dir=cache) as again:
            again.create(source, rehash=True)
            assert again.check(read_data=True).ok
    assert not (store.path / "local").exists()


def test_network_kinds() -> None:
    assert medium.network_kind(Path("/proc")) is None
    with pytest.raises(FileNotFoundError):
        medium.network_kind(Path("/no/where"))


# For reading only


def test_mode_r_writes_no_object(store: Store, source: Path, tmp_path: Path) -> None:
    store.create(source)
    store.close()

    def objects() -> dict[Path, int]:
        found = (p for p in store.path.rglob("*") if "local" not in p.parts)
        return {p: p.stat().st_mtime_ns for p in found}

    before = objects()
    with snapstore.open(store.path, mode="r") as reading:
        assert not reading.writable
        assert len(reading.snapshots()) == 1
        assert reading.check(read_data=True).ok
        assert reading.restore("latest", target=tmp_path / "out").success
        assert reading.stats().packs == 2
        assert reading.create(source, dry_run=True).dry_run
        with pytest.raises(errors.StoreReadOnly):
            reading.create(source)
    assert objects() == before


def test_a_snapshot_that_cannot_be_read_is_shown_and_spares_the_others(
    store: Store, source: Path, tmp_path: Path
) -> None:
    bad, good = (made(store.create(source, name=name)) for name in ("bad", "good"))
    path = store.path / "snap" / bad.id
    path.chmod(0o600)
    path.write_bytes(b"nonsense")
    assert {s.id: s.status for s in store.snapshots()} == {bad.id: "damaged", good.id: "ready"}
    assert store.restore(good.id, target=tmp_path / "out").success
    assert store.get("bad").id == bad.id
    assert store.get("latest") == good
    for use in (
        lambda: store.restore("bad", target=tmp_path / "out2"),
        lambda: store.restore(bad.id, target=tmp_path / "out2"),
        lambda: list(store.ls(bad.id)),
        lambda: list(store.read(bad.id, "a")),
    ):
        with pytest.raises(errors.DamagedObject):
            use()
    report = store.check()
    assert [(p.kind, p.affected) for p in report.problems] == [("snapshot", ((bad.id, b""),))]


def test_an_object_that_may_not_be_read_costs_only_itself(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is damaged; root, as whom tests may run, may read everything."""
    closed, good = (made(store.create(source, name=name)) for name in ("closed", "good"))
    open_at_once = objects.open_at_once
    refs = [path.name for path in (store.path / "refs").glob(f"{good.id}*")]
    lease = store.path / "sess" / ("01" + "a" * 24 + "-0000")
    lease.touch()

    def refused(path: str | os.PathLike[str], flags: int) -> int:
        if os.path.basename(path) in (closed.id, lease.name, *refs):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open_at_once(path, flags)

    monkeypatch.setattr(objects, "open_at_once", refused)
    store.path.joinpath("local", "catalog").unlink(missing_ok=True)
    with snapstore.open(store.path) as store:
        assert {s.id: s.status for s in store.snapshots()} == {
            closed.id: "damaged",
            good.id: "ready",
        }
        assert store.get("good") == good
        assert [p.name for p in store.check().problems] == [f"snap/{closed.id}", f"refs/{good.id}"]
        assert made(store.create(source)).parents == (good.id,)


def test_a_store_that_may_not_be_read_is_not_opened(
    place: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str | os.PathLike[str], flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("snapstore.repository.open.open_at_once", refused)
    with pytest.raises(errors.OperationDenied, match="cannot read"):
        snapstore.open(place)


# Sealed stores


def sealed(place: Path) -> None:
    config = Config.new(new_id(), new_id(), "test", sealed=True)
    Repository.init(place, config, password=b"secret", kdf=CHEAP).close()


def test_a_sealed_store(place: Path, source: Path, tmp_path: Path) -> None:
    sealed(place)
    with snapstore.open(place, password=b"secret") as store:
        assert store.config.sealed
        store.create(source, name="hidden-name")
        assert store.check(read_data=True).ok
    cache = tmp_path / "cache"
    with snapstore.open(place, password=lambda: b"secret", cache_dir=cache) as store:
        assert store.restore("hidden-name", target=tmp_path / "out").success
        store.create(source)
        assert list((cache / store.id / "stat").iterdir())
    assert contents(tmp_path / "out") == contents(source)
    for file in place.rglob("*"):
        if file.is_file():
            held = file.read_bytes()
            assert not any(secret in held for secret in (b"hidden-name", b"gamma", b"deep"))


@pytest.mark.parametrize("password", [None, b"", b"Secret"])
def test_a_sealed_store_needs_its_password(place: Path, password: bytes | None) -> None:
    sealed(place)
    with pytest.raises(errors.WrongPassword):
        snapstore.open(place, password=password)


def test_the_config_of_a_sealed_store_cannot_be_exchanged(place: Path) -> None:
    sealed(place)
    with snapstore.open(place, password=b"secret") as store:
        changed = Config.decode(store.config.encode().replace(b'"default"', b'"none"'))
        frames = store._repository.frames
        frame = frames.encode(1, "config", bytes(16), changed.encode())  # type: ignore[arg-type]
    (place / "config").unlink()
    (place / "config").write_bytes(frame)
    with pytest.raises(errors.DamagedObject, match="config"):
        snapstore.open(place, password=b"secret")


def test_an_impossible_key_derivation_is_refused(place: Path) -> None:
    sealed(place)
    (key,) = (place / "key").iterdir()
    from blake3 import blake3

    from snapstore.model import canonical
    from snapstore.repository.frames import Frames, FrameType
    from snapstore.repository.objects import LocalObjects

    frames = Frames(LocalObjects(place), None)
    payload = frames.read(FrameType.KEY, f"key/{key.name}")
    assert payload is not None
    record = canonical.decode_object(payload)
    record["kdf"]["memory_kib"] = 1 << 40
    key.unlink()
    changed = canonical.encode(record)
    frames.write(FrameType.KEY, f"key/{blake3(changed).hexdigest()}", changed)
    with pytest.raises(errors.DamagedObject):
        snapstore.open(place, password=b"secret")
