"""`snap cat`, `snap diff`, `snap find`, `snap log`, `snap du`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from cli_runner import Snap, command

import snapstore

OLD = 1_700_000_000 * 10**9


@pytest.fixture
def changed(filled: Snap, files: Path) -> Snap:
    """The command with a second snapshot, `second`, in which something of every kind changed."""
    for path in (files, files / "docs"):
        os.utime(path, ns=(OLD, OLD))
    (files / "docs" / "note.txt").write_bytes(b"another note\n")
    (files / "data.bin").rename(files / "docs" / "data.bin")
    (files / "link").unlink()
    (files / "link").mkdir()
    (files / "more").write_bytes(b"12345")
    for path in (files / "docs" / "note.txt", files / "docs", files):
        os.utime(path, ns=(OLD, OLD))
    made = filled("create", files, "--name", "second")
    assert made.status == 0, str(made)
    return filled


# cat


def test_cat(filled: Snap, files: Path) -> None:
    run = filled("cat", f"first:{files}/docs/note.txt", f"first:{files}/data.bin")
    assert run.stdout == b"a note\n" + bytes(range(256)) * 400
    assert (run.stderr, run.status) == (b"", 0)


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        ("first", 2, "~/files is not a file but a directory"),
        ("first:docs", 2, "docs is not a file but a directory"),
        ("first:link", 2, "not a file but a symlink"),
        ("first:missing", 13, "missing is not in snapshot"),
        ("nothing:docs", 13, "no snapshot answers to"),
    ],
)
def test_cat_of_what_is_no_file(filled: Snap, place: str, status: int, words: str) -> None:
    run = filled("cat", place)
    assert run.status == status
    assert words in str(run)
    assert run.stdout == b""


def test_cat_of_one_of_several_paths(filled: Snap, files: Path) -> None:
    filled("create", files / "docs/note.txt", "--name", "one")
    assert filled("cat", "one").stdout == b"a note\n"
    filled("create", files / "docs/note.txt", files / "data.bin", "--name", "two")
    run = filled("cat", "two")
    assert "is not a file but took 2 paths\nsnap: hint: say which file: <short>:PATH" in str(run)
    assert run.status == 2
    assert filled("cat", "two:note.txt").status == 13
    assert filled("cat", f"two:{files}/docs/note.txt").stdout == b"a note\n"


def test_cat_into_a_pipe_that_closes(filled: Snap, files: Path) -> None:
    (files / "large").write_bytes(os.urandom(3 << 20))
    filled("create", files)
    line = f"{' '.join(command())} cat latest:large | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, cwd=filled.home, env=filled.environment
    )
    assert (len(done.stdout), done.stderr, done.returncode) == (1, b"", 141)


def test_cat_as_json(filled: Snap) -> None:
    assert filled("cat", "first:data.bin", "--json").status == 2


# diff


def test_nothing_is_different(filled: Snap, files: Path) -> None:
    assert str(filled("diff", "first", "first")) == ""
    assert str(filled("diff", "first", files)) == ""


def test_diff(changed: Snap) -> None:
    run = changed("diff", "first", "second", "--ignore", "mtime", "--ignore", "owner")
    assert str(run) == (
        "R  ~/files/data.bin -> ~/files/docs/data.bin\n"
        "M  ~/files/docs/note.txt\n"
        "T  ~/files/link/\n"
        "+  ~/files/more\n"
        "--- status 1\n"
    )


def test_diff_without_renames(changed: Snap) -> None:
    run = changed("diff", "second", "first", "--ignore", "mtime", "--no-renames", "--name-only")
    assert str(run) == (
        "~/files/data.bin\n~/files/docs/data.bin\n~/files/docs/note.txt\n"
        "~/files/link\n~/files/more\n--- status 1\n"
    )  # fmt: skip


def test_diff_names_metadata(filled: Snap, files: Path) -> None:
    (files / "data.bin").chmod(0o600)
    os.utime(files / "docs", ns=(OLD, OLD))
    assert str(filled("diff", "first", files)) == (
        "U  ~/files/data.bin  (mode)\nU  ~/files/docs/  (mtime)\n--- status 1\n"
    )
    assert str(filled("diff", "first", files, "--ignore", "mode", "--ignore", "mtime")) == ""


def test_diff_stat(changed: Snap) -> None:
    run = changed("diff", "first", "second", "--stat", "--ignore", "mtime")
    assert str(run) == (
        "added        1, 5 B\ncontent      1, 13 B\ntype         1\nrenamed      1\n--- status 1\n"
    )


def test_diff_of_paths(changed: Snap, files: Path) -> None:
    run = changed("diff", "first", "second", files / "more", "docs/note.txt", "--name-only")
    assert str(run) == "~/files/docs/note.txt\n~/files/more\n--- status 1\n"
    run = changed("diff", "first:docs", "second:docs", "--name-only", "--ignore", "mtime")
    assert str(run) == "~/files/docs/data.bin\n~/files/docs/note.txt\n--- status 1\n"
    run = changed("diff", "first", "second", "missing")
    assert "missing is in neither of the snapshots" in str(run)
    assert run.status == 13


def test_diff_with_a_directory(changed: Snap, files: Path) -> None:
    assert str(changed("diff", "second", files)) == ""
    assert str(changed("diff", "second:docs", files / "docs")) == ""
    assert str(changed("diff", "second", files / "docs")) == ""
    assert str(changed("diff", "second", "files")) == ""
    changed("restore", "first", "--target", "out")
    assert str(changed("diff", "first", "./out", "--content")) == ""
    (changed.home / "out" / "data.bin").unlink()
    assert str(changed("diff", "first", "out", "--ignore", "mtime")) == (
        "-  ~/files/data.bin\n--- status 1\n"
    )


def test_diff_tells_of_an_unfinished_restore(
    filled: Snap, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = files / "docs" / "note.txt"
    note.write_text("other")
    leave_unfinished(filled, files / "docs", monkeypatch)
    (staging,) = (files / "docs").glob(".snapstore-restore-*")
    for place in (files / "docs", files):
        run = filled("diff", "first", place, "--name-only")
        assert str(run) == (
            "~/files/docs/note.txt\n--- stderr\n"
            "snap: warning: a restore into ~/files/docs is not finished:"
            " what is there may be mixed; snap restore --resume ~/files/docs finishes it,"
            " --abort takes it back\n"
            "--- status 1\n"
        )
        run = filled("diff", "first", place, "--json")
        assert (run.stderr, run.status) == (b"", 1)
        assert json.loads(run.stdout)["unfinished"] == [{"path": str(staging)}]
    assert filled("restore", "--abort", files / "docs").status == 0
    run = filled("diff", "first", files, "--json")
    assert json.loads(run.stdout)["unfinished"] == []


def leave_unfinished(snap: Snap, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a restore of it does that is killed when it begins to exchange."""

    def die(*arguments: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patches, snapstore.open(snap.store) as store:
        patches.setattr("snapstore.ops.inplace._Restoring._apply", die)
        with pytest.raises(RuntimeError):
            store.restore(f"first:{top}", target=top)


def test_same_size_and_time_are_believed_unless_asked(filled: Snap, files: Path) -> None:
    note = files / "docs" / "note.txt"
    status = note.stat()
    note.write_bytes(b"A NOTE\n")
    os.utime(note, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert str(filled("diff", "first", files)) == ""
    assert str(filled("diff", "first", files, "--content")) == (
        "M  ~/files/docs/note.txt\n--- status 1\n"
    )
    os.utime(note, ns=(OLD, OLD))
    assert str(filled("diff", "first", files)) == (
        "M  ~/files/docs/note.txt  (mtime)\n--- status 1\n"
    )


def test_what_rules_left_out_is_shown_when_it_is_asked_for(filled: Snap, files: Path) -> None:
    assert filled("create", files, "--exclude", "note.txt").status == 0
    assert str(filled("diff", "latest", files)) == ""
    run = filled("diff", "latest", files, "--all")
    assert str(run) == "+  ~/files/docs/note.txt\n--- status 1\n"


def test_diff_never_waits_for_a_fifo(filled: Snap, files: Path) -> None:
    (files / "data.bin").unlink()
    os.mkfifo(files / "data.bin")
    run = filled("diff", "first", files, "--content", "--ignore", "mtime")
    assert str(run) == "T  ~/files/data.bin\n--- status 1\n"


def test_diff_names_what_cannot_be_read(filled: Snap, files: Path) -> None:
    os.chmod(files / "docs", 0)
    run = filled("diff", "first", files, rights=False)
    assert str(run) == "?  ~/files/docs/: Permission denied\n--- status 3\n"


def test_several_roots_are_compared_as_they_are_restored(filled: Snap, files: Path) -> None:
    filled("create", files / "docs", files / "data.bin", "--name", "two")
    filled("restore", "two", "--target", "out")
    assert str(filled("diff", "two", "out")) == ""
    (filled.home / "out" / str(files / "data.bin").lstrip("/")).unlink()
    assert str(filled("diff", "two", "out")) == "-  ~/files/data.bin\n--- status 1\n"
    assert str(filled("diff", "first", "two")).endswith("--- status 1\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["first", "nothing"], 13, "no snapshot answers to"),
        (["first", "./nothing"], 2, "there is no ./nothing"),
        (["first", "first", "--content"], 2, "--content is for a directory on disk"),
        (["first", "first", "--all"], 2, "--all is for a directory on disk"),
        (["first", "./files", "docs"], 2, "a directory is compared as a whole"),
        (["first", "first", "--ignore", "size"], 2, "'size' is not one of"),
        (["first:docs", "first", "link"], 2, "paths cannot be chosen inside a path"),
    ],
)
def test_diff_refuses(filled: Snap, arguments: list[str], status: int, words: str) -> None:
    run = filled("diff", *arguments)
    assert run.status == status
    assert words in str(run)


def test_a_failure_of_diff_is_no_difference(filled: Snap, files: Path) -> None:
    run = filled("diff", "first", "./nothing", "--json")
    assert (run.status, json.loads(run.stderr)["error"]["exit_code"]) == (2, 2)
    (files / "more").write_bytes(b"")
    line = f"{' '.join(command())} diff first {files} > /dev/full"
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=filled.environment)
    assert (b"No space left on device" in done.stderr, done.returncode) == (True, 2)


def test_diff_escapes_names(filled: Snap, files: Path) -> None:
    Path(os.fsdecode(os.fsencode(files) + b"/docs/\x1b[31m\n\xff")).write_text("")
    run = filled("diff", "first", files, "--ignore", "mtime")
    assert run.stdout.endswith(b"/docs/\\x1b[31m\\n\\xff\n")
    run = filled("diff", "first", files, "--ignore", "mtime", "--name-only")
    assert run.stdout.endswith(b"/docs/\x1b[31m\n\xff\n")


# find


def test_find(changed: Snap) -> None:
    assert str(changed("find", "*.txt")) == (
        "<short>:~/files/docs/note.txt\n<short>:~/files/docs/note.txt\n"
    )
    assert str(changed("find", "DATA.*", "-i", "second")) == "<short>:~/files/docs/data.bin\n"
    assert str(changed("find", "files/d*", "second")) == (
        "<short>:~/files/docs\n"
    )  # fmt: skip
    assert str(changed("find", "*", "second:docs", "--type", "file")) == (
        "<short>:~/files/docs/data.bin\n<short>:~/files/docs/note.txt\n"
    )
    assert str(changed("find", "nothing")) == ""


def test_find_with_a_regular_expression(changed: Snap) -> None:
    run = changed("find", "--regex", "^n.t|bin$", "first")
    assert str(run) == "<short>:~/files/data.bin\n<short>:~/files/docs/note.txt\n"
    assert str(changed("find", "--regex", "/docs/.*e", "first")) == (
        "<short>:~/files/docs/note.txt\n"
    )


def test_find_by_size_and_time(changed: Snap) -> None:
    run = changed("find", "*", "first", "--larger-than", "1K", "--smaller-than", "1M")
    assert str(run) == "<short>:~/files/data.bin\n"
    run = changed("find", "*", "second", "--older-than", "2023-12-01", "--type", "file")
    assert str(run) == "<short>:~/files/docs/note.txt\n"
    assert str(changed("find", "more", "--newer-than", "now-1h")) == "<short>:~/files/more\n"
    run = changed("find", "more", "-l")
    assert str(run).startswith("-rw") and str(run).endswith("<short>:~/files/more\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["[a"], "is no pattern"),
        (["--regex", "("], "is no pattern"),
        (["--regex", "(a{1000}){1000}"], "is no pattern"),
        (["*", "--newer-than", "soon"], "not a time"),
        (["*", "--larger-than", "big"], "not a size"),
        (["*", "--type", "socket"], "is not one of"),
    ],
)
def test_find_refuses(filled: Snap, arguments: list[str], words: str) -> None:
    run = filled("find", *arguments)
    assert run.status == 2
    assert words in str(run)


# Snapshots that cannot be read


@pytest.fixture
def half_damaged(changed: Snap) -> tuple[Snap, str]:
    """The command with a first snapshot that cannot be read any more, and its id."""
    found = json.loads(changed("list", "--json").stdout)["snapshots"]
    (id,) = (one["id"] for one in found if one["name"] == "first")
    record = changed.store / "snap" / id
    record.chmod(0o600)
    record.write_bytes(b"nonsense")
    return changed, id


@pytest.mark.parametrize("arguments", [["find", "*"], ["log", "~/more"], ["du"], ["stats"]])
def test_what_is_left_out_is_told(half_damaged: tuple[Snap, str], arguments: list[str]) -> None:
    snap, id = half_damaged
    arguments = [word.replace("~", str(snap.home / "files")) for word in arguments]
    run = snap(*arguments)
    assert (run.stdout != b"", run.status) == (True, 3)
    warning, *lines = run.stderr.decode().splitlines()
    assert warning == "snap: warning: 1 snapshot left out that cannot be read"
    assert [line.split()[0] for line in lines] == [f"{id[:8]}:"]
    run = snap(*arguments, "--json")
    assert (run.stderr, run.status) == (b"", 3)
    (left_out,) = json.loads(run.stdout)["left_out"]
    assert left_out["snapshot"] == id
    assert left_out["error"]


def test_what_is_left_out_may_be_why_nothing_is_found(half_damaged: tuple[Snap, str]) -> None:
    run = half_damaged[0]("log", "/nowhere")
    assert "1 snapshot left out" in str(run)
    assert run.status == 13


def test_nothing_is_left_out_of_what_is_named(half_damaged: tuple[Snap, str]) -> None:
    snap, id = half_damaged
    assert str(snap("find", "more", "second")) == "<short>:~/files/more\n"
    assert snap("find", "more", id).status == 5


@pytest.fixture
def newest_damaged(changed: Snap) -> tuple[Snap, str]:
    """The command with a newest snapshot, `second`, that cannot be read any more, and its id."""
    id = json.loads(changed("show", "second", "--json").stdout)["snapshot"]["id"]
    record = changed.store / "snap" / id
    record.chmod(0o600)
    record.write_bytes(b"nonsense")
    return changed, id


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "latest"],
        ["ls", "latest:docs"],
        ["cat", "latest:docs/note.txt"],
        ["diff", "latest", "@now"],
        ["find", "note.txt", "latest"],
        ["restore", "latest", "--target", "out"],
        ["export", "@now", "-o", "out.tar"],
        ["check", "latest"],
    ],
)
def test_what_a_reference_passes_over_is_told(
    newest_damaged: tuple[Snap, str], arguments: list[str]
) -> None:
    snap, id = newest_damaged
    run = snap(*arguments)
    warning, line = run.stderr.decode().splitlines()[:2]
    assert warning.endswith(": 1 snapshot passed over that cannot be read"), run
    assert (line.split()[0], run.status) == (f"{id[:8]}:", 0)
    if arguments[0] not in ("cat", "restore", "export"):
        assert snap(*arguments, "--json").stderr == run.stderr
    named = [word.replace("latest", "first").replace("@now", "first") for word in arguments]
    assert b"passed over" not in snap(*named).stderr


def test_what_is_passed_over_may_be_why_nothing_is_found(newest_damaged: tuple[Snap, str]) -> None:
    snap, _ = newest_damaged
    run = snap("ls", "latest~1")
    assert (run.status, "latest~1: 1 snapshot passed over" in str(run)) == (13, True)
    run = snap("ls", "latest~1", "--json")
    assert json.loads(run.stderr)["error"]["kind"] == "snapshot-not-found"


def test_a_name_leads_to_what_is_damaged(newest_damaged: tuple[Snap, str], files: Path) -> None:
    snap, id = newest_damaged
    for arguments in (["ls", "second"], ["restore", "second", "--target", "out"]):
        assert snap(*arguments).status == 5
    shown = snap("show", "second").stdout.decode()
    assert id in shown and "name         second\n" in shown
    assert " second " in snap("list", "--name", "second").stdout.decode()
    assert snap("list", "--name", "second").status == 0


def test_a_filtered_list_says_of_what_it_cannot_tell(
    newest_damaged: tuple[Snap, str], files: Path
) -> None:
    snap, id = newest_damaged
    run = snap("list", "--path", files)
    assert (b"first" in run.stdout, run.status) == (True, 3)
    assert "1 snapshot left out that cannot be read" in str(run)
    run = snap("list", "--path", files, "--json")
    assert [one["snapshot"] for one in json.loads(run.stdout)["left_out"]] == [id]
    assert (run.stderr, run.status) == (b"", 3)
    run = snap("list", "--since", "now-1d")  # of the time, the label tells
    assert (id[:8].encode() in run.stdout, run.status) == (True, 0)


# log


def test_log(changed: Snap, files: Path) -> None:
    assert str(changed("log", files / "docs" / "note.txt")) == (
        "REF       SINCE                    SNAPSHOTS  SIZE  CHANGE\n"
        "<short>  <time>          1  13 B  changed: content, mtime\n"
        "<short>  <time>          1   7 B  added\n"
    )
    for path in ("files/docs/note.txt", "docs/note.txt", "./files/../files/docs/note.txt"):
        assert changed("log", path).stdout == changed("log", files / "docs/note.txt").stdout
    removed = str(changed("log", files / "data.bin")).splitlines()
    assert [line.split()[-1] for line in removed] == ["CHANGE", "removed", "added"]
    run = changed("log", "/nowhere")
    assert run.status == 13
    assert "/nowhere is in no snapshot" in str(run)


# du


def test_du(changed: Snap, files: Path) -> None:
    lines = str(changed("du")).splitlines()
    assert lines[0].split() == ["ID", "CREATED", "NAME", "ENTRIES", "SIZE", "UNIQUE"]
    assert [line.split()[2] for line in lines[1:]] == ["second", "first"]
    one = json.loads(changed("du", "first", "--json").stdout)["snapshots"]
    everything = json.loads(changed("du", "--json").stdout)["snapshots"]
    assert one == [everything[1]]
    assert 0 < one[0]["unique_bytes"] < 2_000 < one[0]["logical_bytes"]
    part = json.loads(changed("du", f"first:{files}/data.bin", "--json").stdout)["snapshots"][0]
    assert (part["logical_bytes"], part["unique_bytes"], part["entries"]) == (102_400, 0, 1)
