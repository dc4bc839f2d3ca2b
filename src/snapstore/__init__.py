"""snapstore: a content-addressed snapshot store.

    import snapstore
    with snapstore.open("/backup/store") as store:
        snapshot = store.create("/srv/app", name="before-deploy").snapshot

The public names are those in `__all__`; they are loaded on first use, so that importing this is
cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snapstore.api import (
        Store,
        calibrated_kdf,
        examine,
        forget_place,
        import_key,
        init,
        open,
        store_id,
        unmount,
    )
    from snapstore.base.errors import (
        AmbiguousReference,
        ArchiveInvalid,
        Cancelled,
        CommandFailed,
        ConflictsFound,
        DamagedObject,
        IndexDamaged,
        InvalidArgument,
        JobNotFound,
        KeyDamaged,
        KeyMissing,
        KeyNotFound,
        MountRefused,
        MountUnavailable,
        NoSpace,
        NotAStore,
        NothingToUndo,
        OperationDenied,
        OperationTimeout,
        PasswordNeeded,
        PathNotFound,
        RestoreUnfinished,
        SnapshotNotFound,
        SnapstoreError,
        SourceNotFound,
        SourceUnreadable,
        StorageError,
        StoreAppendOnly,
        StoreBusy,
        StoreDowngraded,
        StoreExists,
        StoreFailed,
        StoreForked,
        StoreNotFound,
        StoreReadOnly,
        StoreTooNew,
        TamperedObject,
        TargetChanged,
        TargetDenied,
        TargetInvalid,
        TargetNotEmpty,
        TargetRefused,
        WrongPassword,
    )
    from snapstore.base.progress import Progress
    from snapstore.model.config import Config
    from snapstore.model.entries import FileStatus, ListedEntry
    from snapstore.model.findings import Change, DiffStat, DiskUse, FoundEntry, PathVersion
    from snapstore.model.health import Finding, Health
    from snapstore.model.keys import Kdf, KeyInfo
    from snapstore.model.patterns import any_case
    from snapstore.model.restoring import (
        Conflict,
        Event,
        PlannedStep,
        RestorePlan,
        Side,
        Unfinished,
    )
    from snapstore.model.results import (
        CheckProblem,
        CheckReport,
        CreateResult,
        Explanation,
        ExportResult,
        ReindexResult,
        RestoreResult,
        StoreStats,
        Stream,
    )
    from snapstore.model.selection import PatternFile, Selection
    from snapstore.model.snapshot import Root, Snapshot
    from snapstore.ops.diff import DirectoryChanges
    from snapstore.ops.points import RestorePoint
    from snapstore.ops.streaming import RestoreEvents
    from snapstore.ops.viewing import SnapshotEntry, SnapshotView
    from snapstore.repository.jobs import Job

__version__ = "0.1.0"

_HOMES = {
    "snapstore.api": (
        "Store",
        "calibrated_kdf",
        "examine",
        "forget_place",
        "import_key",
        "init",
        "open",
        "store_id",
        "unmount",
    ),
    "snapstore.base.errors": (
        "AmbiguousReference",
        "ArchiveInvalid",
        "Cancelled",
        "CommandFailed",
        "ConflictsFound",
        "DamagedObject",
        "IndexDamaged",
        "InvalidArgument",
        "JobNotFound",
        "KeyDamaged",
        "KeyMissing",
        "KeyNotFound",
        "MountRefused",
        "MountUnavailable",
        "NoSpace",
        "NotAStore",
        "NothingToUndo",
        "OperationDenied",
        "OperationTimeout",
        "PasswordNeeded",
        "PathNotFound",
        "RestoreUnfinished",
        "SnapshotNotFound",
        "SnapstoreError",
        "SourceNotFound",
        "SourceUnreadable",
        "StorageError",
        "StoreAppendOnly",
        "StoreBusy",
        "StoreDowngraded",
        "StoreExists",
        "StoreFailed",
        "StoreForked",
        "StoreNotFound",
        "StoreReadOnly",
        "StoreTooNew",
        "TamperedObject",
        "TargetChanged",
        "TargetDenied",
        "TargetInvalid",
        "TargetNotEmpty",
        "TargetRefused",
        "WrongPassword",
    ),
    "snapstore.base.progress": ("Progress",),
    "snapstore.model.config": ("Config",),
    "snapstore.model.entries": ("FileStatus", "ListedEntry"),
    "snapstore.model.health": ("Finding", "Health"),
    "snapstore.model.findings": ("Change", "DiffStat", "DiskUse", "FoundEntry", "PathVersion"),
    "snapstore.model.keys": ("Kdf", "KeyInfo"),
    "snapstore.model.patterns": ("any_case",),
    "snapstore.model.restoring": (
        "Conflict",
        "Event",
        "PlannedStep",
        "RestorePlan",
        "Side",
        "Unfinished",
    ),
    "snapstore.model.results": (
        "CheckProblem",
        "CheckReport",
        "CreateResult",
        "ExportResult",
        "Explanation",
        "ReindexResult",
        "RestoreResult",
        "StoreStats",
        "Stream",
    ),
    "snapstore.model.selection": ("PatternFile", "Selection"),
    "snapstore.model.snapshot": ("Root", "Snapshot"),
    "snapstore.ops.diff": ("DirectoryChanges",),
    "snapstore.ops.points": ("RestorePoint",),
    "snapstore.ops.streaming": ("RestoreEvents",),
    "snapstore.ops.viewing": ("SnapshotEntry", "SnapshotView"),
    "snapstore.repository.jobs": ("Job",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])


__all__ = [
    "AmbiguousReference",
    "ArchiveInvalid",
    "Cancelled",
    "Change",
    "CheckProblem",
    "CheckReport",
    "CommandFailed",
    "Config",
    "Conflict",
    "ConflictsFound",
    "CreateResult",
    "DamagedObject",
    "DiffStat",
    "DirectoryChanges",
    "DiskUse",
    "Event",
    "Explanation",
    "ExportResult",
    "FileStatus",
    "Finding",
    "FoundEntry",
    "Health",
    "IndexDamaged",
    "InvalidArgument",
    "Job",
    "JobNotFound",
    "Kdf",
    "KeyDamaged",
    "KeyInfo",
    "KeyMissing",
    "KeyNotFound",
    "ListedEntry",
    "MountRefused",
    "MountUnavailable",
    "NoSpace",
    "NotAStore",
    "NothingToUndo",
    "OperationDenied",
    "OperationTimeout",
    "PasswordNeeded",
    "PathNotFound",
    "PathVersion",
    "PatternFile",
    "PlannedStep",
    "Progress",
    "ReindexResult",
    "RestoreEvents",
    "RestorePlan",
    "RestorePoint",
    "RestoreResult",
    "RestoreUnfinished",
    "Root",
    "Selection",
    "Side",
    "Snapshot",
    "SnapshotEntry",
    "SnapshotNotFound",
    "SnapshotView",
    "SnapstoreError",
    "SourceNotFound",
    "SourceUnreadable",
    "StorageError",
    "Store",
    "StoreAppendOnly",
    "StoreBusy",
    "StoreDowngraded",
    "StoreExists",
    "StoreFailed",
    "StoreForked",
    "StoreNotFound",
    "StoreReadOnly",
    "StoreStats",
    "StoreTooNew",
    "Stream",
    "TamperedObject",
    "TargetChanged",
    "TargetDenied",
    "TargetInvalid",
    "TargetNotEmpty",
    "TargetRefused",
    "Unfinished",
    "WrongPassword",
    "any_case",
    "calibrated_kdf",
    "examine",
    "forget_place",
    "import_key",
    "init",
    "open",
    "store_id",
    "unmount",
]
