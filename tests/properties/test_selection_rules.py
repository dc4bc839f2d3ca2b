"""Patterns mean what they mean to git; explanations and comparisons agree with what is taken."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import snapstore
from snapstore._native import Selection, explain_path
from snapstore.base import errors

NAMES = [
    *(b"a", b"b", b"ab", b"a.o", b".o", b"A", b"[a", b"a b", b"a ", b"a\t", b"!a", b"#a"),
    *(b"\xff", b"\\a", b"*", b"{a,b}"),
]
PIECES = [
    *(b"a", b"b", b"*", b"**", b"?", b"/", b"/", b".o", b"/**/", b"**/", b"/**", b"{a,b}"),
    *(b"[ab]", b"[!a]", b"[^b]", b"[a-b]", b"[]a]", b"[[:alpha:]]", b"[[:upper:]-b]"),
    *(b"\\", b"!", b"#", b" ", b"\t", b"\xff", b"[", b"]", b"-"),
]

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(b"/".join)
patterns = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map(b"".join)
ignore_files = st.lists(patterns, min_size=1, max_size=4)
options = patterns.filter(
    lambda line: line.strip(b" ") and not line.startswith(b"#") and understood(line)
)


def plant(top: bytes, files: list[bytes]) -> list[bytes]:
    """Makes files below `top`, and gives those that could be made."""
    made = []
    for path in files:
        whole = os.path.join(top, path)
        try:
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            with open(whole, "xb"):
                made.append(path)
        except OSError:  # a file where there should be a directory, or the other way round
            continue
    return made


def understood(pattern: bytes) -> bool:
    """Whether the pattern means something to us, and is one of which git's manual tells."""
    # Stars in a row without slashes around them are one star, says the manual; git knows better in
    # some places and does what comes.
    bare = pattern.removeprefix(b"!").removesuffix(b"/")
    if any(b"**" in part and part.strip(b"*") for part in bare.split(b"/")):
        return False
    try:
        Selection(rules=[(pattern, None, 0)])
    except errors.InvalidArgument:
        return False
    return True


def ignored_by_git(top: bytes, paths: list[bytes], *options: str) -> set[bytes]:
    """Which of the paths git does not show, because they or what is above them are ignored."""
    git = ["git", "-C", os.fsdecode(top), *options]
    command = [*git, "check-ignore", "--no-index", "--stdin", "-z"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        command, input=b"\0".join(paths), capture_output=True, check=False, env=environment
    )
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.split(b"\0")) - {b""}


@pytest.mark.needs("git")
@settings(deadline=None, max_examples=150)
@given(st.lists(paths, min_size=1, max_size=8), ignore_files, st.none() | ignore_files)
def test_git_ignores_the_same(files, top_lines, below_lines):
    top_lines = [line for line in top_lines if understood(line)]
    below_lines = [line for line in below_lines or [] if understood(line)]
    with tempfile.TemporaryDirectory() as place:
        top = os.fsencode(place)
        subprocess.run(["git", "init", "-q", place], check=True)
        shutil.rmtree(os.path.join(place, ".git", "hooks"), ignore_errors=True)
        made = plant(top, files)
        homes = [(b"", top_lines), (b"a/", below_lines)]
        for home, lines in homes:
            if os.path.isdir(os.path.join(top, home)):
                for name in (b".gitignore", b".snapignore"):
                    Path(os.fsdecode(top + b"/" + home + name)).write_bytes(b"\n".join(lines))
        theirs = ignored_by_git(top, made)
        selection = Selection(ignore_files=True)
        ours = {path for path in made if not explain_path(top, path, selection=selection).taken}
        assert ours == theirs


@pytest.mark.needs("git")
@settings(deadline=None, max_examples=150)
@given(st.lists(paths, min_size=1, max_size=8), ignore_files)
def test_git_ignores_the_same_in_either_case(files, lines):
    lines = [line for line in lines if understood(line)]
    with tempfile.TemporaryDirectory() as place:
        top = os.fsencode(place)
        subprocess.run(["git", "init", "-q", place], check=True)
        shutil.rmtree(os.path.join(place, ".git", "hooks"), ignore_errors=True)
        made = plant(top, files + [path.swapcase() for path in files])
        Path(place, ".gitignore").write_bytes(b"\n".join(lines))
        Path(place, ".snapignore").write_bytes(b"\n".join(map(snapstore.any_case, lines)))
        theirs = ignored_by_git(top, made, "-c", "core.ignorecase=true")
        selection = Selection(ignore_files=True)
        ours = {path for path in made if not explain_path(top, path, selection=selection).taken}
        assert ours == theirs


@settings(deadline=None, max_examples=40)
@given(
    st.lists(paths, min_size=1, max_size=8, unique=True),
    st.lists(options, max_size=3),
    st.lists(patterns.filter(understood), max_size=3),
    st.lists(st.integers(0, 7), max_size=3),
    st.booleans(),
)
def test_explanations_and_comparisons_agree(files, lines, ignores, picks, only_listed):
    with tempfile.TemporaryDirectory() as place:
        top = os.path.join(place, "top")
        os.mkdir(top)
        made = [os.path.join(os.fsencode(top), path) for path in plant(os.fsencode(top), files)]
        Path(top, ".snapignore").write_bytes(b"\n".join(ignores))
        listed = [made[pick] for pick in picks if pick < len(made)]
        roots = [] if only_listed and listed else [top]
        with snapstore.init(os.path.join(place, "store")) as store:
            result = store.create(*roots, listed=listed, exclude=lines)
            found = {one.path for one in store.ls(result.snapshot.id, recursive=True)}
            said = {
                path for path in made
                if store.explain(path, *roots, listed=listed, exclude=lines).taken
            }  # fmt: skip
            new = [
                one for root in result.snapshot.roots
                for one in store.diff_directory(result.snapshot.id, root.path)
            ]  # fmt: skip
    assert new == []
    assert said == found & set(made)
    assert set(listed) <= said
