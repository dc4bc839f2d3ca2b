"""Keys for paper: what a camera reads from the terminal and from the page."""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest
import zxingcpp

from snapstore.cli import paper as printed
from snapstore.model import paper

STORE = "ab" * 16
Modules = list[list[int]]


def key(size: int) -> bytes:
    return (b"SNAP\x01\x02" + bytes(range(256)) * 8)[:size]


def read(modules: Sequence[Sequence[int]], scale: int = 4, margin: int = 0) -> str:
    """What a decoder that knows nothing of the encoder reads; 1 is a dark module."""
    width = len(modules[0]) + 2 * margin
    blank = [[0] * width] * margin
    framed = [*blank, *([*[0] * margin, *row, *[0] * margin] for row in modules), *blank]
    lines = [b"".join((b"\0" if dark else b"\xff") * scale for dark in row) for row in framed]
    image = memoryview(b"".join(line * scale for line in lines))
    (found,) = zxingcpp.read_barcodes(image.cast("B", (len(lines) * scale, width * scale)))
    return str(found.text)


def shown(text: str) -> Modules:
    """The modules that a terminal shows for half blocks, black on white."""
    rows: Modules = []
    for line in text.split("\n"):
        (cells,) = re.fullmatch(r"\x1b\[38;5;16;48;5;231m([ ▀▄█]+)\x1b\[0m", line).groups()
        rows += [[int(cell in "▀█") for cell in cells], [int(cell in "▄█") for cell in cells]]
    return rows


def drawn(svg: ET.Element) -> Modules:
    """The modules of a drawing of horizontal strokes."""
    width, height = (int(size) for size in svg.attrib["viewBox"].split()[2:])
    rows = [[0] * width for _ in range(height)]
    (path,) = svg.iter("{http://www.w3.org/2000/svg}path")
    x, y = 0.0, 0.0
    for step, values in re.findall(r"([Mmh])([^Mmh]*)", path.attrib["d"]):
        numbers = [float(value) for value in re.findall(r"-?[\d.]+", values)]
        if step == "h":
            for place in range(int(x), int(x + numbers[0])):
                rows[int(y)][place] = 1
            x += numbers[0]
        else:
            x, y = numbers if step == "M" else (x + numbers[0], y + numbers[1])
    return rows


@pytest.mark.parametrize("size", [100, 516, 700, paper.MAX_BYTES])
def test_a_terminal_shows_a_code_that_can_be_read(size: int) -> None:
    content = paper.qr_text(key(size))
    assert read(shown(printed.as_terminal_qr(content))) == content


@pytest.mark.parametrize(("size", "columns"), [(450, 81), (520, 85), (700, 97)])
def test_how_wide_it_is(size: int, columns: int) -> None:
    rows = shown(printed.as_terminal_qr(paper.qr_text(key(size))))
    assert {len(row) for row in rows} == {columns}


@pytest.mark.parametrize("size", [100, 516, paper.MAX_BYTES])
def test_a_page_has_a_code_that_can_be_read(size: int) -> None:
    page = printed.as_html(key(size), STORE, "laptop")
    (svg,) = re.findall(r"<svg.*</svg>", page)
    assert paper.from_paper(read(drawn(ET.fromstring(svg)))) == key(size)


def test_a_page_has_the_lines() -> None:
    page = printed.as_html(key(516), STORE, "laptop")
    (lines,) = re.findall(r"<pre>\n(.*?)</pre>", page, re.DOTALL)
    assert paper.from_paper(html.unescape(lines)) == key(516)
    assert STORE in page


def test_a_page_needs_nothing_else() -> None:
    page = printed.as_html(key(516), STORE, "laptop")
    assert not re.search(r"<script|<link|<img|@import|url\(|src=|href=", page)
    assert set(re.findall(r"https?://[^\"]*", page)) == {"http://www.w3.org/2000/svg"}


class Tags(HTMLParser):
    """The tags of a page, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.all: set[str] = set()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.all.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_name_is_a_name_on_the_page() -> None:
    name = "<script>alert('{x}')</script>&\"\n\x1b"
    page = printed.as_html(key(516), STORE, name)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.all
    assert html.escape(name[:-2]) + "??" in page
