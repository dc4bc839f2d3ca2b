"""There is a page for each command; it has all its options, and none that does not exist."""

import re
from pathlib import Path

import doc_commands as commands
import pytest

import snapstore
from snapstore.cli.main import COMMANDS
from snapstore.cli.manual import ENVIRONMENT

DOCS = Path(__file__).parents[2] / "docs"
PLACE = DOCS / "commands"
PAGES = list(COMMANDS)


def test_each_command_has_a_page() -> None:
    there = {page.stem for page in PLACE.glob("*.md")} - {"README"}
    assert there == set(COMMANDS)


def test_the_index_lists_all_pages() -> None:
    index = (PLACE / "README.md").read_text()
    linked = set(re.findall(r"^\| \[`([\w-]+)`\]\(\1\.md\)", index, re.MULTILINE))
    assert linked == set(COMMANDS)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_every_option_and_no_other(name: str) -> None:
    text = (PLACE / f"{name}.md").read_text()
    mentioned = commands.named_options(" ".join(commands.own_code(text)))
    missing = {option for option in commands.options(name, shared=False) if option not in mentioned}
    assert not missing
    known = set().union(*(commands.options(verb, shared=True) for verb, _ in commands.calls(text)))
    assert mentioned <= known | commands.options(name, shared=True)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_examples_and_the_shape_of_all_pages(name: str) -> None:
    text = (PLACE / f"{name}.md").read_text()
    assert text.startswith(f"# `snap {name}`\n\n")
    assert f"\n    snap {name}" in text
    assert f"$ snap {name}" in text or f"snap {name}" in text.partition("## Examples")[2]
    assert f"json.md#snap-{name}" in text
    assert f"## `snap {name}`" in (DOCS / "reference" / "json.md").read_text()


@pytest.mark.parametrize("name", sorted({*PAGES} - {"completion", "man"}))
def test_a_page_names_the_calls_of_the_library(name: str) -> None:
    text = (PLACE / f"{name}.md").read_text()
    (line,) = re.findall(r"^In Python: (.*)\.$", text, re.MULTILINE)
    for owner, call in re.findall(r"`(\w+)\.(\w+)", line):
        assert callable(getattr({"Store": snapstore.Store, "snapstore": snapstore}[owner], call))


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_commands_in_pages_have_the_options_that_they_are_given(page: Path) -> None:
    for verb, options in commands.calls(page.read_text()):
        if verb in COMMANDS:
            assert options <= commands.options(verb, shared=True), (verb, options)


# The environment


def test_the_environment_page_has_what_the_manual_has() -> None:
    page = (DOCS / "reference" / "environment.md").read_text()
    assert set(ENVIRONMENT) <= set(re.findall(r"`([A-Z_]+)`", page))


def test_every_variable_that_the_command_reads_is_on_the_page() -> None:
    source = DOCS.parent / "src" / "snapstore" / "cli"
    page = (DOCS / "reference" / "environment.md").read_text()
    internal = {"_SNAP_COMPLETE", "COMP_LINE", "COMP_POINT", "COMP_WORDBREAKS"}
    read = set()
    for path in source.glob("*.py"):
        text = path.read_text()
        read |= set(re.findall(r'environb?(?:\.get\(|\[)b?"(\w+)"', text))
        read |= set(re.findall(r'"(SNAP_[A-Z_]+)"', text))
    assert {name for name in read - internal if f"`{name}`" not in page} == set()


def test_the_library_reads_nothing_of_the_environment() -> None:
    top = DOCS.parent / "src" / "snapstore"
    for path in top.rglob("*.py"):
        if path.parent.name != "cli" and path.name != "rescue.py":
            assert not re.search(r"os\.(environ|getenv)", path.read_text()), path
