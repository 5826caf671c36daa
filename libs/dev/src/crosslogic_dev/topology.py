"""How every process of the suite is started: its command and its settings, from the plan alone."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosslogic_common.process import PROCESS_ENVIRONMENT
from crosslogic_dev.certificates import CaFiles, service_files
from crosslogic_dev.engines import EngineCommand
from crosslogic_dev.plan import Plan
from crosslogic_dev.ports import MAX_NODES
from crosslogic_dev.processes import RUN_DIR_MARK, ProcessSpec
from crosslogic_dev.run_dir import RunDir

SERVICES = ("identity", "registry", "scheduler", "accountant", "billing", "orchestrator")
GATEWAY = "gateway"
REGION = "local"
_MORE_MACHINES = 16
"""Beyond those of `make up`: for replacements and for what somebody launches by hand."""
_JOIN_TIMEOUT_S = 120
_LOOK_AT_MACHINES_S = 2
"""A machine that was killed is missed after so long, and replaced after as long again."""
# A shell that read `.run/env` must not pass these on: each process is told its own.
_NOT_INHERITED = frozenset(
    {"CROSSLOGIC_BASE_URL", "CROSSLOGIC_API_KEY", "CROSSLOGIC_ADMIN_TOKEN", "DATABASE_URL", "REDIS_URL"}
    | {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The suite's processes."""

    plan: Plan
    run_dir: RunDir
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    node_ca: CaFiles
    engine: EngineCommand
    environ: Mapping[str, str] = field(repr=False)
    """The environment of whoever starts the suite."""
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More settings, by process name or kind (`gateway`, `node_agent`, `node_agent-2`), for tests."""
    interpreters: Mapping[str, str] = field(default_factory=dict)
    """The Python of a kind of process that has an environment of its own, for tests."""

    def specs(self) -> list[ProcessSpec]:
        """Every process but PostgreSQL and Redis, in the order in which they are started."""
        return [*(self.service(name) for name in (*SERVICES, GATEWAY)), *map(self.node_agent, self.plan.node_numbers)]

    def service(self, name: str) -> ProcessSpec:
        """One of the control plane."""
        own: dict[str, str] = {
            **self._tls(name),
            **{f"CROSSLOGIC_{other.upper()}_TARGET": self.plan.target(other) for other in SERVICES if other != name},
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "CROSSLOGIC_MIGRATE": "1",
        }
        if name == GATEWAY:
            own["CROSSLOGIC_HTTP_LISTEN"] = self.plan.target(GATEWAY)
            own["CROSSLOGIC_ADMIN_TOKEN_FILE"] = str(self.run_dir.secret_file("admin_token"))
            if self.plan.tunnel:
                own["CROSSLOGIC_TUNNEL_LISTEN"] = self.plan.target("gateway_tunnel")
        else:
            own["CROSSLOGIC_LISTEN"] = self.plan.target(name)
            own["CROSSLOGIC_METRICS_LISTEN"] = self.plan.target(f"{name}_metrics")
        if name == "registry":
            own["CROSSLOGIC_JOIN_LISTEN"] = self.plan.target("registry_join")
            own["CROSSLOGIC_NODE_CA_CERT_FILE"] = str(self.node_ca.cert_file)
            own["CROSSLOGIC_NODE_CA_KEY_FILE"] = str(self.node_ca.key_file)
        if name == "orchestrator":
            own["CROSSLOGIC_NOTIFY_SEAL_KEY_FILE"] = str(self.run_dir.secret_file("notify_key"))
            own["CROSSLOGIC_LOCAL_DIR"] = str(self.run_dir.machines)
            own["CROSSLOGIC_LOCAL_AGENT_ENV"] = json.dumps(self._machine_environ())
            own |= self._looking_after_machines() if self.plan.machines else {}
        if name == "billing":
            own["CROSSLOGIC_WEBHOOK_LISTEN"] = self.plan.target("billing_webhook")
            own |= {key: value for key, value in self.environ.items() if key.startswith("STRIPE_")}
        if name in (GATEWAY, "accountant"):
            own["CROSSLOGIC_SEAL_KEY_FILE"] = str(self.run_dir.secret_file("seal_key"))
        return self._spec(name, name, own)

    def node_agent(self, number: int) -> ProcessSpec:
        """The agent of a node, which starts and supervises its engine."""
        engine_port = self.plan.ports[f"engine-{number}"]
        own = {
            "CROSSLOGIC_TLS_CA_FILE": str(self.run_dir.tls / "ca.pem"),
            **self._reached(number),
            "CROSSLOGIC_METRICS_LISTEN": self.plan.target(f"node_agent_metrics-{number}"),
            "CROSSLOGIC_REGISTRY_TARGET": self.plan.target("registry"),
            "CROSSLOGIC_REGISTRY_JOIN_TARGET": self.plan.target("registry_join"),
            "CROSSLOGIC_JOIN_TOKEN_FILE": str(self.join_token_file(number)),
            "CROSSLOGIC_STATE_DIR": str(self.run_dir.state_dir(f"node_agent-{number}")),
            "CROSSLOGIC_REGION": REGION,
            "CROSSLOGIC_MODEL": self.engine.model,
            "CROSSLOGIC_ENGINE_URL": f"http://{self.plan.target(f'engine-{number}')}",
            "CROSSLOGIC_ENGINE_COMMAND": json.dumps(self.engine.argv(engine_port)),
            "CROSSLOGIC_ENGINE_PID_FILE": str(self.run_dir.pid_file(f"engine-{number}")),
            "CROSSLOGIC_ENGINE_LOG_FILE": str(self.run_dir.log_file(f"engine-{number}")),
            "CROSSLOGIC_ENGINE_ENV": json.dumps(dict(self.engine.environ)),
        }
        return self._spec(f"node_agent-{number}", "node_agent", own)

    def _reached(self, number: int) -> dict[str, str]:
        """How gateways reach a node: they dial it, or it dials them and listens nowhere."""
        if self.plan.tunnel:
            return {"CROSSLOGIC_TUNNEL": "1"}
        own = self.plan.target(f"node_agent-{number}")
        return {"CROSSLOGIC_LISTEN": own, "CROSSLOGIC_ADVERTISE": own}

    def _machine_environ(self) -> dict[str, str]:
        """What every agent has that the orchestrator starts; `{port}` is for its engine's port."""
        return {
            **self._inherited(),
            **({"CROSSLOGIC_TUNNEL": "1"} if self.plan.tunnel else {}),
            RUN_DIR_MARK: str(self.run_dir.path),
            "CROSSLOGIC_TLS_CA_FILE": str(self.run_dir.tls / "ca.pem"),
            "CROSSLOGIC_REGISTRY_TARGET": self.plan.target("registry"),
            "CROSSLOGIC_REGISTRY_JOIN_TARGET": self.plan.target("registry_join"),
            # `touch state/spot-notice` in a machine's folder tries out what happens when a cloud takes it back.
            "CROSSLOGIC_SPOT_SOURCES": "file",
            "CROSSLOGIC_ENGINE_URL": "http://127.0.0.1:{port}",
            "CROSSLOGIC_ENGINE_COMMAND": json.dumps(self.engine.argv("{port}")),
            "CROSSLOGIC_ENGINE_ENV": json.dumps(dict(self.engine.environ)),
            **self.extra.get("machine", {}),
        }

    def _looking_after_machines(self) -> dict[str, str]:
        """How the orchestrator treats the machines of `make up`, unless told otherwise: somebody waits for them."""
        defaults = {
            "CROSSLOGIC_LOCAL_MAX_MACHINES": str(MAX_NODES + _MORE_MACHINES),
            "CROSSLOGIC_PROVISION_TIMEOUT_S": str(_JOIN_TIMEOUT_S),
            "CROSSLOGIC_LOAD_TIMEOUT_S": f"{self.engine.start_timeout_s:g}",
            "CROSSLOGIC_SWEEP_S": str(_LOOK_AT_MACHINES_S),
            "CROSSLOGIC_SCALE_S": str(_LOOK_AT_MACHINES_S),
        }
        return {name: self.environ.get(name, value) for name, value in defaults.items()}

    def join_token_file(self, number: int) -> Path:
        """Where a node finds its join token."""
        return self.run_dir.path / "secrets" / f"join_token-{number}"

    def _spec(self, name: str, service: str, own: Mapping[str, str]) -> ProcessSpec:
        extra = {**self.extra.get(service, {}), **self.extra.get(name, {})}
        environ = {**self._inherited(), **own, **extra}
        python = self.interpreters.get(service, sys.executable)
        return ProcessSpec(name=name, argv=(python, "-m", f"crosslogic_{service}"), environ=environ)

    def _inherited(self) -> dict[str, str]:
        """What every process has of whoever starts the suite: proxies, caches, which accelerators to use."""
        kept = {
            key: value
            for key, value in self.environ.items()
            if key not in _NOT_INHERITED and not key.startswith("STRIPE_")
        }
        return {"PATH": os.defpath, **kept, **PROCESS_ENVIRONMENT}

    def _tls(self, name: str) -> dict[str, str]:
        files = service_files(self.run_dir.tls, name)
        return {
            "CROSSLOGIC_TLS_CERT_FILE": str(files.cert_file),
            "CROSSLOGIC_TLS_KEY_FILE": str(files.key_file),
            "CROSSLOGIC_TLS_CA_FILE": str(files.ca_file),
        }
