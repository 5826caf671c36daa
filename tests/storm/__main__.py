"""`make storm`: a storm of requests over dying processes; prints what every link of the chain counted."""

import argparse
import asyncio
import math
import signal
import sys

from tests.storm.storm import storm, storm_suite
from tests.storm.totals import table


def main() -> int:
    """Exit status 1 when two links disagree."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    parser = argparse.ArgumentParser(prog="make storm", description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-s", type=float, default=2.0, help="about so long between two kills")
    parser.add_argument("--step-ms", type=float, default=2.0, help="an engine's time for a token")
    parser.add_argument("--spread", type=int, default=12, help="answers have 2 tokens and up to so many less 1 more")
    parser.add_argument("--seconds", type=float, default=math.inf, help="ask no longer than this")
    return asyncio.run(_run(parser.parse_args()))


async def _run(options: argparse.Namespace) -> int:
    async with storm_suite(step_ms=options.step_ms) as (suite, stripe):
        report = await storm(
            suite,
            stripe,
            requests=options.requests,
            seed=options.seed,
            pause_s=options.pause_s,
            seconds=options.seconds,
            spread=options.spread,
        )
    print(f"{report.asked:,} requests, {report.complete:,} complete, {report.seconds:.0f} s, seed {report.seed}")
    print("the longest waits of clients:")
    for wait in report.slowest:
        print(
            f"  {wait.seconds:.1f} s from {wait.began_s:.1f} s on: {wait.what}; {report.around(wait) or 'nobody died'}"
        )
    print("failed: " + (", ".join(f"{what} {count:,}" for what, count in sorted(report.failed.items())) or "none"))
    print("killed: " + (", ".join(f"{name} {count}" for name, count in sorted(report.kills.items())) or "nobody"))
    print(table(report.lines))
    wrong = report.problems()
    print("all agree, to the token and the pico-dollar" if not wrong else "THEY DISAGREE\n" + "\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
