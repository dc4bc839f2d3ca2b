"""`snap export` and `snap import-tar`."""

import json
import os
import pty
import subprocess
import tarfile

from cli_runner import Snap, command


def test_to_a_file_and_back(filled: Snap) -> None:
    assert str(filled("export", "first", "-o", "x.tar")) == (
        "snapshot <short> exported to x.tar\n"
        "contents     2 files, 2 directories, 1 other entry; 100 KiB\n"
        "written      110 KiB\n"
        "took         <s>\n"
    )
    assert str(filled("import-tar", "x.tar", "--name", "again")) == (
        "snapshot <short> again\n"
        "taken        2 files: 2 new, 0 changed, 0 unmodified; 100 KiB\n"
        "added        0 B, <size> stored\n"
        "took         <s>\n"
    )
    roots = [
        json.loads(filled("show", name, "--json").stdout)["snapshot"]["roots"][0]
        for name in ("first", "again")
    ]
    assert roots[0]["id"] == roots[1]["id"]
    assert roots[1]["path"] == "x"


def test_through_pipes(filled: Snap) -> None:
    piped = filled("export", "first")
    assert piped.stderr == b"" and len(piped.stdout) % 10_240 == 0
    made = filled("import-tar", "-", "--as", "/srv/app", "--json", input=piped.stdout)
    assert json.loads(made.stdout)["snapshot"]["roots"][0]["path"] == "/srv/app"
    (filled.home / "x").write_bytes(piped.stdout)
    with tarfile.open(filled.home / "x") as tar:
        assert tar.getnames() == [".", "./data.bin", "./docs", "./docs/note.txt", "./link"]


def test_json(filled: Snap) -> None:
    run = filled("export", "first", "--format", "zip", "-o", "x.zip", "--json")
    result = json.loads(run.stdout)
    assert (result["format"], result["files"], result["omitted"]) == ("zip", 2, [])
    assert result["written_bytes"] == (filled.home / "x.zip").stat().st_size


def test_a_zip_leaves_out_what_it_cannot_hold(filled: Snap) -> None:
    os.mkfifo(filled.home / "files" / "fi\x1bfo")
    filled("create", filled.home / "files", "--name", "second")
    assert str(filled("export", "second", "--format", "zip", "-q", "-o", "x.zip")) == (
        "--- stderr\n"
        "snap: warning: 1 entry left out: a zip archive has no FIFOs and devices\n"
        "  fi\\x1bfo: left out\n"
        "--- status 3\n"
    )


def test_not_to_a_terminal(filled: Snap) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*command(), "export", "first"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=filled.environment,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"not written to a terminal" in done.stderr


def test_output_closed_early(filled: Snap) -> None:
    (filled.home / "files" / "more").write_bytes(os.urandom(4 << 20))
    filled("create", filled.home / "files", "--name", "second")
    for format in ("pax", "zip"):
        export = subprocess.Popen(
            [*command(), "export", "second", "--format", format],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=filled.environment,
        )
        assert export.stdout is not None and export.stderr is not None
        export.stdout.read(100)
        export.stdout.close()
        assert (export.wait(), export.stderr.read()) == (141, b"")
        export.stderr.close()


def test_what_is_wrong_is_said(filled: Snap) -> None:
    (filled.home / "x.tar").write_bytes(filled("export", "first").stdout[:5_000])
    assert str(filled("import-tar", "x.tar")) == (
        "--- stderr\n"
        "snap: error: at byte 5000: the archive ends here: it is cut off\n"
        "snap: hint: make it or copy it again; tar -tvf shows what is in it\n"
        "--- status 1\n"
    )
    assert filled("import-tar", "nothing.tar").status == 1
    assert filled("export", "first", "--json").status == 2
    assert filled("export", "first:nowhere", "-o", "x").status == 13
    assert not (filled.home / "x").exists()
