"""Export: writes a snapshot, or a part of it, as an archive."""

import os
from collections.abc import Mapping
from typing import Any

from snapstore import _native
from snapstore.base.errors import InvalidArgument, TargetInvalid
from snapstore.base.progress import Observer
from snapstore.model.results import ExportResult
from snapstore.model.snapshot import Root, Snapshot, require_ready
from snapstore.ops import outputs, places, zipping
from snapstore.ops.places import Place
from snapstore.ops.running import Meter
from snapstore.repository.open import Repository

FORMATS = ("pax", "gnu", "zip")
CONTENTS = b"."
"""The name of a directory whose contents become those of the archive."""


def export(
    repository: Repository,
    snapshot: Snapshot,
    file: Any,
    *,
    within: bytes | None,
    format: str,
    observer: Observer | None,
) -> ExportResult:
    """Writes an archive to `file`: a path, a descriptor, or an object with `fileno()`.

    Named as after a restore: a single directory's contents stand at the top, several roots at their
    recorded paths without the leading slash. Raises PathNotFound, InvalidArgument, TargetInvalid,
    TargetDenied, DamagedObject, NoSpace, StorageError, Cancelled, BrokenPipeError.
    """
    require_ready(snapshot)
    if format not in FORMATS:
        raise InvalidArgument(
            f"there is no format {format!r}", hint=f"formats are {', '.join(FORMATS)}"
        )
    _check_file(repository, file)
    with repository.reading():
        reader = repository.reader_of_whole(snapshot)
        meter = Meter("export", observer)
        parts = _parts(reader, snapshot, within)
        with outputs.opened(file) as descriptor:
            if format == "zip":
                return zipping.write(repository, snapshot, parts, descriptor, meter)
            task = _native.export_tar(
                reader,
                [(bytes.fromhex(place.root.id), place.below, name) for place, name in parts],
                descriptor,
                format=format,
                users=_names(snapshot.owners.get("users", {})),
                groups=_names(snapshot.owners.get("groups", {})),
            )
            counts = meter.wait(task)
    return ExportResult(
        snapshot=snapshot.id,
        format=format,
        files=counts.files,
        directories=counts.directories,
        others=counts.others,
        bytes=counts.bytes,
        written_bytes=counts.written_bytes,
        omitted=[],
        omitted_count=0,
        elapsed_s=meter.elapsed_s,
    )


def _parts(
    reader: "_native.Reader", snapshot: Snapshot, within: bytes | None
) -> list[tuple[Place, bytes]]:
    """What is written, and under which name."""
    if within:
        place = places.find(reader, snapshot, within, suggest=True)
        return [(place, _own_name(place))]
    tops = [_top(reader, root) for root in sorted(snapshot.roots, key=lambda root: root.path)]
    if len(tops) == 1:
        return [(tops[0], _own_name(tops[0]))]
    return [(top, b"/".join(places.components(top.root.path)) or CONTENTS) for top in tops]


def _top(reader: "_native.Reader", root: Root) -> Place:
    return Place(root, b"", reader.root(bytes.fromhex(root.id)))


def _own_name(place: Place) -> bytes:
    if place.entry.type == "directory":
        return CONTENTS
    return places.components(place.path)[-1]


def _names(table: Mapping[str, str]) -> dict[int, bytes]:
    """Owner names by number."""
    return {int(id): name.encode() for id, name in table.items() if _is_id(id)}


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= 0xFFFFFFFF


def _check_file(repository: Repository, file: Any) -> None:
    if isinstance(file, int) or hasattr(file, "fileno"):
        return
    store = os.path.realpath(os.fsencode(repository.path)) + b"/"
    if os.path.realpath(os.fsencode(file)).startswith(store):
        raise TargetInvalid("an archive cannot be written into the store")
