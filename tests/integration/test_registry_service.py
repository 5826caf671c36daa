"""The registry as nodes, schedulers and gateways meet it: mutual TLS, real PostgreSQL."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.tls import Channels, open_anonymous_channel, service_dns_name
from crosslogic_registry.certificates import NodeCertificates
from tests.fakes.registry_ca import make_csr
from tests.fakes.registry_suite import RegistrySuite, code_of, watching
from tests.fakes.registry_world import facts, heartbeat


@pytest.fixture
async def suite(pg_url: str) -> AsyncIterator[RegistrySuite]:
    with tempfile.TemporaryDirectory() as folder:
        made = RegistrySuite(Path(folder), pg_url=pg_url)
        yield made
        await made.close()


async def test_a_machine_joins_says_what_it_is_and_is_picked_from_within_100_ms(suite: RegistrySuite) -> None:
    async with suite.running(), watching(suite) as watch:
        node = await suite.join()
        await watch.until(lambda nodes: node.id in nodes)
        async with node.streaming("WARMING") as stream:
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_WARMING)
            assert watch.nodes[node.id].facts == facts()
            took_s = []
            for word in ("ACTIVE", "DRAINING") * 5 + ("ACTIVE",):
                started = time.monotonic()
                await stream.write(heartbeat(word, "measured"))
                wanted = pb.NodeStatus.Value(f"NODE_STATUS_{word}")
                await watch.until(lambda nodes, wanted=wanted: nodes[node.id].status == wanted)
                took_s.append(time.monotonic() - started)
            assert statistics.median(took_s) < 0.1
            assert watch.nodes[node.id].status_reason == "measured"
            assert watch.nodes[node.id].reachable


async def test_a_token_lets_one_machine_in_however_many_try_at_once(suite: RegistrySuite) -> None:
    async with suite.running():
        token = await suite.token()
        tries = [suite.ask_to_join(token, make_csr()) for _ in range(12)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert len(refused) == 11
        assert {(error.code(), code_of(error)) for error in refused} == {
            (grpc.StatusCode.UNAUTHENTICATED, "JOIN_TOKEN_INVALID")
        }


async def test_a_machine_whose_answer_was_lost_joins_again_as_the_same_node(suite: RegistrySuite) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with suite.running():
        token = await suite.token()
        lost = await suite.ask_to_join(token, make_csr(key))
        again = await suite.ask_to_join(token, make_csr(key))
        assert again.node_id == lost.node_id
        node = suite.install(again.node_id, again.certificate_chain_pem, again.ca_pem, key)
        async with node.streaming("ACTIVE"), watching(suite) as watch:
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE)
        events = await suite.stub().ListNodeEvents(pb.ListNodeEventsRequest(node_id=node.id), timeout=5)
        assert [event.status for event in events.events].count(pb.NODE_STATUS_REGISTERING) == 1


async def test_a_dedicated_node_is_its_orgs_in_its_certificate_and_in_the_fleet(suite: RegistrySuite) -> None:
    org_id = str(uuid4())
    async with suite.running(), watching(suite) as watch:
        node = await suite.join(org_id)
        names = x509.load_pem_x509_certificate(node.tls.cert_file.read_bytes()).extensions
        san = names.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.UniformResourceIdentifier) == [
            f"spiffe://crosslogic/org/{org_id}/node/{node.id}"
        ]
        await watch.until(lambda nodes: node.id in nodes)
        assert watch.nodes[node.id].org_id == org_id


async def test_nonsense_at_the_join_port_is_refused_and_nothing_else_is_offered_there(suite: RegistrySuite) -> None:
    async with suite.running():
        token = await suite.token()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await suite.ask_to_join(token, b"nonsense")
        assert code_of(refused.value) == "INVALID_ARGUMENT"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await suite.ask_to_join(token, b"x" * 1_000_000)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        target = f"127.0.0.1:{suite.join_ports[0]}"
        ca = suite.ca.root_file.read_bytes()
        async with open_anonymous_channel(target, ca, service_dns_name("registry")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await rpc.RegistryServiceStub(channel).ListNodes(pb.ListNodesRequest(), timeout=5)
            assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED
        target = f"127.0.0.1:{suite.ports[0]}"
        async with open_anonymous_channel(target, ca, service_dns_name("registry")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as shut:
                await rpc.RegistryServiceStub(channel).ListNodes(pb.ListNodesRequest(), timeout=5)
            assert shut.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_node_may_not_call_what_is_not_its_own(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        victim = await suite.join()
        for refused in (
            node.stub().ListNodes(pb.ListNodesRequest(), timeout=5),
            node.stub().DrainNode(pb.DrainNodeRequest(node_id=victim.id), timeout=5),
            node.stub().CreateJoinToken(pb.CreateJoinTokenRequest(), timeout=5),
            suite.stub("scheduler").DrainNode(pb.DrainNodeRequest(node_id=victim.id), timeout=5),
            suite.stub("gateway").RenewCertificate(pb.RenewCertificateRequest(csr_der=make_csr()), timeout=5),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await refused
            assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in node.stub().WatchNodes(pb.WatchNodesRequest(), timeout=5):
                pass
        assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED
        # A stream speaks for its certificate: the heartbeats of one node never move another.
        async with watching(suite) as watch, node.streaming():
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE)
            assert watch.nodes[victim.id].status == pb.NODE_STATUS_REGISTERING


async def test_a_node_renews_its_certificate_for_itself_and_streams_with_it(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        key = ec.generate_private_key(ec.SECP256R1())
        answer = await node.stub().RenewCertificate(pb.RenewCertificateRequest(csr_der=make_csr(key)))
        renewed = suite.install(node.id, answer.certificate_chain_pem, answer.ca_pem, key)
        async with renewed.streaming():
            pass


async def test_a_removed_node_is_told_to_join_again(suite: RegistrySuite) -> None:
    async with suite.running():
        key, stranger = ec.generate_private_key(ec.SECP256R1()), str(uuid4())
        # Signed by our CA, but the database knows nothing of it.
        ca = suite.ca.node_ca()
        certificates = NodeCertificates(
            ca_cert_file=ca.cert_file, ca_key_file=ca.key_file, trust_file=suite.ca.root_file
        )
        chain = certificates.issue(make_csr(key), stranger, "")
        node = suite.install(stranger, chain, suite.ca.root_file.read_bytes(), key)
        call = node.stub().HeartbeatStream()
        await call.write(pb.HeartbeatStreamRequest(facts=facts()))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.stub().RenewCertificate(pb.RenewCertificateRequest(csr_der=make_csr()))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_node_whose_stream_breaks_is_passed_over_in_seconds_and_taken_back_at_once(
    suite: RegistrySuite,
) -> None:
    async with suite.running(), watching(suite) as watch:
        node = await suite.join()
        async with node.streaming():
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE)
        await watch.until(lambda nodes: not nodes[node.id].reachable, timeout_s=6)
        assert watch.nodes[node.id].status == pb.NODE_STATUS_ACTIVE
        async with node.streaming():
            await watch.until(lambda nodes: nodes[node.id].reachable)


async def test_a_second_stream_of_a_node_ends_the_first(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        async with node.streaming() as first, node.streaming() as second:
            assert await asyncio.wait_for(first.read(), 2) == grpc.aio.EOF
            await second.write(heartbeat())
            assert (await asyncio.wait_for(second.read(), 2)).next_heartbeat_ms == 5_000


async def test_a_drain_reaches_the_node_before_its_next_heartbeat(suite: RegistrySuite) -> None:
    async with suite.running(), watching(suite) as watch:
        node = await suite.join()
        async with node.streaming() as stream:
            answer = await suite.stub().DrainNode(pb.DrainNodeRequest(node_id=node.id))
            assert answer.node.status == pb.NODE_STATUS_DRAINING
            assert (await asyncio.wait_for(stream.read(), 1)).drain
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_DRAINING)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await suite.stub().DrainNode(pb.DrainNodeRequest(node_id="no-such-node"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_an_operators_command_is_answered_with_what_came_of_it(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        async with node.streaming() as stream:
            command = pb.NodeCommand(collect_logs=pb.CollectLogs(source=pb.LOG_SOURCE_ENGINE))
            asked = pb.CommandNodeRequest(node_id=node.id, command=command, timeout_s=10)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await suite.stub("gateway").CommandNode(asked)
            assert code_of(refused.value) == "PERMISSION_DENIED"
            waiting = asyncio.ensure_future(suite.stub("operator").CommandNode(asked))
            [sent] = (await asyncio.wait_for(stream.read(), 10)).commands
            done = heartbeat()
            done.outcomes.add(command_id=sent.id, done=True, detail="the last 3 bytes", data=b"log")
            await stream.write(done)
            assert (await asyncio.wait_for(waiting, 10)).outcome.data == b"log"


async def test_a_nodes_life_is_read_back_newest_first_in_pages(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        async with node.streaming("WARMING") as stream:
            await stream.write(heartbeat("ACTIVE", "measured"))
            await stream.read()
            await suite.stub().DrainNode(pb.DrainNodeRequest(node_id=node.id))
            wanted = [
                pb.NODE_STATUS_DRAINING,
                pb.NODE_STATUS_ACTIVE,
                pb.NODE_STATUS_WARMING,
                pb.NODE_STATUS_REGISTERING,
            ]
            events: list[pb.NodeEvent] = []
            async with asyncio.timeout(10):
                while [event.status for event in events] != wanted:
                    events, token = [], ""
                    while True:
                        page = await suite.stub().ListNodeEvents(
                            pb.ListNodeEventsRequest(node_id=node.id, page_size=3, page_token=token)
                        )
                        events += page.events
                        token = page.next_page_token
                        if not token:
                            break
            assert [event.reason for event in events][:2] == ["drained by an operator", "measured"]
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await suite.stub().ListNodeEvents(pb.ListNodeEventsRequest(node_id="nobody"))
            assert code_of(unknown.value) == "NOT_FOUND"


async def test_a_gateways_word_keeps_a_cut_off_node_in_service(suite: RegistrySuite) -> None:
    async with suite.running(suspect_s=1.5):
        node = await suite.join()
        async with node.streaming(address="127.0.0.1:1"):
            pass
        seen = pb.NodeObservation(node_id=node.id, heard_ms_ago_plus_one=1, succeeded=1)
        offer = suite.stub().GatewayStream()
        loop = asyncio.get_running_loop()
        until = loop.time() + 4.0
        heard_from_s = loop.time() + 1.2
        while loop.time() < until:
            observations = [seen] if loop.time() > heard_from_s else []
            await offer.write(pb.GatewayStreamRequest(observations=observations))
            assert (await asyncio.wait_for(offer.read(), 10)).next_report_ms == 1_000
            await asyncio.sleep(0.05)
        [known] = [each for each in (await suite.stub().ListNodes(pb.ListNodesRequest())).nodes if each.id == node.id]
        assert known.reachable
        offer.cancel()


async def test_a_restart_keeps_the_fleet_and_ends_its_streams_at_once(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        stream = node.stub().HeartbeatStream()
        first = heartbeat("ACTIVE")
        first.facts.CopyFrom(facts())
        await stream.write(first)
        await stream.read()
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert await stream.read() == grpc.aio.EOF
    async with suite.running(), watching(suite) as watch:
        await watch.until(lambda nodes: node.id in nodes)
        assert watch.nodes[node.id].status == pb.NODE_STATUS_ACTIVE
        assert watch.nodes[node.id].facts == facts()
        assert watch.nodes[node.id].reachable


async def test_a_watch_that_is_cut_by_a_restart_says_so(suite: RegistrySuite) -> None:
    async with suite.running():
        call = suite.stub("scheduler").WatchNodes(pb.WatchNodesRequest())
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await _read_to_the_end(call)
    assert cut.value.code() == grpc.StatusCode.UNAVAILABLE


async def _read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_witnesses_are_acknowledged_once_durable_in_the_nodes_own_name(suite: RegistrySuite) -> None:
    async with suite.running(), suite.accountant_running():
        node = await suite.join()
        call = node.stub().WitnessStream()
        sent = [accountant_pb.Witness(sealed_context=text, node_id="somebody else") for text in (b"good", b"bad")]
        await call.write(
            pb.WitnessStreamRequest(
                calls=[pb.WitnessStreamCall(id=number, witness=witness) for number, witness in enumerate(sent)]
            )
        )
        results: dict[int, str] = {}
        while len(results) < 2:
            answer = await asyncio.wait_for(call.read(), 5)
            results.update({result.id: result.refused_reason for result in answer.results})
        assert results == {0: "", 1: "bad seal"}
        assert [witness.node_id for witness in suite.accountant.witnesses] == [node.id, node.id]
        call.cancel()


async def test_witnesses_wait_for_an_accountant_that_is_away(suite: RegistrySuite) -> None:
    async with suite.running():
        node = await suite.join()
        call = node.stub().WitnessStream()
        await call.write(
            pb.WitnessStreamRequest(
                calls=[pb.WitnessStreamCall(id=7, witness=accountant_pb.Witness(sealed_context=b"good"))]
            )
        )
        reading = asyncio.create_task(call.read())
        await asyncio.sleep(0.3)
        assert not reading.done()
        async with suite.accountant_running():
            answer = await asyncio.wait_for(reading, 10)
        assert [(result.id, result.refused_reason) for result in answer.results] == [(7, "")]
        call.cancel()


async def test_a_model_is_listed_watched_and_unique(suite: RegistrySuite) -> None:
    async with suite.running():
        watch = suite.stub().WatchModels(pb.WatchModelsRequest())
        before = await asyncio.wait_for(watch.read(), 5)
        names = sorted(f"m-{uuid4()}" for _ in range(3))
        for name in names:
            await suite.stub().CreateModel(pb.CreateModelRequest(model=pb.Model(name=name, context_length=4096)))
        seen: set[str] = set()
        async with asyncio.timeout(5):
            while not seen.issuperset(names):
                seen = {model.name for model in (await watch.read()).models}
        assert seen.issuperset({model.name for model in before.models})
        with pytest.raises(grpc.aio.AioRpcError) as taken:
            await suite.stub().CreateModel(pb.CreateModelRequest(model=pb.Model(name=names[0], context_length=1)))
        assert taken.value.code() == grpc.StatusCode.ALREADY_EXISTS
        listed: list[str] = []
        token = ""
        while True:
            page = await suite.stub().ListModels(pb.ListModelsRequest(page_size=2, page_token=token))
            listed += [model.name for model in page.models]
            token = page.next_page_token
            if not token:
                break
        assert listed == sorted(listed)
        assert seen.issubset(listed)
        watch.cancel()


async def test_nodes_are_listed_oldest_first_in_pages(suite: RegistrySuite) -> None:
    async with suite.running():
        made = [(await suite.join()).id for _ in range(3)]
        listed: list[str] = []
        token = ""
        while True:
            page = await suite.stub().ListNodes(pb.ListNodesRequest(page_size=2, page_token=token))
            listed += [node.id for node in page.nodes]
            token = page.next_page_token
            if not token:
                break
        assert [node_id for node_id in listed if node_id in made] == made
        for bad in (pb.ListNodesRequest(page_size=-1), pb.ListNodesRequest(page_token="rubbish")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await suite.stub().ListNodes(bad)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_certificate_of_another_ca_opens_nothing(suite: RegistrySuite, tmp_path: Path) -> None:
    async with suite.running():
        other = RegistrySuite(tmp_path, pg_url=suite.pg_url)
        stranger = Channels(other.ca.service("gateway"))
        stub = rpc.RegistryServiceStub(stranger.service("registry", f"127.0.0.1:{suite.ports[0]}"))
        with pytest.raises(grpc.aio.AioRpcError) as shut:
            await stub.ListNodes(pb.ListNodesRequest(), timeout=5)
        assert shut.value.code() == grpc.StatusCode.UNAVAILABLE
        await stranger.close()
