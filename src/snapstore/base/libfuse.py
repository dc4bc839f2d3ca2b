"""libfuse 3: what the library may be called, and whether it is there."""

import ctypes

NAMES = ("libfuse3.so.4", "libfuse3.so.3")


def find() -> str | None:
    """The name under which it can be loaded; None where it is not there."""
    return next(filter(_loads, NAMES), None)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
