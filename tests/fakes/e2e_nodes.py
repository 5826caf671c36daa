"""Machines that join a running suite by themselves, with a simulated engine each."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.tls import Channels
from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite

LISTENING = "0A"


class JoinedNode:
    """One agent and its engine."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def log(self) -> str:
        return (self.folder / "agent.log").read_text(errors="replace")

    def listening_sockets(self) -> list[str]:
        """Local addresses of TCP sockets on which the agent, or a process that it started, listens."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
        found = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.process.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and fields[9] in inodes:
                    found.append(fields[1])
        return found

    def kill(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    return inodes


@contextlib.asynccontextmanager
async def operator(suite: Suite) -> AsyncIterator["rpc.RegistryServiceAsyncStub"]:
    """The suite's registry, asked by its operator."""
    channels = Channels(suite.tls())
    try:
        yield rpc.RegistryServiceStub(channels.service("registry", suite.target("registry")))
    finally:
        await channels.close()


@contextlib.asynccontextmanager
async def joined(
    suite: Suite, folder: Path, *, tunnel: bool = False, org_id: str = "", step_ms: int = 10, **settings: str
) -> AsyncIterator[JoinedNode]:
    """One more node of the suite, which is gone at the end of the block. Its engine listens on a Unix socket only."""
    folder.mkdir(parents=True, exist_ok=True)
    async with operator(suite) as registry:
        token = (await registry.CreateJoinToken(pb.CreateJoinTokenRequest(org_id=org_id))).join_token
    socket = folder / "engine.sock"
    engine = [sys.executable, "-m", "crosslogic_sim_engine", "--uds", str(socket), "--step-ms", str(step_ms)]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CROSSLOGIC_")}
    environ = inherited | {
        "CROSSLOGIC_REGISTRY_TARGET": suite.target("registry"),
        "CROSSLOGIC_REGISTRY_JOIN_TARGET": suite.target("registry_join"),
        "CROSSLOGIC_JOIN_TOKEN": token,
        "CROSSLOGIC_TLS_CA_FILE": str(suite.run_dir.tls / "ca.pem"),
        "CROSSLOGIC_STATE_DIR": str(folder / "state"),
        "CROSSLOGIC_REGION": "local",
        "CROSSLOGIC_MODEL": suite.model_name,
        "CROSSLOGIC_ENGINE_URL": f"unix:{socket}",
        "CROSSLOGIC_ENGINE_COMMAND": json.dumps([*engine, "--model", suite.model_name, "--prefill-tps", "0"]),
        "CROSSLOGIC_MEASURE": "off",
        "CROSSLOGIC_MAX_TOKENS_PER_SEC": "2000",
        **({"CROSSLOGIC_TUNNEL": "1"} if tunnel else {"CROSSLOGIC_LISTEN": f"127.0.0.1:{free_port()}"}),
        **settings,
    }
    with (folder / "agent.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "crosslogic_node_agent", env=environ, stdout=log, stderr=log
        )
    try:
        yield JoinedNode(process, folder)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()


async def fleet(registry: "rpc.RegistryServiceAsyncStub") -> list[pb.Node]:
    """All nodes, as the registry knows them."""
    return list((await registry.ListNodes(pb.ListNodesRequest(page_size=1000))).nodes)


async def node_of(
    registry: "rpc.RegistryServiceAsyncStub",
    *,
    status: pb.NodeStatus.ValueType = pb.NODE_STATUS_ACTIVE,
    tunnel: bool | None = None,
    org_id: str | None = None,
    spot: bool | None = None,
    besides: Collection[str] = (),
    timeout_s: float = 40.0,
) -> pb.Node:
    """The node that is like this, once there is one. `besides` are ids of others: one that was killed is active yet."""
    async with asyncio.timeout(timeout_s):
        while True:
            for node in await fleet(registry):
                if (
                    node.status == status
                    and tunnel in (None, node.facts.tunnel)
                    and org_id in (None, node.org_id)
                    and spot in (None, node.facts.spot)
                    and node.id not in besides
                ):
                    return node
            await asyncio.sleep(0.02)
