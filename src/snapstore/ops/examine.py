"""Examining: whether this machine and a store have what is needed. Changes nothing but what is
derived.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import snapstore
from snapstore import _native
from snapstore.base import libfuse
from snapstore.base.errors import PasswordNeeded, SnapstoreError
from snapstore.model.health import Finding, Health
from snapstore.model.keys import Password
from snapstore.repository import medium
from snapstore.repository.open import Repository

LITTLE_BYTES = 1 << 30
LITTLE_SHARE = 0.02
NEEDED_BYTES = 128 << 20
"""A pack of the largest size must find room."""
EARLIEST_NS = 1_763_000_000 * 10**9
"""Before this version was written."""
LATEST_NS = 4_102_444_800 * 10**9
SKEW_NS = 300 * 10**9
COMMANDS = ("snap", "snapstore")
_HEAD_BYTES = 4096


def examine(
    store: Path | None,
    *,
    cache_dir: Path | None,
    password: Password | None,
    search_path: Sequence[str],
    running: str | None,
) -> Health:
    """Looks at the core, the store, the medium, the clock, FUSE, and who owns the command."""
    findings = [_core()]
    repository: Repository | None = None
    if store is not None:
        found, repository = _store(store, cache_dir, password)
        findings.append(found)
    try:
        if repository is not None:
            findings.append(_index(repository))
        findings.extend(_space(store) if store is not None else ())
        findings.append(_clock(repository))
    finally:
        if repository is not None:
            repository.close()
    findings.append(_fuse(search_path))
    findings.append(_command(search_path, running))
    return Health(tuple(findings))


def _core() -> Finding:
    python = ".".join(map(str, sys.version_info[:3]))
    if snapstore.__version__ != _native.VERSION:
        return Finding(
            "core",
            "wrong",
            f"the native core is of version {_native.VERSION}, the package of"
            f" {snapstore.__version__}",
            "install the package again, so that both are built from the same source",
        )
    return Finding("core", "ok", f"version {_native.VERSION}, Python {python}")


# The store and its medium


def _store(
    path: Path, cache_dir: Path | None, password: Password | None
) -> tuple[Finding, Repository | None]:
    repository: Repository | None = None
    try:
        repository = Repository.open(path, cache_dir=cache_dir, password=password)
        snapshots = repository.catalog.snapshots()
    except PasswordNeeded as error:
        text = f"{path} is encrypted: without its password nothing in it was looked at"
        return Finding("store", "note", text, error.hint), None
    except SnapstoreError as error:
        if repository is not None:
            repository.close()
        return Finding("store", "wrong", error.message, error.hint), None
    unread = sum(snapshot.status != "ready" for snapshot in snapshots)
    count = len(snapshots)
    text = f"{path}, {count} {'snapshot' if count == 1 else 'snapshots'}"
    if repository.config.sealed:
        text += ", encrypted"
    if repository.warnings:
        return Finding("store", "wrong", f"{text}; {repository.warnings[0]}"), repository
    if unread:
        hint = "check says why"
        return Finding("store", "wrong", f"{text}, of which {unread} cannot be read", hint), (
            repository
        )
    if not repository.writable:
        hint = "to write, be the owner of the store, and let its file system be mounted for writing"
        return Finding("store", "note", f"{text}; it cannot be written here", hint), repository
    return Finding("store", "ok", text), repository


def _index(repository: Repository) -> Finding:
    """Where LMDB's file lies, and whether that is a place where it may be mapped."""
    local = repository.local
    if local is None:
        return Finding(
            "index",
            "note",
            "there is no place for it: it is made anew in memory each time",
            "let the store or the cache directory be writable by you alone",
        )
    kind = file_system(local)
    network = medium.network_kind(local)
    if network is not None:
        return Finding(
            "index",
            "wrong",
            f"{local} is on a network file system ({kind or network}), where it can be damaged",
            "set XDG_CACHE_HOME to a directory on a local disk",
        )
    try:
        repository.index()
    except (SnapstoreError, OSError) as error:
        return Finding("index", "wrong", f"{local}: {error}", "reindex makes it anew")
    where = f"{local}, on {kind}" if kind else str(local)
    if local.parent != repository.path:
        why = "the store is on a network file system or is not yours alone"
        if repository.config.sealed:
            why = "the store is encrypted"
        return Finding("index", "ok", f"{where}, since {why}")
    return Finding("index", "ok", where)


def file_system(path: Path) -> str | None:
    """Name of the type of the file system that a path is on; None where that cannot be told."""
    try:
        device = os.stat(path).st_dev
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    mark = f"{os.major(device)}:{os.minor(device)}"
    kinds = [line.partition(" - ")[2].split() for line in lines if line.split()[2] == mark]
    return kinds[-1][0] if kinds and kinds[-1] else None


def _space(store: Path) -> Iterator[Finding]:
    """Free bytes and inodes where the store is, or is to be."""
    place = store
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    try:
        state = os.statvfs(place)
    except OSError as error:
        yield Finding("space", "wrong", f"{place}: {error.strerror}")
        return
    free, whole = state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
    hint = "free some, or move the store to a larger disk"
    text = f"{free >> 20:,} MiB free of {whole >> 20:,} MiB"
    if free < NEEDED_BYTES or (state.f_files and not state.f_favail):
        inodes = "" if state.f_favail or not state.f_files else ", and no inode"
        yield Finding("space", "wrong", text + inodes, hint)
    elif free < LITTLE_BYTES or free < whole * LITTLE_SHARE:
        yield Finding("space", "note", f"little is left: {text}", hint)
    else:
        yield Finding("space", "ok", text)


# The machine


def _clock(repository: Repository | None) -> Finding:
    """Whether the time can be true: not from before this version, not behind the snapshots."""
    now_ns = time.time_ns()
    now = datetime.fromtimestamp(now_ns // 10**9, UTC).isoformat()
    hint = "set the clock; `latest` and time filters go by it"
    if not EARLIEST_NS <= now_ns <= LATEST_NS:
        return Finding("clock", "wrong", f"it says {now}, which cannot be", hint)
    if repository is not None:
        own = [s for s in repository.catalog.snapshots() if s.host == repository.host]
        newest = max((s.time_ns for s in own), default=0)
        if newest > now_ns + SKEW_NS:
            at = datetime.fromtimestamp(newest // 10**9, UTC).isoformat()
            return Finding(
                "clock",
                "wrong",
                f"it says {now}, but this host has a snapshot of {at}",
                hint + "; or that snapshot was given a time to come",
            )
    return Finding("clock", "ok", now)


def _fuse(search_path: Sequence[str]) -> Finding:
    """Only mounting needs it, so what is missing is only noted."""
    missing = []
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing.append("/dev/fuse")
    if libfuse.find() is None:
        missing.append("libfuse 3")
    if not any(_programs(name, search_path) for name in ("fusermount3",)):
        missing.append("fusermount3")
    if not missing:
        return Finding("fuse", "ok", "all that mounting needs is there")
    return Finding(
        "fuse",
        "note",
        f"missing: {', '.join(missing)}; nothing but mounting needs it",
        "install the package fuse3",
    )


def _command(search_path: Sequence[str], running: str | None) -> Finding:
    """Whose program `snap` is: that name is also snapd's, and others'."""
    first = {name: next(iter(_programs(name, search_path)), None) for name in COMMANDS}
    snap, other = first["snap"], first["snapstore"]
    if snap is not None and _is_ours(snap, running):
        return Finding("command", "ok", f"snap is ours: {snap}")
    hint = "put the directory of ours first in PATH, or give it another name with an alias"
    if snap is not None:
        whose = "snapd's" if os.path.exists("/usr/lib/snapd") else "another program's"
        if other is not None and _is_ours(other, running):
            return Finding("command", "note", f"snap is {whose}: {snap}", "type snapstore instead")
        return Finding("command", "wrong", f"snap is {whose}, and snapstore not ours: {snap}", hint)
    if other is not None and _is_ours(other, running):
        return Finding("command", "note", f"only snapstore is in PATH: {other}", "type snapstore")
    return Finding("command", "note", "neither snap nor snapstore is in PATH", hint)


def _programs(name: str, search_path: Sequence[str]) -> Iterator[str]:
    """Programs of a name, in the order in which a shell would find them."""
    for directory in search_path:
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            yield path


def _is_ours(path: str, running: str | None) -> bool:
    """Whether a program is the one that runs, or starts this package."""
    if running is not None and os.path.exists(running) and os.path.samefile(path, running):
        return True
    try:
        with open(path, "rb") as file:
            return b"snapstore" in file.read(_HEAD_BYTES)
    except OSError:
        return False
