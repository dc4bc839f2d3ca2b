"""What a create takes and leaves out, and what it says about it."""

import os
import socket
import time
from pathlib import Path

import pytest

import snapstore
from snapstore import PatternFile
from snapstore.base import errors
from snapstore.base.units import size_bytes
from snapstore.cli import pathlist
from snapstore.ops.selection import Place, places

TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# more\n"


@pytest.fixture
def store(tmp_path):
    with snapstore.init(tmp_path / "store") as store:
        yield store


@pytest.fixture
def top(tmp_path):
    """A directory with a few files and directories."""
    top = tmp_path / "top"
    grow(top, "a.o", "keep.o", "b.c", "sub/a.o", "sub/b.c", "sub/deep/x", "cache/data", "cache/y/z")
    return top


def grow(top, *names, content=b"x"):
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)


def taken(store, result, top):
    """Files in a snapshot, relative to `top`."""
    prefix = os.fsencode(top) + b"/"
    found = store.ls(result.snapshot.id, recursive=True)
    return {
        one.path.removeprefix(prefix).decode() for one in found if one.entry.type != "directory"
    }


def folders(store, result, top):
    prefix = os.fsencode(top)
    found = store.ls(result.snapshot.id, recursive=True)
    return {
        one.path.removeprefix(prefix).decode() for one in found if one.entry.type == "directory"
    }


ALL = {"a.o", "keep.o", "b.c", "sub/a.o", "sub/b.c", "sub/deep/x", "cache/data", "cache/y/z"}


@pytest.mark.parametrize(
    ("patterns", "out"),
    [
        (["*.o"], {"a.o", "keep.o", "sub/a.o"}),
        (["*.o", "!keep.o"], {"a.o", "sub/a.o"}),
        (["!keep.o", "*.o"], {"a.o", "keep.o", "sub/a.o"}),
        (["/a.o"], {"a.o"}),
        (["sub/", "!sub/b.c"], {"sub/a.o", "sub/b.c", "sub/deep/x"}),
        (["sub/*", "!sub/b.c"], {"sub/a.o", "sub/deep/x"}),
        ([b"[ab].o"], {"a.o", "sub/a.o"}),
        (["#no comment"], set()),
    ],
)
def test_the_last_pattern_that_matches_decides(store, top, patterns, out):
    assert taken(store, store.create(top, exclude=patterns), top) == ALL - out


def test_a_file_of_patterns_has_its_place_among_them(store, top, tmp_path):
    file = tmp_path / "patterns"
    file.write_bytes(b"\xef\xbb\xbf# all objects\r\n*.o\r\n\r\n!keep.o  \n")
    result = store.create(top, exclude=["!a.o", PatternFile(file), "!/a.o"])
    assert taken(store, result, top) == ALL - {"sub/a.o"}
    assert result.snapshot.rules == {"exclude": ["!a.o", "*.o", "!keep.o  ", "!/a.o"]}


@pytest.mark.parametrize(
    ("pattern", "any_case"),
    [
        ("*.JPG", b"*.[Jj][Pp][Gg]"),
        ("!/a-1/", b"!/[aA]-1/"),
        ("[a-cX]", b"[a-cA-CXx]"),
        ("[!]a-]", b"[!]aA-]"),
        ("[Y-c]", b"[Y-cy-zA-C]"),
        ("[[:upper:]-b]", b"[[:upper:][:lower:]-bB]"),
        (r"\a\*[\a-\c\]]", rb"[aA]\*[\a-\cA-C\]]"),
        (b"\xc4\xffz", b"\xc4\xff[zZ]"),
        ("[ab", b"[ab"),
        ("[]ab", b"[]ab"),
    ],
)
def test_either_case_is_spelt_out(pattern, any_case):
    assert snapstore.any_case(pattern) == any_case


def test_patterns_for_either_case(store, tmp_path):
    grow(tmp_path / "top", "a.JPG", "b.jpg", "c.TXT", "KEEP.txt", "d.o", "e.O")
    (tmp_path / "patterns").write_text("# .O\n*.txt\n!keep.*\n")
    patterns = PatternFile(tmp_path / "patterns", any_case=True)
    result = store.create(tmp_path / "top", exclude=[snapstore.any_case("*.Jpg"), patterns, "*.o"])
    assert taken(store, result, tmp_path / "top") == {"KEEP.txt", "e.O"}
    assert result.snapshot.rules["exclude"][0] == "*.[Jj][pP][gG]"
    assert list(store.diff_directory(result.snapshot.id, tmp_path / "top")) == []


def test_hashes_begin_comments_only_in_files(store, tmp_path):
    grow(tmp_path / "top", "#auto#", "x")
    result = store.create(tmp_path / "top", exclude=["#*#"])
    assert taken(store, result, tmp_path / "top") == {"x"}
    assert result.snapshot.rules == {"exclude": ["\\#*#"]}


def test_names_that_are_not_utf8(store, tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    for name in (b"a\xff", b"a\xfe"):
        (Path(os.fsdecode(os.fsencode(top) + b"/" + name))).touch()
    result = store.create(top, exclude=[b"*\xff"])
    names = [one.path[-2:] for one in store.ls(result.snapshot.id, recursive=True)]
    assert b"a\xfe" in names and b"a\xff" not in names


@pytest.mark.parametrize("bad", ["a\\", "[a", "[[:odd:]]", "/", "!", "", "  "])
def test_patterns_that_can_match_nothing(store, top, tmp_path, bad):
    with pytest.raises(errors.InvalidArgument, match="pattern"):
        store.create(top, exclude=[bad])
    if bad.strip():
        (tmp_path / "patterns").write_text(f"ok\n{bad}\n")
        with pytest.raises(errors.InvalidArgument, match="patterns, line 2: "):
            store.create(top, exclude_files=[tmp_path / "patterns"])
    assert store.snapshots() == []


# Ignore files


def test_ignore_files(store, top):
    (top / ".snapignore").write_text("*.o\n!keep.o\n/cache\n")
    (top / "sub" / ".snapignore").write_text("!a.o\n/deep/x\n")
    result = store.create(top)
    expected = {".snapignore", "sub/.snapignore", "keep.o", "b.c", "sub/a.o", "sub/b.c"}
    assert taken(store, result, top) == expected
    assert result.excluded == 3
    assert result.snapshot.rules == {}


def test_ignore_files_can_be_switched_off(store, top):
    (top / ".snapignore").write_text("*\n")
    result = store.create(top, ignore_files=False)
    assert taken(store, result, top) == ALL | {".snapignore"}
    assert result.snapshot.rules == {"no_ignore_files": 1}


def test_options_come_before_ignore_files(store, top):
    (top / ".snapignore").write_text("*.o\n!b.c\n")
    result = store.create(top, exclude=["!a.o", "b.c"])
    assert taken(store, result, top) == ALL - {"keep.o", "b.c", "sub/b.c"} | {".snapignore"}


def test_an_ignore_file_above_the_root_says_nothing(store, top):
    (top / ".snapignore").write_text("*\n")
    assert taken(store, store.create(top / "sub"), top) == {"sub/a.o", "sub/b.c", "sub/deep/x"}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.write_text("a\n[b\n*.o\n"), "line 2 is not a pattern: a [ has no ]"),
        (
            lambda file: file.write_bytes(b"a\0b\n*.o\n"),
            "line 1 is not a pattern: no name has a NUL",
        ),
        (lambda file: file.symlink_to("b.c"), "an ignore file cannot be a symbolic link"),
        (lambda file: file.mkdir(), "an ignore file must be a regular file"),
        (lambda file: os.mkfifo(file), "an ignore file must be a regular file"),
        (lambda file: file.write_bytes(b"#" * (1 << 21)), "an ignore file cannot be larger than"),
        (lambda file: file.write_bytes(b"#" * (256 * 1024 + 1)), "an ignore file cannot be larger"),
    ],
)
def test_ignore_files_without_meaning_make_the_snapshot_partial(store, top, spoil, why):
    spoil(top / ".snapignore")
    result = store.create(top)
    [(path, said)] = result.unreadable
    assert path == os.fsencode(top / ".snapignore") and said.startswith(why)
    assert result.partial and result.unreadable_count == 1
    heeded = {"a.o", "keep.o", "sub/a.o"} if "line" in why else set()
    assert ALL - heeded <= taken(store, result, top)
    assert heeded.isdisjoint(taken(store, result, top))


def test_ignore_files_upon_ignore_files_are_bounded(store, tmp_path):
    path = tmp_path / "top"
    for _ in range(6):
        grow(path, "x")
        (path / ".snapignore").write_bytes(b"a\n" * (100 * 1024))
        path = path / "below"
    result = store.create(tmp_path / "top")
    assert len(result.unreadable) == 1
    [(path, why)] = result.unreadable
    assert path.count(b"below") == 5 and why == "with those above it, it is larger than 1 MiB"


# Markers and sizes


def test_caches(store, top):
    (top / "cache" / "CACHEDIR.TAG").write_bytes(TAG)
    (top / "sub" / "CACHEDIR.TAG").write_bytes(b"Signature: none")
    (top / "sub" / "deep" / "CACHEDIR.TAG").symlink_to("../../cache/CACHEDIR.TAG")
    everything = ALL | {f"{name}/CACHEDIR.TAG" for name in ("cache", "sub", "sub/deep")}
    assert taken(store, store.create(top), top) == everything
    result = store.create(top, exclude_caches=True)
    assert taken(store, result, top) == everything - {"cache/data", "cache/y/z"}
    assert result.excluded == 2
    assert result.snapshot.rules == {"exclude_caches": 1}
    assert "/cache" in folders(store, result, top)


def test_a_cache_that_is_named_or_included_is_taken(store, top):
    for name in (".", "cache"):
        (top / name / "CACHEDIR.TAG").write_bytes(TAG)
    assert taken(store, store.create(top, exclude_caches=True), top) == ALL - {
        "cache/data", "cache/y/z",
    } | {"CACHEDIR.TAG", "cache/CACHEDIR.TAG"}  # fmt: skip
    for how in ({"exclude": ["!cache"]}, {"listed": [top / "cache"]}):
        result = store.create(top, exclude_caches=True, **how)
        assert taken(store, result, top) >= ALL


def test_exclude_if_present(store, top):
    grow(top, "sub/.nobackup", "cache/y/other")
    result = store.create(top, exclude_if_present=[".nobackup", "other"])
    assert taken(store, result, top) == {
        "a.o", "keep.o", "b.c", "sub/.nobackup", "cache/data", "cache/y/other",
    }  # fmt: skip
    assert result.snapshot.rules == {"exclude_if_present": [".nobackup", "other"]}
    for bad in ("", "a/b", "..", "a\0"):
        with pytest.raises(errors.InvalidArgument, match="marker"):
            store.create(top, exclude_if_present=[bad])


def test_exclude_larger_than(store, top):
    grow(top, "large", "large.iso", content=b"x" * 2049)
    (top / "fits").write_bytes(b"x" * 2048)
    result = store.create(top, exclude_larger_than="2k", exclude=["!*.iso"])
    assert taken(store, result, top) == ALL | {"fits", "large.iso"}
    assert result.excluded == 1
    assert result.snapshot.rules["exclude_larger_than"] == 2048
    nothing = store.create(top / "sub", exclude_larger_than=0)
    assert taken(store, nothing, top) == set()
    assert nothing.snapshot.rules == {"exclude_larger_than": 0}


def test_sizes():
    told = ("0", "512", "512B", "1k", "1.5 M", "2GiB", "2gb", 77)
    sizes = [size_bytes(size) for size in told]
    assert sizes == [0, 512, 512, 1024, 3 << 19, 2 << 30, 2 << 30, 77]
    for bad in ("", "k", "-1", "1x", "1e3", "9E", -1, "1,5M"):
        with pytest.raises(errors.InvalidArgument):
            size_bytes(bad)


# Listed paths


def test_roots_for_what_is_listed():
    assert places([b"/a"], []) == [Place(b"/a")]
    assert places([], [b"/a/b"]) == [Place(b"/a/b")]
    assert places([], [b"/a/b", b"/a/b-c/x", b"/a/b/z"]) == [
        Place(b"/a", (b"b", b"b-c/x", b"b/z"), whole=False)
    ]
    assert places([], [b"/a/b", b"/a", b"/a/b"]) == [Place(b"/a", (b"b",))]
    assert places([b"/a"], [b"/a/b", b"/a", b"/ab", b"/c"]) == [
        Place(b"/a", (b"b",)),
        Place(b"/", (b"ab", b"c"), whole=False),
    ]
    assert places([b"/", b"/a/b"], [b"/a/b/c", b"/a/x"]) == [
        Place(b"/", (b"a/x",)),
        Place(b"/a/b", (b"c",)),
    ]


def test_only_what_is_listed(store, top):
    listed = [top / "b.c", top / "sub" / "deep", top / "cache" / "y" / "z"]
    result = store.create(listed=listed)
    assert [root.path for root in result.snapshot.roots] == [os.fsencode(top)]
    assert taken(store, result, top) == {"b.c", "sub/deep/x", "cache/y/z"}
    assert folders(store, result, top) == {"", "/sub", "/sub/deep", "/cache", "/cache/y"}
    assert result.excluded == 0 and not result.partial
    assert result.snapshot.rules == {"listed": 3, "only_listed": str(top)}


def test_what_is_listed_is_never_left_out(store, top):
    (top / ".snapignore").write_text("*\n")
    (top / "cache" / "CACHEDIR.TAG").write_bytes(TAG)
    listed = [top / "sub" / "a.o", top / "cache" / "data"]
    rules = {"exclude": ["sub", "*.o"], "exclude_caches": True, "exclude_larger_than": 0}
    assert taken(store, store.create(listed=listed, **rules), top) == {"sub/a.o", "cache/data"}
    result = store.create(top, listed=listed, **rules)
    assert taken(store, result, top) == {"sub/a.o", "cache/data"}
    rules["exclude_larger_than"] = None
    result = store.create(top, listed=listed, **rules, ignore_files=False)
    assert taken(store, result, top) == {
        ".snapignore", "b.c", "sub/a.o", "cache/data", "cache/CACHEDIR.TAG",
    }  # fmt: skip


def test_rules_hold_below_a_listed_directory(store, top):
    (top / "sub" / ".snapignore").write_text("deep\n")
    result = store.create(listed=[top / "sub", top / "b.c"], exclude=["*.o"])
    assert taken(store, result, top) == {"b.c", "sub/.snapignore", "sub/b.c"}


def test_listed_paths_that_are_missing_are_reported(store, top):
    (top / "link").symlink_to("sub")
    bad = [top / name for name in ("gone", "sub/gone/x", "b.c/x", "link/b.c", "gone-too/x")]
    result = store.create(listed=[top / "a.o", *bad])
    assert taken(store, result, top) == {"a.o"}
    assert [path for path, _ in result.unreadable] == sorted(map(os.fsencode, bad))
    again = store.create(top, listed=bad)
    assert [path for path, _ in again.unreadable] == sorted(map(os.fsencode, bad))
    assert taken(store, again, top) == ALL | {"link"}
    file = store.create(top / "b.c", listed=[top / "b.c" / "x"])
    assert [path for path, _ in file.unreadable] == [os.fsencode(top / "b.c" / "x")]
    with pytest.raises(errors.SourceNotFound):
        store.create(listed=[top / "gone"])


def test_very_many_listed_paths(store, tmp_path):
    top = tmp_path / "many"
    names = [f"{number % 97}/{number}" for number in range(5000)]
    grow(top, *names, "other", "0/other")
    result = store.create(listed=[top / name for name in names])
    assert taken(store, result, top) == set(names)


def test_too_many_roots(store, tmp_path):
    with pytest.raises(errors.InvalidArgument, match="5,000 paths are too many") as raised:
        store.create(*(tmp_path / str(number) for number in range(5000)))
    assert "--files-from" in (raised.value.hint or "")


def test_nothing_of_the_store_is_listed(store, top):
    with pytest.raises(errors.InvalidArgument, match="store itself"):
        store.create(listed=[top, store.path / "config"])


def test_lists_of_paths():
    assert pathlist.split(b"a\n\n b \n\xff\r\n") == [b"a", b" b ", b"\xff\r"]
    assert pathlist.split(b"a\0b\nc\0", nul=True) == [b"a", b"b\nc"]
    assert pathlist.split(b"a\0b", nul=True) == [b"a", b"b"]
    assert pathlist.split(b"") == pathlist.split(b"", nul=True) == []
    with pytest.raises(errors.InvalidArgument, match="NUL"):
        pathlist.split(b"a\0b")
    with pytest.raises(errors.InvalidArgument, match="path 2 of the list is empty"):
        pathlist.split(b"a\0\0b", nul=True)


# The stat cache


def test_other_rules_with_the_same_stat_cache(store, top):
    """Each create with a stat cache of another selection takes what one without a cache takes."""
    (top / "cache" / "CACHEDIR.TAG").write_bytes(TAG)
    grow(top, "large", content=b"x" * 5000)
    time.sleep(2.1)  # so that entries are trusted
    selections = [
        {},
        {"exclude": ["*.o"]},
        {"exclude_caches": True},
        {"exclude": ["sub"]},
        {},
        {"exclude_larger_than": 4999},
        {"listed": [top / "sub" / "deep"], "exclude": ["*"]},
        {"exclude": ["*"]},
        {"exclude_if_present": ["x", "b.c"]},
        {},
    ]
    for selection in selections:
        cached = store.create(top, source="cached", **selection)
        fresh = store.create(top, source="fresh", rehash=True, **selection)
        assert cached.snapshot.roots == fresh.snapshot.roots, selection
    assert store.create(top, source="cached").unchanged_files == len(ALL) + 2


# Explanations


def test_explanations(store, top, tmp_path):
    (top / ".snapignore").write_text("# none\nkeep.*\n")
    (top / "cache" / "CACHEDIR.TAG").write_bytes(TAG)
    grow(top, "sub/deep/.nobackup", "sub/large/file", content=b"x" * 3000)
    file = tmp_path / "patterns"
    file.write_text("\n*.o\n")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(top)
        listener.bind("socket")
        os.chdir(here)
    rules = {
        "exclude": [PatternFile(file), "!/a.o"],
        "exclude_caches": True,
        "exclude_if_present": [".nobackup"],
        "exclude_larger_than": 2000,
    }

    def why(path, **more):
        said = store.explain(top / path, top, **rules, **more)
        assert said.path == os.path.abspath(os.fsencode(top / path))
        decided = os.path.relpath(os.fsdecode(said.decided_at), top)
        rule = said.rule and said.rule.decode()
        place = (os.path.basename(os.fsdecode(said.file)), said.line) if said.file else None
        return said.taken, said.reason, decided, rule, place

    assert why("") == (True, "named", ".", None, None)
    assert why("b.c") == (True, "default", "b.c", None, None)
    assert why("a.o") == (True, "rule", "a.o", "!/a.o", None)
    assert why("sub/a.o") == (False, "rule", "sub/a.o", "*.o", ("patterns", 2))
    assert why("keep.x") == (False, "missing", "keep.x", None, None)
    assert why("keep.o") == (False, "rule", "keep.o", "*.o", ("patterns", 2))
    grow(top, "keep.c/x")
    assert why("keep.c/x") == (False, "rule", "keep.c", "keep.*", (".snapignore", 2))
    assert why("keep.c/x", ignore_files=False) == (True, "default", "keep.c/x", None, None)
    assert why("cache/y/z") == (False, "cache", "cache/y", "CACHEDIR.TAG", None)
    assert why("cache/CACHEDIR.TAG") == (True, "cache", "cache/CACHEDIR.TAG", "CACHEDIR.TAG", None)
    assert why("sub/deep/x") == (False, "marker", "sub/deep/x", ".nobackup", None)
    assert why("sub/large/file") == (False, "size", "sub/large/file", None, None)
    assert why("b.c/x") == (False, "missing", "b.c", None, None)
    assert why("socket") == (False, "socket", "socket", None, None)
    assert why("../other") == (False, "outside", "../other", None, None)
    assert why("cache/y/z", listed=[top / "cache" / "y"])[:2] == (True, "default")
    assert why("cache/y", listed=[top / "cache" / "y"])[:2] == (True, "named")
    assert why("cache", listed=[top / "cache" / "y"])[:2] == (True, "way")
    only = store.explain(top / "b.c", listed=[top / "sub", top / "cache"])
    assert (only.taken, only.reason) == (False, "unnamed")
    whole = store.explain(store.path / "config", tmp_path)
    assert (whole.taken, whole.reason, whole.decided_at) == (
        False, "store", os.fsencode(store.path),
    )  # fmt: skip


def test_of_several_roots_one_that_takes_it_counts(store, top):
    said = store.explain(top / "cache" / "data", top, top / "cache", exclude=["cache"])
    assert (said.taken, said.root) == (True, os.fsencode(top / "cache"))
    said = store.explain(top / "cache" / "data", top, top / "cache", exclude=["/data"])
    assert (said.taken, said.root) == (True, os.fsencode(top))


def test_an_image_is_named(store, top):
    assert store.explain(top / "a.o", images=[top / "a.o"], exclude=["*"]).reason == "named"
    assert store.explain(top / "b.c", images=[top / "a.o"]).reason == "outside"


def test_explaining_what_cannot_be_taken(store, tmp_path):
    with pytest.raises(errors.SourceNotFound):
        store.explain(tmp_path / "gone" / "x", tmp_path / "gone")
