"""Import: a tar archive becomes a snapshot, as if its tree had been taken."""

import os
from typing import Any

from snapstore.base import bytestext
from snapstore.base.errors import InvalidArgument
from snapstore.base.progress import Observer
from snapstore.model.results import CreateResult
from snapstore.ops import create as creating
from snapstore.ops.archives import Archive
from snapstore.ops.selection import Rules
from snapstore.repository.open import Repository

_SUFFIXES = (b".gz", b".bz2", b".xz", b".zst", b".tar", b".tgz", b".tbz2", b".txz", b".tzst")
_NAMELESS = b"archive"


def import_tar(
    repository: Repository,
    file: Any,
    *,
    root: str | bytes | os.PathLike[str] | None,
    observer: Observer | None,
    **options: Any,
) -> CreateResult:
    """Takes a snapshot of what an archive holds. `options`: what else `Store.import_tar` takes."""
    archive = Archive(_name_of(file) if root is None else _root(os.fsencode(root)), file)
    plan = creating.plan_of(
        repository,
        [archive.path],
        places=(),
        images=(),
        streams=(),
        archive=archive,
        rules=Rules(ignore_files=False),  # an archive's are but files
        **options,
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
