"""What callers are told of their limits, what a request is thought to ask for, and a worker's share without Redis."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.budget_alerts import BudgetAlerts
from crosslogic_gateway.admission.demand import DEFAULT_ROOM_TOKENS, Demand, demand_of
from crosslogic_gateway.admission.estimate import TokenEstimates
from crosslogic_gateway.admission.limits import MAX_NANODOLLARS, kinds, make_spec, nanodollars
from crosslogic_gateway.admission.local import MAX_OWNERS, LocalLimits, Share
from crosslogic_gateway.admission.redis_link import RedisAddress
from crosslogic_gateway.admission.refusals import HeaderLines, RefusedError, budget_refusal, duration, overloaded
from crosslogic_gateway.body import parse_body
from crosslogic_gateway.domain import NO_LIMITS, HardBudget, Limits, Model, Principal
from crosslogic_gateway.prices import Rate
from crosslogic_gateway.settings import limits_of_text

KINDS = kinds()
MODEL = Model("m", "f", 8192, 50, 100, frozenset(), 0)
RATE = Rate("", 50, None, 100, 0)


def who(
    key: Limits = NO_LIMITS, environment: Limits = NO_LIMITS, org: Limits = NO_LIMITS, key_id: str = "key"
) -> Principal:
    return Principal(
        "org", "env", key_id, "", None, "", None, key_limits=key, environment_limits=environment, org_limits=org
    )


def demand(principal: Principal, raw: bytes, *, generates: bool = True) -> Demand:
    return demand_of(
        spec=make_spec(principal),
        principal=principal,
        model=MODEL,
        body=parse_body(agent_pb.ENGINE_API_CHAT_COMPLETIONS, raw),
        raw=raw,
        estimates=TokenEstimates(),
        rate=RATE,
        generates=generates,
    )


def chat(**fields: int) -> bytes:
    more = "".join(f',"{name}":{value}' for name, value in fields.items())
    return b'{"model":"m","messages":[{"role":"user","content":"hello"}]%b}' % more.encode()


@pytest.mark.parametrize(
    ("microseconds", "shown"),
    [
        (0, "0ms"),
        (20_000, "20ms"),
        (999_600, "1s"),
        (1_500_000, "1.5s"),
        (360_000_000, "6m0s"),
        (3_661_000_000, "1h1m1s"),
        (-5, "0ms"),
    ],
)
def test_times_are_written_as_openais_clients_read_them(microseconds: float, shown: str) -> None:
    assert duration(microseconds) == shown


def test_the_layer_with_the_least_left_is_told() -> None:
    spec = make_spec(
        who(
            Limits(requests_per_minute=100, tokens_per_minute=9_000),
            Limits(requests_per_minute=50),
            Limits(tokens_per_minute=5_000),
        )
    )
    lines = HeaderLines(spec, KINDS).lines([60, 100, 45, 4_000]).splitlines()
    assert lines == [
        "x-ratelimit-limit-requests: 50",
        "x-ratelimit-remaining-requests: 5",
        "x-ratelimit-reset-requests: 1m0s",
        "x-ratelimit-limit-tokens: 5000",
        "x-ratelimit-remaining-tokens: 1000",
        "x-ratelimit-reset-tokens: 1m0s",
    ]


def test_a_caller_without_limits_a_minute_is_told_of_none() -> None:
    assert HeaderLines(make_spec(who(Limits(tokens_per_day=5, concurrency=2))), KINDS).lines([1, 1]) == ""


def test_no_refusal_tells_of_anybody_elses_figures() -> None:
    told = (overloaded(1.0), budget_refusal("org", "month"))
    assert not any(any(letter.isdigit() for letter in refused.public) for refused in told)
    assert told[0].code is ErrorCode.OVERLOADED
    assert told[1].code is ErrorCode.BUDGET_EXCEEDED


def test_a_request_that_names_no_limit_is_not_refused_for_our_guess_at_one() -> None:
    assert demand(who(), chat()).completion_tokens == DEFAULT_ROOM_TOKENS
    tight = demand(who(Limits(tokens_per_minute=100)), chat())
    assert tight.prompt.tokens + tight.completion_tokens <= 100
    assert tight.completion_tokens > 1


def test_choices_are_held_for_each_and_embeddings_hold_no_answer() -> None:
    assert demand(who(), chat(max_tokens=10, n=4)).completion_tokens == 40
    assert demand(who(), chat(), generates=False).completion_tokens == 0


def test_a_hard_budget_covers_the_longest_answer_and_every_byte_of_the_prompt() -> None:
    named = demand(who(), chat(max_tokens=10))
    assert named.cost_picodollars >= len(chat(max_tokens=10)) * 50 + 10 * 100
    assert demand(who(), chat()).cost_picodollars >= 8192 * 100


def test_an_environments_longest_answer_is_a_cap_or_a_refusal() -> None:
    capped = replace(who(), max_output_tokens=50)
    assert demand(capped, chat()).completion_cap == 50
    assert demand(capped, chat(max_tokens=50)).completion_cap == 0
    with pytest.raises(CodedError, match="at most 50"):
        demand(capped, chat(max_tokens=51))


def test_a_prompt_that_is_longer_than_its_environment_allows_is_refused() -> None:
    short = replace(who(), max_prompt_tokens=100)
    assert demand(short, chat()).completion_tokens
    long = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"some words " * 400)
    with pytest.raises(CodedError) as refused:
        demand(short, long)
    assert refused.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


@settings(deadline=None)
@given(limit=st.integers(0, 10_000), workers=st.integers(1, 64))
def test_shares_make_up_the_limit_and_not_one_more(limit: int, workers: int) -> None:
    assert sum(Share(workers, rank).of(limit) for rank in range(workers)) == limit


@settings(deadline=None)
@given(
    asks=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 400), st.integers(0, 400)), max_size=60),
    workers=st.integers(1, 5),
)
def test_a_share_is_never_passed_in_any_minute(asks: list[tuple[float, int, int]], workers: int) -> None:
    local = LocalLimits(kinds=KINDS)
    local.share = Share(workers, 0)
    spec = make_spec(who(Limits(tokens_per_minute=1_000)))
    now_us, history = 1e12, []
    for pause_s, tokens, used in asks:
        now_us += pause_s * 1e6
        try:
            held, _ = local.admit(spec, tokens=tokens, now_us=now_us)
        except RefusedError:
            continue
        local.settle(held, tokens=min(used, tokens), now_us=now_us)
        history.append((now_us, min(used, tokens)))
    for at, _ in history:
        assert sum(tokens for other, tokens in history if at <= other < at + 60e6) <= local.share.of(1_000)


def test_without_redis_too_a_request_of_more_than_a_seconds_tokens_runs_alone() -> None:
    local = LocalLimits(kinds=KINDS)
    local.share = Share(4, 0)
    spec = make_spec(who(org=Limits(tokens_per_second=1_000)))
    local.admit(spec, tokens=4_000, now_us=1e12)
    with pytest.raises(RefusedError) as refused:
        local.admit(spec, tokens=10, now_us=1e12)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    with pytest.raises(RefusedError):
        local.admit(spec, tokens=10, now_us=1e12 + 15e6)
    local.admit(spec, tokens=10, now_us=1e12 + 17e6)


def test_a_worker_without_redis_counts_what_others_had_used() -> None:
    local = LocalLimits(kinds=KINDS)
    local.share = Share(2, 0)
    spec = make_spec(who(Limits(requests_per_minute=10)))
    passed = 0
    for _ in range(10):
        try:
            local.admit(spec, tokens=0, now_us=1e12, last_totals=[6])
        except RefusedError:
            continue
        passed += 1
    assert passed == 2, "four were left for two workers"


def test_places_are_freed_and_shares_forget_owners_that_were_seen_long_ago() -> None:
    local = LocalLimits(kinds=KINDS)
    spec = make_spec(who(Limits(concurrency=1)))
    held, _ = local.admit(spec, tokens=0, now_us=1e12)
    with pytest.raises(RefusedError, match="under way"):
        local.admit(spec, tokens=0, now_us=1e12)
    local.settle(held, tokens=0, now_us=1e12)
    assert local._places == {}
    for number in range(MAX_OWNERS + 10):
        local.admit(make_spec(who(Limits(requests_per_minute=5), key_id=str(number))), tokens=0, now_us=1e12)
    assert len(local._windows) == MAX_OWNERS


@settings(deadline=None)
@given(picodollars=st.lists(st.integers(0, 10**13), min_size=1, max_size=50))
def test_what_is_held_is_never_less_than_what_is_charged(picodollars: list[int]) -> None:
    assert sum(map(nanodollars, picodollars)) * 1000 >= sum(picodollars)
    assert nanodollars(10**30) == MAX_NANODOLLARS


def test_operators_hear_of_a_budget_at_50_80_and_100_percent_and_again_when_it_started_anew() -> None:
    heard: list[int] = []
    alerts = BudgetAlerts(passed=lambda org_id, its_budget, percent: heard.append(percent))
    budget = HardBudget("b", "org", "month", 1_000_000)
    for used in (0, 499, 500, 480, 510, 799, 801, 820, 1000, 490, 990, 1200):
        alerts.seen("org", budget, used)
    assert heard == [50, 80, 100]
    alerts.seen("org", budget, 3)
    alerts.seen("org", budget, 1000)
    assert heard == [50, 80, 100, 50, 80, 100]


def test_of_two_budgets_with_one_id_the_smaller_stands() -> None:
    budgets = tuple(HardBudget("b", "org", "month", limit) for limit in (5_000, 3_000, 4_000))
    assert [budget.limit_picodollars for budget in make_spec(who(), budgets).budgets] == [3_000]


def test_the_services_limits_are_read_from_one_line() -> None:
    assert limits_of_text("requests_per_second=5, tokens_per_minute=70") == Limits(
        requests_per_second=5, tokens_per_minute=70
    )
    assert limits_of_text("") == NO_LIMITS
    for nonsense in ("requests_per_second", "concurrency=3", "x=1", "tokens_per_day=0", "tokens_per_day=a"):
        with pytest.raises(ValueError, match=r".+"):
            limits_of_text(nonsense)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("redis://h:7/3", ("h", 7, "", 3, "", "", False)),
        ("rediss://u:p%40s@h", ("h", 6379, "", 0, "u", "p@s", True)),
        ("unix:///run/r.sock", ("localhost", 6379, "/run/r.sock", 0, "", "", False)),
    ],
)
def test_addresses_of_redis_are_read(url: str, read: tuple[object, ...]) -> None:
    found = RedisAddress.from_url(url)
    assert (
        found.host,
        found.port,
        found.unix_path,
        found.database,
        found.username,
        found.password,
        found.tls,
    ) == read
    assert "p@s" not in repr(found)


def test_windows_scale_all_alike() -> None:
    for whole, short in itertools.zip_longest(kinds(), kinds(0.05)):
        assert short.window_us == round(whole.window_us * 0.05)
        assert short.buckets == whole.buckets
