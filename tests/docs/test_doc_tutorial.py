"""The examples of the tutorial do what the page says."""

import os
from pathlib import Path

import doc_console as console

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_examples(tmp_path: Path, bin_with_snap: Path) -> None:
    examples = console.examples(PAGE)
    environment = {
        "PATH": f"{bin_with_snap}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
    }
    work = tmp_path / "work"
    work.mkdir()
    printed = console.run([example.command for example in examples], work, environment)
    for example, text in zip(examples, printed, strict=True):
        assert console.matches(example.expected, text), (
            f"$ {example.command}\nthe page says:\n{example.expected}\nprinted:\n{text}"
        )


def test_loose_comparison() -> None:
    assert console.matches("made ID in …/x\n1.0 KiB", "made ID in /a/b/x\n17 MiB\n")
    assert not console.matches("3 files", "4 files")
