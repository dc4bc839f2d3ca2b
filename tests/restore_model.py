"""What a restore in place has to leave on disk, worked out from what was scanned before it: a model
that shares nothing with the code that it is held against.

Trees are `tree_scan.Facts`. The table of docs/design/004 is `Model._takes`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from tree_scan import Fact, Facts

Path = bytes


class InTheWay(Exception):
    """A directory that is to give way holds what nobody may remove."""


@dataclass
class Outcome:
    """The tree afterwards, and what a plan has to say of it. `theirs`: paths that are the
    snapshot's now, `extras`: paths that it does not have and that are not to be deleted.
    """

    tree: Facts = field(default_factory=dict)
    conflicts: dict[Path, str] = field(default_factory=dict)
    extras: set[Path] = field(default_factory=set)
    theirs: set[Path] = field(default_factory=set)


def alone(fact: Fact | None) -> Fact | None:
    """Without what hard links say."""
    return None if fact is None else replace(fact, group=None)


def below(tree: Facts, top: Path) -> Facts:
    """A subtree, by path relative to its top."""
    inside = top + b"/" if top else b""
    found = {path[len(inside) :]: fact for path, fact in tree.items() if path.startswith(inside)}
    if top in tree:
        found[b""] = tree[top]
    return found


def partition(tree: Facts, paths: Iterable[Path]) -> set[frozenset[Path]]:
    """Which of these paths are links of one file."""
    groups: dict[Path, set[Path]] = {}
    for path in paths:
        group = tree[path].group if path in tree else None
        if group is not None:
            groups.setdefault(group, set()).add(path)
    return {frozenset(found) for found in groups.values() if len(found) > 1}


class Model:
    """One root. `hidden`: whether the rules leave a path out."""

    def __init__(
        self,
        live: Facts,
        wanted: Facts,
        head: Facts | None,
        *,
        strategy: str = "overwrite",
        delete: bool = False,
        chosen: Iterable[Path] | None = None,
        hidden: Callable[[Path], bool] = lambda path: False,
        resolver: Callable[[Path], str] | None = None,
    ) -> None:
        self.disk, self.hidden = live, hidden
        self.live = {path: fact for path, fact in live.items() if not hidden(path)}
        self.wanted, self.head = wanted, head
        self.strategy, self.delete = strategy, delete
        self.chosen = None if chosen is None else set(chosen)
        self.resolver = resolver
        self.out = Outcome()

    def run(self) -> Outcome:
        self._visit(b"")
        return self.out

    def _on_the_way(self, path: Path) -> bool:
        """Only a directory on the way to what was chosen."""
        if self.chosen is None or self.is_chosen(path):
            return False
        inside = path + b"/" if path else b""
        return any(one.startswith(inside) for one in self.chosen)

    def is_chosen(self, path: Path) -> bool:
        """Whether a path, or a directory that it is in, was chosen."""
        return self.chosen is None or any(
            one in (b"", path) or path.startswith(one + b"/") for one in self.chosen
        )

    def _visit(self, path: Path) -> None:
        live, wanted = self.live.get(path), self.wanted.get(path)
        if self.chosen is not None and self._on_the_way(path):
            self._pass_through(path, live, wanted)
        elif not self.is_chosen(path) or (live is None and wanted is None):
            self._keep(path)
        elif wanted is None:
            self._extra(path)
        elif live is not None and live.type == wanted.type == "directory":
            taken = alone(live) == alone(wanted) or self._takes(path, live, wanted, deep=False)
            self.out.tree[path] = wanted if taken else live
            if taken:
                self.out.theirs.add(path)
            self._enter(path)
        elif alone(live) == alone(wanted):
            self.out.tree[path] = wanted
            self.out.theirs.add(path)
        elif self._takes(path, live, wanted, deep=True):
            self._take(path)
        else:
            self._keep(path)

    def _pass_through(self, path: Path, live: Fact | None, wanted: Fact | None) -> None:
        assert wanted is not None
        if live is None or live.type != "directory":
            self.out.tree[path] = wanted
            self.out.theirs.add(path)
        else:
            self.out.tree[path] = live
        self._enter(path)

    def _enter(self, path: Path) -> None:
        names = {name for tree in (self.disk, self.wanted) for name in children(tree, path)}
        for name in sorted(names):
            self._visit(path + b"/" + name if path else name)

    def _keep(self, path: Path) -> None:
        for rest, fact in below(self.disk, path).items():
            self.out.tree[join(path, rest)] = fact

    def _take(self, path: Path) -> None:
        if len(below(self.disk, path)) != len(below(self.live, path)):
            raise InTheWay(path)
        for rest, fact in below(self.wanted, path).items():
            self.out.tree[join(path, rest)] = fact
            self.out.theirs.add(join(path, rest))

    def _extra(self, path: Path) -> None:
        live = self.live[path]
        if not self.delete:
            self._keep(path)
            self.out.extras |= {join(path, rest) for rest in below(self.live, path)}
        elif not self._takes(path, live, None, deep=False):
            self._keep(path)
        elif live.type == "directory":
            before = len(self.out.tree)
            self._enter(path)
            if len(self.out.tree) > before:  # something in it stays, and so does it
                self.out.tree[path] = live

    def _takes(self, path: Path, live: Fact | None, wanted: Fact | None, *, deep: bool) -> bool:
        if self.head is None:
            if live is None or self.strategy in ("overwrite", "fail"):
                return True
            if wanted is None:
                return False
            return self._conflict(path, live, wanted)
        if not self._changed(self.live, path, deep):
            return True
        if not self._changed(self.wanted, path, deep):
            return self._prefers_snapshot(live, wanted)
        return self._conflict(path, live, wanted)

    def _conflict(self, path: Path, live: Fact | None, wanted: Fact | None) -> bool:
        taken = self._prefers_snapshot(live, wanted)
        if self.resolver is not None:
            taken = self.resolver(path) == "snapshot"
        self.out.conflicts[path] = "snapshot" if taken else "live"
        return taken

    def _prefers_snapshot(self, live: Fact | None, wanted: Fact | None) -> bool:
        if self.strategy == "newer":
            if live is None or wanted is None:
                return wanted is not None
            return wanted.mtime_ns >= live.mtime_ns
        return self.strategy in ("overwrite", "fail")

    def _changed(self, side: Facts, path: Path, deep: bool) -> bool:
        """Whether a side changed what the head has. When entries come and go in a directory its
        time does too: that counts only where the whole directory does.
        """
        assert self.head is not None
        now, then = side.get(path), self.head.get(path)
        if now is None or then is None or now.type != "directory" or then.type != "directory":
            return alone(now) != alone(then)
        if deep:
            one, other = below(side, path), below(self.head, path)
            return {p: alone(f) for p, f in one.items()} != {p: alone(f) for p, f in other.items()}
        return replace(now, mtime_ns=0, group=None) != replace(then, mtime_ns=0, group=None)


def join(path: Path, rest: Path) -> Path:
    """A path below another; either may be empty."""
    return path + b"/" + rest if path and rest else path or rest


def children(tree: Facts, path: Path) -> set[Path]:
    """Names in a directory of a tree."""
    inside = path + b"/" if path else b""
    rests = (one[len(inside) :] for one in tree if one.startswith(inside) and one != path)
    return {rest.split(b"/")[0] for rest in rests if rest}


def check_links(
    outcome: Outcome,
    live: Facts,
    wanted: Facts,
    actual: Facts,
    hidden: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Paths that the snapshot gave are linked as it says, and those that stay as they were. Whether
    something that stays is a link of something unchanged is left open, and what is `hidden`.
    """
    theirs = {path for path in outcome.theirs if actual[path].type != "directory"}
    assert partition(actual, theirs) == partition(wanted, theirs)
    stay = {path for path in outcome.tree if path not in outcome.theirs and not hidden(path)}
    assert partition(actual, stay) == partition(live, stay)
