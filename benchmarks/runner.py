"""Measures cases, prints as it goes, keeps the results and renders docs/benchmarks.md.

python -m benchmarks.runner                                  all cases but those on request
python -m benchmarks.runner --case kernel-create --runs 3    one case
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import bench, datasets, report
from benchmarks.bench import Bench
from benchmarks.cases import CASES, Case
from benchmarks.peers import PEERS, install


def main() -> int:
    options = _options()
    chosen = [case for case in CASES if case.name in options.case] or [
        case for case in CASES if not case.on_request
    ]
    options.work.mkdir(parents=True, exist_ok=True)
    with _alone(options.work):
        return _run(chosen, options)


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two runners would disturb each other's figures and sweep each other's folders."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that we still sweep
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another runner uses {work}")
        yield


def _run(chosen: list[Case], options: argparse.Namespace) -> int:
    machine = report.Machine.here(options.work)
    print(machine)
    usable = _usable(chosen, set(options.tools.split(",")) if options.tools else set(PEERS))
    if (options.work / "runs").exists():  # an earlier runner was killed
        bench.sweep(options.work)
    missed = False
    try:
        for case in chosen:
            measured = _measure(case, options, usable)
            missed |= _conclude(case, measured)
            if not options.dry:
                report.save(machine, case, measured)
                report.render()
    finally:
        bench.sweep(options.work)
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [case.name for case in CASES]
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        choices=names,
        metavar="CASE",
        help=f"one of {', '.join(names)}; may be repeated",
    )
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--tools", help="only these, separated by commas")
    parser.add_argument(
        "--work",
        type=Path,
        default=datasets.default_work(),
        help="folder for data and stores; needs about 60 GB free",
    )
    parser.add_argument("--dry", action="store_true", help="keep no results")
    return parser.parse_args()


def _usable(cases: list[Case], allowed: set[str]) -> frozenset[str]:
    wanted = {tool for case in cases for tool in case.tools} & allowed
    problems = install(wanted)
    for name, problem in problems.items():
        print(f"without {name}: {problem}", file=sys.stderr)
    return frozenset(wanted - set(problems))


def _measure(case: Case, options: argparse.Namespace, usable: frozenset[str]) -> report.Measured:
    print(f"\n{case.name}: {case.text}", flush=True)
    bench.await_calm(options.work)
    planned = min(max(options.runs, case.at_least), case.at_most)
    running = Bench(case.name, options.work, usable & set(case.tools), planned)
    try:
        case.measure(running)
    except RuntimeError as error:  # data that cannot be built here: other cases still can
        print(f"  FAILED: {error}", flush=True)
        running.failures.append(str(error).splitlines()[0])
    return report.Measured(
        day=report.today(),
        versions={name: PEERS[name].version() for name in case.tools if name in usable},
        facts=_facts(case, options.work),
        failures=tuple(running.failures),
        records=tuple(running.records),
    )


def _facts(case: Case, work: Path) -> dict[str, object]:
    marker = work / case.data / "done.json"
    facts: dict[str, object] = {}
    if case.data and marker.exists():
        facts = json.loads(marker.read_text())
    return facts


def _conclude(case: Case, measured: report.Measured) -> bool:
    """Print the case's verdicts; returns whether a target was measured and missed."""
    missed = False
    for text, goal, value, verdict in report.verdicts(case, measured.records):
        print(f"  {text:55} {goal:>14} {value:>14}  {verdict.strip('*')}")
        missed |= verdict.strip("*") == "missed"
    return missed


if __name__ == "__main__":
    sys.exit(main())
