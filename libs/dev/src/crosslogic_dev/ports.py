"""Which port each process listens on."""

import random
import socket
from collections.abc import Mapping

from crosslogic_dev.failure import DevError

HOST = "127.0.0.1"
DEFAULT_PORTS: Mapping[str, int] = {
    "gateway": 8080,
    "gateway_tunnel": 7600,
    "identity": 7101,
    "registry": 7102,
    "registry_join": 7103,
    "scheduler": 7104,
    "accountant": 7105,
    "billing": 7106,
    "billing_webhook": 7107,
    "orchestrator": 7108,
    "postgres": 7132,
    "redis": 7179,
    "identity_metrics": 7201,
    "registry_metrics": 7202,
    "scheduler_metrics": 7204,
    "accountant_metrics": 7205,
    "billing_metrics": 7206,
    "orchestrator_metrics": 7208,
}
_PER_NODE: Mapping[str, int] = {"node_agent": 7300, "engine": 7400, "node_agent_metrics": 7500}
MAX_NODES = 64
# Below the range from which the kernel gives ports to outgoing connections.
_FREE_RANGE = (20_000, 32_000)
_TRIES = 500


def port_names(nodes: int) -> dict[str, int]:
    """Every name that has a port, with its default."""
    numbered = {f"{kind}-{i}": base + i for kind, base in _PER_NODE.items() for i in range(1, nodes + 1)}
    return {**DEFAULT_PORTS, **numbered}


def override_variable(name: str) -> str:
    """The environment variable that moves a port."""
    return "CROSSLOGIC_PORT_" + name.upper().replace("-", "_")


def plan_ports(
    *, nodes: int, environ: Mapping[str, str], known: Mapping[str, int], free: bool = False
) -> dict[str, int]:
    """A port for each name: the override, else what it had before, else the default or (`free`) any free one."""
    ports: dict[str, int] = {}
    for name, default in port_names(nodes).items():
        given = environ.get(override_variable(name))
        if given:
            if not given.isdigit() or not 1 <= int(given) <= 65_535:
                raise DevError(f"{override_variable(name)} must be a port from 1 to 65535, not {given!r}.")
            ports[name] = int(given)
        elif name in known:
            ports[name] = known[name]
        else:
            ports[name] = free_port(exclude=set(ports.values()) | set(known.values())) if free else default
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(*, exclude: set[int] | None = None) -> int:
    """A port that nobody listens on now, and that no outgoing connection will be given."""
    for _ in range(_TRIES):
        port = random.randrange(*_FREE_RANGE)
        if port not in (exclude or set()) and is_free(port):
            return port
    raise DevError(f"No free port between {_FREE_RANGE[0]} and {_FREE_RANGE[1]}.")


def refuse_taken(name: str, port: int) -> None:
    """Raises DevError when somebody else listens on the port that `name` needs."""
    if not is_free(port):
        raise DevError(
            f"Port {port}, which {name} needs, is taken: stop what listens there, or choose another with "
            f"{override_variable(name)}=<port> (PORTS=free chooses all of them)."
        )
