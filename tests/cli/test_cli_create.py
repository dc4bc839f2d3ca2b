"""`snap create`."""

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli_runner import Snap


@pytest.fixture
def ready(snap: Snap) -> Snap:
    """The command with an empty store."""
    assert snap("init").status == 0
    return snap


def shown(snap: Snap, ref: str = "latest") -> dict[str, object]:
    document = json.loads(snap("show", ref, "--json").stdout)["snapshot"]
    assert isinstance(document, dict)
    return document


def test_first(ready: Snap, files: Path) -> None:
    assert str(ready("create", files, "--name", "first")) == (
        "snapshot <short> first\n"
        "taken        2 files: 2 new, 0 changed, 0 unmodified; 100 KiB\n"
        "added        100 KiB, <size> stored\n"
        "took         <s>\n"
    )


def test_again(filled: Snap, files: Path) -> None:
    old = os.stat(files / "data.bin").st_mtime - 100
    os.utime(files / "data.bin", (old, old))
    (files / "docs" / "note.txt").write_text("another note\n")
    (files / "docs" / "new.txt").write_text("new\n")
    run = filled("create", files)
    assert str(run).startswith("snapshot <short>\ntaken        3 files: 1 new, ")
    assert shown(filled)["parents"] == [shown(filled, "first")["id"]]


def test_quiet_prints_the_id(ready: Snap, files: Path) -> None:
    run = ready("create", "-q", files)
    assert run.status == 0
    assert run.stdout.decode().strip() == shown(ready)["id"]


def test_json(ready: Snap, files: Path) -> None:
    run = ready("--json", "create", files, "--name", "n")
    assert run.stderr == b""
    document = json.loads(run.stdout)
    assert document["snapshot"]["name"] == "n"
    assert document["new_files"] == 2
    assert document["partial"] is False


def test_options_before_and_after_the_verb(ready: Snap, files: Path) -> None:
    assert (
        ready("--store", ready.store, "--json", "create", files, SNAP_STORE="/nowhere").status == 0
    )
    assert (
        ready("create", files, "--json", "--store", ready.store, SNAP_STORE="/nowhere").status == 0
    )
    assert ready("-s", "/nowhere", "create", files, "-s", ready.store).status == 0


def test_circumstances_are_recorded(ready: Snap, files: Path) -> None:
    made = ready(
        "create", files, "--name", "n", "--tag", "a", "--tag", "b", "--description", "some words",
        "--meta", "k=v", "--meta", "empty=", "--source", "s", "--host", "h",
        "--time", "2026-01-02T03:04:05+01:00",
    )  # fmt: skip
    assert made.status == 0, str(made)
    snapshot = shown(ready, "n")
    assert snapshot["tags"] == ["a", "b"]
    assert snapshot["description"] == "some words"
    assert snapshot["metadata"] == {"k": "v", "empty": ""}
    assert snapshot["source"] == "s"
    assert snapshot["host"] == "h"
    assert str(snapshot["created_at"]).startswith("2026-01-02T02:04:05")


def test_parent(filled: Snap, files: Path) -> None:
    assert filled("create", files, "--name", "second").status == 0
    assert filled("create", files, "--parent", "first", "--name", "third").status == 0
    assert shown(filled, "third")["parents"] == [shown(filled, "first")["id"]]


@pytest.mark.parametrize("bad", ["yesterday", "now+1d", "now-x", "2026-13-01"])
def test_time_without_meaning(ready: Snap, files: Path, bad: str) -> None:
    run = ready("create", files, "--time", bad)
    assert run.status == 2
    assert "snap: error: not a " in str(run)
    assert "snap: hint: write it like " in str(run)


@pytest.mark.parametrize("bad", ["novalue", "=v", ""])
def test_metadata_without_meaning(ready: Snap, files: Path, bad: str) -> None:
    run = ready("create", files, "--meta", bad)
    assert run.status == 2
    assert "is not KEY=VALUE" in str(run)


def test_excludes(ready: Snap, files: Path) -> None:
    rules = files.parent / "rules"
    rules.write_text("# a comment\n/docs\n")
    run = ready("create", files, "--exclude", "*.bin", "--exclude-file", rules)
    assert "left out     2 excluded" in str(run)
    listed = ready("ls", "-R", "latest").stdout
    assert b"/link\n" in listed
    assert b"data.bin" not in listed
    assert b"docs" not in listed


def test_nothing_to_take(ready: Snap) -> None:
    assert str(ready("create")) == (
        "--- stderr\n"
        "snap: error: nothing to take\n"
        "snap: hint: name a PATH, or use --image, --stdin or --stdin-from\n"
        "--- status 2\n"
    )


def test_missing_source(ready: Snap) -> None:
    run = ready("create", "missing")
    assert run.status == 1
    assert "snap: error: " in str(run)
    assert "~/missing" in str(run) or "missing" in str(run)
    assert str(ready("list")) == "--- stderr\nsnap: no snapshots yet\n"


@pytest.mark.needs("unprivileged")
def test_unreadable_files(ready: Snap, files: Path) -> None:
    secret = files / "secret\n\x1b[31m"
    secret.write_text("x")
    secret.chmod(0)
    run = str(ready("create", files, rights=False))
    assert run.endswith(
        "--- stderr\n"
        "snap: warning: 1 path could not be read\n"
        "  ~/files/secret\\n\\x1b[31m: Permission denied\n"
        "--- status 3\n"
    ), run
    assert run.startswith("snapshot <short> (partial)\n")


def test_sockets_are_counted(ready: Snap, files: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(files)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        assert "left out     1 socket\n" in str(ready("create", files))


def test_stdin(ready: Snap) -> None:
    run = ready("create", "--stdin", "words.txt", input=b"some words\n")
    assert run.status == 0, str(run)
    assert ready("ls", "latest").stdout == b"words.txt\n"
    ready("restore", "latest", "--target", "back")
    assert [path.read_bytes() for path in (ready.home / "back").rglob("*") if path.is_file()] == [
        b"some words\n"
    ]


def test_stdin_from_commands(ready: Snap, files: Path) -> None:
    run = ready(
        "create", files, "--stdin-from", "a.txt=echo $((1+1))", "--stdin-from", "b=cat /dev/null"
    )
    assert run.status == 0, str(run)
    assert {b"a.txt", b"b"} < set(ready("ls", "latest").stdout.splitlines())


def test_failing_command_commits_nothing(ready: Snap, files: Path) -> None:
    run = ready("create", files, "--stdin-from", "a=echo partly; exit 7")
    assert run.status == 1
    assert "7" in str(run)
    assert str(ready("list")) == "--- stderr\nsnap: no snapshots yet\n"


def test_image(ready: Snap) -> None:
    image = ready.home / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 24)
        file.seek(1 << 20)
        file.write(b"data" * 1024)
    run = ready("create", "--image", image)
    assert "taken        1 file: 1 new, 0 changed, 0 unmodified; 16 MiB\n" in str(run)


def test_skip_if_unchanged(filled: Snap, files: Path) -> None:
    first = shown(filled, "first")["id"]
    run = filled("create", files, "--skip-if-unchanged")
    assert str(run).startswith("unchanged since snapshot <short> first: no new one\n")
    assert filled("create", "-q", files, "--skip-if-unchanged").stdout.decode().strip() == first
    (files / "new").write_text("new")
    assert str(filled("create", files, "--skip-if-unchanged")).startswith("snapshot <short>\n")


def test_dry_run(filled: Snap, files: Path) -> None:
    time.sleep(2.5)  # files younger than 2 s are read again, to be sure
    filled("create", files)
    before = sorted(filled.store.rglob("*"))
    (files / "new").write_bytes(os.urandom(5000))
    run = filled("create", files, "-n")
    assert str(run) == (
        "dry run: nothing was written\n"
        "taken        3 files: 1 new, 0 changed, 2 unmodified; 105 KiB\n"
        "would add    4.9 KiB, <size> stored\n"
        "took         <s>\n"
    )
    objects = [path for path in sorted(filled.store.rglob("*")) if "local" not in path.parts]
    assert objects == [path for path in before if "local" not in path.parts]


def test_names_that_are_not_utf8(ready: Snap, files: Path) -> None:
    odd = os.fsencode(files) + b"/odd\xff\nname"
    os.mkdir(odd)
    assert ready("create", odd).status == 0
    assert str(ready("list")).splitlines()[1].endswith("~/files/odd\\xff\\nname")
    roots = shown(ready)["roots"]
    assert isinstance(roots, list)
    assert roots[0]["path"].endswith("/odd%FF%0Aname")
    assert roots[0]["path_b64"]


def test_default_store(snap: Snap, files: Path) -> None:
    own = "~/.local/share/snapstore/store"
    first = snap("create", files, SNAP_STORE=None)
    assert str(first).endswith(f"--- stderr\nsnap: made a store of your own, {own}\n")
    assert first.status == 0
    again = snap("create", files, SNAP_STORE=None)
    assert again.stderr == b""
    assert len(snap("list", SNAP_STORE=None).stdout.splitlines()) == 3
    said = snap("-v", "list", SNAP_STORE=None).stderr.decode()
    assert said.replace(str(snap.home), "~") == f"snap: using your own store, {own}\n"


def test_no_store_is_made_for_a_dry_run(snap: Snap, files: Path) -> None:
    data, temporary = str(snap.home / "data"), snap.home / "tmp"
    temporary.mkdir()
    none = {"SNAP_STORE": None, "XDG_DATA_HOME": data, "TMPDIR": str(temporary)}
    run = snap("create", files, "-n", **none)
    assert (run.status, run.stderr) == (0, b"")
    assert "would add    100 KiB, " in str(run)
    explained = snap(
        "create", files, "-n", "--exclude", "*.bin", "--explain", "files/data.bin", **none
    )
    assert str(explained) == "out  ~/files/data.bin: --exclude '*.bin'\n"
    subprocess.run(["tar", "-cf", snap.home / "x.tar", "files"], cwd=snap.home, check=True)
    assert snap("import-tar", "x.tar", "-n", **none).status == 0
    assert snap("create", "--files-from", "nowhere", **none).status == 1
    assert not os.path.exists(data)
    assert list(temporary.iterdir()) == []
    named = snap("create", files, "-n", SNAP_STORE="nowhere")
    assert (named.status, (snap.home / "nowhere").exists()) == (10, False)


def test_several_first_creates_at_once(snap: Snap, files: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: snap("create", files, SNAP_STORE=None), range(4)))
    assert [run.status for run in runs] == [0] * 4, [str(run) for run in runs]
    assert sum(b"made a store" in run.stderr for run in runs) == 1
    assert len(snap("list", SNAP_STORE=None).stdout.splitlines()) == 5


def test_default_store_follows_xdg(snap: Snap, files: Path) -> None:
    data = snap.home / "elsewhere"
    assert snap("create", files, SNAP_STORE=None, XDG_DATA_HOME=str(data)).status == 0
    assert (data / "snapstore" / "store" / "config").is_file()


def test_default_store_heeds_no_relative_xdg(snap: Snap, files: Path) -> None:
    assert snap("create", files, SNAP_STORE=None, XDG_DATA_HOME="elsewhere").status == 0
    assert (snap.home / ".local/share/snapstore/store/config").is_file()


def test_environment_that_is_empty_names_nothing(snap: Snap, files: Path) -> None:
    assert snap("create", files, SNAP_STORE="").status == 0
    assert (snap.home / ".local/share/snapstore/store/config").is_file()


def test_named_store_is_never_made_by_create(snap: Snap, files: Path) -> None:
    assert snap("create", files).status == 10
    assert not snap.store.exists()


@pytest.mark.needs("unprivileged")
def test_source_that_cannot_be_read_at_all(ready: Snap, files: Path) -> None:
    """It is no fault of the command line: the status is not 2."""
    files.chmod(0)
    run = ready("create", files, rights=False)
    files.chmod(0o700)
    assert run.status in (1, 3), str(run)
    assert "Permission denied" in run.stderr.decode()
