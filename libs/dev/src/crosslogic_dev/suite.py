"""A whole suite for tests and benchmarks: in a folder of its own, on free ports, gone at the end."""

import os
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from crosslogic_common.tls import TlsFiles
from crosslogic_dev.admin_api import AdminApi
from crosslogic_dev.certificates import OPERATOR, service_files
from crosslogic_dev.failure import DevError
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import EngineKind
from crosslogic_dev.processes import ProcessSpec
from crosslogic_dev.progress import Progress, no_progress
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.stack import Running, Stack, Wishes
from crosslogic_dev.topology import SERVICES
from crosslogic_dev.waiting import wait_until

_NOT_FOR_TESTS = ("CROSSLOGIC_", "DATABASE_URL", "REDIS_URL")


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a test's surroundings may decide: everything but the suite itself and where its data goes."""
    return {key: value for key, value in environ.items() if not key.startswith(_NOT_FOR_TESTS)}


@dataclass(slots=True, kw_only=True)
class Suite:
    """`with Suite(engine="sim", nodes=2) as suite:` starts everything and stops everything."""

    engine: EngineKind = "sim"
    nodes: int = 1
    tunnel: bool = False
    """Nodes dial the gateway and listen nowhere."""
    model: str = ""
    root: Path = field(default_factory=Path.cwd)
    """The checkout, where vLLM's virtual environment lies or is made."""
    environ: Mapping[str, str] = field(default_factory=lambda: _inherited(os.environ), repr=False)
    """The environment that the processes inherit."""
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More settings by process name or kind: `{"registry": {"CROSSLOGIC_DEAD_S": "2"}, "node_agent-2": {...}}`."""
    interpreters: Mapping[str, str] = field(default_factory=dict)
    """The Python of a kind of process that has an environment of its own: `{"gateway": "/x/bin/python"}`."""
    sim_arguments: tuple[str, ...] = ()
    """More options of the simulated engine."""
    durable: bool = True
    """Whether PostgreSQL forces commits to the disk."""
    progress: Progress = no_progress
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False, repr=False)
    _stack: Stack | None = field(default=None, init=False, repr=False)
    _running: Running | None = field(default=None, init=False, repr=False)
    _beside: dict[str, ProcessSpec] = field(default_factory=dict, init=False, repr=False)
    _retuned: dict[str, dict[str, str]] = field(default_factory=dict, init=False, repr=False)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="cl-suite-")
        Path(self._folder.name).chmod(0o711)
        wishes = Wishes(
            root=self.root,
            run_dir=RunDir(Path(self._folder.name) / ".run"),
            engine=self.engine,
            model=self.model,
            nodes=self.nodes,
            tunnel=self.tunnel,
            free_ports=True,
            durable=self.durable,
            environ=_inherited(self.environ),
            settings=self.settings,
            interpreters=self.interpreters,
            sim_arguments=self.sim_arguments,
        )
        self._stack = Stack(wishes, self.progress)
        try:
            self._running = self._stack.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process and removes the folder."""
        if self._folder is not None:
            self._the_stack.end_at_once()
            self._folder.cleanup()
            self._folder = None

    @property
    def base_url(self) -> str:
        """Where the gateway is, without `/v1`."""
        return self._up.plan.base_url

    @property
    def api_key(self) -> str:
        """A live key of the seeded organisation."""
        return self._up.api_key

    @property
    def admin(self) -> AdminApi:
        """The admin API."""
        return self._up.api

    @property
    def model_name(self) -> str:
        """What the engine serves, by its name in the catalogue."""
        return self._up.topology.engine.model

    @property
    def org_id(self) -> str:
        """The seeded organisation."""
        return self._up.plan.org_id

    @property
    def environment_id(self) -> str:
        """The seeded environment."""
        return self._up.plan.environment_id

    @property
    def database_url(self) -> str:
        """PostgreSQL."""
        return self._up.topology.database_url

    @property
    def redis_url(self) -> str:
        """Redis."""
        return self._up.topology.redis_url

    @property
    def run_dir(self) -> RunDir:
        """Where pids and logs are."""
        return self._up.topology.run_dir

    def target(self, name: str) -> str:
        """host:port of a process, for example `registry`, `registry_join`, `node_agent-1`, `engine-1`."""
        return self._up.plan.target(name)

    def tls(self, name: str = OPERATOR) -> TlsFiles:
        """The certificate files of a service."""
        return service_files(self.run_dir.tls, name)

    def operator(self) -> OperatorClient:
        """A gRPC client with the operator's certificate; a context manager."""
        return OperatorClient(self.tls())

    def pid(self, name: str) -> int | None:
        """The process's number while it runs: `gateway`, `postgres`, `redis`, `node_agent-1`, `engine-1`, ..."""
        return self._the_stack.table.pid(name)

    def log(self, name: str) -> str:
        """All that a process printed."""
        file = self.run_dir.log_file(name)
        return file.read_text(errors="replace") if file.exists() else ""

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal; SIGKILL and SIGTERM also wait until the process is gone."""
        if not self._the_stack.table.send(name, number):
            raise DevError(f"{name} does not run.")
        ends = number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        if ends and not wait_until(lambda: self.pid(name) is None, timeout_s=40.0, poll_s=0.01):
            raise DevError(f"{name} is still there 40 s after {number.name}.")

    def start(self, name: str, *, wait: bool = True) -> None:
        """Starts a process that was killed; `wait`: until it says that it serves (services and the gateway)."""
        if name in ("postgres", "redis"):
            self._the_stack.start_store(name, self._up.plan)
            return
        self._the_stack.table.start(self._spec(name))
        if wait and (name in SERVICES or name == "gateway"):
            with self.operator() as client:
                self._the_stack.wait_service(name, self._up.plan, client, self.admin)

    def start_beside(self, name: str, other: str, **settings: str) -> None:
        """Starts one more process of a service as `other`, with `settings` in place of some of its own.

        It is known by that name from then on; nobody waits for it.
        """
        spec = self._spec(name)
        self._beside[other] = replace(spec, name=other, environ={**spec.environ, **settings})
        self._the_stack.table.start(self._beside[other])

    def retune(self, name: str, **settings: str) -> None:
        """Sets settings that a process has from its next start on, in place of those set here before."""
        self._retuned[name] = settings

    def restart(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills a process and starts it again."""
        self.kill(name, number)
        self.start(name)

    def _spec(self, name: str) -> ProcessSpec:
        for spec in (*self._up.topology.specs(), *self._beside.values()):
            if spec.name == name:
                return replace(spec, environ={**spec.environ, **self._retuned.get(name, {})})
        raise DevError(f"There is no process {name}.")

    @property
    def _up(self) -> Running:
        if self._running is None:
            raise DevError("The suite does not run: use it as a context manager.")
        return self._running

    @property
    def _the_stack(self) -> Stack:
        if self._stack is None:
            raise DevError("The suite does not run: use it as a context manager.")
        return self._stack
