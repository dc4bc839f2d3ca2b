"""Keys as text for paper: every slip is found, and named by its line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapstore.base.errors import InvalidArgument
from snapstore.model import paper

KEY = b"SNAP\x01\x02" + bytes(range(256)) * 2
TEXT = paper.to_paper(KEY, store="ab" * 16, name="laptop")
LINES = paper.lines(KEY)
FOLDED = str.maketrans("OoIiLl", "001111")

keys = st.binary(min_size=1, max_size=paper.MAX_BYTES)


def test_the_example_of_the_page() -> None:
    page = Path(__file__).parents[2] / "docs" / "format" / "paper.md"
    (example,) = re.findall(r"(?:^    .*\n)+", page.read_text(), re.MULTILINE)
    assert paper.from_paper(example) == b"SNAP\x01 a key of 31 bytes, here.."


def test_how_it_looks() -> None:
    assert paper.to_paper(b"SNAP\x01 a key of 31 bytes, here..", store="ab" * 16, name="lap") == (
        "# A key of a snapshot store (snapstore)\n"
        "#\n"
        "# store  abababababababababababababababab\n"
        "# key    lap\n"
        "#\n"
        "# With the key's password, which is not on this page, it opens the store, even if\n"
        "# the store has lost it. To bring it back, type all lines without # into a file, and\n"
        "#\n"
        "#     snap key import FILE -s STORE\n"
        "#\n"
        "# Spaces and the case of letters do not matter. There is no letter I, L, O or U.\n"
        "\n"
        "01  AD74 2M01 41GJ 0TV5 F4G6 YSH0 6CRJ 0RKS  0FVN\n"
        "02  EHJQ 6B10 D1JQ 4S9E 5R  0D05\n"
        "END 0031  XN5Z WJRW\n"
    )


@given(keys)
def test_round_trips(key: bytes) -> None:
    assert paper.from_paper(paper.to_paper(key, store="ab" * 16, name="key")) == key
    assert paper.from_paper(paper.qr_text(key)) == key
    assert paper.from_paper(paper.qr_text(key).lower().encode()) == key


def test_a_key_object_is_taken_as_it_is() -> None:
    assert paper.from_paper(KEY) == KEY


def test_a_key_of_a_store() -> None:
    vectors = Path(__file__).parents[1] / "format" / "vectors" / "sealed" / "store" / "key"
    (path,) = vectors.iterdir()
    key = path.read_bytes()
    text = paper.to_paper(key, store="ab" * 16, name="password")
    assert paper.from_paper(text) == paper.from_paper(key) == key


@pytest.mark.parametrize("size", [0, paper.MAX_BYTES + 1])
def test_a_key_that_does_not_go_on_paper(size: int) -> None:
    with pytest.raises(InvalidArgument, match="does not go on paper"):
        paper.to_paper(bytes(size), store="", name="")


def test_a_name_stays_in_its_line() -> None:
    text = paper.to_paper(KEY, store="ab" * 16, name="a\n01 b\r\u2028\x1b[2J")
    assert "# key    a?01 b??" in text
    assert paper.from_paper(text) == KEY


@pytest.mark.parametrize(
    "typed",
    [
        TEXT.lower(),
        TEXT.replace("0", "O").replace("1", "l"),
        TEXT.replace("1", "I"),
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        "\n".join(LINES),
        "\n\n".join(line.replace(" ", "") for line in LINES),
        "\n".join("\t" + "- ".join(line) for line in LINES),
        "\n".join(reversed(LINES)),
        TEXT + "# a remark\n   # another\n",
    ],
    ids=["lower", "O-l", "I", "crlf", "bom", "bare", "dense", "spaced", "reversed", "remarks"],
)
def test_what_does_not_matter(typed: str) -> None:
    assert paper.from_paper(typed) == KEY
    assert paper.from_paper(typed.encode()) == KEY


def test_every_single_wrong_character_is_found() -> None:
    """In each place of each line, whatever the character."""
    key = KEY[:70]
    text = "\n".join(paper.lines(key))
    for place, right in enumerate(text):
        if right in " \n":
            continue
        for wrong in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ#- é":
            if wrong.translate(FOLDED) != right:
                with pytest.raises(InvalidArgument):
                    paper.from_paper(text[:place] + wrong + text[place + 1 :])


def test_a_wrong_character_in_the_data_is_named_by_its_line() -> None:
    for number, line in enumerate(LINES[:-1], 1):
        wrong = line[:5] + ("0" if line[5] != "0" else "1") + line[6:]
        with pytest.raises(
            InvalidArgument, match=f"^line {number} does not match its check value$"
        ):
            paper.from_paper("\n".join([*LINES[: number - 1], wrong, *LINES[number:]]))


def test_exchanged_neighbours_are_found() -> None:
    for number, line in enumerate(LINES[:-1]):
        for place in range(4, len(line) - 1):
            one, other = line[place], line[place + 1]
            if " " in (one, other) or one == other:
                continue
            wrong = line[:place] + other + one + line[place + 2 :]
            with pytest.raises(InvalidArgument, match=f"line {number + 1} does not match"):
                paper.from_paper("\n".join([*LINES[:number], wrong, *LINES[number + 1 :]]))


def test_lines_whose_numbers_are_exchanged_are_found() -> None:
    first, second = LINES[0], LINES[1]
    swapped = ["01" + second[2:], "02" + first[2:], *LINES[2:]]
    with pytest.raises(InvalidArgument, match="line 1 does not match its check value"):
        paper.from_paper("\n".join(swapped))


OTHER = paper.lines(bytes(reversed(KEY)))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (LINES[:6] + LINES[7:], "line is missing: 7"),
        (LINES[:1] + LINES[3:], "lines are missing: 2, 3"),
        (LINES[-1:], r"lines are missing: 1, 2, 3, 4, 5, 6, 7, 8, …, 26"),
        (LINES[:-1], "the last line is missing, which begins with END"),
        (LINES[:3] + LINES[2:], "line 3 is there twice"),
        ([*LINES, LINES[-1]], "the line END is there twice"),
        (LINES[:4] + OTHER[4:5] + LINES[5:], "the lines do not match the line END"),
        ([*LINES, *paper.lines(bytes(540))[-2:-1]], "line 27 does not belong"),
        ([*LINES[:5], "Dear Sir,", *LINES[5:]], "line 6 of the text is no line of a key"),
        ([LINES[0].replace("A", "U"), *LINES[1:]], "line 1 has a character that no key has: 'U'"),
        ([LINES[0].replace("A", "", 1), *LINES[1:]], "line 1 does not match its check value"),
        ([*LINES[:-1], LINES[-1][:-1]], "the line END is not 4 digits and 8 characters"),
        (["END 0000 0000 0000"], "the lines do not match the line END"),
        ([], "there is no key in this"),
        ([paper.qr_text(KEY)[:-1] + "1"], "not all of what the QR code says"),
        ([paper.QR_PREFIX], "not all of what the QR code says"),
        (["A" * 70_000], "too long for a key"),
    ],
)
def test_what_is_wrong_is_said(typed: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        paper.from_paper("\n".join(typed))


lines_of_paper = st.lists(
    st.sampled_from([*LINES, *OTHER, "", "#", "01", "END", "END 1", "00 0000", paper.QR_PREFIX])
    | st.text(alphabet="0123456789ABCDEFXYZ #-\t", max_size=45)
)


@given(st.text() | st.binary() | lines_of_paper.map("\n".join))
def test_no_text_is_a_crash(text: str | bytes) -> None:
    try:
        key = paper.from_paper(text)
    except InvalidArgument as error:
        assert error.message
    else:
        assert key


@given(st.text(alphabet="ABC234567=\n189Z", max_size=60))
def test_no_code_is_a_crash(content: str) -> None:
    try:
        key = paper.from_paper(paper.QR_PREFIX + content)
    except InvalidArgument:
        return
    assert paper.qr_text(key) == paper.QR_PREFIX + re.sub(r"\s", "", content).upper()
