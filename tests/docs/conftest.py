"""A `snap` on PATH, whichever way the package is installed."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def bin_with_snap(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "snap"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m snapstore.cli "$@"\n')
    script.chmod(0o755)
    return directory
