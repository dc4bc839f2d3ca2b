"""The tools under comparison: how each makes a store, takes a snapshot and gives it back.

A peer only builds commands; `measure.run` executes them. A `Place` is a fresh folder per tool and
run, holding the store and a home of its own, so that no cache of an earlier run helps.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Command

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Place:
    """Where one tool works in one run."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def environment(self) -> dict[str, str]:
        home = self.home
        home.mkdir(parents=True, exist_ok=True)
        folders = {f"XDG_{name}_HOME": str(home / name) for name in ("CACHE", "DATA", "STATE")}
        return {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "CONFIG"), **folders}


class Peer(ABC):
    """One tool. `name` is what tables show; `package` is what Debian calls it."""

    name: str
    package: str
    executables: tuple[str, ...]
    many_files = False  # whether its store holds a file for each file of the source

    def version(self) -> str:
        """As the packaging system knows it."""
        query = ("dpkg-query", "-W", "-f=${Version}", self.package)
        return subprocess.run(query, capture_output=True, text=True).stdout or "unknown"

    def problem(self) -> str | None:
        """Why this tool cannot be used here, if it cannot."""
        missing = [name for name in self.executables if shutil.which(name) is None]
        return f"{', '.join(missing)} not found" if missing else None

    def init(self, place: Place) -> Command | None:
        """Makes an empty store; None where the tool has no such step."""
        return None

    @abstractmethod
    def create(self, place: Place, source: Path, name: str) -> Command:
        """Takes a snapshot of `source`. Called again on the same place it uses what it kept."""

    def restore(self, place: Place, target: Path, name: str) -> Command:
        """Writes snapshot `name` below the empty folder `target`."""
        raise NotImplementedError(self.name)

    def rollback(self, place: Place, live: Path, name: str) -> Command:
        """Makes the tree or file `live` what it was in snapshot `name`, in the fastest way."""
        raise NotImplementedError(self.name)

    def export(self, place: Place, name: str) -> Command:
        """Writes snapshot `name` as a tar archive into a pipe whose reader counts its bytes."""
        raise NotImplementedError(self.name)

    def listing(self, place: Place) -> Command:
        """Prints the snapshots."""
        raise NotImplementedError(self.name)

    def files(self, place: Place, name: str) -> Command:
        """Prints all paths in a snapshot."""
        raise NotImplementedError(self.name)

    def diff(self, place: Place, old: str, new: str) -> Command:
        """Prints what is different between two snapshots."""
        raise NotImplementedError(self.name)

    def find(self, place: Place, pattern: str) -> Command:
        """Prints where a name is, in all snapshots."""
        raise NotImplementedError(self.name)

    def create_stream(self, place: Place, feed: tuple[str, ...], name: str) -> Command:
        """Takes a snapshot of what `feed` prints."""
        raise NotImplementedError(self.name)

    def mount(self, place: Place, mount: Path, name: str | None) -> Command:
        """Shows snapshot `name`, or all without one, at the empty folder `mount`. Ends once that
        can be used; what serves it stays in the background, with the home of `place`."""
        raise NotImplementedError(self.name)

    def shown(self, mount: Path, source: Path, name: str) -> Path:
        """Where `source` is in what a mount of snapshot `name` shows."""
        return mount / source.relative_to("/")

    def unmount(self, place: Place, mount: Path) -> Command:
        """Ends a mount, unless it is in use."""
        return Command(("fusermount3", "-u", str(mount)))

    def derived(self, place: Place) -> Path | None:
        """The part of the store that is rebuilt from the rest, if there is one."""
        return None


class Snap(Peer):
    """Ours. The command is SNAP_BENCH_COMMAND, or that of the project's virtual environment."""

    name = "snap"
    package = "snapstore"
    executables = ()

    def __init__(self) -> None:
        default = str(PROJECT / ".venv" / "bin" / "snap")
        self.command = tuple(shlex.split(os.environ.get("SNAP_BENCH_COMMAND", default)))

    def version(self) -> str:
        done = subprocess.run((*self.command, "--version"), capture_output=True, text=True)
        return done.stdout.strip().rpartition(" ")[2] or "unknown"

    def problem(self) -> str | None:
        try:
            done = subprocess.run((*self.command, "--help"), capture_output=True, text=True)
        except OSError as error:
            return str(error)
        return done.stderr.strip()[-300:] or "--help fails" if done.returncode else None

    def _run(self, place: Place, *arguments: str | Path) -> Command:
        argv = (*self.command, "-s", str(place.store), *map(str, arguments))
        return Command(argv, place.environment)

    def init(self, place: Place, *options: str) -> Command:
        return self._run(place, "init", *options)

    def create(self, place: Place, source: Path, name: str) -> Command:
        source_arguments = ("--image", source) if source.suffix == ".img" else (source,)
        return self._run(place, "create", *source_arguments, "--name", name)

    def restore(self, place: Place, target: Path, name: str) -> Command:
        return self._run(place, "restore", "latest", "--target", target)

    def rollback(self, place: Place, live: Path, name: str) -> Command:
        return self._run(place, "restore", name, "--delete", "--yes")

    def export(self, place: Place, name: str) -> Command:
        return _counted(self._run(place, "export", name))

    def listing(self, place: Place) -> Command:
        return self._run(place, "list")

    def files(self, place: Place, name: str) -> Command:
        return self._run(place, "ls", "-R", name)

    def diff(self, place: Place, old: str, new: str) -> Command:
        # What differs is told by the exit status too, which is no failure.
        command = self._run(place, "diff", old, new)
        return Command(("sh", "-c", '"$@"; [ $? -le 1 ]', "sh", *command.argv), command.env)

    def find(self, place: Place, pattern: str) -> Command:
        return self._run(place, "find", pattern)

    def log(self, place: Place, path: Path) -> Command:
        return self._run(place, "log", path)

    def help(self, place: Place) -> Command:
        return Command((*self.command, "--help"), place.environment)

    def create_stream(self, place: Place, feed: tuple[str, ...], name: str) -> Command:
        command = self._run(place, "create", "--stdin", "stream", "--name", name)
        return Command(command.argv, command.env, feed=feed)

    def mount(self, place: Place, mount: Path, name: str | None) -> Command:
        return self._run(place, "mount", *([name] if name else []), mount, "--daemon")

    def unmount(self, place: Place, mount: Path) -> Command:
        return self._run(place, "umount", mount)

    def derived(self, place: Place) -> Path:
        return place.store / "local"


class SnapEncrypted(Snap):
    """Ours with a password, on which it works as long as it does by default."""

    name = "snap encrypted"

    def _run(self, place: Place, *arguments: str | Path) -> Command:
        command = super()._run(place, *arguments)
        return replace(command, env={**command.env, "SNAP_PASSWORD": "benchmark"})

    def init(self, place: Place, *options: str) -> Command:
        return super().init(place, "--encrypt", *options)


class Restic(Peer):
    """Encryption cannot be turned off. Compression `auto` is its default, about zstd-3; repository
    version 2 is what makes compression possible at all in older releases."""

    name = "restic"
    package = "restic"
    executables = ("restic",)

    def _run(self, place: Place, *arguments: str | Path) -> Command:
        argv = ("restic", "--quiet", "--compression", "auto", *map(str, arguments))
        secret = {"RESTIC_PASSWORD": "benchmark", "RESTIC_REPOSITORY": str(place.store)}
        return Command(argv, {**place.environment, **secret})

    def init(self, place: Place) -> Command:
        return self._run(place, "init", "--repository-version", "2")

    def create(self, place: Place, source: Path, name: str) -> Command:
        return self._run(place, "backup", "--tag", name, source)

    def restore(self, place: Place, target: Path, name: str) -> Command:
        return self._run(place, "restore", "latest", "--tag", name, "--target", target)

    def rollback(self, place: Place, live: Path, name: str) -> Command:
        """A mount takes less time than `restore`, which before 0.17 writes all files anew, deletes
        none, and fails where a symbolic link is. A single file is all that there is to write."""
        if live.is_file():
            return self.restore(place, Path("/"), name)
        mount = place.root / "mount"
        command = self._run(place, "mount", mount)
        return _from_mount(command, mount, self.shown(mount, live, name), live)

    def mount(self, place: Place, mount: Path, name: str | None) -> Command:
        """It always shows all snapshots, and cannot go to the background by itself."""
        return _in_background(self._run(place, "mount", mount), mount)

    def shown(self, mount: Path, source: Path, name: str) -> Path:
        return mount / "tags" / name / "latest" / source.relative_to("/")

    def listing(self, place: Place) -> Command:
        return self._run(place, "snapshots")

    def files(self, place: Place, name: str) -> Command:
        return self._run(place, "ls", self._id(place, name))

    def diff(self, place: Place, old: str, new: str) -> Command:
        return self._run(place, "diff", self._id(place, old), self._id(place, new))

    def find(self, place: Place, pattern: str) -> Command:
        return self._run(place, "find", pattern)

    def _id(self, place: Place, name: str) -> str:
        """Some of its commands want an id."""
        command = self._run(place, "snapshots", "--tag", name, "--json")
        environment = {**os.environ, **command.env}
        done = subprocess.run(command.argv, env=environment, capture_output=True, text=True)
        return str(json.loads(done.stdout or "[]")[-1]["id"]) if done.stdout else name

    def create_stream(self, place: Place, feed: tuple[str, ...], name: str) -> Command:
        command = self._run(place, "backup", "--tag", name, "--stdin")
        return Command(command.argv, command.env, feed=feed)


class Borg(Peer):
    """Without encryption, at zstd-3, with its files cache (change time, size and inode)."""

    name = "borg"
    package = "borgbackup"
    executables = ("borg",)

    def _run(
        self,
        place: Place,
        *arguments: str | Path,
        cwd: Path | None = None,
        feed: tuple[str, ...] | None = None,
    ) -> Command:
        unattended = {
            "BORG_BASE_DIR": str(place.home),
            "BORG_REPO": str(place.store),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        environment = {**place.environment, **unattended}
        return Command(("borg", *map(str, arguments)), environment, cwd, feed)

    def init(self, place: Place) -> Command:
        return self._run(place, "init", "--encryption", "none")

    def create(self, place: Place, source: Path, name: str) -> Command:
        return self._run(place, "create", "-C", "zstd,3", f"::{name}", source)

    def restore(self, place: Place, target: Path, name: str) -> Command:
        return self._run(place, "extract", f"::{name}", cwd=target)

    def rollback(self, place: Place, live: Path, name: str) -> Command:
        """`extract` writes all files anew and deletes none: from a mount it takes half the time."""
        if live.is_file():
            return self.restore(place, Path("/"), name)
        mount = place.root / "mount"
        command = self._run(place, "mount", "--foreground", f"::{name}", mount)
        return _from_mount(command, mount, mount / live.relative_to("/"), live)

    def mount(self, place: Place, mount: Path, name: str | None) -> Command:
        return self._run(place, "mount", f"::{name}" if name else "::", mount)

    def export(self, place: Place, name: str) -> Command:
        return _counted(self._run(place, "export-tar", f"::{name}", "-"))

    def listing(self, place: Place) -> Command:
        return self._run(place, "list")

    def files(self, place: Place, name: str) -> Command:
        return self._run(place, "list", "--short", f"::{name}")

    def diff(self, place: Place, old: str, new: str) -> Command:
        return self._run(place, "diff", f"::{old}", new)

    def create_stream(self, place: Place, feed: tuple[str, ...], name: str) -> Command:
        return self._run(place, "create", "-C", "zstd,3", f"::{name}", "-", feed=feed)


class BorgEncrypted(Borg):
    """With encryption, in the mode that is its fastest one without SHA instructions."""

    name = "borg encrypted"

    def _run(
        self,
        place: Place,
        *arguments: str | Path,
        cwd: Path | None = None,
        feed: tuple[str, ...] | None = None,
    ) -> Command:
        command = super()._run(place, *arguments, cwd=cwd, feed=feed)
        return replace(command, env={**command.env, "BORG_PASSPHRASE": "benchmark"})

    def init(self, place: Place) -> Command:
        return self._run(place, "init", "--encryption", "repokey-blake2")


class Squashfs(Peer):
    """A compressed read-only file system in one file; not synced at its end."""

    name = "mksquashfs"
    package = "squashfs-tools"
    executables = ("mksquashfs", "unsquashfs")

    def create(self, place: Place, source: Path, name: str) -> Command:
        options = ("-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-no-progress")
        return Command(("mksquashfs", str(source), str(_file(place, name)), *options))

    def restore(self, place: Place, target: Path, name: str) -> Command:
        command = ("unsquashfs", "-no-progress", "-quiet", "-force", "-dest", str(target))
        return Command((*command, str(_file(place, name))))


class Squashfuse(Squashfs):
    """The same, mounted in user space."""

    name = "squashfuse"
    package = "squashfuse"
    executables = ("squashfuse", "mksquashfs")

    def mount(self, place: Place, mount: Path, name: str | None) -> Command:
        assert name is not None
        return Command(("squashfuse", str(_file(place, name)), str(mount)), place.environment)

    def shown(self, mount: Path, source: Path, name: str) -> Path:
        return mount / source.name if source.is_file() else mount


class KernelSquashfs(Squashfuse):
    """The same, mounted by the kernel: no process serves it."""

    name = "squashfs"
    package = "squashfs-tools"
    executables = ("mount", "mksquashfs")

    def problem(self) -> str | None:
        return super().problem() or ("mounting it needs root" if os.geteuid() else None)

    def mount(self, place: Place, mount: Path, name: str | None) -> Command:
        assert name is not None
        options = ("-t", "squashfs", "-o", "loop,ro")
        return Command(("mount", *options, str(_file(place, name)), str(mount)))

    def unmount(self, place: Place, mount: Path) -> Command:
        return Command(("umount", str(mount)))


class TarZstd(Peer):
    """tar through zstd on all cores, then `sync -f`, since neither makes its output durable."""

    name = "tar+zstd"
    package = "zstd"
    executables = ("tar", "zstd")

    def create(self, place: Place, source: Path, name: str) -> Command:
        output = shlex.quote(str(_file(place, name)))
        tar = shlex.join(("tar", "-C", str(source.parent), "-cf", "-", source.name))
        return _shell(f"{tar} | zstd -q -T0 -3 -o {output} && sync -f {output}")

    def restore(self, place: Place, target: Path, name: str) -> Command:
        archive = shlex.quote(str(_file(place, name)))
        return _shell(f"zstd -q -dc {archive} | tar -C {shlex.quote(str(target))} -xf -")

    def export(self, place: Place, name: str) -> Command:
        return _shell(f"zstd -q -dc {shlex.quote(str(_file(place, name)))} | wc -c")


class Copy(Peer):
    """cp -a: what a restore costs when nothing has to be decoded."""

    name = "cp -a"
    package = "coreutils"
    executables = ("cp",)
    many_files = True

    def create(self, place: Place, source: Path, name: str) -> Command:
        return Command(("cp", "-a", str(source), str(_file(place, name))))


class Rsync(Peer):
    name = "rsync"
    package = "rsync"
    executables = ("rsync",)
    many_files = True

    def create(self, place: Place, source: Path, name: str) -> Command:
        _file(place, "copy")
        return Command(("rsync", "-a", str(source), str(place.store / "copy")))

    def rollback(self, place: Place, live: Path, name: str) -> Command:
        """Followed by `sync -f`, since what it writes is not durable. Of a file only what differs
        is written, but all is read."""
        copy = place.store / "copy"
        paths = (str(copy), str(live))
        options = ("-a", "--inplace", "--no-whole-file")
        if live.is_dir():
            options, paths = ("-a", "--delete"), (f"{copy / live.name}/", f"{live}/")
        rsync = shlex.join(("rsync", *options, *paths))
        return _shell(f"{rsync} && sync -f {shlex.quote(str(live))}")


class Dd(Peer):
    """A plain copy of one file, forced to the disk."""

    name = "dd"
    package = "coreutils"
    executables = ("dd",)

    def create(self, place: Place, source: Path, name: str) -> Command:
        files = (f"if={source}", f"of={_file(place, name)}")
        return Command(("dd", *files, "bs=1M", "conv=fsync", "status=none"))

    @staticmethod
    def read(source: Path) -> Command:
        """The least that reading a file can cost."""
        return Command(("dd", f"if={source}", "of=/dev/null", "bs=1M", "status=none"))


class Find(Peer):
    """The least that seeing no change can cost: one look at every file's times."""

    name = "find"
    package = "findutils"
    executables = ("find",)

    def create(self, place: Place, source: Path, name: str) -> Command:
        return Command(("find", str(source), "-printf", "%s %T@\\n"))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(Snap(), Restic(), Borg(), Squashfs(), Squashfuse(), KernelSquashfs()),
        *(SnapEncrypted(), BorgEncrypted()),
        *(TarZstd(), Copy(), Rsync(), Dd(), Find()),
    )
}


def listed(mounting: Command, mount: Path) -> Command:
    """Mounts, then prints the names at the mount point."""
    script = f"{shlex.join(mounting.argv)} && ls {shlex.quote(str(mount))}"
    return Command(_shell(script).argv, mounting.env)


def walked(root: Path) -> Command:
    """Prints everything below `root`, with the attributes of each."""
    return Command(("find", str(root), "-ls"))


def archived(root: Path) -> Command:
    """Writes what is below `root` as a tar archive into a pipe whose reader counts its bytes."""
    return _counted(Command(("tar", "-C", str(root), "-cf", "-", ".")))


def install(names: set[str]) -> dict[str, str]:
    """Install what is missing, if we may; returns the tools that cannot be used, with reasons."""
    missing = [PEERS[name] for name in sorted(names) if PEERS[name].problem()]
    packages = [peer.package for peer in missing if peer.name != "snap"]
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(packages)}", file=sys.stderr)
        command = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    problems = {peer.name: peer.problem() for peer in missing}
    advice = f" (as root: apt-get install {' '.join(packages)})" if packages else ""
    return {
        name: problem + (advice if name != "snap" else "")
        for name, problem in problems.items()
        if problem
    }


def _file(place: Place, name: str) -> Path:
    """Path of a single-file result; its folder exists afterwards."""
    place.store.mkdir(parents=True, exist_ok=True)
    return place.store / name


def _shell(script: str) -> Command:
    return Command(("bash", "-o", "pipefail", "-c", script))


def _in_background(command: Command, mount: Path) -> Command:
    """Starts what stays until it is unmounted, and ends once something is mounted."""
    script = f"""
        {shlex.join(command.argv)} & mounted=$!
        until mountpoint -q {shlex.quote(str(mount))}; do
            kill -0 $mounted || exit 1
            sleep 0.01
        done
    """
    return Command(_shell(script).argv, command.env)


def _from_mount(command: Command, mount: Path, source: Path, live: Path) -> Command:
    """Mounts a snapshot by `command`, which stays until it is unmounted, and makes `live` what is
    at `source` in it. Whatever has the size and the time that it should have is not read."""
    mount.mkdir(parents=True, exist_ok=True)
    ready, there = shlex.quote(str(source)), shlex.quote(str(mount))
    rsync = shlex.join(("rsync", "-a", "--delete", f"{source}/", f"{live}/"))
    script = f"""
        {shlex.join(command.argv)} & mounted=$!
        until [ -d {ready} ]; do kill -0 $mounted || exit 1; sleep 0.02; done
        {rsync}; status=$?
        fusermount -u {there}; wait $mounted
        exit $status
    """
    return Command(_shell(script).argv, command.env)


def _counted(command: Command) -> Command:
    """The command with its output in a pipe that `wc -c` reads."""
    counted = _shell(f"{shlex.join(command.argv)} | wc -c")
    return Command(counted.argv, command.env)
