"""A site without any network but its own."""

import asyncio
import json
import sys
from pathlib import Path

from tests.fakes.air_gapped_suite import REQUESTS

SCRIPT = Path(__file__).parents[1] / "fakes/air_gapped_suite.py"


async def run(*command: str) -> tuple[int, str]:
    """A command's exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=SCRIPT.parents[2]
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 180)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


async def test_suite_serves_and_bills_with_the_network_cut_and_asks_nobody_outside() -> None:
    # Only root may have a network of its own; anybody else at least sees that the profile starts and serves.
    may_cut = (await run("unshare", "--net", "true"))[0] == 0
    in_its_own = ("unshare", "--net") if may_cut else ()
    code, output = await run(
        *in_its_own, sys.executable, "-m", "tests.fakes.air_gapped_suite", "cut" if may_cut else "whole"
    )
    assert code == 0, output[-3000:]
    result = json.loads(output.rpartition("result:")[2])
    assert result["statuses"] == [200] * REQUESTS
    assert result["records"] == REQUESTS
    assert result["sent"] == 0
