"""What scaling believes of the fleet while the registry tells of it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_orchestrator.domain import Instance, Spec
from crosslogic_orchestrator.scaling.domain import Deployment
from crosslogic_orchestrator.scaling.forecast import Hour, Pattern, pattern_of
from crosslogic_orchestrator.scaling.looking import Capacity, Prices, look
from crosslogic_orchestrator.scaling.observing import FleetSignals
from crosslogic_orchestrator.scaling.records import Kept, Machine, World
from crosslogic_orchestrator.scaling.sources import Sold

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ACTIVE, DEAD = pb.NODE_STATUS_ACTIVE, pb.NODE_STATUS_DEAD


def told(*names: str, start: bool = False, complete: bool = False, status: int = ACTIVE) -> pb.WatchNodesResponse:
    nodes = [pb.Node(id=name, status=status, facts=pb.NodeFacts(models=["m"], region="r")) for name in names]  # type: ignore[arg-type]  # an enum's number
    return pb.WatchNodesResponse(nodes=nodes, snapshot_start=start, snapshot_complete=complete)


def phases(signals: FleetSignals, *names: str) -> dict[str, str]:
    """Of machines that serve, as far as the database knows."""
    kept = Kept(Deployment(id="d", model="m", region="r"), NOW, NOW, None, None)
    spec = Spec(model="m", provider="p", region="r")
    machines = tuple(
        Machine(
            "d",
            Instance(
                id=name,
                spec=spec,
                state="active",
                hourly_price_picodollars=1,
                job_id="j",
                created_at=NOW,
                ended_at=None,
            ),
            "",
        )
        for name in names
    )
    snapshot = look(
        kept,
        World(deployments=(kept,), machines=machines, attempts={}, lived={}, waiting={}),
        signals,
        Prices(kinds=(), providers=frozenset()),
        sold=Sold(),
        pattern=Pattern(),
        capacity=Capacity(),
        now=NOW,
    )
    return {member.id: member.phase for member in snapshot.members}


@pytest.fixture
def signals() -> FleetSignals:
    found = FleetSignals(urgent=asyncio.Event())
    found.take(told("a", "b", start=True))
    with pytest.raises(CodedError):
        _ = found.nodes
    found.take(told("c", "d", complete=True))
    return found


def test_machines_that_a_registry_that_came_back_has_not_told_of_yet_are_not_taken_for_gone(
    signals: FleetSignals,
) -> None:
    signals.take(told("a", start=True))
    assert phases(signals, "a", "b", "c", "d") == dict.fromkeys("abcd", "ready")
    signals.take(told("b", "c", complete=True))
    assert phases(signals, "a", "b", "c", "d") == {**dict.fromkeys("abc", "ready"), "d": "taken"}


def test_registry_that_forgot_the_fleet_does_not_make_its_machines_free(signals: FleetSignals) -> None:
    signals.take(told("a", start=True, complete=True))
    assert phases(signals, "a", "b", "c", "d") == {"a": "ready", **dict.fromkeys("bcd", "silent")}
    signals.take(told("b", "c", "d", status=DEAD))
    assert phases(signals, "a", "b", "c", "d") == {"a": "ready", **dict.fromkeys("bcd", "silent")}
    signals.take(told("b", "c"))
    assert phases(signals, "a", "b", "c", "d")["d"] == "taken"


def test_a_machine_that_another_replica_launched_while_the_registry_was_away_from_this_one_is_not_replaced(
    signals: FleetSignals,
) -> None:
    signals.lost()
    assert phases(signals, "a", "b", "c", "d", "e") == {**dict.fromkeys("abcd", "ready"), "e": "silent"}
    signals.take(told("a", "b", "c", "d", start=True))
    assert phases(signals, "a", "b", "c", "d", "e")["e"] == "silent"
    signals.take(told(complete=True))
    assert phases(signals, "a", "b", "c", "d", "e")["e"] == "taken"


def test_warnings_of_a_cloud_are_believed_however_many_machines_it_takes(signals: FleetSignals) -> None:
    notice = pb.SpotNotice(kind=pb.SPOT_NOTICE_KIND_TERMINATION)
    warned = told("a", "b", "c", "d")
    for node in warned.nodes:
        node.spot_notice.CopyFrom(notice)
    signals.take(warned)
    assert phases(signals, "a", "b", "c", "d") == dict.fromkeys("abcd", "taken")


def test_hours_of_a_ledger_that_make_no_sense_are_left_out() -> None:
    sane = [Hour(NOW - timedelta(hours=n), 10, 3_600) for n in range(1, 24 * 5)]
    mad = [Hour(NOW - timedelta(hours=n), requests, tokens) for n in (1, 2) for requests, tokens in ((-5, 1), (1, -1))]
    enormous = [Hour(NOW - timedelta(hours=3), 1, 2**63 - 1), Hour(NOW + timedelta(days=900), 1, 1)]
    pattern = pattern_of([*sane, *mad, *enormous], now=NOW)
    assert pattern == pattern_of(sane, now=NOW)
    assert pattern.tokens_per_request == 360
