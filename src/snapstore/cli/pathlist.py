"""Lists of paths, one to a line or separated by NUL, as `find` prints them."""

from snapstore.base.errors import InvalidArgument


def split(data: bytes, *, nul: bool = False) -> list[bytes]:
    """The paths in `data`, byte for byte. Empty lines mean nothing; between NULs a path cannot be
    empty.

    InvalidArgument for what is surely the other kind of list.
    """
    if nul:
        paths = data.split(b"\0")
        if not paths[-1]:
            paths.pop()
        if b"" in paths:
            raise InvalidArgument(f"path {paths.index(b'') + 1} of the list is empty")
        return paths
    if b"\0" in data:
        raise InvalidArgument(
            "the list of paths has NUL bytes", hint="--files-from0 reads the lists of find -print0"
        )
    return [path for path in data.split(b"\n") if path]
