"""Commit: from taking content to a snapshot that is safe, in the order of docs/format/README.md."""

from collections.abc import Callable
from dataclasses import dataclass

from snapstore.model.refs import Refs
from snapstore.repository.session import Session, Steps


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken and is durable in packs. `payload`: the snapshot's record, None when there is
    nothing to publish.
    """

    refs: Refs
    payload: bytes | None
    label: bytes


Take = Callable[[frozenset[bytes]], Steps[Taken]]
"""Takes the content without using the packs given."""


def commit_steps(session: Session, take: Take) -> Steps[str | None]:
    """Takes content and publishes a snapshot of it; returns its id, None when there was nothing to
    publish.

    The session has a lease already. When a collector condemns packs meanwhile, the content is taken
    again without them. StoreBusy when the session was taken for dead: there is no snapshot then.
    """
    while True:
        taken = yield from take(session.condemned)
        if taken.payload is None:
            return None
        used = {pack.id for pack in taken.refs.packs}
        if (yield from session.settle_steps(used)):
            break
    id = yield from session.publish_steps(taken.payload, taken.refs.encode(), taken.label)
    yield from session.confirm_steps(id, used)
    return id
