"""What a worker tells the scheduler of nodes, and whom it leaves alone by itself."""

import asyncio
from datetime import UTC, datetime

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_gateway import node_reports
from crosslogic_gateway.node_reports import NodeReports


class ManualClock:
    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.now(UTC)


def reports(clock: ManualClock | None = None) -> tuple[NodeReports, list[pb.NodeOutcomes]]:
    told: list[pb.NodeOutcomes] = []
    return NodeReports(tell=told.append, clock=clock or ManualClock()), told


async def test_a_failure_is_told_at_once_with_what_came_before() -> None:
    made, told = reports()
    made.succeeded("a", 0.25)
    made.succeeded("a", 0.5)
    assert told == []
    made.failed("a")
    assert told == [pb.NodeOutcomes(node_id="a", succeeded=2, failed=1, failed_in_a_row=1, first_byte_us_total=750_000)]
    made.close()


async def test_successes_gather_and_none_is_told_twice() -> None:
    made, told = reports()
    for _ in range(100):
        made.succeeded("a", 0.1)
    made.succeeded("b", 0.0)
    made.close()
    made.close()
    assert [(each.node_id, each.succeeded, each.failed) for each in told] == [("a", 100, 0), ("b", 1, 0)]


async def test_successes_are_told_without_a_failure_to_push_them() -> None:
    made, told = reports()
    made.succeeded("a", 0.1)
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.01)
    assert told[0].succeeded == 1
    made.close()


async def test_a_node_that_fails_again_and_again_is_left_alone_for_longer_each_time() -> None:
    clock = ManualClock()
    made, _ = reports(clock)
    for _ in range(4):
        made.failed("a")
    assert not made.ejected("a")
    made.failed("a")
    assert made.ejected("a")
    assert not made.ejected("b")
    clock.at = 29.9
    assert made.ejected("a")
    clock.at = 30.0
    assert not made.ejected("a")
    made.failed("a")  # the first trial
    assert made.ejected("a")
    clock.at = 30.0 + 59.9
    assert made.ejected("a")
    clock.at = 30.0 + 60.0
    assert not made.ejected("a")


async def test_one_success_between_failures_keeps_a_node() -> None:
    made, _ = reports()
    for _ in range(8):
        made.failed("a")
        made.succeeded("a", 0.1)
    assert not made.ejected("a")
    made.close()


async def test_memory_is_bounded_however_many_nodes_there_are() -> None:
    made, told = reports()
    for number in range(node_reports.MAX_RECORDS + 50):
        made.failed(f"failing-{number}")
    assert len(made._records) == node_reports.MAX_RECORDS
    told.clear()
    for number in range(node_reports.MAX_UNTOLD + 50):
        made.succeeded(f"sound-{number}", 0.1)
    assert len(made._untold) <= node_reports.MAX_UNTOLD
    made.close()
    assert len(told) == node_reports.MAX_UNTOLD + 50
