"""Results on disk, and the page rendered from them.

results/<date>-<machine>.json holds, per case, everything measured that day; a case measured again
replaces itself. The page shows each case from the newest file of each machine.

    python -m benchmarks.report        renders docs/benchmarks.md again
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from benchmarks.bench import Record, figure
from benchmarks.cases import CASES, Case
from benchmarks.targets import OURS, Run, by_run, median

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `make bench`; how each case works and how to run one: `benchmarks/README.md`.

Warm cache, local disk, zstd level 3, no encryption (restic always encrypts), verification on.
Tools take turns within a run; each figure is the median over the runs, and each ratio is
computed within a run first. *Against snap* is the tool's time divided by ours: above 1, snap is
faster. Memory is the peak of the whole process tree; anonymous memory leaves mapped files out.
"""


@dataclass(frozen=True)
class Machine:
    """Where figures were taken: enough to compare, nothing that identifies the machine."""

    cpu: str
    cores: int
    memory_gb: int
    file_system: str
    kernel: str

    @classmethod
    def here(cls, work: Path) -> Machine:
        model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found = re.match(r"[\d.]+", platform.release())
        where = ("findmnt", "-n", "-o", "FSTYPE", "-T", str(work))
        return cls(
            cpu=model.group(1) if model else platform.machine(),
            cores=os.cpu_count() or 1,
            memory_gb=round(pages / 1e9),
            file_system=subprocess.run(where, capture_output=True, text=True).stdout.strip(),
            kernel=found.group() if found else "",
        )

    @property
    def slug(self) -> str:
        cpu = re.sub(r"[^a-z0-9]+", "-", self.cpu.lower()).strip("-")
        return f"{cpu}-{self.cores}c-{self.memory_gb}g"

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb} GB, {self.file_system},"
            f" Linux {self.kernel}"
        )


@dataclass(frozen=True)
class Measured:
    """One case's outcome, as kept."""

    day: str
    versions: Mapping[str, str]
    facts: Mapping[str, object]
    failures: tuple[str, ...]
    records: tuple[Record, ...]


def save(machine: Machine, case: Case, measured: Measured) -> Path:
    """Put a case into the day's file of this machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{measured.day}-{machine.slug}.json"
    content = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    content["machine"] = asdict(machine)
    content["cases"][case.name] = asdict(measured)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def today() -> str:
    return date.today().isoformat()


def render() -> None:
    """Write the page from all results."""
    pages = [HEAD]
    for machine, measured in sorted(_newest().items(), key=lambda item: str(item[0])):
        pages.append(f"\n## {machine}\n")
        pages.extend(_overview(measured))
        for case in CASES:
            if case.name in measured:
                pages.extend(_section(case, measured[case.name]))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(pages) + "\n")


def _newest() -> dict[Machine, dict[str, Measured]]:
    found: dict[Machine, dict[str, Measured]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        cases = found.setdefault(Machine(**content["machine"]), {})
        for name, kept in content["cases"].items():
            records = tuple(Record(**record) for record in kept.pop("records"))
            cases[name] = Measured(**kept, records=records)
    return found


def _overview(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Every target, and whether it is met."""
    yield "| case | what | goal | measured | |"
    yield "| --- | --- | ---: | ---: | --- |"
    for case in CASES:
        if case.name in measured:
            for row in verdicts(case, measured[case.name].records):
                yield f"| {case.name} | {' | '.join(row)} |"


def verdicts(case: Case, records: Iterable[Record]) -> Iterator[tuple[str, str, str, str]]:
    """Text, goal, median value, met or not, for each target of the case."""
    runs = by_run(records)
    for target in case.targets:
        value = median(runs, target.value)
        if value is None:
            yield target.text, target.goal, "-", "not measured"
        else:
            verdict = "met" if target.met(value) else "**missed**"
            yield target.text, target.goal, f"{figure(value)} {target.unit}", verdict


def _section(case: Case, measured: Measured) -> Iterator[str]:
    runs = by_run(measured.records)
    yield f"\n### {case.name}\n"
    yield f"{case.text}. {measured.day}, median of {len(runs)}.\n"
    if measured.facts:
        yield f"Data: {_facts(measured.facts)}.\n"
    versions = (f"{tool} {version}" for tool, version in measured.versions.items())
    yield f"Versions: {', '.join(versions)}.\n"
    if measured.failures:
        yield f"Failed: {'; '.join(measured.failures)}.\n"
    columns = ("time s", "against snap", "CPU s", "memory MB", "anonymous MB", "store MB")
    yield f"| step | tool | {' | '.join(columns)} |"
    yield f"| --- | --- | {' | '.join(['---:'] * len(columns))} |"
    for step, tool in dict.fromkeys((each.step, each.tool) for each in measured.records):
        yield f"| {step} | {tool} | {' | '.join(_row(runs, step, tool))} |"


def _facts(facts: Mapping[str, object]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')} {', '.join(map(str, v)) if isinstance(v, list) else v}"
        for name, v in facts.items()
    )


def _row(runs: list[Run], step: str, tool: str) -> Iterator[str]:
    def show(value: float | None) -> str:
        return figure(value) if value else "-"  # nothing takes no time or memory

    key = (step, tool)
    yield show(median(runs, lambda run: run[key].wall))
    yield show(median(runs, lambda run: run[key].wall / run[step, OURS].wall))
    yield show(median(runs, lambda run: run[key].cpu))
    yield show(median(runs, lambda run: run[key].resident / 1e6))
    yield show(median(runs, lambda run: run[key].anonymous / 1e6))
    stored = median(runs, lambda run: run[key].stored / 1e6)
    derived = median(runs, lambda run: run[key].derived / 1e6)
    cached = median(runs, lambda run: run[key].cached / 1e6)
    notes = [f"of it derived: {figure(derived)}"] if derived else []
    notes += [f"cache outside: {figure(cached)}"] if cached and cached >= 0.1 else []
    note = f" ({', '.join(notes)})" if notes else ""
    yield f"{figure(stored)}{note}" if stored else ""


if __name__ == "__main__":
    render()
