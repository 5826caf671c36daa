"""What `make up` decides from what was asked and what runs already."""

from typing import Any

import pytest

from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import Plan, decide
from crosslogic_dev.ports import DEFAULT_PORTS, override_variable, plan_ports, port_names

RUNS = Plan(engine="sim", model="", nodes=2, ports={"gateway": 9999}, org_id="org", environment_id="env")


def asked(*, known: Plan | None = None, running: bool = False, **wishes: Any) -> Plan:
    return decide(known=known, running=running, **{"engine": None, "model": None, "nodes": None, **wishes})


def test_a_person_who_asks_for_nothing_gets_a_real_engine_on_one_node() -> None:
    plan = asked()
    assert (plan.engine, plan.model, plan.nodes) == ("vllm", "", 1)


def test_a_second_make_up_without_wishes_keeps_what_runs() -> None:
    assert asked(known=RUNS, running=True) == RUNS


def test_more_nodes_can_be_added_while_it_runs() -> None:
    assert asked(known=RUNS, running=True, nodes=3).nodes == 3


def test_nodes_dial_the_gateway_where_that_was_asked_for_and_go_on_so() -> None:
    plan = asked(engine="sim", tunnel=True)
    assert plan.tunnel
    assert not asked(engine="sim").tunnel
    assert asked(known=plan, running=True, nodes=2).tunnel


def test_machines_of_the_orchestrator_take_no_ports_of_the_plan() -> None:
    assert (asked(machines=True, nodes=3).numbered_nodes, list(asked(machines=True).node_numbers)) == (0, [])
    assert list(asked(nodes=3).node_numbers) == [1, 2, 3]


def test_who_started_the_nodes_stays_as_it_is_until_make_down() -> None:
    assert not asked(known=RUNS, running=True, machines=True).machines
    assert asked(known=RUNS, running=False, machines=True).machines


@pytest.mark.parametrize("wish", [{"engine": "vllm"}, {"model": "some/model"}, {"nodes": 1}, {"tunnel": True}])
def test_a_wish_that_contradicts_what_runs_is_refused_and_says_what_to_do(wish: dict[str, Any]) -> None:
    with pytest.raises(DevError, match="make down"):
        asked(known=RUNS, running=True, **wish)


def test_after_make_down_another_engine_may_be_chosen_and_the_tenant_stays() -> None:
    plan = asked(known=RUNS, running=False, engine="vllm")
    assert (plan.engine, plan.org_id, plan.environment_id) == ("vllm", "org", "env")


@pytest.mark.parametrize("wish", [{"engine": "gpt"}, {"nodes": 0}, {"nodes": 65}])
def test_a_wish_that_cannot_be_met_is_one_clear_line(wish: dict[str, Any]) -> None:
    with pytest.raises(DevError) as refused:
        asked(**wish)
    assert "\n" not in str(refused.value)


def test_no_two_processes_share_a_port() -> None:
    ports = port_names(64)
    assert len(set(ports.values())) == len(ports)


def test_any_port_can_be_moved() -> None:
    environ = {override_variable("node_agent-2"): "12345", override_variable("gateway"): "80"}
    ports = plan_ports(nodes=2, environ=environ, known={})
    assert (ports["node_agent-2"], ports["gateway"], ports["redis"]) == (12345, 80, DEFAULT_PORTS["redis"])


def test_what_runs_keeps_its_port_when_nodes_are_added() -> None:
    ports = plan_ports(nodes=3, environ={}, known={"gateway": 9999, "engine-1": 9998})
    assert (ports["gateway"], ports["engine-1"]) == (9999, 9998)


@pytest.mark.parametrize("given", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none_is_refused_by_the_name_of_its_variable(given: str) -> None:
    with pytest.raises(DevError, match="CROSSLOGIC_PORT_GATEWAY"):
        plan_ports(nodes=1, environ={"CROSSLOGIC_PORT_GATEWAY": given}, known={})
