"""Who may call what, as a table that nobody changes by accident."""

from crosslogic.registry.v1 import model_store_pb2 as model_store_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import upgrades_pb2 as upgrades_pb
from crosslogic_common.grpc_server import method_names
from crosslogic_common.settings import describe
from crosslogic_registry.main import JOIN_RULES, JOIN_SERVICE, MODEL_STORE_SERVICE, RULES, SERVICE, UPGRADE_SERVICE
from crosslogic_registry.settings import RegistrySettings


def test_every_rpc_has_its_callers_and_no_rule_is_left_over() -> None:
    services = {SERVICE: pb, UPGRADE_SERVICE: upgrades_pb, MODEL_STORE_SERVICE: model_store_pb}
    assert set(RULES) == {
        f"/{service}/{method}" for service, contract in services.items() for method in method_names(contract, service)
    }
    assert set(JOIN_RULES) == {f"/{JOIN_SERVICE}/{method}" for method in method_names(pb, JOIN_SERVICE)}


def test_a_node_may_call_only_what_speaks_for_itself() -> None:
    allowed = {rule.rpartition("/")[2] for rule, callers in RULES.items() if "node" in callers}
    assert allowed == {"RenewCertificate", "HeartbeatStream", "WitnessStream", "GetWeights"}


def test_nobody_without_a_certificate_reaches_anything_but_the_join() -> None:
    assert not any({"anonymous", "certificate", "service:*"} & callers for callers in RULES.values())


def test_every_setting_is_explained() -> None:
    table = describe(RegistrySettings)
    for name in ("CROSSLOGIC_JOIN_LISTEN", "CROSSLOGIC_NODE_CA_KEY_FILE", "REDIS_URL", "CROSSLOGIC_SUSPECT_S"):
        assert f"`{name}`" in table
