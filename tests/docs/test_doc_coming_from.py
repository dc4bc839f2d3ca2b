"""The pages for those who come from elsewhere name commands that there are, or say `later`."""

import re
from pathlib import Path

import doc_commands as commands
import pytest

from snapstore.cli.main import COMMANDS
from snapstore.cli.verbs import NEIGHBOURS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "coming-from-restic.md", DOCS / "coming-from-borg.md"]


def rows(page: Path) -> list[list[str]]:
    """Cells of all rows but the heads."""
    found = re.findall(r"^\| (.*) \|$", page.read_text(), re.MULTILINE)
    cells = [re.split(r" ?\| ?", row) for row in found]
    return [row for row in cells if row[1] != "here" and not row[0].startswith("--")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_rows_have_three_cells(page: Path) -> None:
    assert len(rows(page)) > 30
    for row in rows(page):
        assert len(row) == 3, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_command_exists_or_comes_later(page: Path) -> None:
    """A row that says `later` of a command that there is has to be brought up to date."""
    for there, here, remark in rows(page):
        for verb, options in commands.calls(here):
            if remark.startswith("**later**"):
                assert verb not in COMMANDS, f"{page.name}: {there}: snap {verb} is there now"
            else:
                assert verb in COMMANDS, (there, verb)
                assert options <= commands.options(verb, shared=True), (there, options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_command_answers_a_neighbours_verb_as_the_page_does(page: Path) -> None:
    ours: dict[str, set[str]] = {}
    for there, here, _ in rows(page):
        verb = there.strip("`").split()[0]
        ours.setdefault(verb, set()).update(verb for verb, _ in commands.calls(here))
    for verb, answer in NEIGHBOURS.items():
        assert verb not in ours or answer in ours[verb], verb
