"""The public face: `open` and `init` give a `Store`, whose methods are all that can be done with
it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import snapstore
from snapstore.base.arguments import Path_, several
from snapstore.base.errors import (
    InvalidArgument,
    JobNotFound,
    SnapshotNotFound,
    StoreFailed,
    StoreForked,
)
from snapstore.base.units import duration_s
from snapstore.model import times
from snapstore.model.config import Config
from snapstore.model.filters import Filter
from snapstore.model.keys import UNLOCK_S
from snapstore.model.mounting import CACHE_BYTES
from snapstore.ops import listing
from snapstore.repository.keys import calibrated
from snapstore.repository.open import Repository, id_at, import_into, new_id
from snapstore.repository.open import forget_place as forgetting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Literal, Unpack

    from snapstore.base.progress import Observer, Progress
    from snapstore.base.units import Duration, Size
    from snapstore.model.entries import ListedEntry
    from snapstore.model.filters import Paths, Texts
    from snapstore.model.findings import Change, DiskUse, FoundEntry, PathVersion
    from snapstore.model.health import Health
    from snapstore.model.keys import Kdf, KeyInfo, Password
    from snapstore.model.mounting import MountSettings
    from snapstore.model.restoring import Options, Unfinished
    from snapstore.model.results import (
        CheckReport,
        CreateResult,
        Explanation,
        ExportResult,
        ReindexResult,
        RestoreResult,
        StoreStats,
        Stream,
    )
    from snapstore.model.selection import Selection
    from snapstore.model.snapshot import Snapshot
    from snapstore.mount.process import Process
    from snapstore.ops.diff import DirectoryChanges
    from snapstore.ops.points import RestorePoint
    from snapstore.ops.streaming import RestoreEvents
    from snapstore.ops.viewing import SnapshotView
    from snapstore.repository.jobs import Job

__all__ = [
    "Store",
    "calibrated_kdf",
    "examine",
    "forget_place",
    "import_key",
    "init",
    "open",
    "store_id",
    "unmount",
]

TOOL = f"snapstore {snapstore.__version__}"


def init(
    path: str | os.PathLike[str],
    *,
    compression: str = "default",
    block_bytes: int | None = None,
    chunk_bytes: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    password: bytes | bytearray | None = None,
    key_name: str = "password",
    kdf: Kdf | None = None,
    append_only: bool = False,
) -> Store:
    """Makes a store at `path`, which must be missing or an empty directory, and opens it. When that
    fails, nothing is left.

    `compression`: fast, default, small or none, the default of its creates. `block_bytes`: how much
    is compressed as one (64 KiB to 4 MiB); `chunk_bytes`: average size of what is kept once (a
    power of two, 8 KiB to 1 MiB). Neither can be changed later. `password`: everything in the store
    is encrypted and authenticated under keys that it opens, those of the name `key_name`; `kdf`:
    how much work it is to try one (else a quarter of a second on this machine). `append_only`:
    nothing is ever deleted from the store. Raises StoreExists, InvalidArgument, NoSpace,
    StorageError.
    """
    config = Config.new(
        new_id(),
        new_id(),
        TOOL,
        compression=compression,
        sealed=password is not None,
        append_only=append_only,
        chunk_bytes=chunk_bytes,
        block_bytes=block_bytes,
    )
    return Store(
        Repository.init(
            Path(path),
            config,
            cache_dir=_path(cache_dir),
            password=password,
            key_name=key_name,
            kdf=kdf,
        )
    )


def open(
    path: str | os.PathLike[str],
    *,
    mode: Literal["r", "append", "rw"] = "rw",
    cache_dir: str | os.PathLike[str] | None = None,
    password: Password | None = None,
) -> Store:
    """Opens the store at `path`.

    `mode`: with "r" no object of the store is written, no lease taken; the others become that where
    the medium cannot be written (`Store.writable`). With "append" nothing in the store is deleted
    (StoreAppendOnly). `cache_dir`: where what is derived goes when it
    cannot be in the store (network file system, read-only medium, writable by others); without it,
    such an index is temporary. `password`, for an encrypted store: bytes, which must open it, or a
    function that is called for them if the store is encrypted. What this machine remembers of an
    encrypted store is in `cache_dir` too; `Store.warnings` says what is not as it was.

    Raises StoreNotFound, NotAStore, StoreTooNew, OperationDenied, StorageError; PasswordNeeded,
    WrongPassword, KeyMissing, KeyDamaged; TamperedObject, StoreDowngraded.
    """
    if mode not in ("r", "append", "rw"):
        raise InvalidArgument(f"a store cannot be opened in the mode {mode!r}")
    repository = Repository.open(
        Path(path), mode=mode, cache_dir=_path(cache_dir), password=password
    )
    return Store(repository)


def examine(
    path: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    password: Password | None = None,
    search_path: Sequence[str] = (),
    running: str | None = None,
) -> Health:
    """Looks whether this machine, and the store at `path`, have all that is needed. What is wrong
    is a finding, never raised; nothing but the local index is written.

    `cache_dir`, `password`: as for `open`. `search_path`: directories in which programs are looked
    for, such as `os.get_exec_path()`; `running`: the program by which this package was started.
    """
    from snapstore.ops import examine as examining

    return examining.examine(
        _path(path),
        cache_dir=_path(cache_dir),
        password=password,
        search_path=search_path,
        running=running,
    )


def forget_place(path: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str]) -> None:
    """Forgets that an encrypted store was at `path`, so that another one, or one that is not
    encrypted, may be opened there. `cache_dir`: as for `open`.
    """
    forgetting(Path(path), Path(cache_dir))


def store_id(path: str | os.PathLike[str]) -> str:
    """The id of the store at `path`, which is told without its password. Raises StoreNotFound,
    NotAStore, StoreTooNew, OperationDenied, StorageError.
    """
    return id_at(Path(path))


def calibrated_kdf(unlock_s: float = UNLOCK_S) -> Kdf:
    """How much work trying a password is to be, so that this machine takes about so long; never
    less than RFC 9106 recommends, whatever is asked for.
    """
    return calibrated(unlock_s)


def import_key(path: str | os.PathLike[str], key: bytes) -> KeyInfo:
    """Puts a key that `Store.export_key` gave back into the store at `path`, which need not have
    any left. Raises InvalidArgument (it is no key), StoreNotFound, NotAStore, OperationDenied,
    StoreReadOnly, NoSpace, StorageError.
    """
    return import_into(Path(path), key)


def unmount(mountpoint: str | os.PathLike[str], *, lazy: bool = False) -> str | None:
    """Ends a mount of snapshots; `lazy`: as soon as nobody uses it any more. Takes 5 s at most:
    when its process is gone, or does not answer, what is open in it gives errors; a sentence says
    so. Raises MountRefused (it is busy, or there is none), MountUnavailable.
    """
    from snapstore.mount import points

    return points.unmount(Path(mountpoint), lazy=lazy)


class Store:
    """An open store. A context manager; usable from several threads at once, but not after a fork.

    After `close` every call raises StoreFailed; in a forked process, StoreForked.
    """

    def __init__(self, repository: Repository) -> None:
        self._opened: Repository | None = repository
        self._pid = os.getpid()
        self._streams: WeakSet[RestoreEvents] = WeakSet()
        self._views: WeakSet[SnapshotView] = WeakSet()
        self.path: Path = repository.path
        self.id: str = repository.config.store.hex()
        self.writable: bool = repository.writable
        self.config: Config = repository.config

    @property
    def warnings(self) -> Sequence[str]:
        """What is not as it was when this machine last saw the store, an encrypted one: objects
        that are gone, another store in its place.
        """
        return tuple(self._repository.warnings)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Makes what is derived durable and lets go of the store; takes back what `restore_stream`
        has not finished, and closes views. Closing twice is fine.
        """
        for stream in list(self._streams):
            stream.cancel()
        for view in list(self._views):
            view.close()
        repository, self._opened = self._opened, None
        if repository is not None and os.getpid() == self._pid:
            repository.close()

    @property
    def _repository(self) -> Repository:
        if os.getpid() != self._pid:
            raise StoreForked(
                "the store was opened before this process was forked",
                hint="open the store again in the new process",
            )
        if self._opened is None:
            raise StoreFailed("the store was closed")
        return self._opened

    # Taking

    def create(
        self,
        *paths: Path_,
        name: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        source: str | None = None,
        host: str | None = None,
        time: times.Time | None = None,
        parent: str | None = None,
        images: Sequence[Path_] = (),
        streams: Sequence[Stream] = (),
        listed: Iterable[Path_] = (),
        skip_if_unchanged: bool = False,
        dry_run: bool = False,
        rehash: bool = False,
        ignore_inode: bool = False,
        compression: str | None = None,
        kind: str = "user",
        created_by: Mapping[str, Any] | None = None,
        progress: Observer | None = None,
        **selection: Unpack[Selection],
    ) -> CreateResult:
        """Takes a snapshot of paths, images and streams. It exists entirely or not at all.

        `paths`: files and directories, symbolic links not followed; the same path twice is taken
        once. `images`: block devices and files whose contents are taken. `streams`: see Stream.
        `metadata`: JSON values with integers. `source`: the series (else host and paths); its
        newest snapshot becomes the parent unless `parent` names one. `time`: datetime, nanoseconds
        since 1970, ISO 8601 or `now-2d`. `rehash` reads every file, whatever its times say;
        `ignore_inode` does not, only because inode or ctime changed.
        `skip_if_unchanged`: no new snapshot when all roots are as in the parent. `dry_run` reads
        everything and writes nothing. `progress` is called about ten times a second from the
        calling thread. What is left out of directories: see Selection; `explain` says why.

        `listed`: any number of further paths, each with all below it. Those below one of `paths`
        are taken there, whatever the rules say; all others become one root, their deepest common
        directory. One that is missing is listed as unreadable.

        Files that cannot be read are listed in the result, and the snapshot is partial. Raises
        SourceNotFound, CommandFailed, InvalidArgument, StoreReadOnly, StoreBusy, NoSpace,
        StorageError, Cancelled; then there is no snapshot, but what was packed is not packed again.
        """
        from snapstore.ops import create as creating

        repository = self._repository
        plan = creating.plan(
            repository,
            paths,
            images=several("images", images),
            streams=several("streams", streams),
            source=source,
            host=host,
            listed=several("listed", listed),
            selection=selection,
            created_by=created_by,
            name=name,
            description=description,
            tags=several("tags", tags),
            metadata=metadata,
            kind=kind,
            tool=TOOL,
            time_ns=None if time is None else times.time_ns(time),
            parent=None if parent is None else self.get(parent),
            skip_if_unchanged=skip_if_unchanged,
            dry_run=dry_run,
            rehash=rehash,
            ignore_inode=ignore_inode,
            compression=compression,
        )
        return creating.create(repository, plan, progress)

    def import_tar(
        self,
        file: Any,
        *,
        root: Path_ | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        source: str | None = None,
        host: str | None = None,
        time: times.Time | None = None,
        parent: str | None = None,
        skip_if_unchanged: bool = False,
        dry_run: bool = False,
        compression: str | None = None,
        kind: str = "user",
        created_by: Mapping[str, Any] | None = None,
        progress: Observer | None = None,
    ) -> CreateResult:
        """Takes a snapshot of what a tar archive holds, as if its tree had been taken: one root.

        `file`: a path, a descriptor, or an object with `fileno()`; read once, so a pipe will do.
        ustar, pax and GNU tar, plain or as gzip, bzip2, xz or zstd. `root`: the path (absolute, or
        a single name) to record the tree under, else the archive's name without `.tar`; it also
        makes the series, so that an archive recorded as /srv/app follows the creates of /srv/app.
        All else as for `create`. The last of several members of a name counts. Names are taken
        below the root: leading slashes mean nothing, `..` is refused. Nothing is written but to the
        store. A file whose ACL has no meaning here is taken without it and listed as `unreadable`.

        Raises ArchiveInvalid (cut off, damaged, hostile; then there is no snapshot),
        SourceNotFound, SourceUnreadable, and what `create` raises.
        """
        from snapstore.ops import import_tar as importing

        return importing.import_tar(
            self._repository,
            file,
            root=root,
            name=name,
            tags=several("tags", tags),
            description=description,
            metadata=metadata,
            source=source,
            host=host,
            time_ns=None if time is None else times.time_ns(time),
            parent=None if parent is None else self.get(parent),
            skip_if_unchanged=skip_if_unchanged,
            dry_run=dry_run,
            compression=compression,
            kind=kind,
            created_by=created_by,
            tool=TOOL,
            observer=progress,
        )

    def explain(
        self,
        path: Path_,
        *paths: Path_,
        images: Sequence[Path_] = (),
        listed: Iterable[Path_] = (),
        **selection: Unpack[Selection],
    ) -> Explanation:
        """Why a `create` with the same arguments takes `path`, or leaves it out.

        Looks at the directories on the way to it and at nothing else. Raises SourceNotFound,
        SourceUnreadable (a root, a file of patterns), InvalidArgument.
        """
        from snapstore.ops import create as creating

        roots = [*paths, *several("images", images)]
        return creating.explain(self._repository, path, roots, several("listed", listed), selection)

    # Looking

    def snapshots(
        self,
        *,
        source: Texts = None,
        host: Texts = None,
        tag: Texts = None,
        name: Texts = None,
        path: Paths = None,
        kind: str | None = None,
        partial: bool | None = None,
        since: times.Time | None = None,
        until: times.Time | None = None,
        larger_than: Size | None = None,
        smaller_than: Size | None = None,
        order: str = "-created_at",
        limit: int | None = None,
        all: bool = False,
    ) -> list[Snapshot]:
        """Snapshots that match every filter; without `kind` and `all` only those made by users.

        `source`, `host`, `name`: a glob or several, one of which must match. `tag`: a tag, or
        several of which the snapshot must have one; `"a,b"` asks for both, `""` for none. `path`:
        taken by the snapshot, itself or with a directory above it, or a glob of the paths taken.
        `since`, `until` (exclusive): times as for `create`. `larger_than`, `smaller_than` (both
        exclusive): a number, or text such as "1.5G". `order`: created_at, name, source, host or
        size_bytes, with a minus for descending; `limit` counts after ordering. One that cannot be
        read is listed with another `status` than "ready". Raises InvalidArgument.
        """
        wanted = Filter(
            source=source,
            host=host,
            tag=tag,
            name=name,
            path=path,
            kind=kind,
            partial=partial,
            since=since,
            until=until,
            larger_than=larger_than,
            smaller_than=smaller_than,
        )
        return listing.snapshots(self._repository, wanted, order=order, limit=limit, all=all)

    def unreadable_snapshots(self) -> list[Snapshot]:
        """Snapshots that cannot be read, being damaged or made by a newer version: what `find`,
        `log`, `du` and `stats` leave out. `error` of each says why.
        """
        return listing.unreadable(self._repository)

    def passed_over(self, ref: str) -> list[Snapshot]:
        """Snapshots of which so little can be read that `ref`, a `REF` or `REF:PATH`, does not
        count them, and which it might mean otherwise: those that may be newer than the one it
        means. None for a name or an id: the label is kept by itself, so a name leads to its
        snapshot, whatever became of it.
        """
        return listing.passed_over(self._repository, ref)

    def get(self, ref: str) -> Snapshot:
        """The snapshot that `ref` names: `latest`; a name, of which it is the newest; an id or 4 or
        more digits of its beginning; `@TIME`, the newest from before a time (`@2026-11-01`,
        `@now-2d`). `~N` behind each means N steps further back: `latest~2`, `nightly~1`.

        `latest` and `@TIME` choose among the complete user snapshots of this host; `NAME~N` among
        those of the name; `ID~N` among older ones of its source and host. Raises SnapshotNotFound
        (with near names as `suggestions`), AmbiguousReference, InvalidArgument (`@` and no time).
        """
        return listing.get(self._repository, ref)

    def find_one(self, ref: str) -> Snapshot | None:
        """As `get`, but None when there is no such snapshot."""
        try:
            return self.get(ref)
        except SnapshotNotFound:
            return None

    def resolve(self, ref: str) -> tuple[Snapshot, bytes | None]:
        """Snapshot and path of `REF` or `REF:PATH`: as a whole first, then split at the last colon
        whose left side resolves.
        """
        return listing.resolve(self._repository, ref)

    def ls(self, ref: str, path: Path_ = b"", *, recursive: bool = False) -> Iterator[ListedEntry]:
        """Entries of a directory in a snapshot (or the one entry that is no directory); the roots
        when there is no path.

        `path`: absolute as recorded, or relative to a root; `ref` may carry it too. Raises
        PathNotFound, DamagedObject.
        """
        snapshot, within = self._find(ref, path)
        return listing.ls(self._repository, snapshot, within, recursive=recursive)

    def read(self, ref: str, path: Path_ = b"") -> Iterator[bytes]:
        """Content of a file in a snapshot, in pieces of at most 1 MiB, each verified.

        Raises PathNotFound, InvalidArgument (not a file), DamagedObject.
        """
        snapshot, within = self._find(ref, path)
        return listing.read(self._repository, snapshot, within)

    def diff(
        self,
        old: str,
        new: str,
        *,
        paths: Sequence[Path_] = (),
        ignore: Sequence[str] = (),
        renames: bool = True,
    ) -> Iterator[Change]:
        """Differences between two snapshots, sorted by path, a directory before what is in it.

        Roots that lie in each other and hold different things there come one after the other.
        Roots of the same path are compared; where each snapshot has one only, these, and paths are
        those of the new one. Either may be `REF:PATH`; `paths`: only these and what is below them.
        `ignore`: fields (`mode`, `owner`, `mtime`, `xattrs`, …) that make no difference. `renames`:
        a file that was removed, and one that was added with the same content, are one change; they
        are looked for among at most 150,000 differences. Which names are hard links of each other
        is not compared. Raises SnapshotNotFound, PathNotFound, InvalidArgument, DamagedObject.
        """
        from snapstore.ops import diff as comparing

        (before, old_path), (after, new_path) = self.resolve(old), self.resolve(new)
        return comparing.diff(
            self._repository,
            before,
            after,
            old_path=old_path,
            new_path=new_path,
            paths=[os.fsencode(path) for path in several("paths", paths)],
            ignore=several("ignore", ignore),
            renames=renames,
        )

    def diff_directory(
        self,
        ref: str,
        directory: Path_,
        *,
        ignore: Sequence[str] = (),
        content: bool = False,
        all: bool = False,
    ) -> DirectoryChanges:
        """Differences of what is on disk from a snapshot, sorted by path. What its rules leave out
        is not added, but with `all`.

        A directory that lies in what the snapshot took is compared with its own place in it; any
        other as `restore` would fill it: with the single root, or with each root at its path below
        it. `REF:PATH` says with what. Contents of files are equal when size and time of the last
        change are, and are compared when only the size is; with `content` whenever it is. Renames
        are not looked for; sockets, holes and hard links are not compared. What cannot be read has
        the kind `unreadable`. A restore that is not finished there is in `unfinished` of what
        comes back. Raises SnapshotNotFound, PathNotFound, SourceNotFound, InvalidArgument,
        DamagedObject.
        """
        from snapstore.ops import diff as comparing

        snapshot, within = self.resolve(ref)
        return comparing.diff_directory(
            self._repository,
            snapshot,
            within,
            os.fsencode(directory),
            ignore=several("ignore", ignore),
            content=content,
            all=all,
        )

    def find(
        self,
        pattern: str,
        *refs: str,
        regex: bool = False,
        ignore_case: bool = False,
        larger_than: Size | None = None,
        smaller_than: Size | None = None,
        newer_than: times.Time | None = None,
        older_than: times.Time | None = None,
        types: Sequence[str] = (),
    ) -> Iterator[FoundEntry]:
        """Entries that match, snapshot by snapshot, the newest first; or in `refs` (which may be
        `REF:PATH`), as given. `unreadable_snapshots` are left out.

        `pattern`: a glob for the whole name, or with `regex` a regular expression for any part of
        it. A pattern with a `/` is for the path as recorded; a glob that does not begin with one is
        for the end of the path. `larger_than`, `smaller_than`: as the sizes of `snapshots`, both
        exclusive; what is no file has 0. Times are those of the last change. Raises
        SnapshotNotFound, PathNotFound, InvalidArgument, DamagedObject.
        """
        from snapstore.ops import find as finding

        return finding.find(
            self._repository,
            pattern,
            [self.resolve(ref) for ref in refs] or None,
            regex=regex,
            ignore_case=ignore_case,
            larger_than=larger_than,
            smaller_than=smaller_than,
            newer_than=newer_than,
            older_than=older_than,
            types=several("types", types),
        )

    def log(
        self, path: Path_, *, host: str | None = None, source: str | None = None
    ) -> list[PathVersion]:
        """Versions of what is at a path, the newest first, with the snapshots that have each.

        Only snapshots that took the path, or something around it, count, and not
        `unreadable_snapshots`. Those of each host follow each other by themselves. `path`: as
        recorded, or relative to a root: that of the newest snapshot that has it. Raises
        PathNotFound when no snapshot has it, DamagedObject.
        """
        from snapstore.ops import log as following

        return following.log(self._repository, os.fsencode(path), host=host, source=source)

    def du(self, ref: str | None = None, progress: Observer | None = None) -> list[DiskUse]:
        """What snapshots take and what each alone holds: all of them, the newest first, or only
        that of `ref`, which may be `REF:PATH`.

        What a path shares with other places in its own snapshot counts as its own; what only
        `unreadable_snapshots` need too, counts as well. Needs 16 to 32 bytes of memory for each
        distinct chunk of the store. Raises SnapshotNotFound, PathNotFound, DamagedObject.
        """
        from snapstore.ops import usage as measuring

        if ref is None:
            return measuring.du_all(self._repository, progress)
        snapshot, path = self.resolve(ref)
        return [measuring.du(self._repository, snapshot, path, progress)]

    # Bringing back

    def restore(
        self,
        ref: str,
        *,
        target: Path_ | None = None,
        paths: Sequence[Path_] = (),
        verify: bool = False,
        progress: Observer | None = None,
        **options: Unpack[Options],
    ) -> RestoreResult:
        """Puts a snapshot, or `REF:PATH`, or only `paths` of it, back where it was taken; or into
        `target`.

        Into a missing (with a parent directory) or empty `target` it is written as it is: a
        snapshot of one root becomes the contents of `target`; of several, each is at its recorded
        path below it. `REF:PATH`: a directory's contents become those of `target`; anything else
        keeps its name, or its content becomes that of a file or block device that is there.

        Over what is there, it is compared first, and only what differs is changed: entirely or not
        at all. How, see Options; what was there is in a snapshot of the kind `safety`, and `undo`
        brings it back. Paths that the snapshot does not have stay, unless `delete`. `verify`: reads
        back what was written and compares. What could not be restored exactly is listed in the
        result.

        Raises PathNotFound, TargetRefused, TargetInvalid, TargetDenied, TargetChanged,
        ConflictsFound, DamagedObject, NoSpace, Cancelled, OperationTimeout; then everything is as
        it was, but in a target that was empty. RestoreUnfinished when it is not.
        """
        return self._restore(ref, target, paths, verify, options, observer=progress)

    def _restore(
        self,
        ref: str,
        target: Path_ | None,
        paths: Sequence[Path_],
        verify: bool,
        options: Options,
        **watch: Any,
    ) -> RestoreResult:
        from snapstore.ops import restoring

        snapshot, within = self.resolve(ref)
        return restoring.restore(
            self._repository,
            snapshot,
            None if target is None else os.fsencode(target),
            within=within,
            paths=[os.fsencode(path) for path in several("paths", paths)],
            verify=verify,
            tool=TOOL,
            options=options,
            **watch,
        )

    def restore_stream(
        self,
        ref: str,
        *,
        target: Path_ | None = None,
        paths: Sequence[Path_] = (),
        verify: bool = False,
        progress: Observer | None = None,
        **options: Unpack[Options],
    ) -> RestoreEvents:
        """As `restore`, in a thread of its own, as an iterator of events: `plan`, `progress`,
        `conflict`, `verified`, `file` (each path that was changed), then `done` with the result, or
        `failed` with the error, which is not raised: not even one in the arguments.

        Nothing begins before the first `next`; from then on an event comes at least each second.
        The restore is finished only when all events but the last were read: until then closing the
        iterator, losing it, or `cancel` from another thread takes it back, and waits for that. What
        was written into a target that was empty stays. `progress`, `approve` and a `resolver` are
        called in the thread of the restore.
        """
        from snapstore.ops.streaming import RestoreEvents

        def work(observer: Observer, **watch: Any) -> RestoreResult:
            def observe(now: Progress) -> None:
                observer(now)
                if progress is not None:
                    progress(now)

            return self._restore(ref, target, paths, verify, options, observer=observe, **watch)

        events = RestoreEvents(work)
        self._streams.add(events)
        return events

    def restore_detached(
        self,
        ref: str,
        *,
        target: Path_ | None = None,
        paths: Sequence[Path_] = (),
        verify: bool = False,
        **options: Unpack[Options],
    ) -> Job:
        """As `restore`, in a process of its own that runs on when this one ends; what to look it up
        by comes back at once. Its environment and working directory are those of this process.

        Raises SnapshotNotFound, DamagedObject, InvalidArgument (a function among the options),
        StoreReadOnly (nowhere to keep it); what else `restore` raises, the job ends with.
        """
        from snapstore.ops import jobs

        snapshot, within = self.resolve(ref)
        return jobs.start(
            self._repository,
            snapshot,
            None if target is None else os.fsencode(target),
            within=within,
            paths=[os.fsencode(path) for path in several("paths", paths)],
            verify=verify,
            tool=TOOL,
            options=options,
        )

    def jobs(self) -> list[Job]:
        """Restores that were started by `restore_detached` (`--detach`), the newest first. Those
        that ended are forgotten after 30 days.
        """
        found = self._repository.jobs
        return found.all() if found is not None else []

    def job(self, id: str) -> Job:
        """One of them, by its id or 4 or more characters of its end or beginning. Raises
        JobNotFound.
        """
        found = self._repository.jobs
        if found is None:
            raise JobNotFound(f"there is no job '{id}'")
        return found.find(id)

    def restore_point(
        self,
        *paths: Path_,
        name: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        force: bool = False,
        progress: Observer | None = None,
        **selection: Unpack[Selection],
    ) -> RestorePoint:
        """A context manager that takes a snapshot of `paths`, of the kind `system`, and restores it
        when the block raises anything, KeyboardInterrupt too: exactly, in place, without asking.
        Then the exception goes on, with a note. Without one nothing is changed; the snapshot stays.

        All below the paths is taken, unless a `selection` leaves it out: what is left out is not
        restored. `force`: also `/`, the home directory, mount points, stores. Ctrl-C does not stop
        the way back. If that fails, the note says so, and `failure` why. Entering raises what
        `create` raises, SourceUnreadable for anything that cannot be read, TargetRefused,
        RestoreUnfinished.
        """
        from snapstore.ops import points, targets, unfinished

        wanted = [os.path.abspath(os.fsencode(path)) for path in paths]
        chosen: Selection = {"ignore_files": False, **selection}

        def take() -> CreateResult:
            real = [targets.real_place(path) for path in wanted]
            for path in [] if force else real:
                targets.check_place(path)
            unfinished.require_none(self._repository, real)
            return self.create(
                *wanted,
                name=name,
                tags=tags,
                description=description,
                metadata=metadata,
                kind="system",
                progress=progress,
                **chosen,
            )

        def go_back(snapshot: Snapshot) -> RestoreResult:
            return self.restore(snapshot.id, delete=True, force=True)

        return points.RestorePoint(take, go_back)

    def undo(
        self,
        target: Path_ | None = None,
        *,
        verify: bool = False,
        progress: Observer | None = None,
        **options: Unpack[Options],
    ) -> RestoreResult:
        """Takes back the last restore over what was there, into `target` or of all; undoing an undo
        restores again. What was changed since is a conflict. Raises NothingToUndo, and what
        `restore` raises.
        """
        from snapstore.ops import restoring

        return restoring.take_back(
            self._repository,
            None if target is None else os.fsencode(target),
            verify=verify,
            tool=TOOL,
            observer=progress,
            options=options,
        )

    def unfinished(self, target: Path_) -> list[Unfinished]:
        """Restores into `target` that were interrupted, or are under way."""
        from snapstore.ops import unfinished

        return unfinished.find(self._repository, [os.path.realpath(os.fsencode(target))])

    def resume(self, target: Path_, *, progress: Observer | None = None) -> list[Unfinished]:
        """Finishes the restores into `target` that were interrupted; gives what it found. One that
        had changed nothing yet is cleared away. Raises TargetInvalid when there is none,
        RestoreUnfinished when it cannot be finished.
        """
        from snapstore.ops import unfinished

        path = os.path.realpath(os.fsencode(target))
        return unfinished.resume(self._repository, path, progress)

    def abort(self, target: Path_, *, progress: Observer | None = None) -> list[Unfinished]:
        """Takes back the restores into `target` that were interrupted: everything is as it was
        before them. Gives what it found. Raises as `resume`.
        """
        from snapstore.ops import unfinished

        path = os.path.realpath(os.fsencode(target))
        return unfinished.abort(self._repository, path, progress)

    # Looking into snapshots

    def view(self, ref: str, *, cache_bytes: Size = CACHE_BYTES) -> SnapshotView:
        """A snapshot, or what `REF:PATH` names in it, as a file system that is only read, without
        a mount; to be closed.

        `cache_bytes`: what decoded blocks and tree nodes may take, 8 MiB or more. Raises
        PathNotFound, InvalidArgument, DamagedObject.
        """
        from snapstore.base.units import size_bytes
        from snapstore.ops import viewing

        snapshot, below = self.resolve(ref)
        view = viewing.SnapshotView(
            lambda: self._repository, snapshot, below or b"", size_bytes(cache_bytes)
        )
        self._views.add(view)
        return view

    def mount(
        self,
        mountpoint: str | os.PathLike[str],
        ref: str | None = None,
        *,
        started: Callable[[str | None], None] | None = None,
        **settings: Unpack[MountSettings],
    ) -> None:
        """Shows snapshots at `mountpoint`, an empty directory: all of them, or what `REF` or
        `REF:PATH` names. Returns when it is unmounted, or a signal (INT, TERM, HUP) ends it; has to
        run in the main thread. This process must not read from it: see `mounted`.

        `started` is called when it can be used, with a sentence when the remains of a mount that
        was killed were cleared away. Raises MountRefused, MountUnavailable, PathNotFound,
        InvalidArgument, DamagedObject.
        """
        from snapstore.model.mounting import mount_options
        from snapstore.mount import points, serving

        options = mount_options(**settings)
        said = points.prepare(Path(mountpoint), self.path)
        snapshot, below = self.resolve(ref) if ref is not None else (None, None)
        tell = started or (lambda said: None)
        place = Path(mountpoint)
        serving.serve(self._repository, place, snapshot, below, options, lambda: tell(said))

    def mount_in_background(
        self,
        mountpoint: str | os.PathLike[str],
        ref: str | None = None,
        *,
        started: Callable[[str | None], None] | None = None,
        **settings: Unpack[MountSettings],
    ) -> int:
        """As `mount`, in a process of its own, which goes on when this one ends. Returns its
        number, once the mount can be used; `unmount` ends it.
        """
        process = self._start_mount(mountpoint, ref, settings, attached=False)
        if started is not None:
            started(process.said)
        return process.pid

    @contextmanager
    def mounted(
        self,
        mountpoint: str | os.PathLike[str],
        ref: str | None = None,
        **settings: Unpack[MountSettings],
    ) -> Iterator[Path]:
        """Snapshots are shown at `mountpoint` while the block runs, and no longer than this
        process: `with store.mounted("/mnt") as path`. As `mount`, in a process of its own.
        """
        process = self._start_mount(mountpoint, ref, settings, attached=True)
        try:
            yield process.order.mountpoint
        finally:
            process.end()

    def _start_mount(
        self,
        mountpoint: str | os.PathLike[str],
        ref: str | None,
        settings: MountSettings,
        *,
        attached: bool,
    ) -> Process:
        from snapstore.model.mounting import mount_options
        from snapstore.mount import process

        options = mount_options(**settings)
        snapshot, below = self.resolve(ref) if ref is not None else (None, None)
        id = snapshot.id if snapshot is not None else None
        place = Path(mountpoint)
        order = process.order(self._repository, place, id, below, options, attached=attached)
        return process.Process(order, self._repository.keys)

    def export(
        self,
        ref: str,
        file: Any,
        *,
        path: Path_ = b"",
        format: str = "pax",
        progress: Observer | None = None,
    ) -> ExportResult:
        """Writes a snapshot, or what `path` or `REF:PATH` names in it, as an archive.

        `file`: a path, a descriptor, or an object with `fileno()`; a pipe will do. A file at a path
        appears when it is whole, and replaces what was there; what is no regular file is written
        to. `format`: pax keeps everything that a snapshot does; gnu has neither attributes nor
        fractions of seconds; zip has no hard links, FIFOs, devices and attributes either. The same
        snapshot gives the same bytes.

        Named as after `restore`: a directory's contents stand at the top of the archive (`./…`),
        several roots at their recorded paths without the leading slash. Raises PathNotFound,
        InvalidArgument, TargetInvalid, TargetDenied, DamagedObject, NoSpace, StorageError,
        Cancelled, BrokenPipeError (the pipe's reader has gone); then a pipe has got a part of the
        archive.
        """
        from snapstore.ops import export as exporting

        snapshot, within = self._find(ref, path)
        return exporting.export(
            self._repository, snapshot, file, within=within, format=format, observer=progress
        )

    # Keeping

    def check(
        self,
        *refs: str,
        read_data: bool | float = False,
        time_limit: Duration | None = None,
        progress: Observer | None = None,
    ) -> CheckReport:
        """Checks the store, or only what the snapshots `refs` need. Damage is reported, not raised.

        `read_data`: True, or a share from 0 to 1, also reads and verifies the contents of that
        share of the packs. `time_limit`: timedelta, seconds, or text such as "10m", after which no
        pack and no part of a tree is begun; if there was more to do, `complete` is False, and what
        was checked is reported.
        """
        from snapstore.ops import check as checking

        share = float(read_data)
        if not 0 <= share <= 1:
            raise InvalidArgument(f"a share is from 0 to 1: {read_data!r}")
        return checking.check(
            self._repository,
            [self.get(ref) for ref in refs] or None,
            read_share=share,
            time_limit_s=None if time_limit is None else duration_s(time_limit),
            observer=progress,
        )

    # Keys

    def list_keys(self) -> Sequence[KeyInfo]:
        """The passwords of an encrypted store, the oldest first. Raises InvalidArgument for a store
        that is not encrypted, as do the following.
        """
        return self._repository.key_ring.list()

    def add_key(self, password: bytes | bytearray, name: str, *, kdf: Kdf | None = None) -> KeyInfo:
        """One more password that opens the store; nothing is written anew. `kdf`: as for `init`.
        Raises InvalidArgument (the name is taken), StoreReadOnly, NoSpace, StorageError.
        """
        self._repository.require_writable()
        return self._repository.key_ring.add(password, name, kdf or calibrated())

    def remove_key(self, key: str) -> KeyInfo:
        """Takes a password away, by name or id; the last one stays. Whoever has the password and a
        copy of its object can still read the store. Raises KeyNotFound, InvalidArgument,
        StoreReadOnly, StoreAppendOnly, StorageError.
        """
        self._repository.require_deleting()
        ring = self._repository.key_ring
        found = ring.find(key)
        ring.remove(found)
        return found

    def change_password(
        self, password: bytes | bytearray, key: str | None = None, *, kdf: Kdf | None = None
    ) -> KeyInfo:
        """Another password in place of that of a key, by name or id; else of the one by which the
        store was opened. Raises as `add_key` and `remove_key` do.
        """
        self._repository.require_deleting()
        ring = self._repository.key_ring
        found = ring.current() if key is None else ring.find(key)
        changed = ring.change(found, password, kdf or calibrated())
        self._repository.opened_by(changed)
        return changed

    def export_key(self, key: str | None = None) -> bytes:
        """The object of a key (else of the one by which the store was opened), for safekeeping: its
        password is needed to use it. `import_key` puts it back. Raises KeyNotFound.
        """
        ring = self._repository.key_ring
        return ring.export(ring.current() if key is None else ring.find(key))

    def trust(self) -> None:
        """Takes the store as it is now for what it should be, which ends `warnings`."""
        self._repository.trust()

    def stats(self) -> StoreStats:
        """How much the store holds, and what it takes; its snapshots without
        `unreadable_snapshots`.
        """
        from snapstore.ops import stats as counting

        return counting.stats(self._repository)

    def reindex(self, progress: Observer | None = None) -> ReindexResult:
        """Makes the local index anew from the packs. Packs that cannot be read are listed; nothing
        is deleted.
        """
        from snapstore.ops import reindex as reindexing

        return reindexing.reindex(self._repository, progress)

    def _find(self, ref: str, path: Path_) -> tuple[Snapshot, bytes]:
        if path:
            return self.get(ref), os.fsencode(path)
        snapshot, within = self.resolve(ref)
        return snapshot, within or b""


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
