"""What the gateway does for and against tenants: networks, requests that are cut, keys that do harm."""

import asyncio
import ipaddress
from typing import Any

import pytest

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.abuse.policy import AbusePolicy
from crosslogic_gateway.abuse.watch import AbuseWatch
from crosslogic_gateway.domain import HardBudget, Limits, Principal
from crosslogic_gateway.networks import check_network
from crosslogic_gateway.principals import principal_of
from crosslogic_gateway.running import Running

OWNER = Principal("o", "e", "k", "", None, "salt", None, key_limits=Limits(requests_per_minute=60))
OTHER = Principal("o2", "e2", "k2", "", None, "salt", None)


def test_identitys_word_for_a_principal_is_read_whole() -> None:
    read = principal_of(
        pb.Principal(
            org_id="o",
            environment_id="e",
            api_key_id="k",
            region="us",
            all_models=True,
            key_limits=pb.Limits(requests_per_minute=5, concurrency=1),
            priority=pb.PRIORITY_HIGH,
            plan="gold",
            billing_mode=pb.BILLING_MODE_RESERVED,
            reserved_capacity=[pb.ReservedCapacity(model="m", capacity_units=7)],
            overage_policy=pb.OVERAGE_POLICY_BILL,
            allowed_regions=["us", "eu"],
            allowed_cidrs=["192.0.2.0/24"],
            max_output_tokens=9,
            monthly_cap_picodollars=2**63,
            hard_budgets=[
                pb.HardBudget(
                    id="org:o:month",
                    scope=pb.BUDGET_SCOPE_ORG,
                    period=pb.BUDGET_PERIOD_MONTH,
                    limit_picodollars=2**63,
                )
            ],
        )
    )
    assert read.key_limits == Limits(requests_per_minute=5, concurrency=1)
    assert (read.org_limits, read.max_prompt_tokens, read.max_output_tokens) == (Limits(), None, 9)
    assert (read.priority, read.plan, read.reserved, read.overage_billed) == ("high", "gold", True, True)
    assert read.reserved_units == {"m": 7}
    assert read.allowed_regions == ("us", "eu")
    assert read.allowed_networks == (ipaddress.ip_network("192.0.2.0/24"),)
    assert read.hard_budgets == (HardBudget("org:o:month", "org", "month", 2**63),)


# Networks


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("2001:db8::5", True),
        ("192.0.3.7", False),
        ("::ffff:192.0.3.7", False),
        ("2001:db9::5", False),
        ("", False),
        ("unix", False),
        ("192.0.2.7 ", False),
    ],
)
def test_a_key_is_taken_from_its_networks_and_from_nowhere_else(address: str, allowed: bool) -> None:
    networks = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
    if allowed:
        check_network(address, networks)
        return
    with pytest.raises(CodedError) as raised:
        check_network(address, networks)
    assert raised.value.code == ErrorCode.PERMISSION_DENIED


# Requests that are cut


async def serve(running: Running, principal: Principal, begun: asyncio.Event) -> str:
    task = running.begin(principal)
    try:
        begun.set()
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if not running.was_cut(task):
            raise
        task.uncancel()
        return "cut"
    finally:
        running.end(task)
    return "finished"


@pytest.mark.parametrize("whose", [{"org_id": "o"}, {"environment_id": "e"}, {"api_key_id": "k"}])
async def test_a_suspension_ends_that_tenants_requests_and_nobody_elses(whose: dict[str, str]) -> None:
    running = Running()
    begun = [asyncio.Event(), asyncio.Event()]
    theirs = asyncio.create_task(serve(running, OWNER, begun[0]))
    other = asyncio.create_task(serve(running, OTHER, begun[1]))
    await asyncio.gather(*(event.wait() for event in begun))
    assert running.cut(**whose) == 1
    running.cut(**whose)
    assert await theirs == "cut"
    assert not other.done()
    assert (len(running), running.cut_total) == (1, 1)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert len(running) == 0


# Keys that do harm


class Suspensions:
    """Notes whom it is told to suspend; fails when told to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.fails = False

    async def suspend(self, api_key_id: str, reason: str) -> None:
        self.told.append((api_key_id, reason))
        if self.fails:
            raise CodedError(ErrorCode.UNAVAILABLE)


def watching(**policy: Any) -> tuple[AbuseWatch, Suspensions]:
    suspensions = Suspensions()
    made = AbuseWatch(
        policy=AbusePolicy(**{"invalid_requests": 10, "velocity": 2.0, **policy}), suspends=suspensions, max_keys=100
    )
    return made, suspensions


def send(watch: AbuseWatch, count: int, code: ErrorCode | None, *, now: float = 0.0, who: Principal = OWNER) -> None:
    for _ in range(count):
        watch.request(who, now)
        if code is not None:
            watch.refused(who, code)


async def test_a_key_that_sends_little_but_nonsense_is_suspended_once_and_it_says_why() -> None:
    watch, suspensions = watching()
    send(watch, 1, None)
    send(watch, 30, ErrorCode.INVALID_ARGUMENT)
    await watch.drain()
    assert suspensions.told == [("k", "abuse: 10 of 11 requests within 60 s were not valid")]
    assert watch.suspended_total == 1


async def test_a_busy_key_with_some_mistakes_is_left_alone() -> None:
    watch, suspensions = watching()
    send(watch, 1_000, None)
    send(watch, 500, ErrorCode.INVALID_ARGUMENT)
    for code in (ErrorCode.OVERLOADED, ErrorCode.NO_CAPACITY, ErrorCode.TENANT_SUSPENDED, ErrorCode.INTERNAL):
        send(watch, 2_000, code)
    await watch.drain()
    assert not suspensions.told


async def test_mistakes_of_long_ago_do_not_count() -> None:
    watch, suspensions = watching()
    for minute in range(20):
        send(watch, 9, ErrorCode.INVALID_ARGUMENT, now=minute * 60.0)
    await watch.drain()
    assert not suspensions.told


async def test_a_key_far_beyond_its_own_limit_is_suspended_and_one_without_a_limit_never() -> None:
    watch, suspensions = watching()
    send(watch, 120, ErrorCode.RATE_LIMITED)
    await watch.drain()
    assert not suspensions.told
    send(watch, 1, ErrorCode.RATE_LIMITED)
    send(watch, 10_000, ErrorCode.RATE_LIMITED, who=OTHER)
    await watch.drain()
    assert suspensions.told == [("k", "abuse: 121 requests within 60 s beyond a limit of 60 a minute")]


async def test_a_suspension_that_failed_is_tried_again_in_the_next_window() -> None:
    watch, suspensions = watching()
    suspensions.fails = True
    send(watch, 15, ErrorCode.INVALID_ARGUMENT)
    await watch.drain()
    suspensions.fails = False
    send(watch, 15, ErrorCode.INVALID_ARGUMENT, now=61.0)
    await watch.drain()
    assert (len(suspensions.told), watch.suspended_total) == (2, 1)


async def test_watching_can_be_turned_off() -> None:
    watch, suspensions = watching(invalid_requests=0, velocity=0.0)
    send(watch, 5_000, ErrorCode.INVALID_ARGUMENT)
    send(watch, 5_000, ErrorCode.RATE_LIMITED)
    await watch.drain()
    assert not suspensions.told


def test_a_stream_of_new_keys_does_not_grow_the_memory() -> None:
    watch, _ = watching()
    for number in range(1_000):
        watch.request(Principal("o", "e", f"k{number}", "", None, "", None), 0.0)
    assert len(watch) == 100
