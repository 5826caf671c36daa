"""The outbox in the real database: an event once on a route, a message at least once under one id, tenants apart."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, transaction
from crosslogic_common.seal import Sealer
from crosslogic_orchestrator.events import add_event
from crosslogic_orchestrator.notify.dispatcher import AT_ONCE, Dispatcher
from crosslogic_orchestrator.notify.domain import (
    Channel,
    Delivery,
    Event,
    Message,
    QuietHours,
    Route,
    Severity,
    Target,
)
from crosslogic_orchestrator.notify.intake import PAGE, Intake
from crosslogic_orchestrator.notify.metrics import NotifyMetrics
from crosslogic_orchestrator.notify.outbox_store import OutboxStore
from crosslogic_orchestrator.notify.policy import Retry
from crosslogic_orchestrator.notify.ports import Sender, SendError
from crosslogic_orchestrator.notify.route_store import MAX_ROUTES_OF_OPERATORS, MAX_ROUTES_OF_ORG, RouteStore
from crosslogic_orchestrator.notify.service import Asked, Notifications
from crosslogic_orchestrator.notify.sources import FleetSource
from crosslogic_orchestrator.notify.vault import Vault
from crosslogic_orchestrator.scaling.store import ScalingStore

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
ASKED = Asked(
    name="pager",
    channel="webhook",
    target="https://hooks.example.com/very-secret-path",
    secret="",
    kinds=(),
    min_severity=Severity.INFO,
    quiet=None,
    gather_s=60,
    enabled=True,
)
KEY = os.urandom(32)


@dataclass(slots=True)
class Clock:
    moment: datetime = START

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def pass_s(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass(slots=True)
class Letters:
    """A sender that keeps what it was given; `fails` says what becomes of it, by a route's name."""

    sent: list[tuple[Route, Message, Target]] = field(default_factory=list)
    fails: dict[str, SendError] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)

    async def send(self, message: Message, route: Route, target: Target) -> None:
        if route.name in self.hangs:
            await asyncio.Event().wait()
        self.sent.append((route, message, target))
        if route.name in self.fails:
            raise self.fails[route.name]

    def ids(self) -> list[str]:
        return [message.delivery_id for _, message, _ in self.sent]


@dataclass(slots=True)
class World:
    pool: Pool
    clock: Clock = field(default_factory=Clock)
    letters: Letters = field(default_factory=Letters)
    cursor: int = 0

    @property
    def outbox(self) -> OutboxStore:
        return OutboxStore(self.pool, ids=Uuid7Source())

    @property
    def service(self) -> Notifications:
        return Notifications(
            routes=RouteStore(self.pool),
            outbox=self.outbox,
            senders=self.senders,
            vault=Vault(Sealer(KEY)),
            clock=self.clock,
            ids=Uuid7Source(),
            wake=lambda: None,
        )

    @property
    def senders(self) -> Mapping[Channel, Sender]:
        return {"webhook": self.letters, "slack": self.letters}

    def dispatcher(self, *, key: bytes = KEY) -> Dispatcher:
        return Dispatcher(
            outbox=self.outbox,
            senders=self.senders,
            vault=Vault(Sealer(key)),
            clock=self.clock,
            retry=Retry(attempts=3),
            metrics=NotifyMetrics(Metrics()),
            uniform=lambda: 0.0,
            wake=asyncio.Event(),
            lease_s=32.0,
        )

    async def route(self, *, org_id: str = "", asked: Asked = ASKED) -> Route:
        made, _ = await self.service.create(org_id, asked, request_id="")
        return made

    async def happens(self, *events: Event) -> bool:
        self.cursor += 1
        await self.outbox.cursor("test")
        return await self.outbox.take("test", events, after=self.cursor - 1, reached=self.cursor, now=self.clock.now())

    async def send_all(self) -> int:
        count = 0
        while await self.dispatcher().send_once():
            count += 1
        return count

    async def deliveries(self, route: Route | None = None) -> list[Delivery]:
        found, _ = await self.service.deliveries(
            org_id="", route_id="" if route is None else route.id, state="", page_size=1_000, token=""
        )
        return found

    def event(self, *, key: str = "", kind: str = "node_lost", org_id: str = "", **kwargs: Severity) -> Event:
        severity = kwargs.get("severity", Severity.CRITICAL)
        return Event(
            key=key or str(uuid4()),
            kind=kind,
            severity=severity,
            org_id=org_id,
            at=self.clock.now(),
            title="A machine was lost",
            text="It is gone.",
        )


@pytest.fixture
def world(fleet_pool: Pool) -> World:
    return World(fleet_pool)


async def test_an_event_that_is_told_twice_is_sent_once_on_each_route(world: World) -> None:
    one, other = await world.route(), await world.route(asked=replace(ASKED, name="other"))
    await world.happens(world.event(key="node_lost:1"), world.event(key="node_lost:1"))
    await world.happens(world.event(key="node_lost:1"))
    world.clock.pass_s(3_600)
    assert await world.send_all() == 2
    assert {route.id for route, _, _ in world.letters.sent} == {one.id, other.id}
    assert [message.count for _, message, _ in world.letters.sent] == [1, 1]


async def test_replicas_that_read_the_same_page_take_it_up_once(world: World) -> None:
    await world.route()
    page = [world.event() for _ in range(20)]
    await world.outbox.cursor("test")
    taken = await asyncio.gather(
        *(world.outbox.take("test", page, after=0, reached=20, now=world.clock.now()) for _ in range(4))
    )
    assert sorted(taken) == [False, False, False, True]
    (delivery,) = await world.deliveries()
    assert delivery.count == 20
    assert await world.outbox.cursor("test") == 20


async def test_a_flood_is_one_message_at_once_and_one_with_the_rest_a_minute_later(world: World) -> None:
    await world.route()
    await world.happens(world.event())
    assert await world.send_all() == 1
    for _ in range(5):
        world.clock.pass_s(2)
        await world.happens(*(world.event() for _ in range(100)))
        assert await world.send_all() == 0
    world.clock.pass_s(60)
    assert await world.send_all() == 1
    first, rest = (message for _, message, _ in world.letters.sent)
    assert (first.count, rest.count, len(rest.events)) == (1, 500, 20)


async def test_quiet_hours_gather_until_morning_and_what_is_critical_comes_at_once(world: World) -> None:
    night = QuietHours(start=time(11), end=time(14), zone=ZoneInfo("UTC"))
    await world.route(asked=replace(ASKED, quiet=night))
    for _ in range(3):
        await world.happens(world.event(kind="scale_up", severity=Severity.INFO))
        world.clock.pass_s(600)
    assert await world.send_all() == 0
    await world.happens(world.event())
    assert await world.send_all() == 1
    world.clock.moment = START + timedelta(hours=2)
    assert await world.send_all() == 1
    assert [(message.kind, message.count) for _, message, _ in world.letters.sent] == [
        ("node_lost", 1),
        ("scale_up", 3),
    ]


async def test_something_critical_brings_forward_what_waits_for_morning(world: World) -> None:
    night = QuietHours(start=time(11), end=time(14), zone=ZoneInfo("UTC"))
    await world.route(asked=replace(ASKED, quiet=night))
    await world.happens(world.event(kind="budget_threshold", severity=Severity.WARNING))
    assert await world.send_all() == 0
    await world.happens(world.event(kind="budget_threshold", severity=Severity.CRITICAL))
    assert await world.send_all() == 1
    assert world.letters.sent[0][1].count == 2


async def test_nobody_is_woken_by_what_is_tried_again_or_was_late(world: World) -> None:
    night = QuietHours(start=time(12, 30), end=time(14), zone=ZoneInfo("UTC"))
    failing = await world.route(asked=replace(ASKED, quiet=night))
    await world.route(asked=replace(ASKED, name="late", quiet=night))
    world.clock.moment = START + timedelta(minutes=29, seconds=59)
    world.letters.fails["pager"] = SendError("Later.", retry_after_s=60.0)
    await world.happens(world.event(kind="scale_up", severity=Severity.INFO))
    assert await world.dispatcher().send_once()
    # The other was due as well, and nothing ran until now.
    world.clock.pass_s(1_800)
    tried = len(world.letters.sent)
    await world.send_all()
    assert len(world.letters.sent) == tried
    world.letters.fails.clear()
    world.clock.moment = START + timedelta(hours=2)
    assert await world.send_all() == 2
    assert {delivery.state for delivery in await world.deliveries()} == {"sent"}
    assert (await world.deliveries(failing))[0].attempts <= 2, "what was put off counts as no attempt"


async def test_one_organisations_slow_receivers_keep_nobody_else_from_testing(world: World) -> None:
    service, slow = world.service, str(uuid4())
    hanging = [await world.route(org_id=slow, asked=replace(ASKED, name=f"hangs-{n}")) for n in range(6)]
    world.letters.hangs = {route.name for route in hanging}
    trying = [asyncio.create_task(service.test(route.id)) for route in hanging]
    async with asyncio.timeout(60):
        while sum(task.done() for task in trying) < 5:
            await asyncio.sleep(0.01)
    refused = [task.exception() for task in trying if task.done()]
    others = [await world.route(org_id=str(uuid4())), await world.route()]
    assert [await service.test(route.id) for route in others] == ["", ""]
    assert [isinstance(each, CodedError) and each.code is ErrorCode.OVERLOADED for each in refused] == [True] * 5
    for task in trying:
        task.cancel()
    await asyncio.gather(*trying, return_exceptions=True)


async def test_a_tenant_cannot_send_tests_to_a_stranger_without_end(world: World) -> None:
    service, route = world.service, await world.route(org_id=str(uuid4()))
    assert await service.test(route.id) == ""
    with pytest.raises(CodedError, match="try again in 10 s") as caught:
        await service.test(route.id)
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.OVERLOADED, 10.0)
    world.clock.pass_s(10)
    assert await service.test(route.id) == ""
    assert len(world.letters.sent) == 2


async def test_a_tenant_is_told_of_nobody_elses_events(world: World) -> None:
    a, b = str(uuid4()), str(uuid4())
    of_a, of_b, operators = await world.route(org_id=a), await world.route(org_id=b), await world.route()
    await world.happens(world.event(org_id=a), world.event(org_id=""))
    await world.send_all()
    told = {route.id: [event.org_id for event in message.events] for route, message, _ in world.letters.sent}
    assert told == {of_a.id: [a], operators.id: [a, ""]}
    assert [route.id for route in (await world.service.routes(b, page_size=0, token=""))[0]] == [of_b.id]
    listed, _ = await world.service.deliveries(org_id=a, route_id="", state="", page_size=0, token="")
    assert [delivery.route_id for delivery in listed] == [of_a.id]


async def test_what_fails_is_tried_again_and_becomes_a_dead_letter_that_can_be_replayed(world: World) -> None:
    route = await world.route()
    world.letters.fails["pager"] = SendError("The receiver answered 500.")
    await world.happens(world.event())
    for wait_s in (0, 2.5, 5.0):
        world.clock.pass_s(wait_s)
        assert await world.send_all() == 1
        assert await world.send_all() == 0
    (dead,) = await world.deliveries(route)
    assert (dead.state, dead.attempts, dead.last_error) == ("dead", 3, "The receiver answered 500.")
    assert await world.outbox.dead() == {"operators": 1, "organisations": 0}
    world.letters.fails.clear()
    assert (await world.service.replay(dead.id)).state == "pending"
    assert await world.send_all() == 1
    with pytest.raises(CodedError) as caught:
        await world.service.replay(dead.id)
    assert caught.value.code is ErrorCode.CONFLICT
    assert set(world.letters.ids()) == {dead.id}, "a receiver that has it could not tell"
    first, *later = (message for _, message, _ in world.letters.sent)
    assert later == [first] * 3, "each attempt says the same"
    assert (await world.outbox.dead())["operators"] == 0


async def test_a_dead_letter_is_told_on_the_other_routes_of_whose_it_is_and_never_on_its_own(world: World) -> None:
    org = str(uuid4())
    revoked = await world.route(org_id=org, asked=replace(ASKED, name="revoked"))
    other = await world.route(org_id=org, asked=replace(ASKED, name="other"))
    operators = await world.route(asked=replace(ASKED, kinds=("notification_dead",)))
    await world.route(org_id=str(uuid4()), asked=replace(ASKED, name="strangers"))
    world.letters.fails["revoked"] = SendError("The receiver answered 410.", for_good=True)
    await world.happens(world.event(kind="payment_failed", org_id=org))
    await world.send_all()
    intake = Intake(
        FleetSource(ScalingStore(world.pool, ids=Uuid7Source())),
        outbox=world.outbox,
        clock=world.clock,
        metrics=NotifyMetrics(Metrics()),
        wake=asyncio.Event(),
        interval_s=1.0,
    )
    world.letters.sent.clear()
    # What is told of it dies as well: that is not told again.
    world.letters.fails["other"] = world.letters.fails["revoked"]
    for _ in range(3):
        await intake.read_once()
        world.clock.pass_s(3_600)
        await world.send_all()
    told = {route.id: message.events[0] for route, message, _ in world.letters.sent}
    assert set(told) == {other.id, operators.id}
    assert len(world.letters.sent) == 2
    event = told[other.id]
    assert (event.kind, event.org_id, event.details["route_id"]) == ("notification_dead", org, revoked.id)
    assert "route revoked about an event of payment_failed was given up: The receiver answered 410." in event.text


async def test_what_can_never_be_sent_is_dead_at_once_and_a_busy_receiver_gets_its_time(world: World) -> None:
    await world.route(asked=replace(ASKED, name="gone"))
    busy = await world.route(asked=replace(ASKED, name="busy"))
    world.letters.fails = {
        "gone": SendError("It moved.", for_good=True),
        "busy": SendError("Later.", retry_after_s=600.0),
    }
    await world.happens(world.event())
    await world.send_all()
    assert await world.outbox.dead() == {"operators": 1, "organisations": 0}
    (waiting,) = await world.deliveries(busy)
    assert waiting.due_at == START + timedelta(seconds=600)


async def test_a_replica_that_dies_after_sending_lets_another_send_the_same_id_and_is_not_believed_later(
    world: World,
) -> None:
    await world.route()
    await world.happens(world.event())
    claimed = await world.outbox.claim(now=world.clock.now(), lease_s=32)
    assert claimed is not None
    assert await world.send_all() == 0, "two at once"
    await world.happens(world.event())
    world.clock.pass_s(33)
    assert await world.send_all() == 1
    assert world.letters.sent[0][1] == claimed.message, "what was tried once is not added to"
    assert not await world.outbox.died(claimed, "late", now=world.clock.now())
    assert [delivery.state for delivery in await world.deliveries()] == ["pending", "sent"]


async def test_tenants_receivers_that_hang_keep_operators_and_other_tenants_waiting_for_nothing(world: World) -> None:
    slow = str(uuid4())
    for n in range(AT_ONCE + 2):
        await world.route(org_id=slow, asked=replace(ASKED, name=f"hangs-{n}"))
        world.letters.hangs.add(f"hangs-{n}")
    quick = await world.route(org_id=str(uuid4()), asked=replace(ASKED, name="quick"))
    operators = await world.route(asked=replace(ASKED, name="operators"))
    await world.happens(world.event(org_id=slow), world.event(org_id=quick.org_id))
    running = asyncio.create_task(world.dispatcher().run())
    try:
        async with asyncio.timeout(60):
            while {route.id for route, _, _ in world.letters.sent} != {quick.id, operators.id}:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_route_that_is_disabled_or_ended_is_told_nothing_more(world: World) -> None:
    muted, ended = await world.route(), await world.route(asked=replace(ASKED, name="ended"))
    await world.happens(world.event())
    await world.service.update(muted.id, replace(ASKED, target="", enabled=False), revision=1, rotate_secret=False)
    await world.service.end(ended.id)
    await world.service.end(ended.id)
    await world.happens(world.event())
    assert await world.send_all() == 0
    assert {delivery.state for delivery in await world.deliveries()} == {"dropped"}
    with pytest.raises(CodedError) as caught:
        await world.service.route(ended.id)
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_a_copy_of_the_database_shows_no_address_and_no_secret(world: World) -> None:
    route, secret = await world.service.create("", ASKED, request_id="")
    assert secret.startswith("whsec_")
    async with transaction(world.pool) as connection:
        cursor = await connection.execute("SELECT r::text, encode(sealed, 'escape') FROM notify_routes r")
        kept = str(await cursor.fetchall())
    assert "very-secret-path" not in kept
    assert secret not in kept
    assert route.shown_target == "hooks.example.com"
    await world.happens(world.event())
    await world.send_all()
    assert world.letters.sent[0][2] == Target(address=ASKED.target, secret=secret)


async def test_a_route_whose_seal_does_not_open_is_tried_again_and_stops_no_other(world: World) -> None:
    await world.route()
    await world.happens(world.event())
    assert await world.dispatcher(key=os.urandom(32)).send_once()
    (delivery,) = await world.deliveries()
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert "cannot be read" in delivery.last_error


async def test_a_new_secret_is_told_once_and_the_old_one_signs_for_a_day(world: World) -> None:
    route, old = await world.service.create("", ASKED, request_id="")
    kept = replace(ASKED, target="")
    changed, new = await world.service.update(route.id, kept, revision=1, rotate_secret=True)
    assert new not in ("", old)
    with pytest.raises(CodedError) as caught:
        await world.service.update(route.id, kept, revision=1, rotate_secret=False)
    assert caught.value.code is ErrorCode.CONFLICT
    await world.service.update(route.id, kept, revision=changed.revision, rotate_secret=False)
    await world.happens(world.event())
    await world.send_all()
    target = world.letters.sent[0][2]
    assert (target.address, target.secret, target.old_secret) == (ASKED.target, new, old)
    assert target.old_until == (START + timedelta(days=1)).timestamp()


async def test_a_repeated_request_makes_one_route_and_a_tenant_has_a_bound(world: World) -> None:
    org, request_id = str(uuid4()), str(uuid4())
    first, secret = await world.service.create(org, ASKED, request_id=request_id)
    again, nothing = await world.service.create(org, ASKED, request_id=request_id)
    assert (again.id, bool(secret), nothing) == (first.id, True, "")
    for stranger, asked in ((str(uuid4()), ASKED), ("", ASKED), (org, replace(ASKED, name="other"))):
        with pytest.raises(CodedError) as caught:
            await world.service.create(stranger, asked, request_id=request_id)
        assert caught.value.code is ErrorCode.CONFLICT, "somebody was shown a route that is not his"
    for _ in range(MAX_ROUTES_OF_ORG - 1):
        await world.route(org_id=org)
    with pytest.raises(CodedError) as caught:
        await world.route(org_id=org)
    assert caught.value.code is ErrorCode.OVERLOADED
    await world.route(org_id=str(uuid4()))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "x\n"},
        {"channel": "pigeon"},
        {"target": "https://user@example.com/"},
        {"target": "a@example.com"},
        {"secret": "weak"},
        {"channel": "slack", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
        {"kinds": ("everything",)},
        {"gather_s": -1},
        {"gather_s": 86_401},
        {"quiet": QuietHours(start=time(1), end=time(1), zone=ZoneInfo("UTC"))},
    ],
)
async def test_a_route_that_makes_no_sense_is_refused(world: World, change: dict[str, object]) -> None:
    with pytest.raises(CodedError) as caught:
        await world.route(asked=replace(ASKED, **change))  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


async def test_without_a_mail_server_or_a_key_it_is_said_what_is_missing(world: World) -> None:
    with pytest.raises(CodedError, match="CROSSLOGIC_SMTP_HOST"):
        await world.route(asked=replace(ASKED, channel="email", target="a@example.com"))
    with pytest.raises(CodedError, match="CROSSLOGIC_NOTIFY_SEAL_KEY"):
        Vault(None).seal("r", Target(address="a"))


async def test_the_fleets_own_events_are_taken_up_where_reading_stopped(world: World) -> None:
    await world.route()
    source = FleetSource(ScalingStore(world.pool, ids=Uuid7Source()))
    intake = Intake(
        source,
        outbox=world.outbox,
        clock=world.clock,
        metrics=NotifyMetrics(Metrics()),
        wake=asyncio.Event(),
        interval_s=1.0,
    )
    machine = str(uuid4())
    for _ in range(2):
        async with transaction(world.pool) as connection:
            await add_event(
                connection, kind="node_lost", at=START, text="It is gone.", details={"a": 1}, instance_id=machine
            )
    assert not await intake.read_once()
    assert not await intake.read_once()
    await world.send_all()
    (sent,) = (message for _, message, _ in world.letters.sent)
    assert (sent.count, sent.events[0].details["instance_id"], sent.severity) == (1, machine, Severity.CRITICAL)


async def test_a_receiver_that_fails_for_long_piles_nothing_up(world: World) -> None:
    await world.route(asked=replace(ASKED, gather_s=0))
    world.letters.fails["pager"] = SendError("no", retry_after_s=3_600.0)
    for _ in range(60):
        await world.happens(world.event())
        await world.send_all()
        world.clock.pass_s(10)
    waiting = await world.deliveries()
    assert sum(delivery.count for delivery in waiting) == 60
    assert len(waiting) <= 11


async def test_many_routes_and_many_events_are_planned_in_one_short_transaction(world: World) -> None:
    for n in range(MAX_ROUTES_OF_OPERATORS):
        await world.route(asked=replace(ASKED, name=f"n{n}"))
    kinds = ("node_lost", "scale_up", "scale_down", "launch_failed")
    assert await world.happens(*(world.event(kind=kinds[n % 4]) for n in range(PAGE)))
    found = await world.deliveries()
    assert (len(found), {delivery.count for delivery in found}) == (400, {PAGE // 4})
    claimed = await world.outbox.claim(now=world.clock.now(), lease_s=1.0)
    assert claimed is not None
    assert (claimed.message.count, len(claimed.message.events)) == (PAGE // 4, 20)


async def test_an_event_that_makes_no_sense_ends_no_process(world: World) -> None:
    class Strange:
        name = "strange"

        async def after(self, sequence: int, *, limit: int) -> tuple[list[Event], int]:
            raise OverflowError("the year 99999")

    metrics = Metrics()
    intake = Intake(
        Strange(),
        outbox=world.outbox,
        clock=world.clock,
        metrics=NotifyMetrics(metrics),
        wake=asyncio.Event(),
        interval_s=1.0,
    )
    running = asyncio.create_task(intake.run())
    name, labels = "crosslogic_notification_source_failing", {"source": "strange"}
    async with asyncio.timeout(60):
        while metrics.registry.get_sample_value(name, labels) != 1:
            await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_what_ended_long_ago_is_forgotten_and_what_waits_is_not(world: World) -> None:
    route = await world.route()
    await world.happens(world.event(), world.event(kind="scale_up"))
    await world.send_all()
    world.letters.fails["pager"] = SendError("no")
    world.clock.pass_s(40 * 86_400)
    await world.happens(world.event())
    await world.send_all()
    before = world.clock.now() - timedelta(days=30)
    while await world.outbox.forget(before):
        pass
    (left,) = await world.deliveries(route)
    assert left.state == "pending"
    async with transaction(world.pool) as connection:
        cursor = await connection.execute("SELECT count(*) FROM notify_events")
        assert await cursor.fetchone() == (1,)
