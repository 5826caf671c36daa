"""`python -m benchmarks [row ...]`: measures, prints one table, writes JSON."""

import argparse
import asyncio
import os
import sys
import time
from dataclasses import asdict

from benchmarks.agent_rows import AGENT_ROWS
from benchmarks.measure import Machine
from benchmarks.rows import ALONE_ROWS, FULL_LENGTHS, QUICK_LENGTHS, SUITE_ROWS
from benchmarks.stack import BenchError, running_suite
from benchmarks.table import Figure, print_table, write_results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures what the suite costs.")
    parser.add_argument(
        "rows",
        nargs="*",
        metavar="row",
        help=", ".join((*ALONE_ROWS, *SUITE_ROWS, *AGENT_ROWS)) + " (default: all but agent_*)",
    )
    parser.add_argument(
        "--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"), help="under a minute"
    )
    parser.add_argument("--full", action="store_true", help="also through the real node agent and the simulated engine")
    parser.add_argument("--realtime", action="store_true", help="rows of low load ahead of all else; needs root")
    parser.add_argument("--keep", action="store_true", help="start the suite, print how to reach it, wait for Enter")
    chosen = parser.parse_args()
    unknown = set(chosen.rows) - set(ALONE_ROWS) - set(SUITE_ROWS) - set(AGENT_ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    chosen.rows = chosen.rows or [*ALONE_ROWS, *SUITE_ROWS, *(AGENT_ROWS if chosen.full else ())]
    return chosen


async def _measure(chosen: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    lengths = QUICK_LENGTHS if chosen.quick else FULL_LENGTHS
    figures: list[Figure] = []
    notes: list[str] = []

    def tell(row: str, began: float, found: list[Figure]) -> None:
        figures.extend(found)
        print(f"{row}: {time.monotonic() - began:.0f} s", file=sys.stderr)

    for row in chosen.rows:
        if row in ALONE_ROWS:
            began = time.monotonic()
            tell(row, began, await ALONE_ROWS[row](lengths))
    for rows, real_agents in ((SUITE_ROWS, False), (AGENT_ROWS, True)):
        wanted = [row for row in chosen.rows if row in rows]
        if not wanted:
            continue
        began = time.monotonic()
        async with running_suite(real_agents=real_agents, real_time=chosen.realtime) as stack:
            tell("suite started", began, [])
            for row in wanted:
                began = time.monotonic()
                tell(row, began, await rows[row](stack, lengths))
            notes += [note for note in stack.notes if note not in notes]
    return figures, notes


async def _keep() -> None:
    async with running_suite() as stack:
        print(f"gateway http://{stack.at('gateway')} (process {stack.pid('gateway')}, core {stack.cores.gateway})")
        print(f"key {stack.api_key}\nengine alone http://{stack.at('engine')}\nlogs {stack.run_dir.path}")
        await asyncio.to_thread(input, "Enter ends it. ")


def main() -> None:
    """The command."""
    chosen = _arguments()
    try:
        if chosen.keep:
            asyncio.run(_keep())
            return
        figures, notes = asyncio.run(_measure(chosen))
    except BenchError as error:
        sys.exit(str(error))
    machine = Machine.this()
    print_table(figures, machine, notes)
    lengths = QUICK_LENGTHS if chosen.quick else FULL_LENGTHS
    print(f"written: {write_results(figures, machine, notes, {'rows': chosen.rows, **asdict(lengths)}).name}")


if __name__ == "__main__":
    main()
