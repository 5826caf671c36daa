"""Writes k8s/base/network-policies.yaml: nobody may call anybody, but for the calls that the code's caller rules allow.

    .venv/bin/python scripts/k8s_network_policies.py

An edge is there when a service's rules let another in. That the other also knows its address, and so calls it, is
checked by tests/contract/test_k8s_policies.py, as is that the file is what this script writes.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "k8s/base/network-policies.yaml"
CONTROL_PLANE = ("gateway", "identity", "registry", "scheduler", "accountant", "billing", "orchestrator")
DATABASE_USERS = ("identity", "registry", "accountant", "billing", "orchestrator")
REDIS_USERS = ("gateway", "identity", "registry")
GRPC_PORT, JOIN_PORT, HTTP_PORT, METRICS_PORT, WEBHOOK_PORT = 7100, 7101, 8080, 9100, 8081
POSTGRES_PORT, REDIS_PORT, AGENT_PORT, DNS_PORT, HTTPS_PORT = 5432, 6379, 7200, 53, 443
TUNNEL_PORT = 7300
MAIL_PORTS = (465, 587)
HEADER = "# Written by scripts/k8s_network_policies.py from the caller rules in code. Not edited by hand.\n"

Json = dict[str, Any]


def rules_of(service: str) -> Mapping[str, frozenset[str]] | None:
    """Who may call which RPC of a service. None: there is no such service."""
    try:
        module = importlib.import_module(f"crosslogic_{service}.main")
    except ModuleNotFoundError as error:
        if error.name == f"crosslogic_{service}":
            return None
        raise
    rules = getattr(module, "RULES", None)
    if rules is None:
        rules = module.rules() if hasattr(module, "rules") else {}
    return dict(rules)


def services() -> list[str]:
    """The control plane's services that exist."""
    return [name for name in CONTROL_PLANE if rules_of(name) is not None]


def callers_of(service: str) -> set[str]:
    """The services that a service's rules let in, without operators and nodes."""
    words = set[str]().union(*(rules_of(service) or {}).values())
    named = {word.removeprefix("service:") for word in words if word.startswith("service:")}
    if "*" in named:
        named = {*named, *services()} - {"*", service}
    return named - {"operator"}


def called_by_nodes(service: str) -> bool:
    """Whether a service's rules let nodes in."""
    return any("node" in rule for rule in (rules_of(service) or {}).values())


def policies() -> list[Json]:
    """All of them."""
    made = [_policy("default-deny", {}, ingress=[], egress=[]), _names()]
    existing = services()
    for service in existing:
        callers = sorted(callers_of(service) & set(existing))
        ingress = [_rule("from", [_pods(each) for each in [*callers]], GRPC_PORT)] if callers else []
        if service != "gateway":
            ingress.append(_rule("from", [_operators()], GRPC_PORT))
        if called_by_nodes(service):
            ingress.append(_rule("from", [_nodes()], GRPC_PORT, JOIN_PORT))
        if service == "gateway":
            ingress.append(_rule("from", [_namespace("ingress-nginx")], HTTP_PORT))
            # Nodes behind NAT dial pods; from outside the cluster the component `tunnels` lets them.
            ingress.append(_rule("from", [_nodes()], TUNNEL_PORT))
        if service == "billing":
            ingress.append(_rule("from", [_namespace("ingress-nginx")], WEBHOOK_PORT))
        ingress.append(_rule("from", [_namespace("monitoring")], METRICS_PORT))
        made.append(_policy(service, _labels(service), ingress=ingress, egress=_egress(service, existing)))
    made.append(
        _policy("migrate", _labels("migrate"), ingress=[], egress=[_rule("to", [_pods("postgres")], POSTGRES_PORT)])
    )
    made.append(
        _policy(
            "backup",
            _labels("backup"),
            ingress=[],
            egress=[_rule("to", [_pods("postgres")], POSTGRES_PORT), _rule("to", [_outside()], HTTPS_PORT)],
        )
    )
    made.append(
        _store("postgres", [*(name for name in DATABASE_USERS if name in existing), "migrate", "backup"], POSTGRES_PORT)
    )
    made.append(_store("redis", [name for name in REDIS_USERS if name in existing], REDIS_PORT))
    return made


def _egress(service: str, existing: list[str]) -> list[Json]:
    called = sorted(other for other in existing if service in callers_of(other))
    rules = [_rule("to", [_pods(other) for other in called], GRPC_PORT)] if called else []
    if service in DATABASE_USERS:
        rules.append(_rule("to", [_pods("postgres")], POSTGRES_PORT))
    if service in REDIS_USERS:
        rules.append(_rule("to", [_pods("redis")], REDIS_PORT))
    if service == "gateway":
        rules.append(_rule("to", [_nodes()], AGENT_PORT))
    if service in ("billing", "orchestrator"):
        # Stripe, clouds, webhooks and mail servers are outside.
        mail = MAIL_PORTS if service == "orchestrator" else ()
        rules.append(_rule("to", [_outside()], HTTPS_PORT, *mail))
    return rules


def _outside() -> Json:
    """The internet: what is private stays out of reach."""
    private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"]
    return {"ipBlock": {"cidr": "0.0.0.0/0", "except": private}}


def _store(name: str, users: list[str], port: int) -> Json:
    return _policy(name, _labels(name), ingress=[_rule("from", [_pods(user) for user in users], port)], egress=[])


def _names() -> Json:
    dns = {"ports": [{"protocol": each, "port": DNS_PORT} for each in ("UDP", "TCP")]}
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return _policy("names", {}, ingress=None, egress=[{"to": [where], **dns}])


def _policy(name: str, selector: Json, *, ingress: list[Json] | None, egress: list[Json]) -> Json:
    kinds = ["Egress"] if ingress is None else ["Ingress", "Egress"]
    spec: Json = {"podSelector": {"matchLabels": selector} if selector else {}, "policyTypes": kinds}
    if ingress:
        spec["ingress"] = ingress
    if egress:
        spec["egress"] = egress
    meta = {"name": name, "labels": {"app.kubernetes.io/part-of": "crosslogic"}}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def _rule(direction: str, peers: list[Json], *ports: int) -> Json:
    return {direction: peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _labels(name: str) -> Json:
    return {"app.kubernetes.io/name": name}


def _pods(name: str) -> Json:
    return {"podSelector": {"matchLabels": _labels(name)}}


def _nodes() -> Json:
    return {
        "namespaceSelector": {"matchLabels": {"crosslogic.io/nodes": "true"}},
        "podSelector": {"matchLabels": _labels("vllm-node")},
    }


def _operators() -> Json:
    return {"podSelector": {"matchLabels": {"crosslogic.io/operator": "true"}}}


def _namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def text() -> str:
    """The file."""
    return HEADER + yaml.safe_dump_all(policies(), sort_keys=False, width=120)


if __name__ == "__main__":
    sys.stdout.write(f"{TARGET.relative_to(ROOT)}\n")
    TARGET.write_text(text())
