"""`make external`: a relay to an OpenAI-compatible endpoint of somebody else's, beside a suite that runs."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosslogic_common.process import PROCESS_ENVIRONMENT
from crosslogic_dev.admin_api import AdminApi
from crosslogic_dev.certificates import OPERATOR, service_files
from crosslogic_dev.failure import DevError
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import Plan
from crosslogic_dev.ports import HOST, free_port
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.progress import Progress
from crosslogic_dev.run_dir import RunDir, write_private
from crosslogic_dev.topology import REGION
from crosslogic_dev.waiting import wait_until

_SERVED_S = 60.0
_CONTEXT_LENGTH = 131_072
_INPUT_USD_PER_MILLION = "1.00"
_OUTPUT_USD_PER_MILLION = "4.00"
_PREFIX = "CROSSLOGIC_EXTERNAL_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What was asked for."""

    model: str
    """As clients are to name it."""
    url: str
    key_file: str = ""
    """The file with what the endpoint knows us by. Empty: it asks for nothing."""
    its_model: str = ""
    """The endpoint's own name of the model. Empty: the same."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    """`CROSSLOGIC_EXTERNAL_*` of it are settings of the relay too."""


def relay_to(endpoint: Endpoint, run_dir: RunDir, progress: Progress) -> str:
    """Registers the model where it is not yet, starts its relay, and waits until it serves; the relay's name.

    Raises DevError.
    """
    plan, table = Plan.load(run_dir), ProcessTable(run_dir)
    if plan is None or table.pid("registry") is None or table.pid("gateway") is None:
        raise DevError("The suite does not run: `make up` starts it.")
    if not endpoint.model or not endpoint.url:
        raise DevError("MODEL=<name for clients> and URL=https://... are needed.")
    name = f"node_agent-{re.sub('[^a-z0-9]+', '-', endpoint.model.lower()).strip('-') or 'external'}"
    api = AdminApi(plan.base_url, run_dir.secret("admin_token"))
    _register(api, endpoint)
    if table.pid(name) is None:
        with OperatorClient(service_files(run_dir.tls, OPERATOR)) as client:
            write_private(_token_file(run_dir, name), client.join_token(plan.target("registry")) + "\n")
        run_dir.state_dir(name).mkdir(parents=True, exist_ok=True)
        table.start(_relay(endpoint, plan, run_dir, name))
        progress(f"{name} joins and looks at {endpoint.url}")

    def serves() -> bool:
        if table.pid(name) is None:
            raise DevError(f"{name} ended while starting; {table.tail(name)}")
        return any(row["serving_nodes"] for row in _registered(api, endpoint.model))

    if not wait_until(serves, timeout_s=_SERVED_S):
        raise DevError(f"{name} does not serve after {_SERVED_S:.0f} s; {table.tail(name)}")
    return name


def _register(api: AdminApi, endpoint: Endpoint) -> None:
    """A model that is registered already keeps its prices."""
    if _registered(api, endpoint.model):
        return
    api.must(
        "POST",
        "/admin/registered-models",
        {
            "model": endpoint.model,
            "endpoint": endpoint.url,
            "context_length": _CONTEXT_LENGTH,
            "input_usd_per_million": _INPUT_USD_PER_MILLION,
            "output_usd_per_million": _OUTPUT_USD_PER_MILLION,
        },
    )


def _registered(api: AdminApi, model: str) -> list[Mapping[str, object]]:
    return [row for row in api.all_of("/admin/registered-models") if row["name"] == model]


def _token_file(run_dir: RunDir, name: str) -> Path:
    return run_dir.path / "secrets" / f"join_token-{name}"


def _relay(endpoint: Endpoint, plan: Plan, run_dir: RunDir, name: str) -> ProcessSpec:
    own = {
        "CROSSLOGIC_TLS_CA_FILE": str(run_dir.tls / "ca.pem"),
        "CROSSLOGIC_REGISTRY_TARGET": plan.target("registry"),
        "CROSSLOGIC_REGISTRY_JOIN_TARGET": plan.target("registry_join"),
        "CROSSLOGIC_JOIN_TOKEN_FILE": str(_token_file(run_dir, name)),
        "CROSSLOGIC_STATE_DIR": str(run_dir.state_dir(name)),
        "CROSSLOGIC_REGION": REGION,
        "CROSSLOGIC_MODEL": endpoint.model,
        "CROSSLOGIC_EXTERNAL_URL": endpoint.url,
        **({"CROSSLOGIC_TUNNEL": "1"} if plan.tunnel else {"CROSSLOGIC_LISTEN": f"{HOST}:{free_port()}"}),
    }
    if endpoint.key_file:
        own["CROSSLOGIC_EXTERNAL_KEY_FILE"] = str(Path(endpoint.key_file).expanduser().resolve())
    if endpoint.its_model:
        own["CROSSLOGIC_EXTERNAL_MODEL"] = endpoint.its_model
    kept = {"PATH": endpoint.environ.get("PATH", os.defpath), **PROCESS_ENVIRONMENT}
    kept |= {key: value for key, value in endpoint.environ.items() if key.startswith(_PREFIX)}
    return ProcessSpec(name=name, argv=(sys.executable, "-m", "crosslogic_node_agent"), environ={**kept, **own})
