"""What an experiment works on: a running suite, its clients, its ledger, and chance that a seed repeats."""

import asyncio
import json
import random
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from crosslogic.registry.v1 import registry_pb2
from crosslogic_dev.suite import Suite
from tests.chaos.clients import Asked, Client
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_sim import Sims

ROOT = Path(__file__).parents[2]
NODES = 3
STEP_MS = 50
IDLE_TIMEOUT_S = 3.0
FIRST_BYTE_TIMEOUT_S = 5.0
WITNESS_GRACE_S = 1.0
BACK_WITHIN_S = 60.0
STEADY_S = 1.0
NOTIFY_ALLOWED = "127.0.0.2/32"
"""Where operators let their notifications go, though it is not public."""


def chaos_suite(*, nodes: int = NODES, step_ms: float = STEP_MS) -> Suite:
    """The suite that experiments share: short time limits, simulated engines that generate a token each `step_ms`."""
    return Suite(
        engine="sim",
        nodes=nodes,
        root=ROOT,
        durable=False,
        sim_arguments=("--step-ms", str(step_ms), "--prefill-tps", "0"),
        settings={
            "orchestrator": {"CROSSLOGIC_NOTIFY_ALLOWED_NETWORKS": NOTIFY_ALLOWED},
            "accountant": {"CROSSLOGIC_WITNESS_GRACE_S": str(WITNESS_GRACE_S)},
            "registry": {"CROSSLOGIC_HEARTBEAT_INTERVAL_MS": "500"},
            "gateway": {
                "CROSSLOGIC_IDLE_TIMEOUT_S": str(IDLE_TIMEOUT_S),
                "CROSSLOGIC_FIRST_BYTE_TIMEOUT_S": str(FIRST_BYTE_TIMEOUT_S),
            },
        },
    )


@dataclass(slots=True)
class World:
    """One run of one experiment."""

    suite: Suite
    client: Client
    chance: random.Random
    size: float = 1.0
    """1: as the experiment is meant; less: the same with fewer requests and less time."""
    tokens: int = 40
    """Tokens of a usual answer."""

    def scaled(self, number: float, *, least: int = 1) -> int:
        """So many, or fewer in a small run."""
        return max(round(number * self.size), least)

    @property
    def ledger(self) -> Ledger:
        """The suite's ledger."""
        return Ledger(self.suite)

    @property
    def sims(self) -> Sims:
        """The suite's engines."""
        return Sims(self.suite)

    def a_request(self, number: int, *, stream: bool | None = None, max_tokens: int | None = None) -> Asked:
        """One of the kinds of request that can go on at another node, drawn by chance."""
        chance = self.chance
        words = " ".join(chance.choice(("red", "é", "漢字", "blue", "\U0001f600")) for _ in range(1 + number % 5))
        body: dict[str, Any] = {
            "model": self.suite.model_name,
            "max_tokens": max_tokens or self.tokens,
            "temperature": 0,
            "stream": chance.random() < 0.8 if stream is None else stream,
        }
        api = chance.choice(("chat", "completions"))
        if api == "chat":
            body["messages"] = [{"role": "user", "content": f"{number} {words}"}]
        else:
            body["prompt"] = f"{number} {words}"
        if chance.random() < 0.3:
            body["stop"] = chance.sample([" ba", "z d", "fi", " never said"], 2)
        if chance.random() < 0.2:
            body["return_token_ids"] = True
        if body["stream"]:
            options = chance.choice(({}, {"include_usage": True}, {"include_usage": True}))
            if options and chance.random() < 0.3:
                options = options | {"continuous_usage_stats": True}
            if options:
                body["stream_options"] = options
        return Asked(api, body)  # type: ignore[arg-type]

    def node_numbers(self) -> range:
        """Of all nodes."""
        return range(1, self.suite.nodes + 1)

    @contextmanager
    def everything_back(self) -> Iterator[None]:
        """Starts again, after the block, whatever node was killed in it, and waits until each takes requests."""
        try:
            yield
        finally:
            for number in self.node_numbers():
                if self.suite.pid(f"node_agent-{number}") is None:
                    self.suite.start(f"node_agent-{number}", wait=False)
            self.wait_active()

    def wait_active(self, *, timeout_s: float = BACK_WITHIN_S) -> None:
        """Returns when every node has taken requests for a second: the registry may take a dead one to be alive."""
        wanted = {self.suite.target(f"node_agent-{number}") for number in self.node_numbers()}
        with self.suite.operator() as client:
            until = time.monotonic() + timeout_s
            well_since = time.monotonic()
            while time.monotonic() - well_since < STEADY_S:
                told = _told(client, self.suite)
                missing = wanted - {node.facts.address for node in told if _takes_requests(node)}
                if missing or not self._engines_answer():
                    well_since = time.monotonic()
                assert time.monotonic() < until, f"not back after {timeout_s:.0f} s: {missing or 'an engine'}, {told}"
                time.sleep(0.05)

    def _engines_answer(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            for number in self.node_numbers():
                with opener.open(f"http://{self.suite.target(f'engine-{number}')}/health", timeout=2) as answer:
                    answer.read()
        except OSError:
            return False
        return True

    def signal_node(self, number: int, signal_number: signal.Signals) -> None:
        """To the agent and to its engine, as if the machine stopped."""
        for name in (f"node_agent-{number}", f"engine-{number}"):
            if self.suite.pid(name) is not None:
                self.suite.kill(name, signal_number)

    async def kill_node(self, number: int) -> None:
        """SIGKILL to the agent; its engine dies with it."""
        await asyncio.to_thread(self.suite.kill, f"node_agent-{number}")

    def set_faults(self, faults: dict[str, Any], *, numbers: Sequence[int] | None = None) -> None:
        """What the engines are to do wrong from now on."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for number in numbers or self.node_numbers():
            url = f"http://{self.suite.target(f'engine-{number}')}/sim/faults"
            request = urllib.request.Request(
                url, data=json.dumps(faults).encode(), headers={"Content-Type": "application/json"}
            )
            with opener.open(request, timeout=10) as answer:
                answer.read()

    def gateway_metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.suite.base_url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def _told(client: Any, suite: Suite) -> list[registry_pb2.Node]:
    """All nodes, as the registry knows them. None while it is away."""
    try:
        return list(client.nodes(suite.target("registry")))
    except grpc.RpcError:
        return []


def _takes_requests(node: registry_pb2.Node) -> bool:
    return node.status == registry_pb2.NODE_STATUS_ACTIVE and node.reachable
