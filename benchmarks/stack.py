"""The suite's processes for one run of the benchmarks: the gateway on its own core, everything else on the other."""

import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc.aio

from benchmarks.measure import Cores
from benchmarks.priority import ahead_of_others
from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic_common.tls import Channels, TlsFiles
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import HOST, free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.redis import start_redis
from crosslogic_dev.run_dir import RunDir

MODEL = "bench"
PACED_MODEL = "bench-paced"
"""Served with real agents only: their engine's pace is fixed when it starts."""
AGENTS = {MODEL: "node_agent-1", PACED_MODEL: "node_agent-2"}
_ENGINE_PACE = {MODEL: "0", PACED_MODEL: "100"}
"""Tokens per second of each stream; 0: as fast as it goes."""
REGION = "us-east"
LIMITS = identity_pb.Limits(requests_per_minute=10**9)
"""Counted for every request, and never reached."""
START_TIMEOUT_S = 40.0
ROOT = Path(__file__).resolve().parent.parent


class BenchError(Exception):
    """A benchmark cannot run; the message says why."""


@dataclass(slots=True)
class Stack:
    """Processes with their ports and certificates."""

    run_dir: RunDir
    table: ProcessTable
    ca: DevelopmentCa
    cores: Cores
    ports: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    api_key: str = ""
    redis_url: str = ""
    real_time: bool = False
    """Rows of low load run ahead of whatever else the machine does."""
    _tls: dict[str, TlsFiles] = field(default_factory=dict)

    def port(self, name: str) -> int:
        """The port of a process, chosen at first asking."""
        if name not in self.ports:
            self.ports[name] = free_port(exclude=set(self.ports.values()))
        return self.ports[name]

    def at(self, name: str) -> str:
        """host:port of a process."""
        return f"{HOST}:{self.port(name)}"

    def tls(self, name: str) -> TlsFiles:
        """The identity of a service, made at first asking."""
        if name not in self._tls:
            self._tls[name] = self.ca.service(name)
        return self._tls[name]

    def pid(self, name: str) -> int:
        """The number of a process that runs."""
        pid = self.table.pid(name)
        if pid is None:
            raise BenchError(f"{name} has ended:\n{self.table.tail(name, lines=20)}")
        return pid

    def start(self, name: str, *argv: str, environ: Mapping[str, str], core: int | None) -> int:
        """Starts a Python process and ties it to a core before it makes threads."""
        base = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "VIRTUAL_ENV")}
        pid = self.table.start(
            ProcessSpec(
                name=name,
                argv=(sys.executable, *argv),
                environ={**base, "PYTHONPATH": str(ROOT), **environ},
            )
        )
        if core is not None:
            os.sched_setaffinity(pid, {core})
        return pid

    def service_environ(self, name: str, **more: str) -> dict[str, str]:
        """What every service is told. `more` without the CROSSLOGIC_ prefix."""
        tls = self.tls(name)
        return {
            "CROSSLOGIC_LISTEN": self.at(name),
            "CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file),
            "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file),
            "CROSSLOGIC_TLS_CA_FILE": str(tls.ca_file),
            "CROSSLOGIC_LOG_LEVEL": "WARNING",
            "CROSSLOGIC_SHUTDOWN_GRACE_S": "2",
            "CROSSLOGIC_MIGRATE": "1",
            **{f"CROSSLOGIC_{key}": value for key, value in more.items()},
        }

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """For rows of low load: with real-time priority, if that was asked for."""
        if not self.real_time:
            yield
            return
        note = "rows of low load ran with real-time priority"
        if note not in self.notes:
            self.notes.append(note)
        with ahead_of_others([self.pid(name) for name in self.table.names()]):
            yield

    async def wait_listening(self, name: str) -> None:
        """Returns once the process accepts connections."""
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            self.pid(name)
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, self.port(name))
                writer.close()
                return
            if time.monotonic() > until:
                raise BenchError(f"{name} does not listen:\n{self.table.tail(name, lines=20)}")
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def empty_stack() -> Iterator[Stack]:
    """A folder and nothing running; whatever is started in it ends with the block."""
    cores = Cores.of_this_machine()
    before = os.sched_getaffinity(0)
    if cores.others is not None:
        # Children inherit it: databases, load generators, everything but the gateway.
        os.sched_setaffinity(0, {cores.others})
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        stack = Stack(run_dir, ProcessTable(run_dir), DevelopmentCa(run_dir.tls), cores)
        if cores.gateway is None:
            stack.notes.append("one core only: everything shared it")
        try:
            yield stack
        finally:
            names = stack.table.names()
            stack.table.stop([name for name in names if name != "postgres"], grace_s=8.0)
            stack.table.stop([name for name in names if name == "postgres"], number=signal.SIGINT)
            os.sched_setaffinity(0, before)


async def start_accountant(stack: Stack, database_url: str, redis_url: str) -> None:
    """The accountant; while there is none, a stand-in that acknowledges and keeps nothing."""
    environ = stack.service_environ("accountant")
    environ |= {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CROSSLOGIC_SEAL_KEY_FILE": str(stack.run_dir.secret_file("seal_key")),
    }
    if importlib.util.find_spec("crosslogic_accountant.__main__") is not None:
        stack.start("accountant", "-m", "crosslogic_accountant", environ=environ, core=stack.cores.others)
    else:
        stack.notes.append("no accountant yet: a stand-in acknowledged the records and stored none")
        stack.start("accountant", "-m", "benchmarks.stub_accountant", environ=environ, core=stack.cores.others)
    await stack.wait_listening("accountant")


async def start_suite(stack: Stack, *, real_agents: bool) -> None:
    """Databases, every service, an organisation with a key, and one bench node or two real agents with engines."""
    database_url = start_postgres(stack.table, stack.run_dir, port=stack.port("postgres"), durable=True)
    redis_url = start_redis(stack.table, stack.run_dir, port=stack.port("redis"))
    stack.run_dir.secret_file("seal_key", base64.b64encode(secrets.token_bytes(32)).decode())
    others = stack.cores.others
    databases = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    await start_accountant(stack, database_url, redis_url)
    stack.start(
        "identity", "-m", "crosslogic_identity", environ={**stack.service_environ("identity"), **databases}, core=others
    )
    node_ca = stack.ca.node_ca()
    registry = stack.service_environ(
        "registry",
        JOIN_LISTEN=stack.at("registry_join"),
        ACCOUNTANT_TARGET=stack.at("accountant"),
        NODE_CA_CERT_FILE=str(node_ca.cert_file),
        NODE_CA_KEY_FILE=str(node_ca.key_file),
    )
    stack.start("registry", "-m", "crosslogic_registry", environ={**registry, **databases}, core=others)
    scheduler = stack.service_environ("scheduler", REGISTRY_TARGET=stack.at("registry"))
    stack.start("scheduler", "-m", "crosslogic_scheduler", environ=scheduler, core=others)
    for name in ("identity", "registry", "scheduler"):
        await stack.wait_listening(name)
    models = tuple(AGENTS) if real_agents else (MODEL,)
    join_tokens = await _seed(stack, models)
    for model, join_token in zip(models, join_tokens, strict=True):
        if real_agents:
            await _start_agent(stack, model, join_token)
        else:
            await _start_node(stack, "node-1", join_token)
    stack.redis_url = redis_url
    await start_gateway(stack, "gateway", "crosslogic_gateway")
    for model in models:
        await _wait_answering(stack, model)


async def start_gateway(stack: Stack, name: str, module: str) -> None:
    """A gateway on the gateway's core, called `name`; `module` runs it."""
    environ = stack.service_environ(
        name,
        HTTP_LISTEN=stack.at(name),
        ADMIN_TOKEN=secrets.token_urlsafe(24),
        SEAL_KEY_FILE=str(stack.run_dir.secret_file("seal_key")),
        **{f"{other.upper()}_TARGET": stack.at(other) for other in ("identity", "registry", "scheduler", "accountant")},
    )
    environ |= {"REDIS_URL": stack.redis_url}
    tls = stack.tls("gateway")
    environ |= {"CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file), "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file)}
    stack.start(name, "-m", module, environ=environ, core=stack.cores.gateway)
    await stack.wait_listening(name)


async def _start_node(stack: Stack, name: str, join_token: str) -> None:
    environ = {
        "BENCH_LISTEN": stack.at(name),
        "BENCH_HTTP_LISTEN": stack.at("engine"),
        "BENCH_REGISTRY_TARGET": stack.at("registry"),
        "BENCH_JOIN_TARGET": stack.at("registry_join"),
        "BENCH_JOIN_TOKEN": join_token,
        "BENCH_CA_FILE": str(stack.ca.root_file),
        "BENCH_STATE_DIR": str(stack.run_dir.path / name),
        "BENCH_MODEL": MODEL,
        "BENCH_REGION": REGION,
    }
    stack.start(name, "-m", "benchmarks.bench_node", environ=environ, core=stack.cores.others)
    await stack.wait_listening(name)


async def _start_agent(stack: Stack, model: str, join_token: str) -> None:
    """The real node agent with the simulated engine, as `make up` starts them."""
    name = AGENTS[model]
    engine = name.replace("node_agent", "engine")
    port = str(stack.port(engine))
    command = [sys.executable, "-m", "crosslogic_sim_engine", "--port", port, "--model", model]
    command += ["--prefill-tps", "0", "--decode-tps", _ENGINE_PACE[model]]
    environ = {
        "CROSSLOGIC_LISTEN": stack.at(name),
        "CROSSLOGIC_REGISTRY_TARGET": stack.at("registry"),
        "CROSSLOGIC_REGISTRY_JOIN_TARGET": stack.at("registry_join"),
        "CROSSLOGIC_JOIN_TOKEN": join_token,
        "CROSSLOGIC_TLS_CA_FILE": str(stack.ca.root_file),
        "CROSSLOGIC_STATE_DIR": str(stack.run_dir.state_dir(name)),
        "CROSSLOGIC_REGION": REGION,
        "CROSSLOGIC_MODEL": model,
        "CROSSLOGIC_MEASURE": "off",
        "CROSSLOGIC_MAX_TOKENS_PER_SEC": "100000",
        "CROSSLOGIC_LOG_LEVEL": "WARNING",
        "CROSSLOGIC_SHUTDOWN_GRACE_S": "2",
        "CROSSLOGIC_ENGINE_URL": f"http://{stack.at(engine)}",
        "CROSSLOGIC_ENGINE_COMMAND": json.dumps(command),
        "CROSSLOGIC_ENGINE_PID_FILE": str(stack.run_dir.pid_file(engine)),
        "CROSSLOGIC_ENGINE_LOG_FILE": str(stack.run_dir.log_file(engine)),
    }
    stack.start(name, "-m", "crosslogic_node_agent", environ=environ, core=stack.cores.others)
    await stack.wait_listening(name)


async def _seed(stack: Stack, models: Sequence[str]) -> list[str]:
    """An organisation with a key, the models, and a join token for each, made by the operator's certificate."""
    channels = Channels(stack.tls("operator"))
    try:
        identity = identity_rpc.IdentityServiceStub(channels.service("identity", stack.at("identity")))
        org = await identity.CreateOrg(
            identity_pb.CreateOrgRequest(name="bench", limits=LIMITS), timeout=20, wait_for_ready=True
        )
        environment = await identity.CreateEnvironment(
            identity_pb.CreateEnvironmentRequest(org_id=org.org.id, name="bench", limits=LIMITS), timeout=20
        )
        key = await identity.CreateApiKey(
            identity_pb.CreateApiKeyRequest(environment_id=environment.environment.id, name="bench", limits=LIMITS),
            timeout=20,
        )
        stack.api_key = key.secret
        registry = registry_rpc.RegistryServiceStub(channels.service("registry", stack.at("registry")))
        join_tokens: list[str] = []
        for name in models:
            model = registry_pb.Model(
                name=name,
                family="bench",
                context_length=8192,
                prompt_price_picodollars=50_000,
                completion_price_picodollars=100_000,
            )
            await registry.CreateModel(registry_pb.CreateModelRequest(model=model), timeout=20, wait_for_ready=True)
            token = await registry.CreateJoinToken(registry_pb.CreateJoinTokenRequest(), timeout=20)
            join_tokens.append(token.join_token)
        return join_tokens
    except grpc.aio.AioRpcError as error:
        raise BenchError(f"the suite cannot be seeded: {error.code().name} {error.details()}") from error
    finally:
        await channels.close()


async def _wait_answering(stack: Stack, model: str) -> None:
    """Returns once a whole request has gone through every service."""
    until = time.monotonic() + START_TIMEOUT_S
    headers = {"authorization": f"Bearer {stack.api_key}"}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    async with aiohttp.ClientSession() as session:
        while True:
            seen = ""
            try:
                async with session.post(
                    f"http://{stack.at('gateway')}/v1/chat/completions", json=body, headers=headers
                ) as answer:
                    seen = f"{answer.status} {await answer.text()}"
                    if answer.status == 200:
                        return
            except aiohttp.ClientError as error:
                seen = repr(error)
            if time.monotonic() > until:
                raise BenchError(f"the gateway does not answer: {seen}\n{stack.table.tail('gateway', lines=20)}")
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running_suite(*, real_agents: bool = False, real_time: bool = False) -> AsyncIterator[Stack]:
    """The whole suite, for as long as the block lasts."""
    with empty_stack() as stack:
        stack.real_time = real_time
        await start_suite(stack, real_agents=real_agents)
        yield stack
