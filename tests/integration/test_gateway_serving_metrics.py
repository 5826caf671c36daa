"""What operators read of models, nodes and tokens is what happened."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from crosslogic_common.errors import ErrorCode
from crosslogic_gateway.failover import FailoverPolicy
from crosslogic_gateway.serving_metrics import MAX_NODE_SERIES, ServingMetrics
from tests.fakes.gateway_fleet import Fleet, fleet


def value(world: Fleet, name: str, **labels: str) -> float:
    return world.registry.get_sample_value(name, labels) or 0.0


async def read(world: Fleet, *, stream: bool) -> int:
    async with await world.post(stream=stream) as answer:
        await answer.read()
        return answer.status


async def test_stream_is_counted_by_model_node_and_region_with_the_times_of_its_tokens() -> None:
    async with fleet(2) as world:
        asked = asyncio.create_task(read(world, stream=True))
        node = world.nodes[0]
        call_id, _ = await node.call()
        node.begin(call_id, b"data: {}\n\n", tokens=1)
        await asyncio.sleep(0.2)
        node.say(call_id, data=b"data: [DONE]\n\n", completion_tokens=5)
        node.end(call_id, tokens=5)
        assert await asked == 200
        await world.record()
        assert value(world, "loadbalancer_requests_total", model="m", node="node-1") == 1
        assert value(world, "tokens_processed_total", model="m") == 7
        assert value(world, "loadbalancer_latency_seconds_count", model="m") == 1
        assert value(world, "crosslogic_time_to_first_token_seconds_count", model="m", region="local") == 1
        assert 0.05 <= value(world, "crosslogic_inter_token_seconds_sum", model="m", region="local") < 5


async def test_whole_answer_has_no_time_of_a_first_token() -> None:
    async with fleet(1) as world:
        asked = asyncio.create_task(read(world, stream=False))
        call_id, _ = await world.nodes[0].call()
        world.nodes[0].answer(call_id, 200, tokens=7)
        assert await asked == 200
        assert value(world, "tokens_processed_total", model="m") == 9
        assert value(world, "crosslogic_time_to_first_token_seconds_count", model="m", region="local") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_each_node_that_fails_a_request_is_an_error_of_its_kind(*, stream: bool) -> None:
    async with fleet(2, policy=FailoverPolicy(another_within_s=0.1)) as world:
        asked = asyncio.create_task(read(world, stream=stream))
        for node in world.nodes:
            call_id, _ = await node.call()
            node.fail(call_id, ErrorCode.ENGINE_UNAVAILABLE)
        assert await asked == 503
        assert value(world, "loadbalancer_errors_total", model="m", reason="lost") == 2
        assert value(world, "loadbalancer_errors_total", model="m", reason="no_node") == 1
        assert value(world, "loadbalancer_requests_total", model="m", node="node-2") == 1


def test_fleet_that_comes_and_goes_leaves_no_series_behind() -> None:
    registry = CollectorRegistry()
    serving = ServingMetrics(registry)
    for number in range(MAX_NODE_SERIES + 100):
        serving.sent("m", f"node-{number}")
    [family] = [family for family in registry.collect() if family.name == "loadbalancer_requests"]
    assert len({sample.labels["node"] for sample in family.samples}) == MAX_NODE_SERIES
    assert registry.get_sample_value("loadbalancer_requests_total", {"model": "m", "node": "node-2099"}) == 1
