"""`snap show`."""

import json
import shutil
from pathlib import Path

from cli_runner import Snap


def test_show(filled: Snap, files: Path) -> None:
    filled(
        "create", files, "--name", "full", "--host", "box", "--source", "web", "--tag", "prod",
        "--description", "before\nthe upgrade", "--meta", "ticket=7", "--meta", "by=me",
        "--exclude", "*.tmp", "--parent", "first",
    )  # fmt: skip
    text = str(filled("show", "full"))
    for line in (
        "snapshot     <id>\n",
        "name         full\n",
        "created      <time>\n",
        "host         box\n",
        "source       web\n",
        "kind         user\n",
        "tags         prod\n",
        "description  before\\nthe upgrade\n",
        "metadata     ticket=7\n             by=me\n",
        "made with    exclude *.tmp\n",
        "parent       <id>\n",
        "size         100 KiB\n",
        "holds        ~/files  (directory, 5 entries, 100 KiB)\n",
    ):
        assert line in text


def test_references(filled: Snap, files: Path) -> None:
    filled("create", files, "--name", "second")
    by_name = filled("show", "second").stdout
    assert filled("show", "latest").stdout == by_name
    identity = json.loads(filled("show", "second", "--json").stdout)["snapshot"]["id"]
    assert filled("show", identity[:8]).stdout == by_name
    assert filled("show", "latest~1").stdout == filled("show", "first").stdout


def test_unknown_reference(filled: Snap) -> None:
    run = filled("show", "nothing")
    assert run.status == 13
    assert "snap: error: " in str(run)
    assert "nothing" in str(run)
    assert "snap: hint: " in str(run)


def test_unknown_reference_as_json(filled: Snap) -> None:
    run = filled("show", "nothing", "--json")
    assert run.stdout == b""
    assert json.loads(run.stderr)["error"]["kind"] == "snapshot-not-found"


def test_no_snapshot_at_all(snap: Snap) -> None:
    snap("init")
    assert snap("show", "latest").status == 13


def test_ambiguous_reference(filled: Snap) -> None:
    """A second id that begins alike; that its object is damaged does not matter."""
    (first,) = (filled.store / "snap").iterdir()
    common = first.name[:10]
    shutil.copy(first, first.with_name(common + first.name[:9:-1]))
    run = filled("show", common)
    assert run.status == 13
    assert f"'{common}'" in run.stderr.decode()
    told = json.loads(filled("show", common, "--json").stderr)["error"]
    assert told["kind"] == "ambiguous-reference"
    assert len(told["candidates"]) == 2


def test_damaged_snapshots_are_listed_and_shown_as_such(filled: Snap) -> None:
    (first,) = (filled.store / "snap").iterdir()
    first.rename(first.with_name(first.name[::-1]))
    assert " damaged" in filled("list").stdout.decode()
    assert "state        damaged: " in filled("show", first.name[::-1]).stdout.decode()


def test_reference_that_is_too_short(filled: Snap) -> None:
    identity = json.loads(filled("show", "first", "--json").stdout)["snapshot"]["id"]
    assert filled("show", identity[:3]).status == 13
    assert filled("show", identity[:4]).status == 0


def test_reference_is_missing(filled: Snap) -> None:
    run = filled("show")
    assert run.status == 2
    assert "Missing argument 'REF'" in str(run)


def test_a_label_that_cannot_be_read_is_said(filled: Snap) -> None:
    """The snapshot is as good as before, but its name may be another one."""
    (label,) = (filled.store / "label").iterdir()
    label.chmod(0o600)
    label.write_bytes(label.read_bytes()[:-1] + b"?")
    assert "\nlabel        not all of it can be read: label/" in str(filled("show", "latest"))
    assert "label damaged" in str(filled("list"))
    document = json.loads(filled("show", "latest", "--json").stdout)["snapshot"]
    assert document["status"] == "ready" and document["error"]
