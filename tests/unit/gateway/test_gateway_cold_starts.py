"""Requests that wait for a machine: only where one is promised, within bounds, and with one report for all of them."""

import asyncio
from typing import Any

import pytest

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.cold_starts import ColdStarts
from crosslogic_gateway.domain import Route
from tests.fakes.admin_stub import FakeStub, rpc_error

ROUTE = Route("node", "127.0.0.1:1", "us-east", False, "")


class FakeDeployments(FakeStub):
    def __init__(self, *, max_wait_s: float, max_waiting: int = 10) -> None:
        super().__init__()
        self.answer = pb.ReportWaitingResponse(max_waiting=max_waiting)
        self.answer.max_wait.FromMilliseconds(round(max_wait_s * 1000))
        self.answer.expected_start.FromSeconds(30)

    def ReportWaiting(self, request: Any) -> Any:
        return self.answer


def cold_starts(deployments: FakeDeployments) -> ColdStarts:
    loop = asyncio.get_running_loop()
    return ColdStarts(deployments=lambda: deployments, reporter="w", monotonic=loop.time, poll_s=0.01)


def refusal() -> CodedError:
    return CodedError(ErrorCode.NO_CAPACITY)


async def never() -> Route:
    raise refusal()


async def test_request_is_refused_at_once_where_no_machine_would_come_and_nobody_asks_again_at_once() -> None:
    deployments = FakeDeployments(max_wait_s=0)
    waits = cold_starts(deployments)
    for _ in range(3):
        with pytest.raises(CodedError) as caught:
            await waits.wait(model="m", region="r", refused=refusal(), pick=never)
        assert caught.value.retry_after_s is None
    assert len(deployments.asked) == 1


async def test_all_that_wait_go_on_once_a_node_serves_and_one_report_tells_of_them() -> None:
    deployments = FakeDeployments(max_wait_s=60)
    waits = cold_starts(deployments)
    picks = 0

    async def pick() -> Route:
        nonlocal picks
        picks += 1
        return ROUTE if picks > 10 else await never()

    found = await asyncio.gather(*(waits.wait(model="m", region="r", refused=refusal(), pick=pick) for _ in range(5)))
    assert found == [ROUTE] * 5
    assert len(deployments.asked) <= 2


async def test_request_that_waited_in_vain_is_told_when_to_come_back() -> None:
    waits = cold_starts(FakeDeployments(max_wait_s=0.05))
    with pytest.raises(CodedError) as caught:
        await waits.wait(model="m", region="r", refused=refusal(), pick=never)
    assert caught.value.code is ErrorCode.NO_CAPACITY
    assert caught.value.retry_after_s == pytest.approx(30, abs=5)


async def test_no_more_wait_than_the_deployment_allows() -> None:
    waits = cold_starts(FakeDeployments(max_wait_s=60, max_waiting=2))
    waiting = [asyncio.create_task(waits.wait(model="m", region="r", refused=refusal(), pick=never)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(CodedError):
        await waits.wait(model="m", region="r", refused=refusal(), pick=never)
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_orchestrator_that_is_away_lets_nobody_wait() -> None:
    deployments = FakeDeployments(max_wait_s=60)
    deployments.fails = rpc_error(CodedError(ErrorCode.UNAVAILABLE))
    with pytest.raises(CodedError) as caught:
        await cold_starts(deployments).wait(model="m", region="r", refused=refusal(), pick=never)
    assert caught.value.code is ErrorCode.NO_CAPACITY
