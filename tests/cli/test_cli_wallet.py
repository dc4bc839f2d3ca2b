"""Passwords in the system's keyring, held by a backend of our own."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Snap

ID = "0123456789abcdef" * 2

BACKEND = """
import json, os
from pathlib import Path
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

class Box(KeyringBackend):
    priority = 1
    place = Path(os.environ["HOME"], "box")

    def read(self):
        return json.loads(self.place.read_text()) if self.place.exists() else {}

    def get_password(self, service, username):
        return self.read().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        self.place.write_text(json.dumps({**self.read(), f"{service}/{username}": password}))

    def delete_password(self, service, username):
        held = self.read()
        if held.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError("none")
        self.place.write_text(json.dumps(held))

class Broken(KeyringBackend):
    priority = 1

    def get_password(self, service, username):
        raise RuntimeError("no bus")

    def set_password(self, service, username, password):
        raise RuntimeError(f"cannot keep {password}")

    def delete_password(self, service, username):
        raise RuntimeError("no bus")
"""

START = """
import sys
import click
from snapstore.cli import passwords, wallet
from snapstore.cli.settings import Settings
passwords.take_environment()
click.Context(click.Command("snap"), obj=Settings(verbose="-v" in sys.argv)).__enter__()
"""


@pytest.fixture
def boxed(snap: Snap) -> Snap:
    """The command with a keyring of its own."""
    (snap.home / "boxes.py").write_text(BACKEND)
    snap.environment |= {"PYTHONPATH": str(snap.home), "PYTHON_KEYRING_BACKEND": "boxes.Box"}
    return snap


def run(snap: Snap, code: str, *arguments: str, **environment: str) -> tuple[str, str]:
    """What a few lines print, and what they complain of; without a terminal."""
    done = subprocess.run(
        [sys.executable, "-c", START + code, *arguments],
        capture_output=True,
        env={**snap.environment, **environment},
        cwd=snap.home,
        start_new_session=True,
        text=True,
        check=False,
    )
    return done.stdout, done.stderr


CURRENT = f"print(passwords.current('/store', '{ID}'), passwords.origin())"


def test_remembered_and_forgotten(boxed: Snap) -> None:
    assert run(boxed, CURRENT) == ("None None\n", "")
    put = f"print(wallet.remember('{ID}', bytearray('Zoë'.encode())))"
    assert run(boxed, put) == ("True\n", "")
    assert (boxed.home / "box").read_text() == f'{{"snapstore/{ID}": "Zo\\u00eb"}}'
    assert run(boxed, CURRENT) == (f"{bytearray('Zoë'.encode())} keyring\n", "")
    assert run(boxed, "print(passwords.current('/store', None))") == ("None\n", "")
    assert run(boxed, f"print(wallet.forget('{ID}'), wallet.forget('{ID}'))") == (
        "True False\n",
        "",
    )
    assert run(boxed, CURRENT) == ("None None\n", "")


def test_a_variable_is_before_the_keyring(boxed: Snap) -> None:
    run(boxed, f"wallet.remember('{ID}', b'kept')")
    code = CURRENT + "; print('keyring' in sys.modules)"
    printed, _ = run(boxed, code, SNAP_PASSWORD="named")
    assert printed == f"{bytearray(b'named')} SNAP_PASSWORD\nFalse\n"


def test_nobody_is_asked_for_a_completion(boxed: Snap) -> None:
    run(boxed, f"wallet.remember('{ID}', b'kept')")
    assert run(boxed, "passwords.never_ask()\n" + CURRENT) == ("None None\n", "")


@pytest.mark.parametrize("backend", ["boxes.Broken", "boxes.Nothing", "nowhere.Box"])
def test_a_keyring_that_fails_is_told_of_with_v_alone(boxed: Snap, backend: str) -> None:
    everything = f"""
print(wallet.recall('{ID}'), wallet.remember('{ID}', b'hunter2'), wallet.forget('{ID}'))
"""
    assert run(boxed, everything, PYTHON_KEYRING_BACKEND=backend) == ("None False False\n", "")
    printed, told = run(boxed, everything, "-v", PYTHON_KEYRING_BACKEND=backend)
    assert printed == "None False False\n"
    assert told.count("snap: the keyring was not used (") == 3
    assert "hunter2" not in told


def test_bytes_that_are_no_text_are_not_kept(boxed: Snap) -> None:
    printed, told = run(boxed, f"print(wallet.remember('{ID}', b'hunter2\\xff'))", "-v")
    assert (printed, told) == ("False\n", "snap: the keyring was not used (UnicodeDecodeError)\n")
    assert not (boxed.home / "box").exists()


def test_without_the_library(snap: Snap, tmp_path: Path) -> None:
    (tmp_path / "keyring.py").write_text("raise ModuleNotFoundError(name='keyring')\n")
    snap.environment["PYTHONPATH"] = str(tmp_path)
    assert run(snap, CURRENT) == ("None None\n", "")
    told = "snap: the keyring was not used (not installed)\n"
    assert run(snap, CURRENT, "-v") == ("None None\n", told)
