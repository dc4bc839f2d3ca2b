"""Where passwords come from, and where they do not get to."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Run, Snap, command
from terminal import on_terminal

SECRET = b"correct horse"
STORE, ID = "/backup/store", "0123456789abcdef" * 2

# Asks as a command does, and prints what it got in hexadecimal.
ASK = f"""
import os, sys
from snapstore.cli import errors, passwords
from snapstore.cli.settings import Settings
passwords.take_environment()
try:
    if sys.argv[1] == "given":
        print(passwords.given())
    else:
        new = sys.argv[1] == "new"
        found = passwords.new({STORE!r}, "the key laptop") if new else passwords.current(
            {STORE!r}, (sys.argv[2:] or [None])[0])
        again = passwords.new({STORE!r}, "it") if sys.argv[2:] == ["again"] else found
        assert again == found
        print("none" if found is None else bytes(found).hex("."), passwords.origin() or "")
except BaseException as error:
    sys.exit(errors.report(error, Settings()))
"""


def asked(snap: Snap, *arguments: str, input: bytes = b"", fds: Sequence[int] = (), **env: Any):
    """What asking gives where there is no terminal."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *(arguments or ("current",))],
        input=input,
        capture_output=True,
        cwd=snap.home,
        env={k: os.fsencode(v) for k, v in {**snap.environment, **env}.items()},
        pass_fds=fds,
        start_new_session=True,
        check=False,
    )
    return Run(done.stdout, done.stderr, done.returncode, {str(snap.home): "~"})


def got(secret: bytes, origin: str = "") -> str:
    return f"{secret.hex('.')} {origin}\n"


def failed(message: str, hint: str | None = None, status: int = 12) -> str:
    lines = ["--- stderr", f"snap: error: {message}"]
    lines += [f"snap: hint: {hint}"] if hint else []
    return "\n".join([*lines, f"--- status {status}", ""])


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


# Sources


def test_none(snap: Snap) -> None:
    assert str(asked(snap)) == "none \n"
    assert str(asked(snap, "given")) == "False\n"


@pytest.mark.parametrize("secret", [SECRET, b"\xff\xfe \n\r\n", "Zoë".encode(), b"x" * 4096])
def test_variable(snap: Snap, secret: bytes) -> None:
    """Byte for byte, its newlines too."""
    assert str(asked(snap, SNAP_PASSWORD=secret)) == got(secret, "SNAP_PASSWORD")
    assert str(asked(snap, "given", SNAP_PASSWORD=secret)) == "True\n"


ENDINGS = [
    (b"a", b"a"),
    (b"a\n", b"a"),
    (b"a\r\n", b"a"),
    (b"a\n\n", b"a\n"),
    (b"a\r\n\r\n", b"a\r\n"),
    (b"a\r", b"a\r"),
    (b" a \t\n", b" a \t"),
    (b"\xff\n", b"\xff"),
    (b"\n\n", b"\n"),
    (b"x" * 4096 + b"\r\n", b"x" * 4096),
]


@pytest.mark.parametrize(("content", "secret"), ENDINGS)
def test_one_newline_is_dropped(snap: Snap, secret_file: Path, content: bytes, secret: bytes):
    secret_file.write_bytes(content)
    assert str(asked(snap, SNAP_PASSWORD_FILE=secret_file)) == got(secret, "SNAP_PASSWORD_FILE")
    cat = f"cat {shlex.quote(str(secret_file))}"
    assert str(asked(snap, SNAP_PASSWORD_COMMAND=cat)) == got(secret, "SNAP_PASSWORD_COMMAND")
    run = asked(snap, SNAP_PASSWORD_FD="0", input=content)
    assert str(run) == got(secret, "SNAP_PASSWORD_FD")


NO_PASSWORDS = [
    (b"", "is empty"),
    (b"\n", "is empty"),
    (b"a\0b", "has a zero byte"),
    (b"x" * 4097, "has more than 4,096 bytes"),
    (b"x" * 4097 + b"\n", "has more than 4,096 bytes"),
    (b"x" * 100_000, "has more than 4,096 bytes"),
]


@pytest.mark.parametrize(("content", "wrong"), NO_PASSWORDS)
def test_what_is_no_password(snap: Snap, secret_file: Path, content: bytes, wrong: str) -> None:
    secret_file.write_bytes(content)
    run = asked(snap, SNAP_PASSWORD_FILE=secret_file)
    assert str(run) == failed(f"SNAP_PASSWORD_FILE: the password {wrong}")
    run = asked(snap, SNAP_PASSWORD_COMMAND=f"cat {secret_file}")
    assert str(run) == failed(f"SNAP_PASSWORD_COMMAND: the password {wrong}")
    run = asked(snap, SNAP_PASSWORD_FD="0", input=content)
    assert str(run) == failed(f"SNAP_PASSWORD_FD: the password {wrong}")


def test_empty_variable(snap: Snap) -> None:
    assert str(asked(snap, SNAP_PASSWORD="")) == failed("SNAP_PASSWORD: the password is empty")
    assert str(asked(snap, SNAP_PASSWORD_FILE="")) == failed("SNAP_PASSWORD_FILE names no file")
    run = asked(snap, SNAP_PASSWORD_COMMAND=" ")
    assert str(run) == failed("SNAP_PASSWORD_COMMAND names no command")


def test_several_sources(snap: Snap) -> None:
    run = asked(snap, SNAP_PASSWORD="a", SNAP_PASSWORD_FD="9")
    assert str(run) == failed(
        "SNAP_PASSWORD and SNAP_PASSWORD_FD are set, but a password has one source",
        "unset all but one",
        status=2,
    )
    run = asked(snap, "new", SNAP_NEW_PASSWORD="a", SNAP_NEW_PASSWORD_FILE="b", SNAP_PASSWORD="c")
    assert "SNAP_NEW_PASSWORD and SNAP_NEW_PASSWORD_FILE are set" in str(run)


# Files


def test_file_that_is_not_there(snap: Snap) -> None:
    run = asked(snap, SNAP_PASSWORD_FILE=snap.home / "nothing")
    assert str(run) == failed("SNAP_PASSWORD_FILE: ~/nothing: No such file or directory")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_file_of_others_too(snap: Snap, secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    run = asked(snap, SNAP_PASSWORD_FILE=secret_file)
    assert str(run) == failed(
        "SNAP_PASSWORD_FILE: ~/secret can be read or changed by other users", "chmod 600 ~/secret"
    )


def test_the_line_to_type_can_be_typed(snap: Snap, secret_file: Path) -> None:
    odd = secret_file.rename(snap.home / "it's $HOME")
    odd.chmod(0o644)
    link = snap.home / "link"
    link.symlink_to(odd)
    hint = asked(snap, SNAP_PASSWORD_FILE=link).stderr.decode().splitlines()[1]
    subprocess.run(hint.removeprefix("snap: hint: "), shell=True, check=True)
    assert str(asked(snap, SNAP_PASSWORD_FILE=link)) == got(SECRET, "SNAP_PASSWORD_FILE")


@pytest.mark.needs("root")
def test_file_of_another_user(snap: Snap, secret_file: Path) -> None:
    os.chown(secret_file, 4321, -1)
    run = asked(snap, SNAP_PASSWORD_FILE=secret_file)
    assert str(run) == failed(
        "SNAP_PASSWORD_FILE: ~/secret belongs to another user, who can change it",
        "if it is yours: chown 0 ~/secret",
    )


@pytest.mark.needs("setfacl")
def test_file_shared_by_an_acl(snap: Snap, secret_file: Path) -> None:
    """As systemd hands credentials to a service: the user alone, and for that a bit of the group
    is set.
    """

    def allow(rule: str) -> None:
        subprocess.run(["setfacl", "-m", rule, secret_file], check=True)

    secret_file.chmod(0o400)
    allow(f"u:{os.geteuid()}:r")
    assert secret_file.stat().st_mode & 0o777 == 0o440
    assert str(asked(snap, SNAP_PASSWORD_FILE=secret_file)) == got(SECRET, "SNAP_PASSWORD_FILE")
    allow("u:4321:r")
    assert "can be read or changed by other users" in str(
        asked(snap, SNAP_PASSWORD_FILE=secret_file)
    )
    allow("u:4321:-")
    allow("g::r")
    assert "can be read or changed by other users" in str(
        asked(snap, SNAP_PASSWORD_FILE=secret_file)
    )


@pytest.mark.parametrize("path", ["/dev/null", "/", "/dev/zero"])
def test_what_is_no_file(snap: Snap, path: str) -> None:
    assert str(asked(snap, SNAP_PASSWORD_FILE=path)) == failed(
        f"SNAP_PASSWORD_FILE: {path} is not a file"
    )


def test_pipe(snap: Snap) -> None:
    pipe = snap.home / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = threading.Thread(target=pipe.write_bytes, args=(SECRET + b"\n",))
    writer.start()
    assert str(asked(snap, SNAP_PASSWORD_FILE=pipe)) == got(SECRET, "SNAP_PASSWORD_FILE")
    writer.join()


def test_process_substitution(snap: Snap) -> None:
    done = subprocess.run(
        [
            *("bash", "-c", 'SNAP_PASSWORD_FILE=<(echo "$1") "${@:2}"', "bash"),
            *(SECRET, sys.executable, "-c", ASK, "current"),
        ],
        capture_output=True,
        env=snap.environment,
        check=False,
    )
    assert (done.stdout.decode(), done.stderr) == (got(SECRET, "SNAP_PASSWORD_FILE"), b"")


# Commands


def test_command_is_no_shell(snap: Snap) -> None:
    run = asked(snap, SNAP_PASSWORD_COMMAND=r"""printf '%s|' "a b" c\ d '$HOME' > e""")
    assert str(run) == got(b"a b|c d|$HOME|>|e|", "SNAP_PASSWORD_COMMAND")


def test_command_that_fails(snap: Snap) -> None:
    hint = "run the command by itself to see why"
    run = asked(snap, SNAP_PASSWORD_COMMAND="sh -c 'echo secret; echo told >&2; exit 3'")
    assert run.stderr.startswith(b"told\n")
    expected = failed("SNAP_PASSWORD_COMMAND: sh failed (exit status 3)", hint)
    assert str(run).replace("told\n", "") == expected
    run = asked(snap, SNAP_PASSWORD_COMMAND="sh -c 'echo secret; kill -9 $$'")
    assert str(run) == failed("SNAP_PASSWORD_COMMAND: sh failed (signal 9)", hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nowhere/pass show", "/nowhere/pass: No such file or directory"),
        ("/dev/null", "/dev/null: Permission denied"),
        ("pass 'show hunter2", "a quote in it is not closed"),
    ],
)
def test_command_that_cannot_be_run(snap: Snap, line: str, message: str) -> None:
    run = asked(snap, SNAP_PASSWORD_COMMAND=line, SNAP_DEBUG="1")
    assert f"snap: error: SNAP_PASSWORD_COMMAND: {message}\n" in str(run)
    assert run.status == 12
    assert b"hunter2" not in run.stderr


def test_command_that_does_not_end(snap: Snap) -> None:
    run = asked(snap, SNAP_PASSWORD_COMMAND="yes")
    assert str(run) == failed("SNAP_PASSWORD_COMMAND: the password has more than 4,096 bytes")


def test_command_has_no_part_of_it(snap: Snap) -> None:
    """No variables of passwords in its environment; nothing to read on its standard input."""
    line = "sh -c 'env | grep -c SNAP_; env | grep PASSWORD; cat; echo end'"
    run = asked(snap, SNAP_PASSWORD_COMMAND=line, SNAP_NEW_PASSWORD="x", input=b"for the command")
    assert str(run) == got(b"1\nend", "SNAP_PASSWORD_COMMAND")


# Descriptors


@pytest.mark.parametrize("number", ["", "x", "-1", "1", "2", "97", "9" * 30, "3 ", "\u0663"])
def test_descriptor_that_is_none(snap: Snap, number: str) -> None:
    run = asked(snap, SNAP_PASSWORD_FD=number)
    assert str(run) == failed(
        "SNAP_PASSWORD_FD is not the number of a descriptor that can be read",
        "for instance: SNAP_PASSWORD_FD=3 snap … 3</path/to/file",
    )


def test_descriptor(snap: Snap, secret_file: Path) -> None:
    with secret_file.open("rb") as file:
        number = str(file.fileno())
        run = asked(snap, SNAP_PASSWORD_FD=number, fds=[file.fileno()])
        assert str(run) == got(SECRET, "SNAP_PASSWORD_FD")
        run = asked(snap, SNAP_PASSWORD_FD=number, SNAP_NEW_PASSWORD_FD=number, fds=[file.fileno()])
        assert str(run) == failed("SNAP_PASSWORD_FD: the password is empty")  # it was read above


def test_descriptor_for_writing(snap: Snap) -> None:
    with (snap.home / "file").open("wb") as file:
        run = asked(snap, SNAP_PASSWORD_FD=str(file.fileno()), fds=[file.fileno()])
    assert str(run) == failed("SNAP_PASSWORD_FD: Bad file descriptor")


def test_standard_input_is_not_read_twice(snap: Snap) -> None:
    """What held the password is not an empty file for the command."""
    snap("init")
    run = snap("create", "--stdin", "x", input=SECRET, SNAP_PASSWORD_FD="0")
    assert run.status != 0
    assert str(snap("list")) == "--- stderr\nsnap: no snapshots yet\n"


# New ones


def test_new(snap: Snap, secret_file: Path) -> None:
    assert str(asked(snap, "new", SNAP_NEW_PASSWORD=SECRET)) == got(SECRET)
    assert str(asked(snap, "new", SNAP_NEW_PASSWORD_FILE=secret_file)) == got(SECRET)
    assert str(asked(snap, "new", SNAP_NEW_PASSWORD_COMMAND="echo 12345678")) == got(b"12345678")
    run = asked(snap, "new", "again", SNAP_NEW_PASSWORD_FD="0", input=SECRET)
    assert str(run) == got(SECRET)
    assert str(asked(snap, "given", SNAP_NEW_PASSWORD=SECRET)) == "False\n"


def test_new_and_short(snap: Snap) -> None:
    assert str(asked(snap, "new", SNAP_NEW_PASSWORD="1234567")) == (
        got(b"1234567") + "--- stderr\n"
        "snap: warning: the new password is shorter than 8 bytes, and easily guessed\n"
    )


def test_new_from_nowhere(snap: Snap) -> None:
    assert str(asked(snap, "new", SNAP_PASSWORD=SECRET)) == failed(
        "there is no new password, and no terminal to ask for one",
        "name one with SNAP_NEW_PASSWORD_FILE, SNAP_NEW_PASSWORD_COMMAND, SNAP_NEW_PASSWORD_FD"
        " or SNAP_NEW_PASSWORD",
    )


# The terminal


def typed(snap: Snap, *arguments: str, keys: Sequence[tuple[bytes, bytes]], **more: str) -> str:
    """What the terminal shows, and the status."""
    argv = [sys.executable, "-c", ASK, *arguments]
    shown, status = on_terminal(argv, {**snap.environment, **more}, keys=keys)
    return f"{shown.decode().replace(chr(13), '')}{status}"


PROMPT = b"Password of /backup/store: "
NEW = b"New password for the key laptop of /backup/store: "
AGAIN = b"The same again: "


def test_typed(snap: Snap) -> None:
    shown = typed(snap, "current", keys=[(PROMPT, SECRET + b"\n")])
    assert shown == f"{PROMPT.decode()}\n{got(SECRET, 'terminal')}0"


def test_typed_bytes_are_taken_as_they_are(snap: Snap) -> None:
    secret = b" \xff\xc3\xa9 \t"
    assert got(secret, "terminal") in typed(snap, "current", keys=[(PROMPT, secret + b"\n")])


def test_nothing_typed(snap: Snap) -> None:
    for keys in (b"\n", b"\x04"):
        shown = typed(snap, "current", keys=[(PROMPT, keys)])
        assert "no password was typed" in shown
        assert shown.endswith("12")


def test_typed_too_much(snap: Snap) -> None:
    shown = typed(snap, "current", keys=[(PROMPT, b"x" * 5000 + b"\n")])
    assert "a password of more than 4,094 bytes cannot be typed" in shown
    assert "xx" not in shown


def test_interrupted_at_the_prompt(snap: Snap) -> None:
    """The terminal shows again what is typed."""
    line = '"$0" -c "$1" current; stty -a | grep -o ".\\?echo "'
    argv = ["bash", "-ic", line, sys.executable, ASK]
    shown, _ = on_terminal(argv, snap.environment, keys=[(PROMPT, b"half\x03")])
    assert b"interrupted" in shown
    assert b" echo " in shown
    assert b"-echo " not in shown
    assert b"half" not in shown


def test_new_is_typed_twice(snap: Snap) -> None:
    shown = typed(snap, "new", keys=[(NEW, SECRET + b"\n"), (AGAIN, SECRET + b"\n")])
    assert shown == f"{NEW.decode()}\n{AGAIN.decode()}\n{got(SECRET)}0"


def test_new_is_typed_otherwise(snap: Snap) -> None:
    shown = typed(snap, "new", keys=[(NEW, SECRET + b"\n"), (AGAIN, b"wrong horse\n")])
    assert "the two passwords differ; nothing was set" in shown
    assert shown.endswith("2")
    assert "horse" not in shown


def test_a_variable_is_before_the_terminal(snap: Snap) -> None:
    assert typed(snap, "current", keys=[], SNAP_PASSWORD="a") == f"{got(b'a', 'SNAP_PASSWORD')}0"


# What is started does not get it

KINDS = ("", "_FILE", "_COMMAND", "_FD")
# Those that say nothing of the store, which is not sealed.
NEW_ONES = {f"SNAP_NEW_PASSWORD{kind}": f"secret-{kind}" for kind in KINDS}
ALL = {**NEW_ONES, **{f"SNAP_PASSWORD{kind}": f"secret-{kind}" for kind in KINDS}}

LEAK = r"""
import os
from snapstore.cli import passwords
passwords.take_environment()
os.system("ls -l /proc/self/fd; env; tr '\\0' '\\n' </proc/$PPID/environ")
"""


def test_no_variable_is_left(snap: Snap) -> None:
    """Not even where a program is started without any care, or looks at this one."""
    done = subprocess.run(
        [sys.executable, "-c", LEAK], capture_output=True, env={**snap.environment, **ALL}
    )
    assert done.stdout.count(b"\nSNAP_STORE=") == 2
    assert b"secret-" not in done.stdout


def test_streams_and_hooks_do_not_get_it(snap: Snap) -> None:
    snap("init")
    env = "env; tr '\\0' '\\n' </proc/$PPID/environ"
    made = snap("create", "--stdin-from", f"x={env}", **NEW_ONES)
    assert made.status == 0, str(made)
    taken = snap("cat", "latest:x").stdout
    assert b"SNAP_STORE=" in taken
    assert b"secret-" not in taken
    hook = f"({env}) > {snap.home}/hook"
    done = snap("restore", "latest", "--target", "out", "--hook-before", hook, **NEW_ONES)
    assert done.status == 0, str(done)
    seen = (snap.home / "hook").read_bytes()
    assert b"SNAP_STORE=" in seen
    assert b"secret-" not in seen


def test_a_job_does_not_get_it(snap: Snap, files: Path) -> None:
    snap("init")
    snap("create", files)
    hook = f"env > {snap.home}/part; mv {snap.home}/part {snap.home}/hook"
    done = snap(
        "restore", "latest", "--target", "out", "--detach", "--hook-before", hook, **NEW_ONES
    )
    assert done.status == 0, str(done)
    deadline = time.monotonic() + 20
    while not (snap.home / "hook").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"secret-" not in (snap.home / "hook").read_bytes()


def test_a_pager_does_not_get_it(filled: Snap) -> None:
    pager = "cat >/dev/null; env | grep -c '[s]ecret-'"
    environment = {**filled.environment, **NEW_ONES, "SNAP_PAGER": pager, "TERM": "xterm"}
    shown, _ = on_terminal([*command(), "list"], environment)
    assert shown.strip() == b"0"


@pytest.mark.parametrize("place", ["SNAP_PASSWORD_FD={}", "SNAP_PASSWORD_FILE=/dev/fd/{}", "X={}"])
def test_descriptors_are_not_inherited(snap: Snap, place: str) -> None:
    reader, writer = os.pipe()
    name = os.readlink(f"/proc/self/fd/{reader}").encode()
    variable, _, value = place.format(reader).partition("=")
    done = subprocess.run(
        [sys.executable, "-c", LEAK],
        capture_output=True,
        env={**snap.environment, variable: value},
        pass_fds=[reader],
        check=True,
    )
    os.close(reader)
    os.close(writer)
    assert (name in done.stdout) is (variable == "X")


def test_it_is_nowhere_in_the_output(filled: Snap, files: Path) -> None:
    secrets = {**NEW_ONES, "SNAP_DEBUG": "1"}
    for line in ("show nothing", "list --frob", "list", "show first", "doctor", "check -v"):
        for more in ([], ["--json"]):
            run = filled(*line.split(), *more, **secrets)
            assert b"secret-" not in run.stdout + run.stderr


def test_it_is_in_no_traceback(snap: Snap, secret_file: Path) -> None:
    secret_file.write_bytes(b"hunter2\0")
    for source in (
        {"SNAP_PASSWORD": "hunter2" * 1000},
        {"SNAP_PASSWORD_FILE": secret_file},
        {"SNAP_PASSWORD_COMMAND": f"cat {secret_file}"},
        {"SNAP_PASSWORD_COMMAND": "sh -c 'echo hunter2; exit 1'"},
        {"SNAP_PASSWORD_FD": "hunter2"},
    ):
        run = asked(snap, SNAP_DEBUG="1", **source)
        assert run.status == 12
        assert b"Traceback" in run.stderr
        assert b"hunter2" not in run.stdout + run.stderr


# This process


def test_what_is_held_can_be_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    from snapstore.cli import passwords

    monkeypatch.setenv("SNAP_PASSWORD", "hunter2")
    passwords.take_environment()
    assert "SNAP_PASSWORD" not in os.environ
    (source,) = passwords._taken.values()
    passwords.wipe()
    assert source.value == bytes(7)
    assert not passwords.given()
    secret = bytearray(b"hunter2")
    passwords.erase(secret)
    assert secret == bytes(7)


HARD = """
import ctypes, os, resource
from snapstore.cli import passwords
os.environ["SNAP_PASSWORD"] = "x"
passwords.take_environment()
before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
passwords.current("store", None)
print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


def test_no_core_dump_and_no_debugger(snap: Snap) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HARD], env=snap.environment, capture_output=True, check=True
    )
    assert done.stdout == b"1 0 0\n"


def test_a_killed_process_leaves_no_core(snap: Snap) -> None:
    code = f"{HARD}\nos.abort()"
    done = subprocess.run(
        ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", sys.executable, "-c", code],
        env=snap.environment,
        cwd=snap.home,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    assert list(snap.home.glob("core*")) == []


def test_what_is_loaded_without_need(snap: Snap) -> None:
    """Nothing of it costs a start of the command any time."""
    code = (
        "import sys; from snapstore.cli.main import run; run(['--version']);"
        "print({'ctypes', 'keyring', 'segno', 'termios', 'subprocess'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=snap.environment, capture_output=True, check=True
    )
    assert done.stdout.endswith(b"set()\n")
