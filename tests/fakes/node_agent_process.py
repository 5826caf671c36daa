"""A node agent as its own process, with a fake engine that it supervises."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic.node_agent.v1 import node_agent_pb2_grpc as rpc
from crosslogic_common.tls import Channels
from tests.fakes.node_agent_registry import TOKEN, FakeRegistry

ENGINE = Path(__file__).with_name("node_agent_engine.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class AgentProcess:
    process: asyncio.subprocess.Process
    state_dir: Path
    port: int
    engine_port: int
    log: Path

    @property
    def engine_pid(self) -> int:
        return int((self.state_dir / "engine.pid").read_text())

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 20)


@contextlib.asynccontextmanager
async def agent_process(
    registry: FakeRegistry, state_dir: Path, *, token: str = TOKEN, engine: list[str] | None = None, **settings: str
) -> AsyncIterator[AgentProcess]:
    state_dir.mkdir(exist_ok=True)
    port, engine_port = free_port(), free_port()
    command = [sys.executable, str(ENGINE), str(engine_port)] if engine is None else engine
    command = [part.replace("{port}", str(engine_port)) for part in command]
    environment = os.environ | {
        "CROSSLOGIC_LISTEN": f"127.0.0.1:{port}",
        "CROSSLOGIC_REGISTRY_TARGET": f"127.0.0.1:{registry.port}",
        "CROSSLOGIC_REGISTRY_JOIN_TARGET": f"127.0.0.1:{registry.join_port}",
        "CROSSLOGIC_JOIN_TOKEN": token,
        "CROSSLOGIC_TLS_CA_FILE": str(registry.ca.ca_file),
        "CROSSLOGIC_STATE_DIR": str(state_dir),
        "CROSSLOGIC_REGION": "us-east",
        "CROSSLOGIC_MODEL": "catalogue-model",
        "CROSSLOGIC_ENGINE_URL": f"http://127.0.0.1:{engine_port}",
        "CROSSLOGIC_ENGINE_COMMAND": json.dumps(command),
        "CROSSLOGIC_SHUTDOWN_GRACE_S": "5",
        "CROSSLOGIC_MEASURE": "off",
        **settings,
    }
    log = state_dir / "agent.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "crosslogic_node_agent", env=environment, stdout=out, stderr=out
        )
    agent = AgentProcess(process, state_dir, port, engine_port, log)
    try:
        yield agent
    finally:
        await agent.stop()


@contextlib.asynccontextmanager
async def gateway_stream(
    registry: FakeRegistry, agent: AgentProcess, *, service: str = "gateway"
) -> AsyncIterator[grpc.aio.StreamStreamCall[pb.RelayRequest, pb.RelayResponse]]:
    """A relay stream as a gateway worker opens it."""
    channels = Channels(registry.ca.service(service))
    stub = rpc.NodeAgentServiceStub(channels.node(registry.node_id, f"127.0.0.1:{agent.port}"))
    stream = stub.Relay()
    try:
        yield stream
    finally:
        stream.cancel()
        await channels.close()


async def read_call(
    stream: grpc.aio.StreamStreamCall[pb.RelayRequest, pb.RelayResponse], call_id: int
) -> list[pb.RelayResponseFrame]:
    """All frames of one call; those of others are lost."""
    frames: list[pb.RelayResponseFrame] = []
    while not frames or not frames[-1].HasField("end"):
        message = await asyncio.wait_for(stream.read(), 20)
        assert isinstance(message, pb.RelayResponse), message
        frames += [frame for frame in message.frames if frame.call_id == call_id]
    return frames
