"""The error tree: every way in which a call can fail, as a class with a stable kind.

Classes say what a handler can do about it; `kind` is for programs (it never changes and new kinds
are only added); `exit_code` is what the command returns. The native core raises these same classes,
each with a message alone.
"""

from typing import Any, ClassVar


class SnapstoreError(Exception):
    """Base of all errors of this library.

    `message` says what happened, `hint` what to do next (else the class's usual one); further
    keyword arguments become attributes in `fields` (plain JSON types) for programs.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    usual_hint: ClassVar[str | None] = None

    def __init__(self, message: str = "", *, hint: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.usual_hint
        self.fields = fields

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.fields))

    def to_dict(self) -> dict[str, Any]:
        """The error as plain JSON types: `kind`, `message`, `hint`, `exit_code`, and its fields."""
        return {
            **self.fields,
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


def _rebuild(
    cls: type[SnapstoreError], message: str, hint: str | None, fields: dict[str, Any]
) -> SnapstoreError:
    return cls(message, hint=hint, **fields)


# The store


class StoreNotFound(SnapstoreError):
    """There is nothing at the store's path."""

    kind = "store-not-found"
    exit_code = 10


class NotAStore(SnapstoreError):
    """Something is at the path, but it is not a store that can be used."""

    kind = "store-invalid"
    exit_code = 10


class StoreExists(SnapstoreError):
    """A store is to be made where something exists already."""

    kind = "store-exists"
    usual_hint = "name a new or empty directory, or use the store that is there"


class StoreTooNew(SnapstoreError):
    """An object or a feature needs a newer version of this software."""

    kind = "store-too-new"
    usual_hint = "use a newer version of this software"


class StoreBusy(SnapstoreError):
    """Another process holds what is needed."""

    kind = "busy"
    exit_code = 11
    usual_hint = "try again when the other process has ended"


class StoreForked(SnapstoreError):
    """A store was used in a process forked after it was opened: open it after the fork."""

    kind = "store-forked"


class StoreFailed(SnapstoreError):
    """A fault in this software, or a misuse that it did not foresee."""

    kind = "internal"


class WrongPassword(SnapstoreError):
    """The password opens none of an encrypted store's keys."""

    kind = "wrong-password"
    exit_code = 12


class PasswordNeeded(WrongPassword):
    """An encrypted store was opened without a password."""

    kind = "password-needed"
    usual_hint = (
        "set one of SNAP_PASSWORD_FILE, SNAP_PASSWORD_COMMAND, SNAP_PASSWORD_FD and SNAP_PASSWORD"
    )


class KeyMissing(SnapstoreError):
    """An encrypted store has no key object left: no password can open it."""

    kind = "key-missing"
    exit_code = 18
    usual_hint = "key import puts back one that was exported"


class KeyNotFound(SnapstoreError):
    """No key of an encrypted store answers to the name or id, or several do."""

    kind = "key-not-found"
    exit_code = 13
    usual_hint = "key list shows those that there are"


class DamagedObject(SnapstoreError):
    """An object of the store is missing or is not what its name or checksum says. Nothing of it was
    returned.
    """

    kind = "damaged"
    exit_code = 5
    usual_hint = "check names the files that damage hits"


class KeyDamaged(DamagedObject):
    """Key objects cannot be read, and the password opens none of the others."""

    kind = "key-damaged"
    exit_code = 17
    usual_hint = "key import puts back one that was exported; others' passwords may still open it"


class TamperedObject(DamagedObject):
    """An object of an encrypted store is whole but not what was written there with the store's
    keys: somebody changed, moved or exchanged it. Nothing of it was returned.
    """

    kind = "tampered"
    exit_code = 19
    usual_hint = "do not trust this copy of the store; check names the files that it hits"


class StoreDowngraded(TamperedObject):
    """A store is not encrypted where an encrypted one is expected."""

    kind = "downgraded"
    usual_hint = "do not write to it before you know why"


class IndexDamaged(SnapstoreError):
    """The local index cannot be used; it is derived and can be rebuilt."""

    kind = "index-damaged"
    exit_code = 5
    usual_hint = "reindex makes it anew"


# What was asked for


class SnapshotNotFound(SnapstoreError):
    """No snapshot answers to the reference."""

    kind = "snapshot-not-found"
    exit_code = 13


class AmbiguousReference(SnapstoreError):
    """Several snapshots answer to the reference; `fields["candidates"]` lists their ids."""

    kind = "ambiguous-reference"
    exit_code = 13


class PathNotFound(SnapstoreError):
    """The path is not in the snapshot."""

    kind = "path-not-found"
    exit_code = 13


class JobNotFound(SnapstoreError):
    """No job answers to the id, or several do: then `fields["candidates"]` lists them."""

    kind = "job-not-found"
    exit_code = 13
    usual_hint = "jobs lists those that there are"


class InvalidArgument(SnapstoreError):
    """An argument has no meaning here."""

    kind = "invalid-argument"
    exit_code = 2


# Permission, interruption


class OperationDenied(SnapstoreError):
    """The operating system or the store does not allow it."""

    kind = "denied"
    exit_code = 14


class StoreReadOnly(OperationDenied):
    """The store was opened for reading, or its medium cannot be written."""

    kind = "read-only"
    usual_hint = "to write, be the owner of the store, on a medium mounted for writing"


class StoreAppendOnly(OperationDenied):
    """The store, or the way in which it was opened, lets nothing be deleted."""

    kind = "append-only"
    exit_code = 20
    usual_hint = "delete where the store may be written freely"


class TargetDenied(OperationDenied):
    """The target of a restore cannot be written."""

    kind = "target-denied"
    usual_hint = "restore to where you may write, or as root"


class Cancelled(SnapstoreError):
    """The operation was stopped on request. What was finished stays."""

    kind = "cancelled"
    exit_code = 130


# Sources and targets


class SourceNotFound(SnapstoreError):
    """A path to be taken does not exist."""

    kind = "source-not-found"
    usual_hint = "see how it is spelt; a relative path begins where you are"


class SourceUnreadable(SnapstoreError):
    """A path to be taken cannot be read at all."""

    kind = "source-unreadable"
    usual_hint = "see that it is there, is what it should be, and may be read by you"


class ArchiveInvalid(SnapstoreError):
    """An archive to be imported is cut off, damaged, or holds what no tree can; nothing was
    committed. The message says at which byte, and in which member.
    """

    kind = "archive-invalid"
    usual_hint = "make it or copy it again; tar -tvf shows what is in it"


class CommandFailed(SnapstoreError):
    """A command whose output was to be taken did not succeed; nothing was committed."""

    kind = "command-failed"
    usual_hint = "run the command by itself to see why"


class TargetNotEmpty(SnapstoreError):
    """The target of a restore has contents."""

    kind = "target-not-empty"
    usual_hint = "name a new or empty directory"


class TargetInvalid(SnapstoreError):
    """The target of a restore cannot be one: not a directory, no parent directory, inside the
    store.
    """

    kind = "target-invalid"
    usual_hint = "name a new or empty directory whose parent exists"


class TargetRefused(SnapstoreError):
    """A restore in place would hit what nobody means by accident, or has no place to go to."""

    kind = "target-refused"


class TargetChanged(SnapstoreError):
    """The target changes while it is being restored. Unless the message says otherwise, it is as it
    was.
    """

    kind = "target-changed"
    usual_hint = "end what writes there, and try again"


class MountRefused(SnapstoreError):
    """A mount point that cannot be one, or is none. `path`."""

    kind = "mount-refused"
    exit_code = 14


class MountUnavailable(SnapstoreError):
    """What mounting needs is not there, or does not let us."""

    kind = "mount-unavailable"
    exit_code = 14


class ConflictsFound(SnapstoreError):
    """Paths were changed both on disk and in the snapshot; nothing was done. `conflicts` names
    them.
    """

    kind = "conflicts"
    exit_code = 4
    usual_hint = "--strategy says who wins"


class RestoreUnfinished(SnapstoreError):
    """A restore into the target was interrupted: what is there is mixed until it is finished or
    taken back. `state` says how far it is.
    """

    kind = "restore-unfinished"
    exit_code = 16
    usual_hint = "restore --resume finishes it, restore --abort takes it back"


class NothingToUndo(SnapstoreError):
    """No restore is known that could be taken back."""

    kind = "nothing-to-undo"


class OperationTimeout(SnapstoreError):
    """The time that an operation was given is over. A restore was taken back."""

    kind = "timeout"
    exit_code = 15
    usual_hint = "give it more time"


# The medium


class StorageError(SnapstoreError):
    """The store's medium failed a read or write. Never reported as absence."""

    kind = "storage-error"
    usual_hint = "doctor looks at the store and its medium"


class NoSpace(SnapstoreError):
    """No space (or quota) is left. What was complete before stays complete."""

    kind = "no-space"
    usual_hint = "free some; what was complete is kept, and not done again"


UNREAD = (DamagedObject, StorageError, StoreTooNew)
"""Raised for an object that cannot be read; where there are others, it costs only itself."""
