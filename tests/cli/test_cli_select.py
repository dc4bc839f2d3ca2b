"""`snap create`: patterns, lists of paths, explanations."""

import json
import os

import pytest
from test_cli_json import agree


@pytest.fixture
def ready(snap):
    """The command with an empty store."""
    assert snap("init").status == 0
    return snap


def listed(snap, ref="latest"):
    """Names of what is in a snapshot, without its root."""
    return {
        line.rpartition(b"/files/")[2] for line in snap("ls", "-R", ref).stdout.splitlines()[1:]
    }


def test_patterns_count_in_the_order_in_which_they_are_given(ready, files):
    (files / "rules").write_text("*.txt\n")
    (files / "upper").write_text("*.TXT\n")
    rules = ("--exclude-file", files / "rules")
    for options, found in [
        (("--exclude", "*.txt", "--include", "note.txt"), True),
        (("--include", "note.txt", "--exclude", "*.txt"), False),
        (("--include", "note.txt", *rules), False),
        ((*rules, "--include", "note.txt"), True),
        ((*rules, "--include", "note.txt", "--exclude", "n*"), False),
        (("--include=x", *rules, "--exclude=n*", "--include", "note.txt", "--exclude=y"), True),
        (("--include", "note.txt", "--iexclude", "*.TXT"), False),
        (("--iexclude", "*.TXT", "--include", "note.txt"), True),
        (("--exclude", "*.TXT"), True),
        (("--include", "note.txt", "--iexclude-file", files / "upper"), False),
        (("--iexclude-file", files / "upper", "--iexclude", "!NOTE.*"), True),
    ]:
        assert ready("create", files, *options).status == 0
        assert (b"docs/note.txt" in listed(ready)) == found, options


def test_options_are_recorded(ready, files):
    made = ready(
        "create", files, "--exclude", "*.o", "--include", "a.o", "--exclude-caches",
        "--exclude-if-present", ".nobackup", "--exclude-larger-than", "2k", "--no-ignore-files",
    )  # fmt: skip
    assert "left out     1 excluded\n" in str(made)
    assert (
        "made with    exclude *.o\n"
        "             exclude !a.o\n"
        "             exclude_caches\n"
        "             exclude_if_present .nobackup\n"
        "             exclude_larger_than 2048\n"
        "             no_ignore_files\n"
    ) in str(ready("show", "latest"))


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (("--exclude", "[a"), "'[a' is not a pattern: a [ has no ]", 2),
        (("--include", "!a"), "--include: '!a' is not a pattern", 2),
        (("--include", ""), "--include: '' is not a pattern", 2),
        (("--exclude", ""), "a pattern cannot be empty", 2),
        (("--exclude-larger-than", "big"), "not a size: 'big'", 2),
        (("--exclude-if-present", "a/b"), "a marker cannot be called 'a/b'", 2),
        (("--exclude-file", "gone"), "cannot read the patterns in ~/gone: No such file", 1),
        (("--files-from", "gone"), "cannot read the list gone: No such file", 1),
        (("--files-from", "-", "--files-from0", "-"), "standard input can be read only once", 2),
        (("--files-from", "-", "--stdin", "x"), "standard input can be read only once", 2),
        (("--explain", "x"), "--explain takes no snapshot", 2),
    ],
)
def test_options_without_meaning(ready, files, options, message, status):
    run = ready("create", files, *options)
    assert run.status == status
    assert f"snap: error: {message}" in str(run)
    assert str(ready("list")) == "--- stderr\nsnap: no snapshots yet\n"


def test_patterns_that_are_absolute_paths_are_warned_of(ready, files):
    run = ready("create", "files", "--exclude", files / "docs" / "*", "--include", f"{files}/docs")
    assert run.status == 0
    assert str(run).endswith(
        "--- stderr\n"
        "snap: warning: --exclude counts from ~/files: write '/docs/*'\n"
        "snap: warning: --include counts from ~/files: write '/docs'\n"
    )
    assert ready("create", files, "--exclude", "/docs", "--exclude", f"{files}-2").stderr == b""


def test_lists_of_paths(ready, files):
    odd = files / "docs" / "odd\nname"
    odd.write_text("x")
    run = ready("create", "--files-from0", "-", input=b"files/docs/odd\nname\0files/link\0")
    assert run.status == 0, str(run)
    assert ready("list", "--json").status == 0
    assert [root["path"] for root in shown(ready)["roots"]] == [str(files)]
    (ready.home / "list").write_text("files/data.bin\n\nfiles/docs/\n")
    assert ready("create", "--files-from", "list", "--files-from", "-").status == 0
    assert listed(ready) == {b"data.bin", b"docs", b"docs/note.txt", b"docs/odd", b"name"}
    assert "made with    listed 2\n" in str(ready("show", "latest"))


def shown(snap, ref="latest"):
    return json.loads(snap("show", ref, "--json").stdout)["snapshot"]


def test_listed_paths_that_are_missing(ready, files):
    run = ready("create", "--files-from", "-", input=b"files/data.bin\nfiles/gone\n")
    assert run.status == 3
    assert "~/files/gone: No such file or directory\n" in str(run)


def test_lists_without_meaning(ready, files):
    assert "snap: hint: --files-from0 reads" in str(
        ready("create", "--files-from", "-", input=b"files\0files/docs\0")
    )
    empty = ready("create", "--files-from", "-")
    assert (empty.status, "snap: error: nothing to take" in str(empty)) == (2, True)


def test_explanations(ready, files):
    (files / ".snapignore").write_text("# all notes\nnote.*\n")
    os.symlink("x", files / "docs" / "b\x1b.bin")
    paths = ("docs/note.txt", "docs/b\x1b.bin", "data.bin", "link", "gone", "..")
    asked = [one for path in paths for one in ("--explain", f"files/{path}")]
    options = ("--exclude", "*.bin", "--include", "/data.bin")
    assert str(ready("create", files, *options, "--dry-run", *asked)) == (
        "out  ~/files/docs/note.txt: note.* (~/files/.snapignore, line 2)\n"
        "out  ~/files/docs/b\\x1b.bin: --exclude '*.bin'\n"
        "in   ~/files/data.bin: --include /data.bin\n"
        "in   ~/files/link: nothing leaves it out\n"
        "out  ~/files/gone: No such file or directory\n"
        "out  ~: none of the paths to take leads there\n"
    )
    assert str(ready("create", files, "--exclude=docs", "-n", "--explain=files/docs/x")) == (
        "out  ~/files/docs/x: ~/files/docs: --exclude docs\n"
    )
    run = ready("create", files, *options, "--dry-run", *asked, "--json")
    document = json.loads(run.stdout)
    agree(document, "snap create --explain")
    for explanation in document["explained"]:
        agree(explanation, "explanation")
    assert [one["taken"] for one in document["explained"]] == [False] * 2 + [True] * 2 + [False] * 2
    assert document["explained"][0]["line"] == 2
    assert document["explained"][2]["rule"] == "!/data.bin"


@pytest.mark.needs("unprivileged")
def test_explanations_name_broken_ignore_files(ready, files):
    (files / ".snapignore").write_text("[a\n*.bin\n")
    (files / "docs" / ".snapignore").write_text("*\n")
    (files / "docs" / ".snapignore").chmod(0)
    paths = ("data.bin", "docs/note.txt")
    asked = ["--dry-run", *(one for path in paths for one in ("--explain", f"files/{path}"))]
    run = ready("create", files, *asked, rights=False)
    assert str(run) == (
        "out  ~/files/data.bin: *.bin (~/files/.snapignore, line 2)\n"
        "in   ~/files/docs/note.txt: nothing leaves it out\n"
        "--- stderr\n"
        "snap: warning: ~/files/.snapignore: line 1 is not a pattern: a [ has no ]\n"
        "snap: warning: ~/files/docs/.snapignore: Permission denied\n"
    )
    document = json.loads(ready("create", files, *asked, "--json", rights=False).stdout)
    agree(document["explained"][1], "explanation")
    broken = [one["path"] for one in document["explained"][1]["broken"]]
    assert broken == [f"{files}/.snapignore", f"{files}/docs/.snapignore"]


@pytest.mark.needs("unprivileged")
def test_ignore_file_that_cannot_be_read(ready, files):
    (files / ".snapignore").write_text("*\n")
    (files / ".snapignore").chmod(0)
    run = ready("create", files, rights=False)
    assert run.status == 3
    assert str(run).endswith(
        "--- stderr\n"
        "snap: warning: 1 path could not be read\n"
        "  ~/files/.snapignore: Permission denied\n"
        "--- status 3\n"
    )
    [made] = json.loads(ready("list", "--json").stdout)["snapshots"]
    found = listed(ready, made["id"])
    assert found == {b"data.bin", b"docs", b"docs/note.txt", b"link"}
