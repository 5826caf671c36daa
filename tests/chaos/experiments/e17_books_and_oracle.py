"""17: any history of top-ups, holds, records, corrections and deaths; the books equal sums of plain integers."""

import asyncio
import os
import sys

from tests.chaos.world import ROOT, World

STEPS = 5_000
"""Of one seed; 20 seeds are 100,000 steps."""
TEST = "tests/integration/test_accountant_oracle.py"


async def run(world: World) -> None:
    """In a process of its own, with a database of its own."""
    environ = {**os.environ, "LEDGER_STEPS": str(world.scaled(STEPS, least=200))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST),
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode(errors="replace")[-5_000:]
