"""A store with known contents, what is to become of it, and what may be said of it afterwards."""

import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import snapstore
from tree_store import rescue

SERVER = Path(__file__).with_name("damage_examine.py")
PATIENCE_S = 20.0
TYPED = {"damaged", "storage-error", "store-too-new", "store-invalid", "index-damaged"}

Answer = dict[str, Any]
Lost = dict[str, set[str]]


# The store


@dataclass
class Sound:
    """A store without damage, and digests of its files by snapshot and path."""

    path: Path
    source: Path
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def take(self, name: str) -> None:
        with snapstore.open(self.path) as store:
            id = store.create(self.source, name=name).snapshot.id
        self.names[name] = id
        self.files[id] = {str(path): _digest(path.read_bytes()) for path in _files(self.source)}

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.path, to)
        return to


def _files(top: Path) -> Iterable[Path]:
    return (path for path in top.rglob("*") if path.is_file() and not path.is_symlink())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def make_sound(place: Path) -> Sound:
    """Three snapshots of a changing tree: six packs, with files in the tree itself, in shared and
    in own blocks.
    """
    chance = random.Random(3)
    source = place / "source"
    for directory in ("docs", "data/deep"):
        (source / directory).mkdir(parents=True)
    (source / "docs" / "in-place").write_bytes(b"short\n")
    for number in range(6):
        (source / "docs" / f"small{number}").write_bytes(chance.randbytes(900 + 500 * number))
    (source / "data" / "large").write_bytes(chance.randbytes(1_500_000))
    (source / "data" / "deep" / "text").write_bytes(b"the same line again and again\n" * 9_000)
    (source / "data" / "link").symlink_to("large")
    os.link(source / "docs" / "small1", source / "data" / "second-name")
    sound = Sound(place / "store", source)
    snapstore.init(sound.path).close()
    sound.take("one")
    (source / "docs" / "small5").write_bytes(chance.randbytes(5_000))
    (source / "data" / "more").write_bytes(chance.randbytes(300_000))
    sound.take("two")
    (source / "docs" / "small0").unlink()
    (source / "data" / "deep" / "text").write_bytes(b"another line\n" * 20_000)
    sound.take("three")
    return sound


# Objects and damage


def objects(store: Path, kind: str) -> list[Path]:
    """Files of a prefix of the store, sorted."""
    return sorted(path for path in (store / kind).rglob("*") if path.is_file())


def flip(path: Path, offset: int, bit: int) -> None:
    """Flips one bit."""
    os.chmod(path, 0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def overwrite(path: Path, data: bytes) -> None:
    os.chmod(path, 0o600)
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    os.chmod(path, 0o600)
    os.truncate(path, size)


def drop_index(store: Path) -> None:
    """Removes everything that is derived."""
    shutil.rmtree(store / "local")


# Looking


class Ended(Exception):
    """The process that read a store ended by a signal, or not at all."""


class Examiner:
    """The server that reads damaged stores."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def close(self) -> None:
        os.killpg(self._server.pid, signal.SIGKILL)  # with a child that hangs
        self._server.wait()
        self._server.stdin.close()
        self._server.stdout.close()

    def look(self, store: Path, *modes: str) -> Answer:
        """What there is to be read in a store; never a signal, never an error without a type."""
        target = store.with_name(store.name + "-read")
        shutil.rmtree(target, ignore_errors=True)
        request = {"store": str(store), "target": str(target), "modes": modes}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        ready, _, _ = select.select([self._server.stdout], [], [], PATIENCE_S)
        if not ready:
            raise Ended(f"hangs for {PATIENCE_S} s")
        status = int(self._server.stdout.readline())
        if status:
            raise Ended(f"status {status}")
        answer = json.loads((target / "answer").read_text())
        _assert_typed(answer)
        return answer


def _assert_typed(answer: object) -> None:
    """Every error in an answer is one of ours that damage may cause."""
    if isinstance(answer, dict):
        if "error" in answer and isinstance(answer["error"], str):
            assert answer["error"] in TYPED, answer
        for value in answer.values():
            _assert_typed(value)


def lost_files(sound: Sound, answer: Answer) -> Lost:
    """Files that can be read no more, by snapshot. Fails when anything was read wrong."""
    read = answer.get("value", {}).get("read", {}).get("value")
    if read is None:
        return {id: set(files) for id, files in sound.files.items()}
    lost: Lost = {}
    for id, files in sound.files.items():
        found = read.get(id, {})
        got = {
            path: item["value"] for path, item in found.get("files", {}).items() if "value" in item
        }
        assert got.items() <= files.items(), "wrong bytes were read"
        lost[id] = files.keys() - got.keys()
        if found.get("status") == "ready":
            _judge_restored(sound, files, got, found["restored"])
    return lost


def _judge_restored(
    sound: Sound, files: dict[str, str], got: dict[str, str], answer: Answer
) -> None:
    """A restore brings back what can be read, and lists what it cannot."""
    back = {str(sound.source / path): digest for path, digest in answer["files"].items()}
    problems = set(answer["result"].get("value", ()))
    if "error" in answer["result"]:
        assert len(got) < len(files), answer["result"]
        assert not back, "a restore that failed left files"
        return
    assert back.items() <= files.items(), "wrong bytes were restored"
    assert got.items() <= back.items(), "less was restored than can be read"
    if back.keys() != files.keys():
        assert problems, "nothing is said of what is missing"


def assert_found(sound: Sound, answer: Answer, lost: Lost, which: str) -> None:
    """A check (`structure` or `data`) found damage, and says whom it hits."""
    if "error" in answer:
        return
    report = answer["value"][which]
    if "error" in report:
        return
    report = report["value"]
    assert not report["ok"], f"the check of {which} found nothing"
    hit = {(a["snapshot"], a["path"]) for p in report["problems"] for a in p["affected"]}
    for id, paths in lost.items():
        named = [path for snapshot, path in hit if snapshot == id]
        for path in paths:
            assert any(
                not above or path == above or path.startswith(above + "/") for above in named
            ), f"{path} of {id[:8]} is lost, but not named: {report['problems']}"


def rescued_files(store: Path, id: str, source: Path) -> dict[str, str]:
    """Digests of the files that the independent reader restores."""
    out = store.with_name(store.name + "-rescued")
    rescue().main([str(store), id, str(out)])
    found = {str(source / p.relative_to(out)): _digest(p.read_bytes()) for p in _files(out)}
    shutil.rmtree(out, ignore_errors=True)
    return found


def assert_as_good_as_rescue(sound: Sound, store: Path, lost: Lost) -> None:
    """Whatever the independent reader still gets back can be read here too."""
    for id, files in sound.files.items():
        back = rescued_files(store, id, sound.source)
        whole = {path for path, digest in back.items() if files.get(path) == digest}
        assert not lost[id] & whole, f"lost, but not for the independent reader: {lost[id] & whole}"


Damage = Callable[[Path], None]
