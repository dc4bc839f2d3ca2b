"""A sealed store to be attacked, and the server that reads what became of it."""

from collections.abc import Iterator

import pytest
from sealed_world import Reader, World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """An encrypted store with known contents; to be copied, not changed."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def reader() -> Iterator[Reader]:
    running = Reader()
    yield running
    running.close()
