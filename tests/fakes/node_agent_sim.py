"""A simulated engine as its own process."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from crosslogic_node_agent.domain import EngineAddress
from crosslogic_node_agent.engine_api import EngineApi
from crosslogic_node_agent.engine_connection import EnginePool
from tests.fakes.node_agent_process import free_port

SIM_MODEL = "sim-model"


@dataclass
class Sim:
    port: int
    api: EngineApi

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        _, raw = await self.api.fetch("POST", path, msgspec.json.encode(body), timeout_s=30)
        return msgspec.json.decode(raw, type=dict[str, Any])

    async def record(self, request_id: str) -> dict[str, Any]:
        """What the engine says it did for a request; empty when it never saw it."""
        status, raw = await self.api.fetch("GET", f"/sim/requests/{request_id}", timeout_s=10)
        return msgspec.json.decode(raw, type=dict[str, Any]) if status == 200 else {}


@contextlib.asynccontextmanager
async def sim_engine(*arguments: str) -> AsyncIterator[Sim]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "crosslogic_sim_engine", "--port", str(port), "--model", SIM_MODEL, *arguments
    )
    pool = EnginePool(EngineAddress(host="127.0.0.1", port=port))
    sim = Sim(port, EngineApi(pool))
    try:
        async with asyncio.timeout(15):
            while True:
                with contextlib.suppress(Exception):
                    await sim.api.healthy(timeout_s=1)
                    break
                await asyncio.sleep(0.05)
        yield sim
    finally:
        pool.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
