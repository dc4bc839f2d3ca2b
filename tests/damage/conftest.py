"""A sound store to be damaged, and the server that reads it then."""

from collections.abc import Iterator

import pytest
from damage_store import Examiner, Sound, make_sound


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A store without damage; to be copied, not changed."""
    return make_sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def examiner() -> Iterator[Examiner]:
    running = Examiner()
    yield running
    running.close()
