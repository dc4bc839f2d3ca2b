"""The examples of the library page run, one after another."""

from pathlib import Path

import doc_console as console
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"not really a picture" * 1000)
    names: dict[str, object] = {}
    for number, example in enumerate(console.fenced(PAGE, "python"), 1):
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), names)
    assert names["content"] == b"not really a picture" * 1000
    assert (tmp_path / "back" / "one.jpg").read_bytes() == names["content"]
