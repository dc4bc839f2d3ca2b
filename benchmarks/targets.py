"""What must be reached, as values computed within one run; the median over runs is judged."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks.bench import Record

OURS = "snap"
Run = Mapping[tuple[str, str], Record]  # one run's records by step and tool


@dataclass(frozen=True)
class Target:
    """`value` may raise KeyError: then the run lacks what it needs, and does not count."""

    text: str
    value: Callable[[Run], float]
    bound: float
    at_least: bool
    unit: str

    @property
    def goal(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def by_run(records: Iterable[Record]) -> list[Run]:
    runs: dict[int, dict[tuple[str, str], Record]] = {}
    for record in records:
        runs.setdefault(record.run, {})[record.step, record.tool] = record
    return list(runs.values())


def median(runs: Iterable[Run], value: Callable[[Run], float]) -> float | None:
    """Median of `value` over the runs that have it."""
    values = []
    for run in runs:
        try:
            values.append(value(run))
        except KeyError:
            continue
    return statistics.median(values) if values else None


def faster(step: str, peer: str, bound: float, ours: str = OURS) -> Target:
    """At least `bound` times as fast as a peer."""
    return Target(
        f"{step}: speed{_of(ours)} against {peer}",
        lambda run: run[step, peer].wall / run[step, ours].wall,
        *(bound, True, "x"),
    )


def within(step: str, peer: str, bound: float, ours: str = OURS) -> Target:
    """At most `bound` times a peer's time."""
    return Target(
        f"{step}: time{_of(ours)} against {peer}",
        lambda run: run[step, ours].wall / run[step, peer].wall,
        *(bound, False, "x"),
    )


def _of(ours: str) -> str:
    return "" if ours == OURS else f" of {ours}"


def larger(step: str, other: str, bound: float) -> Target:
    """At most so many percent more space than ours takes otherwise, without what is derived."""

    def value(run: Run) -> float:
        plain = run[step, OURS].stored - run[step, OURS].derived
        return 100 * ((run[step, other].stored - run[step, other].derived) / plain - 1)

    return Target(f"{step}: more space of {other}", value, bound, False, "%")


def faster_with(before: str, step: str, peer: str, bound: float) -> Target:
    """At least `bound` times as fast as a peer that takes two steps to what we do in one."""
    return Target(
        f"{step}: speed against {peer} with {before}",
        lambda run: (run[before, peer].wall + run[step, peer].wall) / run[step, OURS].wall,
        *(bound, True, "x"),
    )


def within_own(step: str, other: str, bound: float) -> Target:
    """At most `bound` times what another step of ours takes."""
    return Target(
        f"{step}: time against {other}",
        lambda run: run[step, OURS].wall / run[other, OURS].wall,
        *(bound, False, "x"),
    )


def seconds(step: str, bound: float) -> Target:
    return Target(f"{step}: time", lambda run: run[step, OURS].wall, bound, False, "s")


def milliseconds(step: str, bound: float) -> Target:
    return Target(f"{step}: time", lambda run: run[step, OURS].wall * 1e3, bound, False, "ms")


def microseconds_each(step: str, bound: float) -> Target:
    """Time per operation; `data` of such a record is a number of operations."""
    return Target(
        f"{step}: time of each",
        lambda run: run[step, OURS].wall / run[step, OURS].data * 1e6,
        *(bound, False, "us"),
    )


def throughput(step: str, bound: float) -> Target:
    """Gigabytes of data a second."""
    return Target(
        f"{step}: data per second",
        lambda run: run[step, OURS].data / run[step, OURS].wall / 1e9,
        *(bound, True, "GB/s"),
    )


def memory(step: str, bound: float = 300) -> Target:
    return Target(
        f"{step}: peak anonymous memory",
        lambda run: run[step, OURS].anonymous / 1e6,
        *(bound, False, "MB"),
    )


def flat_memory(small: str, large: str, bound: float) -> Target:
    return Target(
        f"peak anonymous memory, {large} against {small}",
        lambda run: run[large, OURS].anonymous / run[small, OURS].anonymous,
        *(bound, False, "x"),
    )


def smaller(step: str, bound: float) -> Target:
    """Per cent below the smaller of restic's and borg's stores after `step`. Like for like: what is
    derived (our `local/`, the peers' caches, which lie elsewhere) is counted by the next target.
    """

    def value(run: Run) -> float:
        peers = min(run[step, "restic"].stored, run[step, "borg"].stored)
        return 100 * (1 - (run[step, OURS].stored - run[step, OURS].derived) / peers)

    return Target(f"{step}: store smaller than restic's and borg's", value, bound, True, "%")


def smaller_with_caches(step: str, bound: float) -> Target:
    """The same with every tool's caches: ours lie in the store, restic's and borg's outside."""

    def kept(run: Run, tool: str) -> int:
        return run[step, tool].stored + run[step, tool].cached

    return Target(
        f"{step}: smaller, caches of all counted",
        lambda run: 100 * (1 - kept(run, OURS) / min(kept(run, "restic"), kept(run, "borg"))),
        *(bound, True, "%"),
    )


def growth(before: str, after: str, peer: str, bound: float) -> Target:
    """How much the store grew from one step to another, against a peer's."""

    def grown(run: Run, tool: str) -> int:
        return run[after, tool].stored - run[before, tool].stored

    return Target(
        f"{after}: growth of the store against {peer}",
        lambda run: grown(run, OURS) / grown(run, peer),
        *(bound, False, "x"),
    )


def rate(step: str, bound: float) -> Target:
    """Operations a second; `data` of such a record is a number of operations."""
    return Target(
        f"{step}: a second",
        lambda run: run[step, OURS].data / run[step, OURS].wall,
        *(bound, True, "/s"),
    )


def beyond(step: str, part: str, tool: str, bound: float) -> Target:
    """At most so many seconds more than a part of it takes by itself."""
    return Target(
        f"{step}: time beyond {part}",
        lambda run: run[step, tool].wall - run[part, tool].wall,
        *(bound, False, "s"),
    )
