"""The command line: takes figures, builds the peers' environments, writes the report and the breakdown."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from . import breakdown, environments, report, results
from .engines import ENGINES, Engine
from .measure import NotTaken, measured
from .results import Figure, Run
from .workloads import SCALES, WORKLOADS, Scale, Workload

PEER_ROUNDS = 3
"""A peer is measured so often at most: its figures are not close to anything."""


def taken(engines: Sequence[Engine], works: Sequence[Workload], scale: Scale) -> Iterator[Figure]:
    """All figures, each as soon as it is complete. Rounds go around everything, so a slow minute falls on all alike."""
    figures: dict[tuple[str, str, int], list[Figure]] = {}
    plan = [
        (work, n) for work in works for n in dict.fromkeys(n for each in engines for n in each.sizes(work, scale.name))
    ]
    for number in range(scale.rounds):
        # Who goes first changes, so that nobody gains by a warmer or a cooler machine.
        order = engines if number % 2 == 0 else engines[::-1]
        for work, n in plan:
            for engine in order:
                if n not in engine.sizes(work, scale.name) or number >= _rounds(engine, scale, n):
                    continue
                key = work.name, engine.name, n
                if key not in figures:
                    figures[key] = [Figure(work.name, engine.name, n, unit) for unit in work.units]
                if not figures[key][0].not_taken:
                    _say(f"round {number + 1} of {scale.rounds}: {work.name}, {n:,}, {engine.name}")
                    _sample(figures[key], engine, work, n, scale)
                if number + 1 == _rounds(engine, scale, n):
                    yield from figures[key]


def _rounds(engine: Engine, scale: Scale, n: int) -> int:
    return min(scale.rounds_of(n), PEER_ROUNDS if engine.group == "peer" else scale.rounds)


def _sample(figures: Iterable[Figure], engine: Engine, work: Workload, n: int, scale: Scale) -> None:
    try:
        answer = measured(engine, work, n, scale)
    except NotTaken as why:
        for figure in figures:
            figure.not_taken = str(why)
            figure.samples.clear()
        return
    for figure in figures:
        figure.samples.append(answer[figure.unit])


def _say(what: str) -> None:
    end, start = ("", "\r\033[K") if sys.stderr.isatty() else ("\n", "")
    print(f"{start}{what}", end=end, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> None:
    """Take figures and write them down, those that are complete also when it is interrupted."""
    scale = SCALES[options.scale]
    if options.rounds is not None:
        scale = attrs.evolve(scale, rounds=options.rounds)
    engines = [engine for engine in ENGINES.values() if _is_wanted(engine, options, scale)]
    works = [work for work in WORKLOADS.values() if not options.workloads or work.name in options.workloads]
    at, canaries = results.now(), [results.canary()]
    figures: list[Figure] = []
    try:
        for figure in taken(engines, works, scale):
            figure.run = at
            figures.append(figure)
            canaries += [results.canary()] if len(figures) % 50 == 0 else []
    finally:
        canaries.append(results.canary())
        peers = {each: environments.versions(each).get(_package(each), "?") for each in environments.names()}
        done = Run(at, scale.name, results.this_machine(), results.our_versions(), peers, canaries)
        results.write(options.results, done, figures, add=options.add)
        _say(f"{len(figures)} figures in {options.results}\n")


def _package(environment: str) -> str:
    return {"apscheduler": "APScheduler"}.get(environment, environment)


def _is_wanted(engine: Engine, options: argparse.Namespace, scale: Scale) -> bool:
    if options.engines:
        return any(engine.name == name or engine.family == name for name in options.engines)
    if engine.group == "peer":
        return bool(options.peers)
    return engine.is_main or scale.variants


def peers(options: argparse.Namespace) -> None:
    """Build the environments of the peers."""
    for name in options.names or environments.names():
        _say(f"{name}: {'is there' if environments.is_built(name) else 'is built'}")
        try:
            environments.build(name)
        except subprocess.CalledProcessError as error:
            _say(f"{name} could not be built ({error}); its figures will say so.")


def write_report(options: argparse.Namespace) -> None:
    """Write RESULTS.md and the charts, and show the budgets."""
    if not options.results.exists():
        sys.exit(f"There is no {options.results}: python -m benchmarks run")
    print(report.write(options.results))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="undertow beside others, measured.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="take figures and write them to results.jsonl")
    command.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"only these of {', '.join(WORKLOADS)}")
    command.add_argument("--scale", choices=SCALES, default="quick", help="how much of it all (default: quick)")
    command.add_argument("--rounds", type=int, metavar="N", help="how often each figure is measured, at most")
    command.add_argument("--peers", action="store_true", help="the peers as well, in environments built beforehand")
    command.add_argument("--engines", nargs="+", metavar="NAME", help="only these, by name or family")
    command.add_argument("--add", action="store_true", help="keep the results that are on file")
    command.add_argument("--results", type=Path, default=results.RESULTS, help="another file (default: results.jsonl)")
    command.set_defaults(do=run)

    command = commands.add_parser("peers", help="build the peers' environments")
    command.add_argument("names", nargs="*", metavar="NAME", help=f"only these of {', '.join(environments.names())}")
    command.set_defaults(do=peers)

    command = commands.add_parser("report", help="write RESULTS.md and charts/ beside the results")
    command.add_argument("--results", type=Path, default=results.RESULTS)
    command.set_defaults(do=write_report)

    command = commands.add_parser("breakdown", help="where the microseconds of a task go, into README.md")
    command.add_argument("--tasks", type=int, default=10_000)
    command.add_argument("--rounds", type=int, default=5)
    command.set_defaults(do=lambda options: breakdown.write(options.tasks, options.rounds))

    options = parser.parse_args()
    unknown = set(getattr(options, "workloads", ())) - WORKLOADS.keys()
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are: {', '.join(WORKLOADS)}")
    options.do(options)


if __name__ == "__main__":
    main()
