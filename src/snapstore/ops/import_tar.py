"""Import: a tar archive becomes a snapshot, as if its tree had been taken."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from snapstore.base import bytestext
from snapstore.base.errors import InvalidArgument
from snapstore.base.progress import Observer
from snapstore.model import snapshot as records
from snapstore.model.results import CreateResult
from snapstore.model.snapshot import Snapshot
from snapstore.ops import create as creating
from snapstore.ops.archives import Archive
from snapstore.repository.open import Repository

_SUFFIXES = (b".gz", b".bz2", b".xz", b".zst", b".tar", b".tgz", b".tbz2", b".txz", b".tzst")
_NAMELESS = b"archive"


def import_tar(
    repository: Repository,
    file: Any,
    *,
    root: str | bytes | os.PathLike[str] | None,
    source: str | None,
    host: str | None,
    name: str | None,
    description: str | None,
    tags: Sequence[str],
    metadata: Mapping[str, Any] | None,
    kind: str,
    tool: str,
    created_by: Mapping[str, Any] | None,
    time_ns: int | None,
    parent: Snapshot | None,
    skip_if_unchanged: bool,
    dry_run: bool,
    compression: str | None,
    observer: Observer | None,
) -> CreateResult:
    """Takes a snapshot of what an archive holds. See `Store.import_tar`."""
    if kind not in records.KINDS:
        raise InvalidArgument(f"a snapshot cannot be of the kind {kind!r}")
    if name is not None and not name:
        raise InvalidArgument("a name cannot be empty")
    archive = Archive(_name_of(file) if root is None else _root(os.fsencode(root)), file)
    host = host or repository.host
    plan = creating.Plan(
        places=(),
        images=(),
        streams=(),
        archive=archive,
        source=source or f"{host}:{bytestext.to_text(archive.path)}",
        host=host,
        kind=kind,
        tool=tool,
        label=records.label_operations(name, description, tags, dict(metadata or {})),
        created_by=dict(created_by or {"type": "user", "id": creating.user()}),
        time_ns=time_ns,
        parent=parent,
        skip_if_unchanged=skip_if_unchanged,
        dry_run=dry_run,
        compression=compression,
    )
    return creating.create(repository, plan, observer)


def _name_of(file: Any) -> bytes:
    """The archive's name without what only says that it is one."""
    if isinstance(file, int) or hasattr(file, "fileno"):
        return _NAMELESS
    name = os.path.basename(os.fsencode(file))
    while any(name.lower().endswith(suffix) and len(name) > len(suffix) for suffix in _SUFFIXES):
        name = name[: name.rindex(b".")]
    return _root(name or _NAMELESS)


def _root(path: bytes) -> bytes:
    """A path to record: absolute, or a single name."""
    if path.startswith(b"/") and b"\0" not in path:
        return os.path.normpath(path).replace(b"//", b"/")
    if not path or len(path) > 255 or b"/" in path or b"\0" in path or path in (b".", b".."):
        raise InvalidArgument(
            f"a tree cannot be recorded as {bytestext.to_text(path)!r}",
            hint="name an absolute path, or a name without slashes",
        )
    return path
