"""`snap key`, and what commands say of encrypted stores."""

import json
import re
import shutil
from pathlib import Path

import pytest
from cli_runner import Snap, command
from terminal import on_terminal
from test_cli_json import agree

FIRST, SECOND = "correct horse", "battery staple"


@pytest.fixture
def sealed(snap: Snap, files: Path) -> Snap:
    """The command, with an encrypted store that holds a snapshot, and its password."""
    snap.environment["SNAP_PASSWORD"] = FIRST
    made = snap("init", "--encrypt", "--unlock-time", "0")
    assert str(made) == "made encrypted store <short> in ~/store\n"
    assert snap("create", files, "--name", "first").status == 0
    return snap


def keys(snap: Snap) -> list[str]:
    return [key["name"] for key in json.loads(snap("key", "list", "--json").stdout)["keys"]]


def test_list(sealed: Snap) -> None:
    shown = str(sealed("key", "list"))
    assert re.fullmatch(
        r"used +name +key +made +argon2id\n\* +password +<short> +<time> +64 MiB, 3 passes\n", shown
    )
    document = json.loads(sealed("key", "list", "--json").stdout)
    agree(document["keys"][0], "key")


def test_add_change_and_remove(sealed: Snap) -> None:
    new = {"SNAP_NEW_PASSWORD": SECOND}
    assert str(sealed("key", "add", "laptop", "--unlock-time", "0", **new)) == (
        "added key laptop (<short>)\n"
    )
    assert keys(sealed) == ["password", "laptop"]
    assert sealed("list", SNAP_PASSWORD=SECOND).status == 0
    again = sealed("key", "add", "laptop", **new)
    assert (again.status, "there is a key of the name 'laptop'" in str(again)) == (2, True)
    changed = sealed("key", "passwd", "laptop", "--unlock-time", "0", SNAP_NEW_PASSWORD="third one")
    assert str(changed) == "changed key laptop (<short>)\n"
    assert sealed("list", SNAP_PASSWORD=SECOND).status == 12
    assert str(sealed("key", "remove", "password")) == "removed key password (<short>)\n"
    assert sealed("list").status == 12
    sealed.environment["SNAP_PASSWORD"] = "third one"
    assert sealed("key", "remove", "laptop").status == 2
    assert sealed("key", "remove", "nobody").status == 13
    assert keys(sealed) == ["laptop"]


def test_a_new_password_is_asked_for_twice(sealed: Snap) -> None:
    asked = [(b"New password for key laptop", b"staple 12\n"), (b"again", b"staple 12\n")]
    arguments = [*command(), "key", "add", "laptop", "--unlock-time", "0"]
    shown, status = on_terminal(arguments, sealed.environment, keys=asked)
    assert (status, b"staple" in shown) == (0, False)
    assert sealed("list", SNAP_PASSWORD="staple 12").status == 0


def test_the_password_is_asked_for(sealed: Snap) -> None:
    del sealed.environment["SNAP_PASSWORD"]
    typed = [(b"Password of ", FIRST.encode() + b"\n")]
    shown, status = on_terminal([*command(), "list", "--no-pager"], sealed.environment, keys=typed)
    assert status == 0
    assert b"first" in shown and FIRST.encode() not in shown


def test_export_and_import(sealed: Snap) -> None:
    text = sealed("key", "export").stdout
    page = sealed.home / "key.html"
    assert str(sealed("key", "export", "password", "--paper", page)) == "wrote ~/key.html\n"
    assert page.stat().st_mode & 0o777 == 0o600
    assert b"<svg" in page.read_bytes()
    assert "File exists" in str(sealed("key", "export", "--paper", page))
    code = json.loads(sealed("key", "export", "--json").stdout)
    agree(code, "snap key export")
    for given in (text, code["text"].encode(), text.lower()):
        shutil.rmtree(sealed.store / "key")
        (sealed.store / "key").mkdir()
        missing = sealed("list")
        assert str(missing) == (
            "--- stderr\n"
            "snap: error: none of the store's keys is left\n"
            "snap: hint: key import puts back one that was exported\n"
            "--- status 18\n"
        )
        assert str(sealed("key", "import", "-", input=given)) == (
            "imported key password (<short>)\n"
        )
        assert sealed("list").status == 0


def test_a_slip_of_the_pen_is_found(sealed: Snap) -> None:
    text = sealed("key", "export").stdout.decode()
    line = next(line for line in text.splitlines() if line.startswith("07"))
    wrong = line[:6] + ("0" if line[6] != "0" else "1") + line[7:]
    run = sealed("key", "import", "-", input=text.replace(line, wrong).encode())
    assert run.status == 2
    assert "line 7" in str(run)


@pytest.mark.parametrize("verb", ["list", "export", "remember"])
def test_a_store_without_encryption(filled: Snap, verb: str) -> None:
    assert str(filled("key", verb)) == (
        "--- stderr\nsnap: error: the store is not encrypted: it has no keys\n--- status 2\n"
    )


def test_help_of_the_group(snap: Snap) -> None:
    shown = snap("key", "--help").stdout.decode()
    for verb in ("list", "add", "passwd", "remove", "export", "import", "remember"):
        assert re.search(rf"^  {verb} ", shown, re.MULTILINE)
        assert snap("key", verb, "--help").status == 0
    assert snap("key", "frobnicate").status == 2


# What is wrong


def test_no_password(sealed: Snap) -> None:
    assert str(sealed("list", SNAP_PASSWORD=None)) == (
        "--- stderr\n"
        "snap: error: the store is encrypted, and no password was given\n"
        "snap: hint: set one of SNAP_PASSWORD_FILE, SNAP_PASSWORD_COMMAND, SNAP_PASSWORD_FD and "
        "SNAP_PASSWORD\n"
        "--- status 12\n"
    )


def test_a_wrong_password_is_not_shown(sealed: Snap) -> None:
    for more in ({}, {"SNAP_DEBUG": "1"}):
        run = sealed("list", "--json", SNAP_PASSWORD="wrong secret", **more)
        assert run.status == 12
        assert b'"wrong-password"' in run.stderr
        assert b"wrong secret" not in run.stderr + run.stdout


def test_a_password_for_a_store_without_encryption(filled: Snap) -> None:
    run = filled("list", SNAP_PASSWORD=FIRST)
    assert run.status == 19
    assert "a password was given, but the store is not encrypted" in str(run)


def test_a_store_that_was_rolled_back(sealed: Snap, files: Path) -> None:
    shutil.copytree(sealed.store, sealed.home / "before")
    assert sealed("create", files, "--name", "second").status == 0
    shutil.rmtree(sealed.store)
    (sealed.home / "before").rename(sealed.store)
    warning = "snap: warning: 2 objects that this machine saw in the store are gone"
    assert warning in str(sealed("list"))
    trusted = str(sealed("doctor", "--trust"))
    assert "what is in ~/store now is taken for what it should be" in trusted
    assert warning not in str(sealed("list"))


def test_a_store_that_was_exchanged(sealed: Snap, files: Path) -> None:
    shutil.rmtree(sealed.store)
    del sealed.environment["SNAP_PASSWORD"]
    assert sealed("init").status == 0
    run = sealed("create", files)
    assert (run.status, "this one is not encrypted" in str(run)) == (19, True)
    assert sealed("doctor", "--trust").status == 0
    assert sealed("create", files).status == 0


# Append-only


def test_an_append_only_store(snap: Snap, files: Path) -> None:
    snap.environment["SNAP_PASSWORD"] = FIRST
    made = snap("init", "--encrypt", "--append-only", "--unlock-time", "0", "--json")
    assert json.loads(made.stdout)["store"]["append_only"] is True
    assert snap("create", files).status == 0
    run = snap("key", "passwd", SNAP_NEW_PASSWORD=SECOND)
    assert str(run) == (
        "--- stderr\n"
        "snap: error: the store is append-only: nothing in it is deleted\n"
        "snap: hint: delete where the store may be written freely\n"
        "--- status 20\n"
    )


def test_a_machine_that_only_appends(sealed: Snap, files: Path) -> None:
    sealed.environment["SNAP_APPEND_ONLY"] = "1"
    assert sealed("create", files).status == 0
    assert sealed("key", "passwd", SNAP_NEW_PASSWORD=SECOND).status == 20
    sealed.environment["SNAP_APPEND_ONLY"] = "0"
    assert sealed("key", "passwd", SNAP_NEW_PASSWORD=SECOND).status == 0
