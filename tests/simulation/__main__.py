"""The command line: replay one seed with its trace, or play many and say what they found."""

from __future__ import annotations

import argparse
import sys
import time
from math import inf

from .batch import play_many, quietly
from .plans import Kind
from .scheduling import BACKENDS
from .world import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the seed to replay, or the first of several")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--plan", choices=("mixed", "plain", "durable"), default="mixed", help="what kind of flows")
    parser.add_argument("--runs", type=int, default=0, help="play that many seeds; print only what is wrong")
    parser.add_argument("--seconds", type=float, default=inf, help="with --runs: stop after so long")
    options = parser.parse_args()
    return many(options) if options.runs else one(options.seed, options.backend, options.plan)


def one(seed: int, backend: str, kind: Kind) -> int:
    """Replay one seed and print all that happened."""
    with quietly():
        world = play(seed, backend, kind)
    for at, life, *what in world.trace:
        print(f"{at:12.6f} life {life}  {' '.join(map(str, what))}")
    print(f"faults: {dict(world.faults.fired)}")
    for each in world.model.wrong:
        print(f"WRONG {each}")
    return bool(world.model.wrong)


def many(options: argparse.Namespace) -> int:
    """Play many seeds and print how to replay those that went wrong."""
    started = time.perf_counter()
    seeds = range(options.seed, options.seed + options.runs)
    batch = play_many(seeds, options.backend, options.plan, options.seconds)
    for line in (batch.report(options.backend, options.plan), f"faults: {dict(batch.fired)}"):
        print(line)
    pace = (time.perf_counter() - started) / batch.worlds * 1000
    print(f"{batch.worlds} worlds, {len(batch.wrong)} wrong, {pace:.1f} ms each")
    if idle := batch.idle():
        print(f"never happened: {', '.join(idle)}")
    return bool(batch.wrong or idle)


if __name__ == "__main__":
    sys.exit(main())
