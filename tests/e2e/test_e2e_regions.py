"""Sessions stay on their node and a region that is down is taken over, as clients and the ledger see it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import psycopg
import pytest

from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_clients import TIMEOUT_S
from tests.fakes.e2e_ledger import Ledger

FAILOVER = "X-CrossLogic-Region-Failover"


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with simulated(nodes=2, settings={"scheduler": {"CROSSLOGIC_REGION_FAILOVER_SHARE": "1"}}) as started:
        yield started


@dataclass(frozen=True)
class Asker:
    """Sends requests as one tenant."""

    suite: Suite
    key: str

    def ask(self, *, stream: bool = False, session: str = "", prompt: str = "Hello") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **({"X-Session-ID": session} if session else {})}
        body = {
            "model": self.suite.model_name,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 2,
            "stream": stream,
        }
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            return client.post(f"{self.suite.base_url}/v1/chat/completions", json=body, headers=headers)


def tenant(suite: Suite, **environment: object) -> Asker:
    """A new organisation's key in such an environment."""
    org = suite.admin.must("POST", "/admin/orgs", {"name": "Regions"})
    made = suite.admin.must("POST", f"/admin/orgs/{org['id']}/environments", {"name": "production", **environment})
    return Asker(suite, str(suite.admin.must("POST", f"/admin/environments/{made['id']}/keys", {})["key"]))


def rows(suite: Suite, ledger: Ledger, answers: Sequence[httpx.Response]) -> list[Mapping[str, Any]]:
    """Where requests ran, by their records."""
    ids = [answer.headers["X-CrossLogic-Request-ID"] for answer in answers]
    ledger.holding(ids)
    with psycopg.connect(suite.database_url, connect_timeout=5) as connection:
        found = connection.execute(
            "SELECT request_id::text, node_id::text, region, region_failover FROM ledger.usage_records "
            "WHERE request_id = ANY(%s::uuid[])",
            (ids,),
        ).fetchall()
    by_id = {each[0]: dict(zip(("node_id", "region", "region_failover"), each[1:], strict=True)) for each in found}
    return [by_id[request_id] for request_id in ids]


async def test_a_session_stays_on_one_node_and_sessions_use_both(suite: Suite, ledger: Ledger) -> None:
    asker = tenant(suite)

    def answers_to(sessions: Sequence[str]) -> list[httpx.Response]:
        return [asker.ask(session=session) for session in sessions]

    def nodes_of(round_: int) -> list[str]:
        # Forty sessions on one of two nodes by chance: once in 2 ** 39.
        sessions = [f"session {round_}-{number}" for number in range(40)]
        answers = answers_to([*sessions, *sessions[:8], *sessions[:8]])
        return [each["node_id"] for each in rows(suite, ledger, answers)]

    for round_ in range(3):
        nodes = await asyncio.to_thread(nodes_of, round_)
        if nodes[:8] == nodes[40:48] == nodes[48:]:
            break
        # A machine so busy that a node's heartbeat was late moves that node's sessions: once more.
    assert nodes[:8] == nodes[40:48] == nodes[48:]
    assert len(set(nodes)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_region_that_is_down_is_taken_over_and_says_so_without_naming_a_node(
    suite: Suite, ledger: Ledger, stream: bool
) -> None:
    abroad = tenant(suite, country="IN", fallback_regions=["local"])
    answer = await asyncio.to_thread(abroad.ask, stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers[FAILOVER] == "true"
    (found,) = rows(suite, ledger, [answer])
    assert (found["region"], found["region_failover"]) == ("local", True)
    assert found["node_id"] not in str(answer.headers)


async def test_data_that_must_stay_in_its_region_is_refused_rather_than_sent_abroad(suite: Suite) -> None:
    pinned = tenant(suite, region="in-mumbai", residency_pinned=True)
    answer = await asyncio.to_thread(pinned.ask)
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "no_capacity"
    assert "Retry-After" in answer.headers


async def test_a_region_that_is_up_says_nothing_of_failover(suite: Suite, ledger: Ledger) -> None:
    at_home = tenant(suite, region="local")
    answer = await asyncio.to_thread(at_home.ask)
    assert answer.status_code == 200, answer.text
    assert FAILOVER not in answer.headers
    assert rows(suite, ledger, [answer])[0]["region_failover"] is False


async def test_an_operator_who_asks_for_prefix_affinity_gets_prompts_remembered(suite: Suite) -> None:
    asker = tenant(suite)
    url = f"http://{suite.target('scheduler_metrics')}/metrics"

    def blocks() -> float:
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            lines = client.get(url).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("crosslogic_scheduler_prefix_blocks "))

    assert await asyncio.to_thread(asker.ask, prompt="Twelve words of a prompt. " * 100)
    assert await asyncio.to_thread(blocks) == 0
    path = f"/admin/models/{suite.model_name}/deployments"
    deployments = [{"region": "", "strategy": "prefix_affinity"}]
    assert suite.admin.must("PUT", path, {"deployments": deployments})["deployments"] == deployments
    until = asyncio.get_running_loop().time() + TIMEOUT_S
    # Gateway and scheduler are told by the registry, each in its own time.
    while await asyncio.to_thread(blocks) == 0:
        assert asyncio.get_running_loop().time() < until
        answer = await asyncio.to_thread(asker.ask, prompt="Twelve words of a prompt. " * 100)
        assert answer.status_code == 200, answer.text
