"""Errors, byte strings as text, durations, progress."""

import inspect
import pickle
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapstore.base import errors
from snapstore.base.bytestext import from_text, path_fields, to_text
from snapstore.base.errors import InvalidArgument, NoSpace, OperationDenied, SnapstoreError
from snapstore.base.progress import Progress
from snapstore.base.units import duration_s

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, SnapstoreError)
]

EXIT_CODES = {
    "store-not-found": 10,
    "store-exists": 1,
    "store-invalid": 10,
    "store-too-new": 1,
    "busy": 11,
    "mount-refused": 14,
    "mount-unavailable": 14,
    "wrong-password": 12,
    "password-needed": 12,
    "key-not-found": 13,
    "key-damaged": 17,
    "key-missing": 18,
    "tampered": 19,
    "downgraded": 19,
    "append-only": 20,
    "snapshot-not-found": 13,
    "ambiguous-reference": 13,
    "archive-invalid": 1,
    "path-not-found": 13,
    "damaged": 5,
    "denied": 14,
    "read-only": 14,
    "target-denied": 14,
    "cancelled": 130,
    "source-not-found": 1,
    "source-unreadable": 1,
    "target-not-empty": 1,
    "target-invalid": 1,
    "target-refused": 1,
    "target-changed": 1,
    "conflicts": 4,
    "restore-unfinished": 16,
    "nothing-to-undo": 1,
    "timeout": 15,
    "no-space": 1,
    "storage-error": 1,
    "job-not-found": 13,
    "invalid-argument": 2,
    "command-failed": 1,
    "store-forked": 1,
    "index-damaged": 5,
    "internal": 1,
    "error": 1,
}


def test_kinds_and_exit_codes_never_change() -> None:
    assert {cls.kind: cls.exit_code for cls in CLASSES} == EXIT_CODES


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_takes_a_message_alone(cls: type[SnapstoreError]) -> None:
    error = cls("what happened")
    assert str(error) == error.message == "what happened"
    assert error.to_dict() == {
        "kind": cls.kind,
        "message": "what happened",
        "hint": cls.usual_hint,
        "exit_code": cls.exit_code,
    }
    assert inspect.getdoc(cls)


def test_an_error_keeps_its_fields_through_pickle() -> None:
    error = pickle.loads(pickle.dumps(NoSpace("full", hint="free some", errno=28)))
    assert type(error) is NoSpace
    assert error.to_dict() == {
        "kind": "no-space",
        "message": "full",
        "hint": "free some",
        "exit_code": 1,
        "errno": 28,
    }


def test_the_tree() -> None:
    assert issubclass(errors.StoreReadOnly, OperationDenied)
    assert issubclass(errors.TargetDenied, OperationDenied)


@given(st.binary())
def test_any_byte_string_survives_as_text(data: bytes) -> None:
    text = to_text(data)
    assert from_text(text) == data
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"/srv/app", "/srv/app"),
        ("ä€😀".encode(), "ä€😀"),
        (b"a%b", "a%25b"),
        (b"\x00\n\x7f", "%00%0A%7F"),
        (b"\xff\xfe", "%FF%FE"),
        (b"\xed\xa0\x80", "%ED%A0%80"),
    ],
)
def test_percent_form(data: bytes, text: str) -> None:
    assert to_text(data) == text


@pytest.mark.parametrize("text", ["%", "%f", "%ff", "%41", "\n", "\x7f", "%C3%A4", "%4"])
def test_text_that_is_not_percent_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"%|percent"):
        from_text(text)


def test_path_fields_have_raw_bytes_only_where_text_is_not_enough() -> None:
    assert path_fields(b"/a") == {"path": "/a"}
    assert path_fields(b"/\xff", "target") == {"target": "/%FF", "target_b64": "L/8="}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("0.5h", 1800),
        ("15", 15),
        (15, 15),
        (0.25, 0.25),
        (timedelta(minutes=1), 60),
    ],
)
def test_durations(value: timedelta | float | str, seconds: float) -> None:
    assert duration_s(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "10x", "-5s", -1, "m", "inf", "nan", timedelta(-1)])
def test_what_is_no_duration(value: timedelta | float | str) -> None:
    with pytest.raises(InvalidArgument):
        duration_s(value)


def test_progress_as_json() -> None:
    shown = Progress("create", files_done=1, current=b"/\xff", elapsed_s=0.12345).to_dict()
    assert shown["current"] == "/%FF"
    assert shown["current_b64"] == "L/8="
    assert shown["elapsed_s"] == 0.123
