"""The native core: everything that touches each byte or each file.

Coarse calls only: one per tree, pack or batch. Long work runs on the core's own threads and is handed out as a `Task`,
which Python polls; the interpreter lock is never held while bytes move. Errors are the classes of `snapstore.base.errors`.
"""

import builtins
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar, final, type_check_only

from typing_extensions import Buffer

_T_co = TypeVar("_T_co", covariant=True)

_Kdf: TypeAlias = tuple[int, int, int, bytes]
"""Argon2id's memory in KiB, passes, lanes, and salt."""

__all__ = [
    "VERSION",
    "CheckResult",
    "DirectoryDiff",
    "Entry",
    "Explanation",
    "ExportCounts",
    "ImportResult",
    "Keys",
    "Nodes",
    "PackCheckResult",
    "PackTable",
    "Reader",
    "RestorePlan",
    "RestoreResult",
    "RootResult",
    "Selection",
    "Shown",
    "Task",
    "Transaction",
    "TreeDiff",
    "TreeFind",
    "TreeWalk",
    "View",
    "Writer",
    "WriterResult",
    "cut_points",
    "derive_key",
    "differing_fields",
    "explain_path",
    "export_tar",
    "fuse_operations",
    "hash_pack",
    "import_tar",
    "location",
    "lookup",
    "open_transaction",
    "plan_restore",
    "read_frame",
    "read_pack_table",
    "remove_remains",
    "same_entry",
    "unique_bytes",
    "write_frame",
]

VERSION: str

@type_check_only
class Index(Protocol):
    """What the core asks of the index. Called from the core's threads, with the interpreter lock held."""

    def locate(self, ids: bytes) -> bytes:
        """Locations of `ids` (32 bytes each, concatenated): 16 bytes each, zeros where unknown or not to be used."""

    def pack(self, number: int) -> bytes:
        """Kind (1 byte: 1 data, 2 meta) and id (32 bytes) of the pack with this number in the index."""

    def add_pack(self, table: PackTable) -> None:
        """Takes a pack that is durable under its name. The records may be committed now or later."""

@final
class Keys:
    """The keys of a family: ids always, sealing when there are master keys (the highest epoch seals)."""

    def __new__(
        cls, family: bytes, secret: bytes | None = None, masters: dict[int, bytes] | None = None
    ) -> Keys: ...
    @staticmethod
    def random(family: bytes) -> Keys:
        """New keys of a sealed family: a secret, and a master key of epoch 1."""
    @staticmethod
    def unwrap(
        family: bytes, config: bytes, password: Buffer, kdf: _Kdf, nonce: bytes, wrapped: bytes
    ) -> Keys | None:
        """The keys that `wrap` wrapped; None when the password does not open them. Raises DamagedObject (parameters
        out of bounds, no keys inside), TamperedObject (made for another config)."""
    def wrap(self, config: bytes, password: Buffer, kdf: _Kdf, nonce: bytes) -> bytes:
        """The keys under a password, bound to the config of which `config` is the BLAKE3 (docs/format/config.md)."""
    def hand_over(self) -> int:
        """A descriptor, closed on exec, from which `take_over` makes these keys again in another process."""
    @staticmethod
    def take_over(descriptor: int) -> Keys:
        """The keys of `hand_over`. The descriptor is closed."""
    @property
    def family(self) -> bytes: ...
    @property
    def sealed(self) -> bool: ...
    def snapshot_id(self, payload: bytes) -> bytes: ...
    def object_hash(self, data: bytes) -> bytes:
        """keyed_hash(object key, data): for `h8` (over nonce + payload) and `name-hash`."""
    def derived(self) -> dict[str, bytes]:
        """The derived keys by name (`chunk`, `node`, `snapshot`, `object`, `chunker`), for golden vectors."""

def derive_key(password: Buffer, kdf: _Kdf) -> bytes:
    """The 32 bytes that Argon2id makes of a password: for golden vectors, and to measure how long that takes."""

def write_frame(keys: Keys | None, type: int, name: str, nonce: bytes, payload: bytes) -> bytes:
    """A frame around `payload`; sealed when `keys` seal and the type may be sealed. `nonce`: 16 bytes."""

def read_frame(keys: Keys | None, type: int, name: str, data: bytes) -> tuple[bytes, bytes]:
    """(writer nonce, payload) of a frame. Raises DamagedObject, StoreTooNew."""

@final
class PackTable:
    """What a pack's header and footer say."""

    @property
    def id(self) -> bytes: ...
    @property
    def kind(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def session(self) -> bytes: ...
    @property
    def chunks(self) -> int: ...
    @property
    def plain_bytes(self) -> int: ...
    def records(self, number: int) -> list[tuple[bytes, bytes]]:
        """Index records (32-byte id, 16-byte location) sorted by id, the pack being known as `number`."""

def read_pack_table(keys: Keys, path: bytes, id: bytes, kind: int) -> PackTable:
    """Reads and checks a pack's header, trailer and footer (not its blocks)."""

def hash_pack(path: bytes) -> bytes:
    """BLAKE3 of a file's bytes, read in pieces."""

def location(record: bytes) -> tuple[int, int, int, int]:
    """(pack number, block, offset in the block, length) of a 16-byte location."""

@final
class Task(Generic[_T_co]):
    """Work that runs on the core's threads."""

    def poll(self, timeout_s: float) -> bool:
        """Waits at most `timeout_s`; True when the work has ended. Releases the interpreter lock."""
    def counters(self) -> dict[str, int]:
        """`files`, `bytes`, `done_files`, `done_bytes`, `new_bytes`, `stored_bytes`, `errors`; totals are 0 while unknown."""
    def current(self) -> bytes:
        """A path being worked on."""
    def cancel(self) -> None:
        """Asks the work to stop; `result` then raises Cancelled."""
    def result(self) -> _T_co:
        """The result, or the error that ended the work. Waits for the end."""

@final
class RootResult:
    """A root that was taken."""

    @property
    def id(self) -> builtins.bytes: ...
    @property
    def kind(self) -> str:
        """`directory`, `file`, `image`, `stream`, `other`."""
    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def directories(self) -> int: ...
    @property
    def new_files(self) -> int:
        """Not in the stat cache."""
    @property
    def changed_files(self) -> int:
        """In the stat cache, but different."""
    @property
    def unchanged_files(self) -> int: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def unreadable(self) -> list[tuple[builtins.bytes, str]]:
        """At most 10,000 (path relative to the root, reason)."""
    @property
    def unreadable_count(self) -> int: ...
    @property
    def unfinished(self) -> list[builtins.bytes]:
        """Staging directories of restores, which are not taken."""
    @property
    def changed(self) -> list[builtins.bytes]:
        """Paths that changed while being read, twice (at most 10,000)."""
    @property
    def sockets(self) -> int: ...
    @property
    def excluded(self) -> int: ...
    @property
    def mounts(self) -> int: ...
    @property
    def uids(self) -> list[int]: ...
    @property
    def gids(self) -> list[int]: ...
    @property
    def packs(self) -> list[int]:
        """Index numbers of the packs of which chunks or nodes were found to exist already."""

@final
class WriterResult:
    @property
    def packs(self) -> list[tuple[int, bytes, int]]:
        """(kind, id, size) of every pack written, all durable."""
    @property
    def new_bytes(self) -> int:
        """Plain bytes of chunks that the store did not have."""
    @property
    def new_chunks(self) -> int: ...
    @property
    def new_nodes(self) -> int: ...
    @property
    def stored_bytes(self) -> int:
        """Bytes written to packs."""

@final
class Selection:
    """What is taken of directories."""

    def __new__(
        cls,
        *,
        rules: Sequence[tuple[bytes, bytes | None, int]] = ...,
        ignore_files: bool = False,
        caches: bool = False,
        markers: Sequence[bytes] = ...,
        larger_than: int | None = None,
        one_file_system: bool = False,
        skip: Sequence[tuple[int, int]] = ...,
    ) -> Selection:
        """`rules`: lines of gitignore syntax, with the file they stand in and their number there. `ignore_files`: heed `.snapignore`.
        `caches`: of a directory with a valid CACHEDIR.TAG only that is taken; `markers`: likewise. `skip`: (device, inode) of
        directories never taken. Raises InvalidArgument for a line that can match nothing."""

@final
class Explanation:
    @property
    def taken(self) -> bool: ...
    @property
    def why(self) -> str:
        """`default`, `named`, `way`, `rule`, `cache`, `marker`, `socket`, `store`, `mount`, `size`, `unnamed`, `missing`, `unreadable`."""
    @property
    def at(self) -> bytes:
        """The path below the root that decided: the one asked for, or one above it."""
    @property
    def text(self) -> bytes:
        """The pattern or marker; the error, when it is missing or unreadable."""
    @property
    def file(self) -> bytes | None:
        """Where the pattern stands: as given, or below the root for an ignore file."""
    @property
    def line(self) -> int:
        """From 1; 0 without a file."""
    @property
    def broken(self) -> list[tuple[bytes, str]]:
        """Ignore files on the way that are not heeded as they stand, below the root, and why."""

@final
class Nodes:
    """Nodes that are in memory and not in the store, for one reader."""

@final
class Writer:
    """The write pipeline of one session: cuts, identifies, deduplicates, compresses, verifies, seals, packs.

    Several roots may be taken one after another; `finish` closes the packs and makes them durable.
    A pack is handed to `index.add_pack` as soon as it is durable.
    """

    def __new__(
        cls,
        store: bytes,
        keys: Keys,
        index: Index,
        *,
        session: bytes,
        chunk_bytes: int,
        block_bytes: int,
        meta_block_bytes: int,
        data_pack_bytes: int,
        meta_pack_bytes: int,
        level: int,
        threads: int = 0,
        index_empty: bool = False,
        dry_run: bool = False,
        keep_nodes: bool = False,
    ) -> Writer:
        """`level`: zstd level, 0 for none. `threads`: 0 for one per core. `index_empty`: nothing needs to be asked.
        `keep_nodes`: a dry run keeps the nodes that it makes, for `nodes`."""

    def take_tree(
        self,
        path: bytes,
        *,
        cache: bytes | None = None,
        new_cache: bytes | None = None,
        selection: Selection | None = None,
        named: Sequence[bytes] = ...,
        whole: bool = True,
        below: bytes = ...,
        ignore_inode: bool = False,
    ) -> Task[RootResult]:
        """Takes a path of any type as a root. `cache`: stat cache file of the last run (ignored when unusable);
        `new_cache`: where to write the next one. `named`: paths below the root that are taken whatever `selection` says; with
        `whole` unset nothing else is. A named path that is missing is reported as unreadable. `below`: rules see the root as
        this path below the root that they are for.
        Raises SourceNotFound when the path itself cannot be taken."""

    def take_file(self, path: bytes) -> Task[RootResult]:
        """Takes the contents of a file or block device (`kind` is `image`), symbolic links followed."""

    def take_stream(self, fd: int, *, mtime_ns: int, mode: int = 0o600) -> Task[RootResult]:
        """Takes everything that can be read from `fd` (not closed) as a file."""

    def finish(self) -> Task[WriterResult]:
        """No more roots: packs closed, durable, published. Data packs first, then meta packs."""

    def nodes(self) -> Nodes:
        """The nodes that a dry run with `keep_nodes` made and the store does not have, once."""

    def abort(self) -> None:
        """Stops, removes unpublished files. Packs that were published stay. Called by the destructor too."""

@final
class Entry:
    """An entry of a directory, or a root (with an empty name). Immutable."""

    @property
    def name(self) -> builtins.bytes: ...
    @property
    def type(self) -> str:
        """`file`, `directory`, `symlink`, `fifo`, `chardev`, `blockdev`."""
    @property
    def mode(self) -> int:
        """Permission bits with setuid, setgid, sticky (07777)."""
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes of a file; length of a link's target; else 0."""
    @property
    def target(self) -> builtins.bytes | None: ...
    @property
    def device(self) -> tuple[int, int] | None: ...
    @property
    def entries(self) -> int:
        """Of a directory: entries in all below it."""
    @property
    def bytes(self) -> int:
        """Of a directory: sum of the sizes of all files below it; of a file: its size."""
    @property
    def node(self) -> builtins.bytes | None:
        """Of a directory that is not empty: id of its top node."""
    @property
    def has_xattrs(self) -> bool: ...
    @property
    def has_holes(self) -> bool: ...

@final
class RestoreResult:
    @property
    def files(self) -> int: ...
    @property
    def directories(self) -> int: ...
    @property
    def others(self) -> int: ...
    @property
    def bytes(self) -> int:
        """Bytes written (holes and zero runs left as holes not counted)."""
    @property
    def problems(self) -> list[tuple[builtins.bytes, str, str]]:
        """(path, what: `content`, `owner`, `mode`, `times`, `xattr NAME`, `device`, `link`, …, reason); at most 100,000."""
    @property
    def problem_count(self) -> int: ...
    @property
    def verified_files(self) -> int: ...

class _Piece(Protocol):
    """What is restored to one place. `live`: id of the root that was taken there; `wanted`, `head`: a root and the path in it;
    `paths`: only these below the wanted root; `extras`: `keep`, `delete-known` or `delete`; `is_directory`: it is one and stays
    one; `crosses`: other file systems below it belong to it; `journal`: of a device whose content is replaced, the directory
    for the journal."""

    @property
    def live(self) -> bytes | None: ...
    @property
    def wanted(self) -> tuple[bytes, bytes]: ...
    @property
    def head(self) -> tuple[bytes, bytes] | None: ...
    @property
    def paths(self) -> list[bytes] | None: ...
    @property
    def extras(self) -> str: ...
    @property
    def path(self) -> bytes: ...
    @property
    def is_directory(self) -> bool: ...
    @property
    def crosses(self) -> bool: ...
    @property
    def journal(self) -> bytes | None: ...

@final
class RestorePlan:
    """What a restore in place has to do. Paths are relative to their part, which is told by number."""

    def __len__(self) -> int: ...
    def steps(self, start: int, count: int) -> list[tuple[int, bytes, str, int]]:
        """(part, path, what is done, bytes of content)."""
    def counts(self) -> dict[str, tuple[int, int]]:
        """Entries and bytes of each kind of step."""
    def conflicts(
        self,
    ) -> list[tuple[int, bytes, Entry | None, Entry | None, Entry | None, bool]]:
        """(part, path, live, wanted, head, whether the wanted one is taken); at most 10,000."""
    @property
    def conflict_count(self) -> int: ...
    def extras(self) -> list[tuple[int, bytes]]:
        """What the snapshot does not have and stays; at most 10,000."""
    @property
    def extra_count(self) -> int:
        """With all that is below them."""
    def problems(self) -> list[tuple[bytes, str, str]]:
        """(path, `changed` or `in the way`, reason) of what cannot be done and is left out."""
    def stage(
        self, name: str, note: bytes, *, verify: bool = False, goes_on: bool = False
    ) -> Task[Transaction]:
        """Makes staging directories called `name`, and everything new in them; the plan can be told afterwards, not staged
        again. When it fails, they are removed. `note`: kept in the journal. `goes_on`: what cannot be had is left out."""

@final
class Transaction:
    """A restore whose journal is on disk. Until it is closed, or gone, nobody else works with that journal."""

    def close(self) -> None:
        """Lets go of the journal: an error that is being handled keeps this object alive."""

    @property
    def state(self) -> str:
        """`staging`, `ready`, `reverting`, `applied` or `removing`."""
    @property
    def places(self) -> list[builtins.bytes]:
        """Its staging directories."""
    @property
    def bytes(self) -> int:
        """Content that was staged."""
    @property
    def counts(self) -> tuple[int, int, int]:
        """Files, directories and others that were staged."""
    @property
    def verified_files(self) -> int: ...
    @property
    def problem_count(self) -> int: ...
    def problems(self) -> list[tuple[builtins.bytes, str, str]]:
        """As of RestoreResult, of what was staged."""
    def apply(
        self, *, goes_on: bool = False, again: bool = False
    ) -> Task[list[tuple[builtins.bytes, str, str]]]:
        """Exchanges everything that is not yet. `again`: some of it was, before. Gives what could not be set as it was."""
    def revert(self) -> Task[list[tuple[builtins.bytes, str, str]]]:
        """Takes back everything that was exchanged, and removes the journal."""
    def remove(self) -> None:
        """Removes what was replaced, and the journal."""

@final
class CheckResult:
    @property
    def nodes(self) -> int:
        """Distinct nodes read."""
    @property
    def chunks(self) -> int:
        """Chunk references checked."""
    @property
    def problems(self) -> list[tuple[int, bytes, str]]:
        """(number of the root in the call, path below it, what is wrong); at most 100,000."""
    @property
    def problem_count(self) -> int: ...
    @property
    def complete(self) -> bool:
        """False when `time_limit_s` ended it early."""

@final
class PackCheckResult:
    @property
    def packs(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def problems(self) -> list[tuple[int, builtins.bytes, str]]:
        """(kind, pack id, what is wrong); at most 100,000."""
    @property
    def problem_count(self) -> int:
        """How many there are, those beyond the first 100,000 too."""
    @property
    def bad_ids(self) -> list[builtins.bytes]:
        """Ids of the chunks and nodes that cannot be read from the packs checked."""
    @property
    def complete(self) -> bool:
        """False when `time_limit_s` ended it early."""
    @property
    def checked(self) -> list[builtins.bytes]:
        """Ids of the packs that were checked."""

@final
class Reader:
    """Reads trees and content, verifying every block, node and chunk. Thread-safe. Wrong bytes are never returned."""

    def __new__(
        cls,
        store: bytes,
        keys: Keys,
        index: Index,
        *,
        cache_bytes: int = ...,
        nodes: Nodes | None = None,
    ) -> Reader: ...
    def preload(self, packs: Sequence[tuple[int, bytes]]) -> None:
        """Loads the tables of packs (kind, id), so that their chunks are found without the index. Bounded: stops when full.
        Packs that cannot be read are passed over."""
    def node(self, id: bytes) -> bytes: ...
    def root(self, id: bytes) -> Entry: ...
    def children(self, directory: Entry) -> list[Entry]:
        """Entries sorted by name."""
    def child(self, directory: Entry, name: bytes) -> Entry | None: ...
    def xattrs(self, entry: Entry) -> list[tuple[bytes, bytes]]: ...
    def holes(self, entry: Entry) -> list[tuple[int, int]]: ...
    def chunks(self, entry: Entry) -> list[tuple[int, int, bytes | None]]:
        """(offset, length, id or None for a zero run)."""
    def read(self, entry: Entry, offset: int, size: int) -> bytes: ...
    def links(self, root_id: bytes) -> list[tuple[bytes, bytes]]:
        """(path, first path of its group)."""
    def restore(
        self,
        root_id: bytes,
        target: bytes,
        *,
        paths: Sequence[bytes] | None = None,
        strip: bytes | None = None,
        verify: bool = False,
        threads: int = 0,
    ) -> Task[RestoreResult]:
        """Restores a root into `target`. A directory root becomes `target` itself, which MUST be missing (its parent exists) or an
        empty directory; a root of another type is created as the path `target`, which MUST be missing. `paths`: only these paths below the
        root and what is below them (their parent directories come with their metadata). `strip`: with a path of the root that is a directory:
        that directory's contents become `target`. `verify`: read back and compare afterwards.
        Raises TargetNotEmpty, TargetDenied, PathNotFound."""
    def check_trees(
        self,
        roots: Sequence[bytes],
        *,
        bad_ids: Sequence[bytes] = ...,
        time_limit_s: float | None = None,
    ) -> Task[CheckResult]:
        """Reads every distinct node below `roots` and asks for every chunk; `bad_ids` count as missing."""
    def check_packs(
        self,
        packs: Sequence[tuple[int, bytes, int]],
        *,
        read_data: bool,
        time_limit_s: float | None = None,
        threads: int = 0,
    ) -> Task[PackCheckResult]:
        """Checks packs (kind, id, size as listed): header, trailer, footer; with `read_data` also the name, every block and every id."""

_Change = tuple[str, bytes, bytes | None, Entry | None, Entry | None, tuple[str, ...], str | None]
"""Kind, path, old path of what was renamed, old and new entry, names of the fields that differ, why it cannot be read."""

@final
class TreeWalk(Iterator[list[tuple[bytes, Entry]]]):
    """What is in a directory, with `recursive` everything below: batches of (path, entry), each directory before what is
    in it. Memory does not depend on how much there is. `path`: the directory's own."""

    def __new__(
        cls, reader: Reader, directory: Entry, path: bytes, *, recursive: bool
    ) -> TreeWalk: ...
    def __iter__(self) -> TreeWalk: ...
    def __next__(self) -> list[tuple[bytes, Entry]]: ...

@final
class TreeDiff(Iterator[list[_Change]]):
    """Differences between entries and all below them, in batches, sorted by path. `pairs`: (path, entry) of old and new.
    Directories with the same node are never entered. `renames`: files with the same content are looked for among at most
    150,000 differences; with more of them, and without it, memory does not depend on how many there are."""

    def __new__(
        cls,
        reader: Reader,
        pairs: Sequence[tuple[tuple[bytes, Entry] | None, tuple[bytes, Entry] | None]],
        *,
        ignore: Sequence[str] = ...,
        renames: bool = True,
    ) -> TreeDiff: ...
    def __iter__(self) -> TreeDiff: ...
    def __next__(self) -> list[_Change]: ...

@final
class DirectoryDiff(Iterator[list[_Change]]):
    """Differences of what is on disk at `path` from `entry`, whose path is shown as `shown`. What `selection` leaves out
    is not said to be new, nor anything unless `whole`. `below`: the path from the root, where rules count from; `root`:
    where that is on disk, if it is, for ignore files on the way. Contents are compared where
    the size is the same but the time is not; with `content` wherever the size is. No link is followed; nothing but
    directories and regular files is opened. Raises SourceNotFound when `path` itself cannot be read."""

    def __new__(
        cls,
        reader: Reader,
        shown: bytes,
        entry: Entry,
        path: bytes,
        *,
        below: bytes = ...,
        root: bytes | None = None,
        selection: Selection | None = None,
        whole: bool = True,
        ignore: Sequence[str] = ...,
        content: bool = False,
    ) -> DirectoryDiff: ...
    @property
    def unfinished(self) -> list[bytes]:
        """Paths on disk of staging directories of restores that were met until now."""
    def __iter__(self) -> DirectoryDiff: ...
    def __next__(self) -> list[_Change]: ...

@final
class TreeFind(Iterator[list[tuple[int, bytes, Entry]]]):
    """Entries that match, in batches of (number of the tree, path, entry). `trees`: path, and root id or entry.
    A directory's node that is in several trees is read once. Raises InvalidArgument for a pattern that has no meaning."""

    def __new__(
        cls,
        reader: Reader,
        trees: Sequence[tuple[bytes, bytes, Entry | None]],
        pattern: str,
        *,
        regex: bool = False,
        ignore_case: bool = False,
        larger_than: int | None = None,
        smaller_than: int | None = None,
        newer_than_ns: int | None = None,
        older_than_ns: int | None = None,
        types: Sequence[str] = ...,
    ) -> TreeFind: ...
    def __iter__(self) -> TreeFind: ...
    def __next__(self) -> list[tuple[int, bytes, Entry]]: ...

def differing_fields(old: Entry, new: Entry) -> tuple[str, ...]:
    """Names of what differs between two entries of one type; what is in directories is not looked at."""

def same_entry(one: Entry, other: Entry) -> bool:
    """Whether two entries are the same but for their names, with all that is below them."""

def lookup(reader: Reader, wanted: Sequence[tuple[bytes, bytes]]) -> Task[list[Entry | None]]:
    """What is at each (root id, path below it), no link followed. Directories that roots share are read once."""

def unique_bytes(
    reader: Reader, groups: Sequence[Sequence[tuple[bytes, Entry | None]]]
) -> Task[list[int]]:
    """For each group of trees (root id, or entry): plain bytes of the chunks and nodes that no other group holds."""

def explain_path(
    root: bytes,
    path: bytes,
    *,
    selection: Selection | None = None,
    named: Sequence[bytes] = ...,
    whole: bool = True,
) -> Explanation:
    """Why `take_tree` of `root` takes `path` below it, or leaves it out. Raises SourceNotFound, SourceUnreadable."""

def cut_points(content: bytes, chunk_bytes: int, keys: Keys) -> list[tuple[int, int, bytes | None]]:
    """(offset, length, id or None for a zero run) of `content` without holes, for golden vectors and tests."""

@final
class View:
    """Snapshots as a file system that is only read, each under a name. Thread-safe."""

    def __new__(
        cls,
        reader: Reader,
        *,
        node_bytes: int,
        ahead_blocks: int,
        owner: tuple[int, int],
        all_uid: int | None = None,
        all_gid: int | None = None,
        only: Sequence[bytes] = ...,
        partitions: bool = False,
    ) -> View:
        """`node_bytes`: what decoded nodes may take. `ahead_blocks`: how many blocks are decoded before they are wanted, when
        blocks are wanted in a row. `owner`: of directories that are in no tree. `only`: the paths that are shown; all when empty.
        `partitions`: beside a disk image `NAME`, `NAME.partitions` has a file for each of its partitions."""
    def add(
        self,
        name: builtins.bytes,
        id: str,
        roots: list[tuple[builtins.bytes, builtins.bytes]],
        time_ns: int,
    ) -> None:
        """Shows a snapshot. `roots`: path, and id. Raises DamagedObject."""
    def remove(self, name: builtins.bytes) -> bool:
        """False when nothing was shown under this name."""
    def find(self, name: builtins.bytes, path: builtins.bytes) -> Shown | None:
        """What is at a path, no link followed. Raises InvalidArgument when nothing is shown under this name."""

@final
class Shown:
    """Something that was found in a view."""

    @property
    def snapshot(self) -> str: ...
    @property
    def root(self) -> str | None:
        """Id of the root that it is in; None for what is in no tree."""
    @property
    def is_directory(self) -> bool: ...
    @property
    def target(self) -> builtins.bytes | None:
        """Of a symbolic link."""
    def identity(self) -> builtins.bytes:
        """The same for two things only if they, and all below them, differ in nothing but their names."""
    def status(self) -> tuple[int, int, int, int, int, int, int, int, int]:
        """Inode number, mode with type, links, owner, group, device, size, blocks of 512 bytes, time in nanoseconds."""
    def list(
        self, start: int, count: int
    ) -> tuple[builtins.list[tuple[builtins.bytes, Shown]], int]:
        """At most `count` entries of a directory from number `start` on, and the number of the next."""
    def read(self, offset: int, len: int) -> builtins.bytes:
        """At most `len` bytes of a file; fewer only at its end."""
    def seek(self, offset: int, hole: bool) -> int | None:
        """Where the next data, or hole, begins; the end counts as a hole. None behind it."""
    def xattrs(self) -> builtins.list[tuple[builtins.bytes, builtins.bytes]]: ...
    def chunk_lines(self, max_len: int) -> str:
        """Chunks of a file, `OFFSET LENGTH ID` a line, as many lines as fit. A partition has none."""

def fuse_operations(view: View, others: dict[str, int], below: bytes | None) -> dict[str, int]:
    """Addresses of functions for libfuse, by the names of its operations. `others`: addresses of what Python answers for names
    above snapshots (`getattr`, `readlink`, `readdir` as libfuse calls them; `show(id) -> 1 or 0`; `complain(path, what)`).
    `below`: the mount is what is at this path of the snapshot without a name; else snapshots are in `/by-id/`. They serve
    until this is called again."""

@final
class ExportCounts:
    @property
    def files(self) -> int: ...
    @property
    def directories(self) -> int: ...
    @property
    def others(self) -> int:
        """Links, FIFOs, devices."""
    @property
    def bytes(self) -> int:
        """Contents of the files, holes included."""
    @property
    def written_bytes(self) -> int: ...

def export_tar(
    reader: Reader,
    parts: Sequence[tuple[bytes, bytes, bytes]],
    fd: int,
    *,
    format: str,
    users: dict[int, bytes] = ...,
    groups: dict[int, bytes] = ...,
    threads: int = 0,
) -> Task[ExportCounts]:
    """Writes a tar archive to `fd` (not closed), which may be a pipe. `parts`: (root id, path below it, name in the archive).
    `format`: `pax` or `gnu`. The same trees and names give the same bytes. Raises DamagedObject at the first damage (what was
    written stays), BrokenPipeError when the reader has gone."""

@final
class ImportResult:
    @property
    def root(self) -> RootResult: ...
    @property
    def users(self) -> list[tuple[int, bytes]]:
        """Names of owners, as the archive has them."""
    @property
    def groups(self) -> list[tuple[int, bytes]]: ...

def import_tar(
    writer: Writer, fd: int, *, number_of: Callable[[str, bytes], int | None], head: bytes = ...
) -> Task[ImportResult]:
    """Takes a tar archive, uncompressed, from `fd` (not closed), behind `head`, which was read already, as one root.
    `number_of(kind, name)`: the number of a `user` or `group` that an ACL names, None when there is none; it must not
    fail. What is read but for its ACL is among `unreadable`. Raises ArchiveInvalid, SourceUnreadable."""

def plan_restore(
    reader: Reader,
    parts: Sequence[_Piece],
    *,
    strategy: str,
    decided: dict[tuple[int, bytes], bool] = ...,
) -> Task[RestorePlan]:
    """Compares trees, decides, and holds what follows against the disk; writes nothing. `strategy`: `overwrite`,
    `keep-original`, `newer` or `merge`; `decided`: for conflicts (part, path), whether the wanted one is taken."""

def open_transaction(path: bytes) -> tuple[Transaction, bytes] | None:
    """The restore whose journal is in a staging directory, and its note; None when nothing was begun in it. Raises StoreBusy
    while another process works with it, DamagedObject."""

def remove_remains(path: bytes) -> None:
    """Removes a staging directory in which nothing was begun."""
