"""A fleet that falls silent: what the registry makes of it."""

import asyncio
import math
from collections.abc import Mapping

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_registry.commands import NodeCommands
from crosslogic_registry.gateways import Gateways
from crosslogic_registry.prober import Prober
from crosslogic_registry.testimony import Probe
from tests.fakes.registry_world import FakeStream, World, facts, heartbeat

DEAD, ACTIVE = pb.NODE_STATUS_DEAD, pb.NODE_STATUS_ACTIVE


class FakeProbe:
    """Finds what it is told to, by node; silence otherwise."""

    def __init__(self, finds: Mapping[str, Probe] | None = None) -> None:
        self.finds = dict(finds or {})
        self.knocks: list[str] = []

    async def probe(self, node_id: str, address: str) -> Probe:
        assert address
        self.knocks.append(node_id)
        return self.finds.get(node_id, Probe.SILENT)


async def fleet_of(world: World, count: int) -> dict[str, FakeStream]:
    return dict([await world.active() for _ in range(count)])


async def knock(world: World, probe: FakeProbe) -> None:
    prober = Prober(silence=world.silence_watch, probe=probe)
    while prober.begin_round():
        await asyncio.sleep(0)


def doubting(world: World) -> bool:
    """Whether the registry takes the silence for an illness of its own."""
    return world.silence_watch.mass_silence


def seen(node_id: str, heard_ms: int | None = 100, failed: int = 0) -> pb.NodeObservation:
    return pb.NodeObservation(
        node_id=node_id, heard_ms_ago_plus_one=0 if heard_ms is None else heard_ms + 1, succeeded=1, failed=failed
    )


async def test_when_60_percent_of_the_nodes_fall_silent_at_once_nobody_is_evicted() -> None:
    world = World()
    streams = await fleet_of(world, 10)
    silent = list(streams)[:6]
    for node_id in silent:
        world.fleet.disconnect(node_id, streams[node_id].session)
    for _ in range(40):
        world.clock.pass_s(2)
        for node_id in list(streams)[6:]:
            world.fleet.hear(node_id, streams[node_id].session, heartbeat())
        await knock(world, FakeProbe())
        world.silence_watch.look()
        assert {node.status for node in world.fleet.nodes()} == {ACTIVE}
    assert doubting(world)
    # Half of the silent come back: the rest is judged one by one again.
    for node_id in silent[:3]:
        streams[node_id] = await world.speak(node_id)
    for node_id in list(streams)[6:]:
        world.fleet.hear(node_id, streams[node_id].session, heartbeat())
    world.silence_watch.look()
    assert not doubting(world)
    assert {node.id for node in world.fleet.nodes() if node.status == DEAD} == set(silent[3:])


async def test_nodes_whose_machines_say_that_nobody_listens_are_given_up_also_in_a_mass_silence() -> None:
    world = World()
    streams = await fleet_of(world, 10)
    killed = list(streams)[:8]
    for node_id in killed:
        world.fleet.disconnect(node_id, streams[node_id].session)
    world.clock.pass_s(1)
    await knock(world, FakeProbe(dict.fromkeys(killed, Probe.REFUSED)))
    world.silence(2.5)
    assert {node.id for node in world.fleet.nodes() if not node.reachable} == set(killed)
    world.silence(58)
    assert {node.id for node in world.fleet.nodes() if node.status == DEAD} >= set(killed)


async def test_cut_between_registry_and_node_alone_changes_nothing_while_gateways_hear_it() -> None:
    world = World()
    node_id, stream = await world.active()
    await world.active()
    gateways = Gateways(fleet=world.fleet, silence=world.silence_watch)
    world.fleet.disconnect(node_id, stream.session)
    with gateways.worker(""):
        for _ in range(100):
            gateways.observe([seen(node_id)])
            world.silence(1.0)
            if world.clock.passed_s > 2:
                assert world.node(node_id).reachable
        assert world.node(node_id).status == ACTIVE
    world.silence(14)
    assert not world.node(node_id).reachable
    world.silence(2)
    assert world.node(node_id).status == DEAD
    assert "gateways heard it" in world.node(node_id).status_reason


async def test_node_that_answers_a_knock_is_neither_passed_over_nor_given_up() -> None:
    world = World()
    node_id, stream = await world.active()
    world.fleet.disconnect(node_id, stream.session)
    for _ in range(30):
        await knock(world, FakeProbe({node_id: Probe.ALIVE}))
        world.silence(5)
    assert world.node(node_id).status == ACTIVE
    assert world.node(node_id).reachable


async def test_nodes_that_speak_are_not_knocked_at_and_silent_ones_not_too_often() -> None:
    world = World()
    node_id, stream = await world.active()
    probe = FakeProbe()
    await knock(world, probe)
    assert probe.knocks == []
    world.fleet.disconnect(node_id, stream.session)
    for _ in range(20):
        await knock(world, probe)
        world.silence(1)
    assert len(probe.knocks) == 4


async def test_node_that_fails_its_calls_loses_health_and_one_that_is_silent_all_of_it() -> None:
    world = World()
    node_id, stream = await world.active()
    assert world.node(node_id).health_score == 100
    for _ in range(20):
        world.silence_watch.observed(node_id, 0.1, 0, 1)
    metrics = heartbeat()
    metrics.metrics.CopyFrom(pb.NodeMetrics(gpu_temperature_celsius=95))
    world.fleet.hear(node_id, stream.session, metrics)
    assert world.node(node_id).health_score == 20
    world.silence(14)
    world.silence(50)
    assert world.node(node_id).health_score == 0


async def test_observations_of_nodes_that_nobody_knows_cost_nothing() -> None:
    world = World()
    Gateways(fleet=world.fleet, silence=world.silence_watch).observe([seen("nobody"), seen("")])
    assert len(world.fleet) == 0


async def test_gateway_that_uses_a_node_and_never_hears_it_is_no_witness_for_it() -> None:
    world = World()
    node_id, stream = await world.active()
    world.silence_watch.observed(node_id, None, 0, 5)
    world.fleet.disconnect(node_id, stream.session)
    world.silence(61)
    assert world.node(node_id).status == DEAD
    assert world.node(node_id).status_reason.endswith("no gateway hears it; probe: not probed")
    assert math.isfinite(world.node(node_id).health_score)


async def test_watchers_are_told_of_a_spot_notice_at_once_and_when_it_is_withdrawn() -> None:
    world = World()
    node_id, stream = await world.active()
    with world.watchers.watching() as watcher:
        told = heartbeat()
        told.spot_notice.CopyFrom(pb.SpotNotice(kind=pb.SPOT_NOTICE_KIND_RISK, source="aws", action="rebalance"))
        world.fleet.hear(node_id, stream.session, told)
        [node] = (await watcher.next()).nodes
        assert node.spot_notice.kind == pb.SPOT_NOTICE_KIND_RISK
        assert node.status == ACTIVE
        told.spot_notice.Clear()
        told.spot_notice.SetInParent()
        world.fleet.hear(node_id, stream.session, told)
        [node] = (await watcher.next()).nodes
        assert not node.HasField("spot_notice")


async def test_resumed_node_is_told_at_once_and_serves_as_soon_as_it_says_so() -> None:
    world = World()
    node_id, stream = await world.active()
    await world.fleet.drain(node_id)
    await asyncio.sleep(0.01)
    world.fleet.hear(node_id, stream.session, heartbeat("DRAINING"))
    await world.fleet.resume(node_id)
    await asyncio.sleep(0.01)
    assert [message.drain for message in stream.sent] == [True, False]
    assert not world.fleet.hear(node_id, stream.session, heartbeat("ACTIVE"))
    assert world.node(node_id).status == ACTIVE
    with pytest.raises(CodedError) as unknown:
        await world.fleet.resume("nobody")
    assert unknown.value.code == ErrorCode.NOT_FOUND


async def test_certificate_of_another_organisation_speaks_for_no_node() -> None:
    world = World()
    node_id = await world.join("0192c5a1-0000-7000-8000-000000000001")
    for org_id in ("", "0192c5a1-0000-7000-8000-000000000002"):
        with pytest.raises(CodedError) as refused:
            await world.fleet.connect(node_id, FakeStream().session, org_id=org_id)
        assert refused.value.code == ErrorCode.PERMISSION_DENIED
    await world.fleet.connect(node_id, FakeStream().session, org_id="0192c5a1-0000-7000-8000-000000000001")


async def test_nodes_behind_nat_are_told_of_tunnels_as_gateways_come_and_go() -> None:
    world = World()
    gateways = Gateways(fleet=world.fleet, silence=world.silence_watch)
    node_id = await world.join()
    stream = FakeStream()
    await world.fleet.connect(node_id, stream.session)
    first = heartbeat()
    first.facts.CopyFrom(pb.NodeFacts(region="us-east", models=["tiny"], tunnel=True))
    with gateways.worker("10.0.0.1:7"):
        world.fleet.hear(node_id, stream.session, first)
        await stream.session.answer(drain=False)
        with gateways.worker("10.0.0.2:7"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    told = [list(message.tunnels.addresses) for message in stream.sent if message.HasField("tunnels")]
    assert told[0] == ["10.0.0.1:7"]
    assert ["10.0.0.1:7", "10.0.0.2:7"] in told
    assert told[-1] == []
    other, plain = await world.active()
    assert not any(message.HasField("tunnels") for message in plain.sent), other


async def test_outcome_of_a_command_reaches_who_waits_for_it_and_nobody_elses() -> None:
    world = World()
    node_id, stream = await world.active()
    commands = NodeCommands(fleet=world.fleet, ids=Uuid7Source())
    logs = pb.NodeCommand(collect_logs=pb.CollectLogs(source=pb.LOG_SOURCE_AGENT))
    waiting = asyncio.create_task(commands.command(node_id, logs, 5))
    while not any(message.commands for message in stream.sent):
        await asyncio.sleep(0.001)
    [command] = [command for message in stream.sent for command in message.commands]
    outcome = pb.NodeCommandOutcome(command_id=command.id, done=True, detail="here", data=b"log")
    commands.take("another node", [outcome])
    await asyncio.sleep(0)
    assert not waiting.done()
    commands.take(node_id, [outcome, outcome, pb.NodeCommandOutcome(command_id="unknown")])
    assert (await waiting).data == b"log"


async def test_command_that_cannot_be_carried_out_is_refused_before_it_is_sent() -> None:
    world = World()
    node_id, stream = await world.active()
    commands = NodeCommands(fleet=world.fleet, ids=Uuid7Source())
    for command in (
        pb.NodeCommand(),
        pb.NodeCommand(collect_logs=pb.CollectLogs()),
        pb.NodeCommand(update_agent=pb.UpdateAgent(version="1", location="/x", sha256=b"x", signature=b"y")),
    ):
        with pytest.raises(CodedError) as refused:
            await commands.command(node_id, command, 1)
        assert refused.value.code == ErrorCode.INVALID_ARGUMENT
    world.fleet.disconnect(node_id, stream.session)
    with pytest.raises(CodedError) as refused:
        await commands.command(node_id, pb.NodeCommand(reload_certificate=pb.ReloadCertificate()), 1)
    assert refused.value.code == ErrorCode.UNAVAILABLE
    assert stream.sent == []


async def test_facts_of_a_node_say_where_it_is_dialled_or_that_it_is_not() -> None:
    world = World()
    node_id = await world.join()
    for wrong in (facts(tunnel=True), pb.NodeFacts(region="us-east", models=["tiny"])):
        stream = FakeStream()
        await world.fleet.connect(node_id, stream.session)
        first = heartbeat()
        first.facts.CopyFrom(wrong)
        with pytest.raises(CodedError) as refused:
            world.fleet.hear(node_id, stream.session, first)
        assert refused.value.param == "facts.address"
