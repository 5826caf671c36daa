"""A gateway that is replaced while it serves, its readiness, and more streams at once than anybody planned for."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_load import Load, Seen, running, wait_for

AT_ONCE = 1_000


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with simulated(nodes=2, step_ms=50) as started:
        yield started


async def test_gateway_that_is_replaced_cuts_no_answer_and_hands_over_every_record(
    suite: Suite, ledger: Ledger
) -> None:
    seen = [Seen(stream=number % 2 == 0) for number in range(40)]
    async with Load(suite, max_tokens=30) as load, running(load, seen):
        await wait_for(lambda: sum(each.content_chunks > 1 for each in seen) >= 10)
        assert not any(each.complete for each in seen), "too late to prove anything"
        await asyncio.to_thread(suite.kill, "gateway", signal.SIGTERM)
    await asyncio.to_thread(suite.start, "gateway")

    assert [each for each in seen if not each.complete] == []
    entries = ledger.holding({each.request_id for each in seen})
    assert {(entries[each.request_id].times, entries[each.request_id].tokens == each.tokens) for each in seen} == {
        (1, True)
    }
    assert not any(entries[each.request_id].from_witness for each in seen), "the gateway left its records behind"


async def test_sick_dependency_takes_no_gateway_out_of_service(suite: Suite) -> None:
    for name in ("postgres", "redis", "identity", "scheduler", "accountant"):
        suite.kill(name, signal.SIGSTOP)
        try:
            assert {suite.admin.ask("GET", path).status for path in ("/health", "/ready")} == {200}, name
        finally:
            suite.kill(name, signal.SIGCONT)


async def test_1000_streams_at_once_are_all_answered_whole_and_billed_once(suite: Suite, ledger: Ledger) -> None:
    seen = [Seen(stream=True) for _ in range(AT_ONCE)]
    async with Load(suite, max_tokens=4) as load, running(load, seen):
        pass

    assert [each for each in seen if not each.complete] == []
    entries = ledger.holding({each.request_id for each in seen})
    assert {(entries[each.request_id].times, entries[each.request_id].tokens == each.tokens) for each in seen} == {
        (1, True)
    }
