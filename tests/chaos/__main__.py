"""`make chaos`: runs experiments, each with many seeds, and says which failed and how to run them again."""

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import time
import traceback

from tests.chaos.catalogue import AS_TESTS, EXPERIMENTS
from tests.chaos.clients import Client
from tests.chaos.world import World, chaos_suite


def main() -> int:
    """Exit status 1 when an experiment failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--experiments", default="", help="numbers between commas; empty: all")
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds each runs with")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--size", type=float, default=1.0, help="less than 1: fewer requests, less time")
    options = parser.parse_args()
    known = EXPERIMENTS.keys() | AS_TESTS.keys()
    numbers = [int(word) for word in options.experiments.split(",") if word] or sorted(known)
    if unknown := sorted(set(numbers) - known):
        parser.error(f"there is no experiment {unknown[0]}; there are {', '.join(map(str, sorted(known)))}")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    failed = [
        number
        for number in numbers
        if not (_tests_pass(number) if number in AS_TESTS else all(_passes(number, seeds, options.size)))
    ]
    print(f"{len(numbers) - len(failed)} of {len(numbers)} experiments passed", flush=True)
    return 1 if failed else 0


def _tests_pass(number: int) -> bool:
    """Experiments that are tests draw nothing from a seed: they run once."""
    began = time.monotonic()
    passed = subprocess.run([sys.executable, "-m", "pytest", "-q", *AS_TESTS[number]], check=False).returncode == 0
    print(f"experiment {number}: {'passed' if passed else 'FAILED'} in {time.monotonic() - began:.1f} s", flush=True)
    return passed


def _passes(number: int, seeds: range, size: float) -> list[bool]:
    """Each experiment has a suite of its own: what one left behind is no excuse for the next."""
    passed = []
    with chaos_suite() as suite:
        for seed in seeds:
            began = time.monotonic()

            async def one(seed: int = seed) -> None:
                async with Client(suite) as client:
                    await EXPERIMENTS[number](World(suite, client, random.Random(seed), size))

            try:
                asyncio.run(one())
                verdict = "passed"
            except Exception:  # noqa: BLE001  # whatever it is, the next seed is tried
                verdict = f"FAILED (make chaos EXPERIMENTS={number} FIRST_SEED={seed} SEEDS=1)"
                traceback.print_exc()
                print("\n".join(line for line in suite.log("gateway").splitlines() if '"warning"' in line)[-5000:])
            passed.append(verdict == "passed")
            print(f"experiment {number} seed {seed}: {verdict} in {time.monotonic() - began:.1f} s", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
