"""A process dies without a word while 200 requests run: nobody pays twice, nobody's answer is forgotten."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from crosslogic.common.v1 import common_pb2
from crosslogic_dev.suite import Suite
from tests.e2e.conftest import WITNESS_GRACE_S, simulated
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_load import Load, Seen, running, wait_for

NODES = 2
REQUESTS = 200
DONE_BEFORE = 60
RUNNING_STILL = 20
BACK_WITHIN_S = 10.0
PAUSES_S = {"redis": 5.0, "scheduler": 5.0}


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    # A node's load is news while it is fresh: with the default of 5 s all 200 may go to the node that looked idle.
    with simulated(
        nodes=NODES, step_ms=50, settings={"registry": {"CROSSLOGIC_HEARTBEAT_INTERVAL_MS": "500"}}
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def well(suite: Suite) -> Iterator[None]:
    """Whatever a test killed and did not start is started again for the next."""
    yield
    for name in ("postgres", "redis", "identity", "registry", "scheduler", "accountant", "gateway", "node_agent-1"):
        if suite.pid(name) is None:
            suite.start(name)
    until = time.monotonic() + 60
    while _nodes_that_serve(suite) < NODES:
        assert time.monotonic() < until, "a node that was killed is not back"
        time.sleep(0.1)


def _nodes_that_serve(suite: Suite) -> int:
    return sum(node["status"] == "active" for node in suite.admin.all_of("/admin/nodes"))


def _half_streamed() -> list[Seen]:
    return [Seen(stream=number % 2 == 0) for number in range(REQUESTS)]


async def _serves_again(load: Load) -> float:
    """Seconds until a new request succeeds."""
    began = time.monotonic()
    while True:
        if (await load.one(0, Seen(stream=True))).complete:
            return time.monotonic() - began
        assert time.monotonic() - began < BACK_WITHIN_S, "no request succeeds after the restart"
        await asyncio.sleep(0.05)


async def _kill_in_the_middle(suite: Suite, name: str) -> tuple[list[Seen], float]:
    """200 requests of 4 to 43 tokens, `name` killed while they end one after the other, and started again."""
    seen = _half_streamed()
    async with Load(suite, max_tokens=4, spread=40) as load, running(load, seen):
        await wait_for(lambda: sum(each.complete for each in seen) >= DONE_BEFORE)
        # A machine that stalls for half a second ends fifty of them at once.
        assert sum(each.ended_at == 0 for each in seen) >= RUNNING_STILL, "killed too late to prove anything"
        await asyncio.to_thread(suite.kill, name)
        if name.startswith("engine"):
            # Its agent starts it again.
            back_s = await _serves_again(load)
        else:
            await asyncio.to_thread(suite.start, name)
            back_s = await _serves_again(load)
    return seen, back_s


def _check_the_bills(ledger: Ledger, seen: list[Seen], name: str) -> None:
    succeeded = {each.request_id: each for each in seen if each.complete}
    entries = ledger.holding(succeeded)
    entries = ledger.still(quiet_s=WITNESS_GRACE_S)
    assert {each for each in entries if entries[each].times != 1} == set(), "billed more than once"
    wrong = {
        request_id: (each.tokens, entries[request_id].tokens)
        for request_id, each in succeeded.items()
        if entries[request_id].tokens != each.tokens
    }
    assert wrong == {}, f"{name}: what was billed is not what the client was told"
    for each in seen:
        if each.status >= 400 and each.request_id in entries:
            assert entries[each.request_id].cost_picodollars == 0, "a failed request was charged"
        # What a node had told its gateway by the end is whole for the node, whatever died with the gateway.
        if name != "gateway" and each.content_chunks and not each.complete and each.request_id in entries:
            entry = entries[each.request_id]
            assert entry.outcome != common_pb2.OUTCOME_SUCCEEDED, f"{name}: a cut stream was billed as a whole one"


@pytest.mark.parametrize("name", ["identity", "registry", "scheduler", "accountant", "postgres", "redis"])
async def test_control_plane_process_killed_and_no_client_notices(suite: Suite, ledger: Ledger, name: str) -> None:
    seen, back_s = await _kill_in_the_middle(suite, name)

    failed = [each for each in seen if not each.complete]
    assert failed == [], f"{len(failed)} requests failed: {failed[:3]}"
    assert back_s < BACK_WITHIN_S
    _check_the_bills(ledger, seen, name)


@pytest.mark.parametrize("name", ["gateway", "node_agent-1", "engine-1"])
async def test_data_plane_process_killed_and_every_answer_is_billed_once(
    suite: Suite, ledger: Ledger, name: str
) -> None:
    seen, back_s = await _kill_in_the_middle(suite, name)

    assert back_s < BACK_WITHIN_S
    if name != "gateway":
        failed = [each for each in seen if not each.complete]
        assert failed == [], f"{len(failed)} requests were lost with their node: {failed[:3]}"
        assert ledger.failed_over(each.request_id for each in seen) > 0, "the node that died had nothing to do"
    assert all(each.complete or each.error for each in seen), "a cut stream ended as if it were whole"
    _check_the_bills(ledger, seen, name)


async def test_gateway_dies_before_its_records_are_stored_and_the_nodes_counts_settle_them(
    suite: Suite, ledger: Ledger
) -> None:
    # Dead, not stopped: what a gateway wrote into the socket of a stopped accountant would be read once it goes on.
    suite.kill("accountant")
    seen = [Seen(stream=number % 2 == 0) for number in range(40)]
    async with Load(suite, max_tokens=2) as load, running(load, seen):
        pass
    suite.kill("gateway")
    suite.start("accountant")
    suite.start("gateway")

    assert [each for each in seen if not each.complete] == []
    entries = ledger.holding({each.request_id for each in seen})
    assert {each.request_id: (1, each.tokens) for each in seen} == {
        each.request_id: (entries[each.request_id].times, entries[each.request_id].tokens) for each in seen
    }
    assert all(entries[each.request_id].from_witness for each in seen)


@pytest.mark.parametrize("name", ["redis", "scheduler", "identity", "registry", "accountant", "postgres"])
async def test_hung_dependency_and_requests_go_on(suite: Suite, ledger: Ledger, name: str) -> None:
    async with Load(suite, max_tokens=2) as load:
        assert (await load.one(0, Seen(stream=True))).complete
        suite.kill(name, signal.SIGSTOP)
        try:
            until = time.monotonic() + PAUSES_S.get(name, 1.5)
            seen: list[Seen] = []
            slowest_s = 0.0
            while time.monotonic() < until:
                began = time.monotonic()
                seen.append(await load.one(len(seen), Seen(stream=len(seen) % 2 == 0)))
                slowest_s = max(slowest_s, time.monotonic() - began)
        finally:
            suite.kill(name, signal.SIGCONT)
    assert [each for each in seen if not each.complete] == []
    assert slowest_s < 3.0, f"a request took {slowest_s:.1f} s"
    entries = ledger.holding({each.request_id for each in seen})
    assert all(entries[each.request_id].tokens == each.tokens for each in seen)
