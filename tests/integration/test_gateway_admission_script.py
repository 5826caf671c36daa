"""The script that admits, on a real Redis with a clock of the test's: what tenants could take from each other."""

import random
from collections import deque
from typing import cast

import pytest

from crosslogic_gateway.admission.admission import BY_SHARE
from crosslogic_gateway.admission.limits import LEASE_MS, TOKENS_MINUTE
from crosslogic_gateway.admission.pipe import ADMIT
from crosslogic_gateway.domain import HardBudget, Limits
from tests.fakes.admission_script import AdmissionScript, make_spec, principal

ADMITTED, REFUSED, NOT_SEEDED, TOO_LARGE, BUDGET = 1, 0, 2, 3, 4
MINUTE_S = 60
DEAD_S = LEASE_MS / 1000 + 0.1
MONTH = HardBudget("org:org-1:month", "org", "month", 1_000_000)
# The test's clock starts in September 2026.
MONTH_KEY, DAY_KEY = "org:org-1:month:2026-09", "key:key-1:day:2026-09-21"


@pytest.fixture
def script(redis_url: str) -> AdmissionScript:
    script = AdmissionScript(redis_url)
    script.seed()
    return script


def limited(**limits: int) -> Limits:
    return Limits(**limits)


def test_a_limit_of_requests_holds_in_every_minute_wherever_it_begins(script: AdmissionScript) -> None:
    spec = make_spec(principal(key=limited(requests_per_minute=100)))
    admitted: deque[int] = deque()
    chance = random.Random(7)
    for number in range(1500):
        script.advance(chance.choice((0.001, 0.01, 0.3, 2.0)))
        if script.admit(spec, f"t{number}")[0] == ADMITTED:
            admitted.append(script.now_us)
    for at in admitted:
        assert sum(1 for other in admitted if at <= other < at + MINUTE_S * 1_000_000) <= 100


@pytest.mark.parametrize("demand", [1.3, 20.0], ids=["a little more than allowed", "twenty times what is allowed"])
@pytest.mark.parametrize("dies", [False, True], ids=["all live", "a worker dies half-way"])
def test_five_minutes_of_demand_get_the_tokens_of_five_minutes_and_never_more(
    script: AdmissionScript, demand: float, dies: bool
) -> None:
    limit, held, used, minutes = 30_000, 60, 50, 5
    spec = make_spec(principal(org=limited(tokens_per_minute=limit)))
    chance = random.Random(3)
    under_way: list[tuple[int, str, str]] = []
    history: list[tuple[int, int, str]] = []
    begin = script.now_us
    workers = ["w0", "w1", "w2", "w3"]
    number = 0
    while (elapsed_s := (script.now_us - begin) / 1e6) < minutes * MINUTE_S:
        if dies and elapsed_s > minutes * MINUTE_S / 2 and "w3" in workers:
            workers.remove("w3")
            killed = {ticket for _, ticket, worker in under_way if worker == "w3"}
            under_way = [entry for entry in under_way if entry[2] != "w3"]
            # What it had under way is answered by nobody; its prompts are charged.
            history = [(at, 20 if ticket in killed else tokens, ticket) for at, tokens, ticket in history]
        script.advance(0.2)
        for _, ticket, worker in [entry for entry in under_way if entry[0] <= script.now_us]:
            script.settle(ticket, prompt=20, completion=used - 20, worker=worker)
        under_way = [entry for entry in under_way if entry[0] > script.now_us]
        for _ in range(round(limit / MINUTE_S * demand / used * 0.2)):
            number += 1
            worker = workers[number % len(workers)]
            if script.admit(spec, f"t{number}", prompt=20, completion=held - 20, worker=worker)[0] != ADMITTED:
                break
            history.append((script.now_us, used, f"t{number}"))
            under_way.append((script.now_us + chance.randrange(100_000, 900_000), f"t{number}", worker))
    total = sum(tokens for _, tokens, _ in history)
    assert 0.97 * minutes * limit <= total <= minutes * limit
    assert_never_over(history, limit)


def assert_never_over(history: list[tuple[int, int, str]], limit: int) -> None:
    window: deque[tuple[int, int]] = deque()
    inside = 0
    for at, tokens, _ in history:
        window.append((at, tokens))
        inside += tokens
        while window[0][0] <= at - MINUTE_S * 1_000_000:
            inside -= window.popleft()[1]
        assert inside <= limit


def test_what_was_held_and_not_used_is_free_at_once(script: AdmissionScript) -> None:
    spec = make_spec(principal(key=limited(tokens_per_minute=1000, tokens_per_day=5000, concurrency=2)))
    assert script.admit(spec, "a", prompt=100, completion=900)[0] == ADMITTED
    assert script.admit(spec, "b", prompt=10, completion=10)[:4] == [REFUSED, 1, TOKENS_MINUTE + 1, 1000]
    assert script.settle("a", prompt=90, completion=10) == 1
    assert script.admit(spec, "b", prompt=100, completion=800)[2:] == [1000, 1000, 1]
    assert script.settle("a", prompt=90, completion=10) == 0, "a request settles once"


def test_concurrent_requests_are_counted_and_freed(script: AdmissionScript) -> None:
    spec = make_spec(principal(environment=limited(concurrency=2)))
    assert [script.admit(spec, ticket)[0] for ticket in "abc"] == [ADMITTED, ADMITTED, REFUSED]
    script.settle("a")
    assert script.admit(spec, "c")[0] == ADMITTED


def test_a_refused_request_takes_nothing_from_any_layer(script: AdmissionScript) -> None:
    spec = make_spec(principal(key=limited(requests_per_minute=100), org=limited(tokens_per_minute=50)))
    assert script.admit(spec, "a", prompt=30, completion=10)[0] == ADMITTED
    before = script.totals()
    refused = script.admit(spec, "b", prompt=30, completion=10)
    assert refused[:4] == [REFUSED, 3, TOKENS_MINUTE + 1, 50], "the organisation's layer is named"
    assert script.totals() == before


def test_one_organisations_keys_share_its_limit_and_another_organisations_do_not(
    script: AdmissionScript,
) -> None:
    shared = limited(requests_per_minute=3)
    specs = [make_spec(principal(org=shared, key_id=f"key-{number}")) for number in range(4)]
    assert [script.admit(spec, "x")[0] for spec in specs] == [ADMITTED, ADMITTED, ADMITTED, REFUSED]


def test_retry_after_is_when_it_works_and_not_before(script: AdmissionScript) -> None:
    spec = make_spec(principal(key=limited(tokens_per_minute=1000)))
    script.admit(spec, "a", prompt=400)
    script.advance(20)
    script.admit(spec, "b", prompt=600)
    script.settle("a", prompt=400)
    script.settle("b", prompt=600)
    status, *_, retry_us = script.admit(spec, "c", prompt=300)
    assert status == REFUSED
    script.advance(retry_us / 1e6 - 0.5)
    assert script.admit(spec, "c", prompt=300)[0] == REFUSED
    script.advance(0.5)
    assert script.admit(spec, "c", prompt=300)[0] == ADMITTED


def test_a_request_that_can_never_fit_is_told_so(script: AdmissionScript) -> None:
    spec = make_spec(principal(key=limited(tokens_per_minute=1000)))
    assert script.admit(spec, "a", prompt=400, completion=601) == [TOO_LARGE, 1, TOKENS_MINUTE + 1, 1000]


def test_a_second_has_no_more_tokens_than_its_limit_but_one_long_request_still_runs(
    script: AdmissionScript,
) -> None:
    spec = make_spec(principal(org=limited(tokens_per_second=1000)))
    assert script.admit(spec, "small", prompt=10)[0] == ADMITTED
    assert script.admit(spec, "long", prompt=1000, completion=3000)[0] == REFUSED
    script.advance(1.1)
    assert script.admit(spec, "long", prompt=1000, completion=3000)[0] == ADMITTED
    status, *_, retry_us = script.admit(spec, "next", prompt=10)
    assert status == REFUSED
    assert retry_us == pytest.approx(4_000_000, rel=0.01), "4,000 tokens take 4 s at 1,000 a second"
    script.settle("long", prompt=1000, completion=0)
    script.advance(1.1)
    assert script.admit(spec, "next", prompt=10)[0] == ADMITTED, "it used 1,000: one second"


def test_a_killed_worker_keeps_no_place_and_no_tokens_for_longer_than_ten_seconds(
    script: AdmissionScript,
) -> None:
    spec = make_spec(principal(key=limited(concurrency=1, tokens_per_hour=1000)))
    assert script.admit(spec, "a", prompt=10, completion=900, worker="killed")[0] == ADMITTED
    assert script.admit(spec, "b", prompt=10, completion=900, worker="alive")[0] == REFUSED
    script.advance(DEAD_S)
    assert DEAD_S <= 10
    assert script.admit(spec, "b", prompt=10, completion=900, worker="alive")[0] == ADMITTED
    assert script.renew("alive") == ["alive"]


def test_a_worker_that_says_something_now_and_then_keeps_what_its_long_requests_hold(
    script: AdmissionScript,
) -> None:
    spec = make_spec(principal(key=limited(concurrency=1)))
    script.admit(spec, "stream", worker="w1")
    for _ in range(20):
        script.advance(2)
        script.renew("w1")
    assert script.admit(spec, "b", worker="w2")[0] == REFUSED
    script.settle("stream", worker="w1")
    assert script.admit(spec, "b", worker="w2")[0] == ADMITTED


def test_a_worker_that_only_slept_settles_what_others_thought_dead(script: AdmissionScript) -> None:
    spec = make_spec(principal(key=limited(tokens_per_hour=1000, concurrency=5), budgets=(MONTH,)))
    script.seed({MONTH_KEY: 0})
    assert script.admit(spec, "a", prompt=100, completion=500, cost=700, worker="asleep")[0] == ADMITTED
    script.advance(DEAD_S)
    script.renew("alive")
    kept = script.totals()
    assert kept.get("concurrency:{org-1}:key:key-1", 0) == 0
    assert kept[f"budget:{{org-1}}:{MONTH_KEY}"] == 700, "what it costs is not known yet"
    script.settle("a", prompt=90, completion=60, cost=150, worker="asleep")
    after = script.totals()
    assert after["tokens:{org-1}:key:key-1:hour"] == 150
    assert after[f"budget:{{org-1}}:{MONTH_KEY}"] == 150
    assert after.get("concurrency:{org-1}:key:key-1", 0) == 0


def test_a_hard_budget_is_never_passed_by_requests_that_come_together(script: AdmissionScript) -> None:
    spec = make_spec(principal(budgets=(MONTH,)))
    assert script.admit(spec, "x", cost=10) == [NOT_SEEDED], "nobody has said what is spent"
    assert script.seed({MONTH_KEY: 400}) == 0
    limit = MONTH.limit_picodollars // 1000
    answers = [script.admit(spec, f"t{number}", cost=7) for number in range(200)]
    let_in = [answer for answer in answers if answer[0] == ADMITTED]
    assert 400 + 7 * len(let_in) <= limit < 400 + 7 * (len(let_in) + 1)
    assert answers[-1] == [BUDGET, 0, limit, 400 + 7 * len(let_in)]
    script.settle("t0", cost=2)
    assert script.admit(spec, "again", cost=5)[0] == ADMITTED


def test_what_workers_let_in_before_anybody_says_what_is_spent_counts_once_somebody_does(redis_url: str) -> None:
    script = AdmissionScript(redis_url)
    spec = make_spec(principal(key=limited(tokens_per_day=1000), budgets=(MONTH,)))

    def by_share(ticket: str, cost: int) -> list[int]:
        return cast("list[int]", script.run("w1", [spec], [(ADMIT, ticket, 0, 100, 100, cost, BY_SHARE)])[0])

    assert [by_share(ticket, 100)[0] for ticket in ("early", "late", "runs", "runs")] == [ADMITTED] * 4
    script.settle("early", prompt=10, completion=10, cost=30)
    script.advance(40)
    script.settle("late", prompt=10, completion=10, cost=40)
    script.seed({MONTH_KEY: 500}, entries=[("key", "key-1", 6, 3_600_000_000, 20)])
    spent, limit = 500 + 40 + 100, MONTH.limit_picodollars // 1000
    budget, day = f"budget:{{org-1}}:{MONTH_KEY}", "tokens:{org-1}:key:key-1:day"
    assert script.totals()[budget] == spent, "the ledger knows what was settled early, and perhaps not what was late"
    assert script.totals()[day] == 20, "of what is used the ledger tells"
    assert by_share("much", limit - spent + 1) == [BUDGET, 0, limit, spent], "now Redis decides"
    assert by_share("all", limit - spent)[0] == ADMITTED
    script.settle("runs", prompt=1, completion=1, cost=60)
    script.settle("all", cost=0)
    assert script.totals()[budget] == spent - 40
    assert not any(name.startswith("held:") for name in script.totals())
    script.advance(86_400 * 20)
    assert by_share("large", 1)[0] == ADMITTED, "October's budget is not known, the day's tokens are"
    assert script.run("w1", [spec], [(ADMIT, "larger", 0, 900, 101, 1, BY_SHARE)])[0][0] == TOO_LARGE


def test_a_budget_of_another_month_is_another(script: AdmissionScript) -> None:
    spec = make_spec(principal(budgets=(MONTH, HardBudget("key:key-1:day", "api_key", "day", 10**9))))
    script.seed({MONTH_KEY: 999, DAY_KEY: 0})
    assert script.admit(spec, "a", cost=1)[0] == ADMITTED
    assert script.admit(spec, "b", cost=1)[0] == BUDGET
    script.advance(86_400 * 20)
    assert script.admit(spec, "b", cost=1) == [NOT_SEEDED], "October's figures are not there yet"
    script.seed({"org:org-1:month:2026-10": 0, "key:key-1:day:2026-10-11": 0})
    assert script.admit(spec, "b", cost=1)[0] == ADMITTED
    script.settle("a", cost=1)
    assert script.totals()[f"budget:{{org-1}}:{MONTH_KEY}"] == 1000, "a request belongs to the month that it began in"


def test_an_empty_redis_lets_nobody_in_before_the_ledger_has_said_what_was_used(redis_url: str) -> None:
    script = AdmissionScript(redis_url)
    spec = make_spec(principal(key=limited(tokens_per_day=1000)))
    assert script.admit(spec, "a", prompt=10) == [NOT_SEEDED]
    day = 6
    entries = [("key", "key-1", day, 3_600_000_000, 400), ("key", "key-1", day, 80_000_000_000, 500)]
    assert script.seed(entries=entries) == 1
    assert script.seed(entries=entries) == 0, "two workers seed once"
    assert script.admit(spec, "a", prompt=101)[0] == REFUSED
    assert script.admit(spec, "a", prompt=100)[0] == ADMITTED
    script.advance(7000)
    assert script.admit(spec, "b", prompt=500)[0] == ADMITTED, "yesterday's have left the window"
