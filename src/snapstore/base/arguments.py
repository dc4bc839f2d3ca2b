"""Arguments as callers give them."""

import os
from collections.abc import Iterable
from typing import TypeVar

from snapstore.base.errors import InvalidArgument

T = TypeVar("T")

Path_ = str | bytes | os.PathLike[str]


def several(name: str, values: Iterable[T]) -> list[T]:
    """The values of an argument that takes several. InvalidArgument for one text or path alone: a
    text would be taken letter by letter.
    """
    if isinstance(values, str | bytes | os.PathLike):
        raise InvalidArgument(
            f"{name} takes a list, and {values!r} is none", hint=f"give a list: {name}=[{values!r}]"
        )
    return list(values)
