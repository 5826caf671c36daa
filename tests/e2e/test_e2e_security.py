"""Nobody gets in: each service, each RPC, each identity; and what leaks to those who are turned away."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import crosslogic_accountant.main
import crosslogic_billing.main
import crosslogic_identity.main
import crosslogic_node_agent.main
import crosslogic_orchestrator.main
import crosslogic_registry.main
import crosslogic_scheduler.main
from crosslogic.registry.v1 import registry_pb2, registry_pb2_grpc
from crosslogic_common.tls import TlsFiles, node_dns_name, service_dns_name
from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_clients import client
from tests.fakes.e2e_grpc import Caller
from tests.fakes.test_ca import CertificateMaker

SERVICES = ("gateway", "identity", "registry", "scheduler", "accountant", "billing", "orchestrator", "operator")
RULES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "identity": crosslogic_identity.main.rules(),
    "registry": crosslogic_registry.main.RULES,
    "scheduler": crosslogic_scheduler.main.RULES,
    "accountant": crosslogic_accountant.main.RULES,
    "billing": crosslogic_billing.main.rules(),
    "orchestrator": crosslogic_orchestrator.main.rules(),
    "node_agent-1": crosslogic_node_agent.main.RULES,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is and the name that its certificate must have."""

    target: str
    dns_name: str


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with simulated(nodes=2) as started:
        yield started


def _node_files(suite: Suite, number: int) -> TlsFiles:
    state = suite.run_dir.state_dir(f"node_agent-{number}")
    return TlsFiles(state / "node.crt", state / "node.key", state / "ca.crt")


@pytest.fixture(scope="module")
def node_ids(suite: Suite) -> dict[int, str]:
    with suite.operator() as operator:
        by_address = {node.facts.address: node.id for node in operator.nodes(suite.target("registry"))}
    return {number: by_address[suite.target(f"node_agent-{number}")] for number in (1, 2)}


@pytest.fixture(scope="module")
def places(suite: Suite, node_ids: dict[int, str]) -> dict[str, Place]:
    found = {name: Place(suite.target(name), service_dns_name(name)) for name in RULES if "node" not in name}
    return {**found, "node_agent-1": Place(suite.target("node_agent-1"), node_dns_name(node_ids[1]))}


@pytest.fixture(scope="module")
def callers(suite: Suite) -> Iterator[dict[str, Caller]]:
    made = {f"service:{name}": Caller(suite.tls(name)) for name in SERVICES}
    made["node"] = Caller(_node_files(suite, 2))
    yield made
    for caller in made.values():
        caller.__exit__(None, None, None)


@pytest.mark.parametrize("server", RULES)
def test_right_certificate_for_the_wrong_rpc_is_refused(
    places: dict[str, Place], callers: dict[str, Caller], server: str
) -> None:
    place = places[server]
    let_in = {
        (method, who): caller.status(place.target, place.dns_name, method)
        for method, allowed in RULES[server].items()
        for who, caller in callers.items()
        if who not in allowed
    }
    assert len(let_in) >= len(RULES[server]) * 4
    assert {call for call, status in let_in.items() if status is not grpc.StatusCode.PERMISSION_DENIED} == set(), let_in


@pytest.mark.parametrize("server", RULES)
def test_right_certificate_for_the_right_rpc_is_let_in(
    places: dict[str, Place], callers: dict[str, Caller], server: str
) -> None:
    place = places[server]
    for method, allowed in RULES[server].items():
        for who in allowed:
            status = callers[who].status(place.target, place.dns_name, method, timeout_s=0.5)
            assert status is not grpc.StatusCode.PERMISSION_DENIED, method


@pytest.mark.parametrize("server", RULES)
def test_call_without_a_certificate_reaches_no_rpc(suite: Suite, places: dict[str, Place], server: str) -> None:
    place = places[server]
    with Caller(None, ca=suite.tls().read().ca) as stranger:
        for method in RULES[server]:
            assert stranger.status(place.target, place.dns_name, method) is grpc.StatusCode.UNAVAILABLE, method


@pytest.mark.parametrize("server", RULES)
def test_call_with_a_certificate_of_another_ca_reaches_no_rpc(
    suite: Suite, places: dict[str, Place], tmp_path: Path, server: str
) -> None:
    place = places[server]
    forged = CertificateMaker(tmp_path, name="another").service("gateway")
    with Caller(forged, ca=suite.tls().read().ca) as stranger:
        for method in RULES[server]:
            assert stranger.status(place.target, place.dns_name, method) is grpc.StatusCode.UNAVAILABLE, method


def test_server_of_another_ca_is_not_believed_by_our_clients(
    suite: Suite, places: dict[str, Place], tmp_path: Path
) -> None:
    place = places["registry"]
    trusting_another = CertificateMaker(tmp_path, name="another").ca_file.read_bytes()
    with Caller(suite.tls("gateway"), ca=trusting_another) as caller:
        status = caller.status(place.target, place.dns_name, "/crosslogic.registry.v1.RegistryService/WatchNodes")
    assert status is grpc.StatusCode.UNAVAILABLE


def test_node_cannot_pose_as_a_service_or_as_another_node(suite: Suite, node_ids: dict[int, str]) -> None:
    relay = "/crosslogic.node_agent.v1.NodeAgentService/Relay"
    with Caller(suite.tls("gateway")) as gateway:
        # What listens where node 2 was, with the certificate of node 1, is not talked to.
        as_other = gateway.status(suite.target("node_agent-1"), node_dns_name(node_ids[2]), relay)
        as_service = gateway.status(
            suite.target("node_agent-1"),
            service_dns_name("accountant"),
            "/crosslogic.accountant.v1.AccountantService/RecordStream",
        )
    assert (as_other, as_service) == (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)


def test_stranger_may_join_and_nothing_else(suite: Suite) -> None:
    target, dns_name = suite.target("registry_join"), service_dns_name("registry")
    with Caller(None, ca=suite.tls().read().ca) as stranger:
        joined = stranger.status(target, dns_name, "/crosslogic.registry.v1.NodeJoinService/JoinNode")
        others = {stranger.status(target, dns_name, method) for method in RULES["registry"]}
    assert joined not in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    assert others <= {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}


def _certificate_request() -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def test_join_token_lets_in_one_machine_only(suite: Suite) -> None:
    token = suite.run_dir.path / "secrets" / "join_token-1"
    assert token.stat().st_mode & 0o077 == 0
    material = suite.tls().read()
    options = [("grpc.ssl_target_name_override", service_dns_name("registry")), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(
        suite.target("registry_join"), grpc.ssl_channel_credentials(material.ca), options=options
    ) as channel:
        request = registry_pb2.JoinNodeRequest(join_token=token.read_text().strip(), csr_der=_certificate_request())
        with pytest.raises(grpc.RpcError) as caught:
            registry_pb2_grpc.NodeJoinServiceStub(channel).JoinNode(request, timeout=5)
    assert "JOIN_TOKEN_INVALID" in str(caught.value.trailing_metadata())


@pytest.mark.parametrize("token", [None, "", "wrong", "almost"])
def test_admin_api_is_closed_without_the_token(suite: Suite, token: str | None) -> None:
    sent = suite.admin.token[:-1] if token == "almost" else token
    with httpx.Client(
        base_url=suite.base_url, trust_env=False, headers={} if sent is None else {"X-Admin-Token": sent}
    ) as http:
        for path in ("/admin/orgs", "/admin/models", "/admin/nodes", "/admin/usage", "/admin/usage/records"):
            answer = http.get(path)
            assert answer.status_code == 401, path
        assert http.post("/admin/orgs", json={"name": "mine"}).status_code == 401
        # A tenant's key is no operator's token.
        http.headers["Authorization"] = f"Bearer {suite.api_key}"
        assert http.get("/admin/orgs").status_code == 401


def test_refusals_and_answers_name_no_node_and_no_address(suite: Suite, node_ids: dict[int, str]) -> None:
    secret_words = [*node_ids.values(), suite.org_id, suite.environment_id, "Traceback", "/src/", ".py"]
    secret_words += [
        suite.target(name) for name in ("node_agent-1", "node_agent-2", "engine-1", "registry", "identity")
    ]
    with httpx.Client(
        base_url=suite.base_url, trust_env=False, headers={"Authorization": f"Bearer {suite.api_key}"}
    ) as http:
        long = "word " * 20_000
        bodies: list[dict[str, object]] = [
            {"model": suite.model_name, "prompt": long},
            {"model": suite.model_name, "prompt": "x", "temperature": -3},
            {"model": suite.model_name, "prompt": ""},
            {"model": "nope", "prompt": "x"},
            {"model": suite.model_name, "prompt": "x", "max_tokens": 3},
            {"model": suite.model_name, "prompt": "x", "max_tokens": 3, "stream": True},
        ]
        answers = [http.post("/v1/completions", json=body, timeout=20) for body in bodies]
        answers += [http.get(path) for path in ("/v1/models", "/health", "/ready", "/nothing", "/admin/nodes")]
    assert [answer.status_code for answer in answers[:4]] == [400, 400, 400, 404]
    for answer in answers:
        told = answer.text + str(answer.headers)
        assert [word for word in secret_words if word in told] == [], answer.url
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_tenant_sees_neither_models_nor_usage_of_another(suite: Suite) -> None:
    admin = suite.admin
    other_region = {"name": "elsewhere", "context_length": 100, "input_usd_per_million": "1"}
    admin.must("POST", "/admin/models", {**other_region, "output_usd_per_million": "1", "regions": ["mars"]})
    org = admin.must("POST", "/admin/orgs", {"name": "other"})["id"]
    environment = admin.must("POST", f"/admin/orgs/{org}/environments", {"name": "e"})["id"]
    key = admin.must(
        "POST", f"/admin/environments/{environment}/keys", {"name": "k", "allowed_models": [suite.model_name]}
    )
    with client(suite, key=key["key"]) as api:
        assert [model.id for model in api.models.list()] == [suite.model_name]
        with pytest.raises(openai.NotFoundError) as hidden:
            api.completions.create(model="elsewhere", prompt="x", max_tokens=1)
        with pytest.raises(openai.NotFoundError) as unknown:
            api.completions.create(model="never-was", prompt="x", max_tokens=1)
        assert hidden.value.message.replace("elsewhere", "") == unknown.value.message.replace("never-was", "")
        used = api.completions.with_raw_response.create(model=suite.model_name, prompt="x", max_tokens=1)
    request_id = used.headers["x-request-id"]
    mine = admin.must("GET", f"/admin/usage/records?org_id={suite.org_id}&request_id={request_id}")
    assert mine["data"] == []
