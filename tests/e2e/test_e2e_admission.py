"""Limits and budgets over four gateway workers, as their tenants meet them; and what is left of them without Redis.

`make trial-limits` runs the same with windows of their real length and more clients.
"""

import asyncio
import os
import signal
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import redis

from crosslogic.accountant.v1 import budgets_pb2 as budgets_pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as budgets_rpc
from crosslogic_dev.suite import Suite
from crosslogic_gateway.admission import cap_notices
from tests.e2e.conftest import simulated
from tests.fakes.e2e_clients import async_client, client
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_limits import greedy_clients

SCALE = float(os.environ.get("TRIAL_WINDOW_SCALE", "0.03"))
CLIENTS = int(os.environ.get("TRIAL_CLIENTS", "200"))
AT_ONCE = int(os.environ.get("TRIAL_AT_ONCE", "300"))
WINDOW_S = 60 * SCALE
WINDOWS = 5
AT_LEAST = 0.97 if SCALE == 1 else 0.1
"""Of what the windows allow. That the limit itself gives 97 % is tried on the script, with a clock of the test's; here
a busy machine may be too slow to ask for it."""
WORKERS = 4


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    gateway = {
        "CROSSLOGIC_WORKERS": str(WORKERS),
        "CROSSLOGIC_LIMIT_WINDOW_SCALE": str(SCALE),
        "CROSSLOGIC_ACCESS_LOG": "0",
        # What is measured is the limits. A machine with other work to do must not make Redis seem away.
        "CROSSLOGIC_REDIS_BUDGET_S": "30",
    }
    with simulated(nodes=1, step_ms=5, settings={"gateway": gateway}) as running:
        yield running


def new_key(suite: Suite, **fields: object) -> str:
    return str(suite.admin.must("POST", f"/admin/environments/{suite.environment_id}/keys", fields)["key"])


def new_org(suite: Suite, *, org: dict[str, object], environment: dict[str, object]) -> str:
    """A key of a new organisation."""
    org_id = suite.admin.must("POST", "/admin/orgs", {"name": "limited", **org})["id"]
    environment_id = suite.admin.must("POST", f"/admin/orgs/{org_id}/environments", {"name": "default", **environment})[
        "id"
    ]
    many = {"requests_per_minute": 10_000_000}
    return str(suite.admin.must("POST", f"/admin/environments/{environment_id}/keys", {"limits": many})["key"])


def worker_pids(suite: Suite) -> list[int]:
    parent = suite.pid("gateway")
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    return [int(word) for word in children.split()]


async def test_five_windows_hold_five_times_the_limit_and_never_more_though_a_worker_dies(suite: Suite) -> None:
    limit = 60_000 if SCALE == 1 else 2_400
    many = {"requests_per_minute": 10_000_000}
    key = new_org(suite, org={"limits": {**many, "tokens_per_minute": limit}}, environment={"limits": many})
    clients = asyncio.create_task(
        greedy_clients(suite, key, clients=CLIENTS, seconds=(WINDOWS - 0.1) * WINDOW_S, max_tokens=20)
    )
    await asyncio.sleep(WINDOWS / 2 * WINDOW_S)
    os.kill(worker_pids(suite)[1], signal.SIGKILL)
    got = await clients
    assert got.tokens <= WINDOWS * limit
    assert got.tokens >= AT_LEAST * WINDOWS * limit, got
    assert got.refused > 0
    print(f"{got.tokens / (WINDOWS * limit):.4f} of {WINDOWS} x {limit} tokens; {got}")


async def _owners_will_be_told(suite: Suite, cap: int) -> None:
    """The cap is a soft budget at the accountant too, which tells of what is spent, and once, whoever made it."""
    with suite.operator() as operator:
        budgets = budgets_rpc.BudgetServiceStub(operator._channel("accountant", suite.target("accountant")))
        async with asyncio.timeout(30):
            while True:
                states = budgets.ListBudgets(budgets_pb.ListBudgetsRequest(), timeout=5).states
                made = [state.budget for state in states if list(state.budget.owners) == [cap_notices.OWNER]]
                if made:
                    break
                await asyncio.sleep(0.1)
    assert [(budget.limit_picodollars, budget.hard) for budget in made] == [(cap, False)]


async def test_requests_that_come_together_never_pass_a_hard_budget(suite: Suite, ledger: Ledger) -> None:
    # Prices are $0.05 and $0.10 for a million tokens: a request costs some 2.5 micro-dollars.
    cap = 600_000_000
    key = new_org(
        suite,
        org={"limits": {"requests_per_minute": 10_000_000}, "monthly_cap_picodollars": cap},
        environment={"limits": {"requests_per_minute": 10_000_000}},
    )
    before = set(ledger.entries())
    got = await greedy_clients(suite, key, clients=AT_ONCE, seconds=60, max_tokens=20, requests_each=2)
    assert got.refused > 0
    until = time.monotonic() + 20
    while True:
        spent = [entry.cost_picodollars for request, entry in ledger.entries().items() if request not in before]
        if len(spent) >= got.answered:
            break
        assert time.monotonic() < until, f"{len(spent)} of {got.answered} records"
        await asyncio.sleep(0.05)
    assert 0 < sum(spent) <= cap
    await _owners_will_be_told(suite, cap)


async def test_a_hard_budget_that_is_made_at_the_accountant_stops_requests_within_a_moment(suite: Suite) -> None:
    made = suite.admin.must("POST", "/admin/orgs", {"name": "stopped"})
    environment = suite.admin.must("POST", f"/admin/orgs/{made['id']}/environments", {"name": "default"})
    key = str(suite.admin.must("POST", f"/admin/environments/{environment['id']}/keys", {"name": "stopped"})["key"])
    asked = async_client(suite, key=key)

    async def refusal() -> openai.APIStatusError | None:
        try:
            await asked.chat.completions.create(
                model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=1
            )
        except openai.APIStatusError as error:
            return error
        return None

    assert await refusal() is None
    with suite.operator() as operator:
        budgets = budgets_rpc.BudgetServiceStub(operator._channel("accountant", suite.target("accountant")))
        budgets.CreateBudget(
            budgets_pb.CreateBudgetRequest(
                request_id=str(uuid.uuid4()),
                budget=budgets_pb.Budget(
                    org_id=made["id"],
                    scope=budgets_pb.SPEND_SCOPE_ENVIRONMENT,
                    scope_id=environment["id"],
                    name="next to nothing",
                    period=budgets_pb.SPEND_PERIOD_DAY,
                    limit_picodollars=1_000_000,
                    hard=True,
                ),
            ),
            timeout=20,
        )
    until = time.monotonic() + 20
    while (refused := await refusal()) is None:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    assert (refused.status_code, refused.code) == (402, "budget_exceeded")
    assert "this environment" in refused.message
    await asked.close()


def test_openais_client_reads_its_limits_and_is_told_when_to_come_back(suite: Suite) -> None:
    key = new_key(suite, name="few", limits={"requests_per_minute": 3, "tokens_per_minute": 100_000})
    asked = client(suite, key=key)
    until = time.monotonic() + 60
    while True:
        left: list[str] = []
        try:
            for _ in range(4):
                answer = asked.chat.completions.with_raw_response.create(
                    model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=4
                )
                left.append(answer.headers["x-ratelimit-remaining-requests"])
                assert answer.headers["x-ratelimit-limit-requests"] == "3"
                assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
                assert 99_000 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 100_000
                assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
        except openai.RateLimitError as error:
            refused = error
            if left == ["2", "1", "0"]:
                break
        # The short window slid on while a busy machine asked.
        assert time.monotonic() < until
        time.sleep(1.2 * WINDOW_S)
    assert refused.code == "rate_limit_exceeded"
    assert int(refused.response.headers["retry-after"]) >= 1
    assert refused.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert "this API key" in refused.message


def test_a_limit_that_is_changed_holds_in_every_worker_at_once(suite: Suite) -> None:
    made = suite.admin.must("POST", f"/admin/environments/{suite.environment_id}/keys", {"limits": {"concurrency": 1}})
    suite.admin.must("PATCH", f"/admin/keys/{made['id']}", {"limits": {"tokens_per_hour": 1}})
    asked = client(suite, key=str(made["key"]))

    def status() -> int:
        try:
            asked.chat.completions.create(
                model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=1
            )
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    until = time.monotonic() + 20
    while status() != 403:
        assert time.monotonic() < until
    suite.admin.must("PATCH", f"/admin/keys/{made['id']}", {"limits": {"tokens_per_hour": 1_000_000}})
    changed_at = time.monotonic()
    in_a_row = 0
    while in_a_row < 20:
        in_a_row = in_a_row + 1 if status() == 200 else 0
        assert time.monotonic() < until
    print(f"{time.monotonic() - changed_at:.2f} s until twenty in a row passed")


def test_counters_come_back_from_the_ledger_when_redis_has_lost_them(suite: Suite, ledger: Ledger) -> None:
    key = new_key(suite, name="day", limits={"tokens_per_day": 150})
    asked = client(suite, key=key)
    answer = asked.chat.completions.with_raw_response.create(
        model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=60
    )
    ledger.record(answer.headers["x-crosslogic-request-id"])
    with redis.Redis.from_url(suite.redis_url) as client_of_redis:
        client_of_redis.flushall()
    with pytest.raises(openai.PermissionDeniedError) as refused:
        asked.chat.completions.create(
            model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=60
        )
    assert refused.value.code == "quota_exceeded"
    assert "150 tokens per day" in refused.value.message
    page = urllib.request.urlopen(f"{suite.base_url}/metrics", timeout=30)  # noqa: S310  # the suite's own address
    assert b"crosslogic_admission_local 0.0" in page.read()


def test_a_stream_tells_its_limits_too_and_settles_at_its_end(suite: Suite) -> None:
    key = new_key(
        suite, name="stream", limits={"tokens_per_day": 1_000_000, "tokens_per_minute": 50_000, "concurrency": 1}
    )
    asked = client(suite, key=key)
    until = time.monotonic() + 20
    for _ in range(3):
        while True:
            try:
                answer = asked.chat.completions.with_raw_response.create(
                    model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=4, stream=True
                )
                break
            except openai.RateLimitError:
                # The client may have seen the end of a stream before Redis has.
                assert time.monotonic() < until
                time.sleep(0.05)
        assert answer.headers["x-ratelimit-limit-tokens"] == "50000"
        with answer.parse() as stream:
            assert len(list(stream)) >= 4


async def test_a_client_that_leaves_gives_its_place_to_the_next(suite: Suite) -> None:
    key = new_key(suite, name="leaves", limits={"concurrency": 1})
    asked = async_client(suite, key=key)
    stream = await asked.chat.completions.create(
        model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=4000, stream=True
    )
    await anext(aiter(stream))
    with pytest.raises(openai.RateLimitError):
        await asked.chat.completions.create(
            model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=1
        )
    await stream.close()
    until = time.monotonic() + 20
    while True:
        try:
            await asked.chat.completions.create(
                model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=1
            )
            break
        except openai.RateLimitError:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
    await asked.close()


def test_an_environments_longest_answer_holds_for_requests_that_name_none(suite: Suite) -> None:
    key = new_org(suite, org={}, environment={"max_output_tokens": 5})
    asked = client(suite, key=key)
    answer = asked.chat.completions.create(model=suite.model_name, messages=[{"role": "user", "content": "hi"}])
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="at most 5"):
        asked.chat.completions.create(
            model=suite.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=6
        )


def test_while_redis_hangs_requests_go_on_and_are_billed_and_the_ready_page_says_so(
    simulation: Suite,
) -> None:
    asked = client(simulation)
    ready = f"{simulation.base_url}/ready"

    def degraded() -> bool:
        with urllib.request.urlopen(ready, timeout=30) as page:  # noqa: S310  # the suite's own address
            return b'"admission"' in page.read()

    simulation.kill("redis", signal.SIGSTOP)
    try:
        until = time.monotonic() + 30
        told = False
        while not told:
            assert time.monotonic() < until
            told = degraded()
            answer = asked.chat.completions.with_raw_response.create(
                model=simulation.model_name, messages=[{"role": "user", "content": "hi"}], max_tokens=3
            )
            assert answer.status_code == 200
    finally:
        simulation.kill("redis", signal.SIGCONT)
    record = Ledger(simulation).record(answer.headers["x-crosslogic-request-id"])
    assert record["completion_tokens"] == 3
    until = time.monotonic() + 30
    while degraded():
        assert time.monotonic() < until
        time.sleep(0.05)
