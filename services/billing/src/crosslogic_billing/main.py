"""Wires billing together and serves it."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib.resources import files

from crosslogic.billing.v1 import account_events_pb2 as events_pb
from crosslogic.billing.v1 import account_events_pb2_grpc as events_rpc
from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic.billing.v1 import billing_pb2_grpc as rpc
from crosslogic_billing.account_events.servicer import AccountEventServicer
from crosslogic_billing.account_events.store import PostgresAccountEvents
from crosslogic_billing.accounts.dunning import Dunning, IdentityTenants
from crosslogic_billing.accounts.service import Accounts
from crosslogic_billing.accounts.store import PostgresAccounts
from crosslogic_billing.events.kafka import kafka_sink
from crosslogic_billing.events.publisher import Publisher
from crosslogic_billing.export.closing import Closer
from crosslogic_billing.export.credit_store import PostgresCredits
from crosslogic_billing.export.crediting import CreditGiver
from crosslogic_billing.export.outbox_store import PostgresOutbox
from crosslogic_billing.export.sender import Sender
from crosslogic_billing.export.stripe_sink import StripeSink, Tax, stripe_client
from crosslogic_billing.housekeeping import forget_daily
from crosslogic_billing.machines.reader import MachineReader
from crosslogic_billing.machines.registry import RegistryNodes
from crosslogic_billing.machines.store import PostgresMachines
from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.posting.poster import AccountantMoney, Poster
from crosslogic_billing.posting.store import PostgresTransfers
from crosslogic_billing.prices.book import PriceBook
from crosslogic_billing.prices.store import CHANNEL, PostgresPrices
from crosslogic_billing.reconcile.accountant import AccountantTotals
from crosslogic_billing.reconcile.service import Reconciler
from crosslogic_billing.reconcile.store import PostgresReconciliations
from crosslogic_billing.servicer import BillingServicer, UseCases
from crosslogic_billing.settings import BillingSettings
from crosslogic_billing.standings.follower import Follower
from crosslogic_billing.standings.identity import IdentityStandings
from crosslogic_billing.standings.learning import Learner
from crosslogic_billing.standings.service import PlansTerms
from crosslogic_billing.standings.store import PostgresStandings
from crosslogic_billing.usage.ledger import AccountantLedger
from crosslogic_billing.usage.settler import Settler
from crosslogic_billing.usage.store import PostgresUsage
from crosslogic_billing.views.accountant import AccountantUsage
from crosslogic_billing.views.service import Views
from crosslogic_billing.views.store import PostgresViews
from crosslogic_billing.webhooks.handler import WebhookHandler
from crosslogic_billing.webhooks.http import make_app, served
from crosslogic_billing.webhooks.store import PostgresWebhooks
from crosslogic_common.clock import Clock, SystemClock
from crosslogic_common.grpc_server import GrpcServer, StartError, method_names, read_settings, run_service
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import configure_logging
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, migrate, notifications, open_pool
from crosslogic_common.tls import Channels
from crosslogic_common.tracing import tracing

SCHEMA = "billing"
SERVICE = "crosslogic.billing.v1.BillingService"
EVENT_SERVICE = "crosslogic.billing.v1.AccountEventService"
_ADMIN = frozenset({"service:gateway", "service:operator"})
_GATEWAY_ONLY = frozenset({"WatchPrices"})


def rules() -> dict[str, frozenset[str]]:
    """Who may call what."""
    gateway = frozenset({"service:gateway"})
    return {
        **{f"/{SERVICE}/{name}": gateway if name in _GATEWAY_ONLY else _ADMIN for name in method_names(pb, SERVICE)},
        f"/{EVENT_SERVICE}/ListAccountEvents": _ADMIN | {"service:orchestrator"},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the parts share."""

    settings: BillingSettings
    pool: Pool
    channels: Channels
    clock: Clock
    ids: Uuid7Source
    metrics: BillingMetrics
    sink: StripeSink | None
    """None: nothing is exported."""
    jobs: list[tuple[str, Callable[[], Coroutine[None, None, None]]]] = field(default_factory=list)
    """What runs in the background, by name."""


async def serve(settings: BillingSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    dsn = settings.database_url.reveal()
    if settings.migrate:
        await migrate(dsn, schema=SCHEMA, migrations=files("crosslogic_billing.migrations"))
    metrics = Metrics()
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        tracer = stack.enter_context(tracing("billing"))
        channels = Channels(settings.tls)
        stack.push_async_callback(channels.close)
        world = World(
            settings=settings,
            pool=await stack.enter_async_context(open_pool(dsn, schema=SCHEMA, max_size=settings.pool_size)),
            channels=channels,
            clock=SystemClock(),
            ids=Uuid7Source(),
            metrics=BillingMetrics(metrics.registry),
            sink=await _sink(settings, stack),
        )
        does = _use_cases(world)
        _money_jobs(world)
        await _webhooks(world, stack)
        await _usage_events(world, stack)
        await stack.enter_async_context(does.prices.following(notifications(dsn, schema=SCHEMA, channel=CHANNEL)))
        server = GrpcServer(
            listen=settings.listen,
            tls=settings.tls,
            rules=rules(),
            metrics=metrics,
            stopping=stopping,
            tracer=tracer,
            shutdown_grace_s=settings.shutdown_grace_s,
        )
        servicer = BillingServicer(does)
        server.add(pb, SERVICE, lambda target: rpc.add_BillingServiceServicer_to_server(servicer, target))
        account_events = AccountEventServicer(PostgresAccountEvents(world.pool))
        server.add(
            events_pb,
            EVENT_SERVICE,
            lambda target: events_rpc.add_AccountEventServiceServicer_to_server(account_events, target),
        )
        background = [asyncio.create_task(job(), name=name) for name, job in world.jobs]
        stack.push_async_callback(_cancelled, background)
        async with server.serving():
            await _until(stop, background)
            await does.prices.close()


async def _sink(settings: BillingSettings, stack: contextlib.AsyncExitStack) -> StripeSink | None:
    if not settings.stripe_secret_key:
        return None
    client = await stack.enter_async_context(
        stripe_client(
            settings.stripe_secret_key,
            base_address=settings.stripe_base_address,
            timeout_s=settings.stripe_timeout_s,
        )
    )
    return StripeSink(client, tax=Tax(settings.stripe_tax, settings.stripe_tax_code))


def _use_cases(world: World) -> UseCases:
    settings, pool = world.settings, world.pool
    follower = Follower(
        identity=IdentityStandings(channels=world.channels, target=settings.identity_target),
        learner=Learner(pool),
        store=PostgresStandings(pool),
        clock=world.clock,
        metrics=world.metrics,
    )
    world.jobs.append(("identity", follower.run))
    reconciler = Reconciler(
        store=PostgresReconciliations(pool),
        standings=follower,
        totals=AccountantTotals(channels=world.channels, target=settings.accountant_target),
        sink=world.sink,
        clock=world.clock,
        new_id=world.ids.next_text,
        on_report=world.metrics.reconciled,
    )
    world.jobs.append(("reconciliation", reconciler.run))
    machines = PostgresMachines(pool)
    reader = MachineReader(
        nodes=RegistryNodes(channels=world.channels, target=settings.registry_target),
        store=machines,
        clock=world.clock,
    )
    world.jobs.append(("machines", reader.run))
    return UseCases(
        prices=PriceBook(store=PostgresPrices(pool, new_id=world.ids.next_text), clock=world.clock),
        accounts=Accounts(store=PostgresAccounts(pool), clock=world.clock, stripe=world.sink),
        plans_terms=PlansTerms(store=PostgresStandings(pool), follower=follower, clock=world.clock),
        outbox=PostgresOutbox(pool, new_id=world.ids.next_text),
        reconciler=reconciler,
        views=Views(
            store=PostgresViews(pool),
            machines=machines,
            invoices=PostgresWebhooks(pool),
            usage=AccountantUsage(channels=world.channels, target=settings.accountant_target),
            clock=world.clock,
            window_s=settings.window_s,
            close_delay_s=settings.close_delay_s,
        ),
        clock=world.clock,
    )


def _money_jobs(world: World) -> None:
    """From the ledger to months, and from months to Stripe."""
    settings, pool = world.settings, world.pool
    ledger = AccountantLedger(channels=world.channels, target=settings.accountant_target)
    settler = Settler(ledger=ledger, store=PostgresUsage(pool), metrics=world.metrics, window_s=settings.window_s)
    closer = Closer(pool=pool, clock=world.clock, delay_s=settings.close_delay_s, exporting=world.sink is not None)
    world.jobs.append(("settling", settler.run))
    world.jobs.append(("closing", closer.run))
    world.jobs.append(("housekeeping", lambda: forget_daily(closer)))
    poster = Poster(
        transfers=PostgresTransfers(pool),
        money=AccountantMoney(channels=world.channels, target=settings.accountant_target),
        clock=world.clock,
    )
    world.jobs.append(("posting", poster.run))
    if world.sink is not None:
        sender = Sender(
            outbox=PostgresOutbox(pool, new_id=world.ids.next_text),
            sink=world.sink,
            clock=world.clock,
            metrics=world.metrics,
            lanes_at_once=settings.stripe_lanes,
        )
        dunning = Dunning(
            accounts=PostgresAccounts(pool),
            tenants=IdentityTenants(channels=world.channels, target=settings.identity_target),
            clock=world.clock,
            grace_s=settings.payment_grace_s,
        )
        giver = CreditGiver(store=PostgresCredits(pool), sink=world.sink, clock=world.clock)
        world.jobs.append(("sending", sender.run))
        world.jobs.append(("crediting", giver.run))
        world.jobs.append(("dunning", dunning.run))


async def _webhooks(world: World, stack: contextlib.AsyncExitStack) -> None:
    settings = world.settings
    if world.sink is None or not settings.webhook_listen or not settings.stripe_webhook_secret:
        return
    handler = WebhookHandler(
        webhooks=PostgresWebhooks(world.pool),
        accounts=PostgresAccounts(world.pool),
        outbox=PostgresOutbox(world.pool, new_id=world.ids.next_text),
        stripe=world.sink,
        clock=world.clock,
        metrics=world.metrics,
    )
    app = make_app(secret=settings.stripe_webhook_secret, take=handler.take, metrics=world.metrics)
    await stack.enter_async_context(served(app, settings.webhook_listen))
    world.jobs.append(("webhooks", handler.run))


async def _usage_events(world: World, stack: contextlib.AsyncExitStack) -> None:
    settings = world.settings
    if not settings.kafka_brokers:
        return
    try:
        properties = settings.kafka()
    except ValueError as error:
        raise StartError(str(error)) from None
    sink = await stack.enter_async_context(
        kafka_sink(brokers=settings.kafka_brokers, topic=settings.kafka_topic, properties=properties)
    )
    publisher = Publisher(
        rows=AccountantLedger(channels=world.channels, target=settings.accountant_target),
        cursors=PostgresUsage(world.pool),
        sink=sink,
    )
    world.jobs.append(("usage events", publisher.run))


async def _until(stop: asyncio.Event, background: list[asyncio.Task[None]]) -> None:
    """Waits for `stop`. Raises what ended a background task: without it, money would stand still in silence."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *background], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in background:
        if task.done():
            task.result()
            raise RuntimeError(f"the task {task.get_name()!r} ended by itself")


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """The process."""
    settings = read_settings(BillingSettings, os.environ)
    configure_logging("billing", settings.log_level)
    run_service(lambda stop: serve(settings, stop))
