"""Mounting: how snapshots are shown by a mount."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from snapstore.base.arguments import Path_, several
from snapstore.base.errors import InvalidArgument
from snapstore.base.units import Size, size_bytes
from snapstore.model.filters import Filter, Texts

CACHE_BYTES = 128 << 20
MIN_CACHE_BYTES = 8 << 20
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"


def require_cache(cache_bytes: int) -> None:
    """InvalidArgument for a cache that is too small to be one."""
    if cache_bytes < MIN_CACHE_BYTES:
        raise InvalidArgument(f"a cache of {cache_bytes} bytes is too small: 8 MiB is the least")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`allow_other`: other users may enter, as far as the modes of what is shown allow. `uid`,
    `gid`: the owner of everything, instead of those recorded. `only`: paths of snapshots that are
    shown, with all below them (all when empty). `cache_bytes`: what decoded blocks and tree nodes
    may take. `time_format`: names of times, as for strftime; slashes make directories. `wanted`:
    which snapshots are shown; `all`: those made by the system and for safety too. `partitions`:
    partitions of disk images are files too, in a directory beside each image.
    """

    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    only: tuple[bytes, ...] = ()
    cache_bytes: int = CACHE_BYTES
    time_format: str = TIME_FORMAT
    wanted: Filter = field(default_factory=Filter)
    all: bool = False
    partitions: bool = False

    def __post_init__(self) -> None:
        require_cache(self.cache_bytes)
        for number in (self.uid, self.gid):
            if number is not None and not 0 <= number < 2**32 - 1:
                raise InvalidArgument(f"{number} is no number of an owner or group")


class _Plain(TypedDict, total=False):
    allow_other: bool
    uid: int | None
    gid: int | None
    time_format: str
    all: bool
    partitions: bool


class MountSettings(_Plain, total=False):
    """What a caller may say of a mount: see MountOptions. The last four are filters."""

    only: Sequence[Path_]
    cache_bytes: Size
    name: Texts
    tag: Texts
    host: Texts
    source: Texts


def mount_options(
    *,
    name: Texts = None,
    tag: Texts = None,
    host: Texts = None,
    source: Texts = None,
    only: Sequence[Path_] = (),
    cache_bytes: Size = CACHE_BYTES,
    **settings: Unpack[_Plain],
) -> MountOptions:
    """Settings as options. InvalidArgument."""
    return MountOptions(
        wanted=Filter(name=name, tag=tag, host=host, source=source),
        only=tuple(os.fsencode(path) for path in several("only", only)),
        cache_bytes=size_bytes(cache_bytes),
        **settings,
    )
