"""Brings a suite up, step by step."""

import base64
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

from crosslogic.registry.v1 import registry_pb2
from crosslogic_dev import postgres, redis
from crosslogic_dev.admin_api import AdminApi
from crosslogic_dev.certificates import OPERATOR, DevelopmentCa
from crosslogic_dev.engines import ENGINE_VENV, prepare_engine
from crosslogic_dev.env_file import read_env, write_env
from crosslogic_dev.failure import DevError
from crosslogic_dev.machines import forget_machines, stop_machines
from crosslogic_dev.machines_up import MachinesUp
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import Plan, decide
from crosslogic_dev.ports import plan_ports, refuse_taken
from crosslogic_dev.preflight import check_compiler, check_disk
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.progress import Progress
from crosslogic_dev.run_dir import RunDir, write_private
from crosslogic_dev.seeding import seed
from crosslogic_dev.stores import given_server, open_stores
from crosslogic_dev.teardown import end_at_once, take_down
from crosslogic_dev.topology import GATEWAY, SERVICES, Topology
from crosslogic_dev.waiting import wait_until

_SERVICE_START_TIMEOUT_S = 90.0
_MACHINE_GRACE_S = 10.0
_SAY_SO_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for. None: as it runs, or the default."""

    root: Path
    """The checkout, where the engine's virtual environment lies."""
    run_dir: RunDir
    engine: str | None = None
    model: str | None = None
    nodes: int | None = None
    tunnel: bool | None = None
    free_ports: bool = False
    durable: bool = True
    """Whether PostgreSQL forces commits to the disk."""
    machines: bool = False
    """The orchestrator launches the nodes and keeps them; otherwise they are processes with a name and a port each."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More settings by process name or kind, for tests."""
    interpreters: Mapping[str, str] = field(default_factory=dict)
    """The Python of a kind of process that has an environment of its own, for tests."""
    sim_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A suite that runs."""

    plan: Plan
    topology: Topology
    api: AdminApi
    api_key: str = field(repr=False)
    changed: bool
    """Whether anything had to be started."""


class Stack:
    """The suite in one run folder."""

    def __init__(self, wishes: Wishes, progress: Progress) -> None:
        self._wishes = wishes
        self._run_dir = wishes.run_dir
        self._progress = progress
        self._started: list[str] = []
        self.table = ProcessTable(wishes.run_dir)

    def up(self) -> Running:
        """Starts what does not run yet and waits until requests are answered. Raises DevError."""
        try:
            self._run_dir.make()
            with _only_one(self._run_dir.path / "lock"):
                return self._up()
        except OSError as error:
            raise DevError(f"{error.strerror or error}: {error.filename or self._run_dir.path}") from error

    def stop_all(self) -> None:
        """Stops every process that was started here or that has a pid file."""
        take_down(self._run_dir, self._progress, table=self.table)

    def end_at_once(self) -> None:
        """The same without asking anybody, for a suite whose requests and data are of no more use."""
        # vLLM leaves shared memory behind when it is killed.
        if self._wishes.engine == "vllm":
            self.stop_all()
        else:
            end_at_once(self._run_dir, self.table)

    def start_store(self, name: str, plan: Plan) -> None:
        """Starts PostgreSQL or Redis again, with its data."""
        if name == postgres.NAME:
            postgres.start_postgres(self.table, self._run_dir, port=plan.ports[name], durable=self._wishes.durable)
        else:
            redis.start_redis(self.table, self._run_dir, port=plan.ports[name])

    def _up(self) -> Running:
        wishes, begun = self._wishes, time.time()
        known = Plan.load(self._run_dir)
        running = any(self.table.pid(name) is not None for name in self.table.names())
        plan = decide(
            known=known,
            running=running,
            engine=wishes.engine,
            model=wishes.model,
            nodes=wishes.nodes,
            tunnel=wishes.tunnel,
            machines=wishes.machines,
        )
        ports = plan_ports(
            nodes=plan.numbered_nodes,
            environ=wishes.environ,
            known=plan.ports if running else {},
            free=wishes.free_ports,
        )
        plan = plan.with_ports(ports)
        self._check_machine(plan)
        self._check_ports(plan)
        engine = prepare_engine(
            plan,
            root=wishes.root,
            environ=wishes.environ,
            progress=self._progress,
            sim_arguments=wishes.sim_arguments,
        )
        # Again: an engine that had to be installed took minutes, in which somebody may have taken one.
        self._check_ports(plan)
        plan.save(self._run_dir)
        if not running:
            # Those of a suite that is gone would look for it where it no longer is.
            stop_machines(self._run_dir, grace_s=_MACHINE_GRACE_S)
            forget_machines(self._run_dir)
        stores = open_stores(
            plan,
            table=self.table,
            run_dir=self._run_dir,
            environ=wishes.environ,
            durable=wishes.durable,
            progress=self._progress,
        )
        self._started += stores.started
        ca = DevelopmentCa(self._run_dir.tls)
        topology = Topology(
            plan=plan,
            run_dir=self._run_dir,
            database_url=stores.database_url,
            redis_url=stores.redis_url,
            node_ca=ca.node_ca(),
            engine=engine,
            environ=wishes.environ,
            extra=wishes.settings,
            interpreters=wishes.interpreters,
        )
        self._make_identities(ca)
        api = AdminApi(plan.base_url, self._run_dir.secret("admin_token"))
        with OperatorClient(ca.service(OPERATOR)) as client:
            self._start_services(topology, client, api)
            self._start_nodes(topology, client)
            known_key = read_env(self._run_dir).get("CROSSLOGIC_API_KEY", "")
            seeded = seed(api, plan, model=engine.model, context_length=engine.context_length, api_key=known_key)
            seeded.plan.save(self._run_dir)
            if seeded.api_key != known_key:
                self._progress("made an organisation, an environment and an API key through the admin API")
            topology = replace(topology, plan=seeded.plan)
            if plan.machines:
                topology = replace(
                    topology, plan=self._launch_machines(topology, client, begun=begun, fresh=not running)
                )
            else:
                self._wait_nodes(topology, client)
        self._wait_served(api, seeded.api_key, engine.model)
        values = {
            "CROSSLOGIC_BASE_URL": plan.base_url,
            "CROSSLOGIC_API_KEY": seeded.api_key,
            "CROSSLOGIC_ADMIN_TOKEN": api.token,
            "DATABASE_URL": stores.database_url,
            "REDIS_URL": stores.redis_url,
        }
        write_env(self._run_dir, values)
        return Running(
            plan=topology.plan,
            topology=topology,
            api=api,
            api_key=seeded.api_key,
            changed=bool(self._started),
        )

    def _check_machine(self, plan: Plan) -> None:
        installed = (self._wishes.root / ENGINE_VENV).exists()
        check_disk(self._run_dir.path, engine=plan.engine, engine_installed=installed)
        if plan.engine == "vllm":
            check_compiler(self._wishes.environ)

    def _check_ports(self, plan: Plan) -> None:
        servers = {"postgres": "DATABASE_URL", "redis": "REDIS_URL"}
        for name, port in plan.ports.items():
            if name in servers and given_server(servers[name], self._wishes.environ, self._run_dir):
                continue
            owner = name.replace("_metrics", "").removesuffix("_join").removesuffix("_webhook").removesuffix("_tunnel")
            if self.table.pid(owner) is None:
                refuse_taken(name, port)

    def _make_identities(self, ca: DevelopmentCa) -> None:
        for name in (*SERVICES, GATEWAY, OPERATOR):
            ca.service(name)
        for name in ("seal_key", "notify_key"):
            self._run_dir.secret_file(name, base64.b64encode(secrets.token_bytes(32)).decode())

    def _start_services(self, topology: Topology, client: OperatorClient, api: AdminApi) -> None:
        fresh = [name for name in (*SERVICES, GATEWAY) if self._start(topology.service(name))]
        for name in (*SERVICES, GATEWAY):
            self.wait_service(name, topology.plan, client, api)
            if name in fresh:
                self._progress(f"{name} is ready on port {topology.plan.ports[name]}")

    def _start_nodes(self, topology: Topology, client: OperatorClient) -> None:
        for number in topology.plan.node_numbers:
            if self.table.pid(f"node_agent-{number}") is None:
                token = client.join_token(topology.plan.target("registry"))
                write_private(topology.join_token_file(number), token + "\n")
                topology.run_dir.state_dir(f"node_agent-{number}").mkdir(parents=True, exist_ok=True)
                self._start(topology.node_agent(number))
                self._progress(f"node_agent-{number} joins and starts its engine ({topology.plan.engine})")

    def _launch_machines(self, topology: Topology, client: OperatorClient, *, begun: float, fresh: bool) -> Plan:
        launching = MachinesUp(topology=topology, client=client, table=self.table, progress=self._progress, begun=begun)
        self._started += launching.bring_up(fresh=fresh)
        return launching.plan

    def _wait_nodes(self, topology: Topology, client: OperatorClient) -> None:
        begin = time.monotonic()
        said_at = begin
        plan, timeout_s = topology.plan, topology.engine.start_timeout_s
        missing = {plan.target(f"node_agent-{number}"): f"node_agent-{number}" for number in plan.node_numbers}
        tunnels: set[str] = set()
        while True:
            for node in _active_nodes(client, plan):
                # A node behind a tunnel has no address: which of them it is does not matter.
                if node.facts.tunnel and missing and node.id not in tunnels:
                    tunnels.add(node.id)
                    name: str | None = missing.pop(next(iter(missing)))
                else:
                    name = missing.pop(node.facts.address, None)
                if name is not None and name in self._started:
                    self._progress(f"{name} is active: {node.facts.max_tokens_per_sec:.0f} tokens/s measured")
            if not missing:
                return
            for name in missing.values():
                if self.table.pid(name) is None:
                    raise DevError(f"{name} ended while starting; {self._said(name)}")
            now = time.monotonic()
            if now - begin > timeout_s:
                name = next(iter(missing.values()))
                engine = name.replace("node_agent", "engine")
                raise DevError(
                    f"{name} is not active after {timeout_s:.0f} s; {self._said(name)}\n{self._said(engine)}"
                )
            if now - said_at > _SAY_SO_EVERY_S:
                said_at = now
                self._progress(f"waiting for {', '.join(missing.values())} ({now - begin:.0f} s)")
            time.sleep(0.1)

    def wait_service(self, name: str, plan: Plan, client: OperatorClient, api: AdminApi) -> None:
        """Waits until a service says that it serves. Raises DevError with the end of its log when it does not."""

        def up() -> bool:
            if self.table.pid(name) is None:
                raise DevError(f"{name} ended while starting; {self._said(name)}")
            return api.ready() if name == GATEWAY else client.healthy(name, plan.target(name))

        if not wait_until(up, timeout_s=_SERVICE_START_TIMEOUT_S):
            raise DevError(f"{name} is not ready after {_SERVICE_START_TIMEOUT_S:.0f} s; {self._said(name)}")

    def _wait_served(self, api: AdminApi, api_key: str, model: str) -> None:
        """The gateway hears of keys and models by push: the last moment before a pasted line would work."""
        if not wait_until(lambda: model in api.models_of(api_key), timeout_s=15.0):
            raise DevError(f"The gateway does not offer {model!r} to the key that was made; {self._said(GATEWAY)}")

    def _start(self, spec: ProcessSpec) -> bool:
        if self.table.pid(spec.name) is not None:
            return False
        self.table.start(spec)
        self._started.append(spec.name)
        return True

    def _said(self, name: str) -> str:
        return f"{self._run_dir.log_file(name)} ends with:\n{self.table.tail(name)}"


def _active_nodes(client: OperatorClient, plan: Plan) -> list[registry_pb2.Node]:
    try:
        nodes = client.nodes(plan.target("registry"))
    except grpc.RpcError:
        return []
    return [node for node in nodes if node.status == registry_pb2.NODE_STATUS_ACTIVE and node.reachable]


@contextmanager
def _only_one(lock_file: Path) -> Iterator[None]:
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevError("Another `make up` or `make down` is at work here: wait for it.") from None
        yield
