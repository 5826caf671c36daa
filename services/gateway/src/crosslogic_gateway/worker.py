"""One gateway worker: wires the hot path together and serves HTTP until it is told to stop."""

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar, cast
from uuid import uuid4

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.orchestrator.v1 import deployments_pb2_grpc as deployments_rpc
from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_common.clock import Clock, SystemClock
from crosslogic_common.grpc_server import StartError
from crosslogic_common.h2 import H2Stream, H2Target
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.logs import get_logger
from crosslogic_common.metrics import Metrics
from crosslogic_common.redis import open_redis
from crosslogic_common.seal import Sealer
from crosslogic_common.tls import Channels, service_dns_name
from crosslogic_common.tracing import tracing
from crosslogic_gateway.abuse.watch import AbuseWatch
from crosslogic_gateway.abuse.wiring import watching_abuse
from crosslogic_gateway.access_log import AccessLog
from crosslogic_gateway.admin_wiring import open_admin
from crosslogic_gateway.admission.cap_notices import CapNotices
from crosslogic_gateway.admission.hard_budgets import BudgetWatch, HardBudgets
from crosslogic_gateway.admission.ledger import AccountantLedger
from crosslogic_gateway.admission.wiring import AdmissionOptions, RunningAdmission, running_admission
from crosslogic_gateway.app import AppDeps, Readiness, make_app
from crosslogic_gateway.attempts import Attempts
from crosslogic_gateway.catalogue import Catalogue
from crosslogic_gateway.cold_starts import ColdStarts, Deployments
from crosslogic_gateway.edge import Edge, EdgePolicy
from crosslogic_gateway.failover import FailoverPolicy
from crosslogic_gateway.fleet_ties import running_relays
from crosslogic_gateway.idempotency.answers import Idempotency, IdempotencyLimits
from crosslogic_gateway.idempotency.store import RedisAnswers
from crosslogic_gateway.idempotency.wiring import make_idempotency, open_answers
from crosslogic_gateway.inference import Inference
from crosslogic_gateway.keys import KeyCache
from crosslogic_gateway.outbox_age import OutboxAge
from crosslogic_gateway.picker import Picker
from crosslogic_gateway.prices import Prices, PriceWatch
from crosslogic_gateway.protocol import EdgeRunner
from crosslogic_gateway.relay import NodeLink, Timeouts
from crosslogic_gateway.request_metrics import AuthMetrics, RequestMetrics
from crosslogic_gateway.request_traces import RequestTraces, current_trace_id
from crosslogic_gateway.running import Running
from crosslogic_gateway.serving_metrics import ServingMetrics
from crosslogic_gateway.settings import GatewaySettings
from crosslogic_gateway.shedding.wiring import OverloadOptions, RunningOverload, running_overload
from crosslogic_gateway.sources import IdentityPrincipals, SharedPrincipals, Watches
from crosslogic_gateway.traced import TracedLink, TracedPicker
from crosslogic_gateway.usage_outbox import UsageOutbox

PICK_STREAM = "/crosslogic.scheduler.v1.SchedulerService/PickStream"
LANE_STREAM = "/crosslogic.scheduler.v1.SchedulerService/LaneStream"
RECORD_STREAM = "/crosslogic.accountant.v1.AccountantService/RecordStream"
In = TypeVar("In")
HAND_OVER_S = 5.0
"""What must still be billed has at least so long to be counted, and to reach the accountant."""


async def serve(settings: GatewaySettings, metrics_listen: str, stop: asyncio.Event, *, index: int = 0) -> None:
    """Serves until `stop` is set; then stops accepting, finishes what runs, and hands over what it must still bill."""
    metrics = Metrics()
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(metrics.served(metrics_listen))
        tracer = stack.enter_context(tracing("gateway", begins=True))
        channels = Channels(settings.tls)
        stack.push_async_callback(channels.close)
        redis = await stack.enter_async_context(open_redis(settings.redis_url.reveal()))
        usage = UsageOutbox(
            open_stream=lambda: _stream(
                settings, settings.accountant_target, RECORD_STREAM, accountant_pb.RecordStreamResponse.FromString
            ),
            max_records=settings.outbox_records,
        )
        await stack.enter_async_context(usage.running())
        picker = (Picker if tracer is None else TracedPicker)(
            open_stream=lambda: _stream(
                settings, settings.scheduler_target, PICK_STREAM, scheduler_pb.PickStreamResponse.FromString
            ),
            clock=clock,
        )
        await stack.enter_async_context(picker.running())
        timeouts = Timeouts(
            settings.first_byte_timeout_s,
            settings.idle_timeout_s,
            settings.stall_timeout_s,
            whole_s=settings.whole_timeout_s,
        )
        relays = await stack.enter_async_context(
            running_relays(
                settings,
                index,
                timeouts=timeouts,
                picker=picker,
                channels=channels,
                link_type=NodeLink if tracer is None else TracedLink,
            )
        )
        keys = KeyCache(
            shared=SharedPrincipals(redis),
            identity=IdentityPrincipals(channels=channels, target=settings.identity_target),
            clock=clock,
        )
        catalogue = Catalogue()
        running = Running()
        watches = Watches(
            channels=channels,
            identity_target=settings.identity_target,
            registry_target=settings.registry_target,
            keys=keys,
            catalogue=catalogue,
            running=running,
        )
        await stack.enter_async_context(watches.running())
        access_log = AccessLog(enabled=settings.access_log)
        await stack.enter_async_context(access_log.running())
        prices = Prices()
        price_watch = PriceWatch(channels=channels, target=settings.billing_target, prices=prices)
        await stack.enter_async_context(price_watch.running())
        attempts = Attempts(
            picker=picker,
            prices=prices,
            relays=relays,
            usage=usage,
            sealer=Sealer.from_base64(settings.seal_key.reveal()),
            timeouts=timeouts,
            serving=ServingMetrics(metrics.registry, None if tracer is None else current_trace_id),
            policy=FailoverPolicy(
                window_s=settings.failover_window_s,
                budget_share=settings.retry_budget_percent / 100,
                budget_least=settings.retry_budget_min,
            ),
            hedged_models=frozenset(settings.hedged_models),
            cold_starts=_cold_starts(settings, channels, clock=clock),
        )
        attempts.counts.register(metrics.registry)
        hard_budgets = HardBudgets()
        budget_watch = BudgetWatch(channels=channels, target=settings.accountant_target, budgets=hard_budgets)
        await stack.enter_async_context(budget_watch.running())
        cap_notices = CapNotices(channels=channels, target=settings.accountant_target)
        await stack.enter_async_context(cap_notices.running())
        admission = await stack.enter_async_context(
            running_admission(
                _admission_options(settings),
                ledger=AccountantLedger(channels=channels, target=settings.accountant_target),
                prices=prices,
                registry=metrics.registry,
                known_budgets=hard_budgets.of,
                notices=cap_notices,
            )
        )
        overload = await stack.enter_async_context(
            running_overload(
                OverloadOptions(
                    queue_wait_s=settings.queue_wait_s, shed_lag_s=settings.shed_lag_s, workers=settings.workers
                ),
                redis=redis,
                nodes=relays.in_flight,
                open_stream=lambda: _stream(
                    settings, settings.scheduler_target, LANE_STREAM, scheduler_pb.LaneStreamResponse.FromString
                ),
                registry=metrics.registry,
            )
        )
        edge = Edge(
            policy=EdgePolicy(settings.trusted_proxies, frozenset(settings.cors_origins)),
            ids=Uuid7Source(),
            access_log=access_log,
            metrics=RequestMetrics(metrics),
            traces=None if tracer is None else RequestTraces(tracer, ratio=settings.trace_ratio, draw=random.random),
        )
        abuse = await stack.enter_async_context(watching_abuse(settings, channels))
        inference = Inference(
            keys=keys,
            catalogue=catalogue,
            admission=admission.admission,
            attempts=attempts,
            usage=usage,
            running=running,
            abuse=abuse,
            client_address=edge.client_address,
            overload=overload.overload,
            auth=AuthMetrics(metrics),
            body_timeout_s=settings.body_timeout_s,
        )
        answers = open_answers(redis, seal_key=settings.seal_key, clock=clock, keep_s=settings.idempotency_keep_s)
        idempotency = make_idempotency(
            answers,
            seal_key=settings.seal_key,
            limits=IdempotencyLimits(
                max_answer_bytes=settings.idempotency_max_answer_bytes,
                body_timeout_s=settings.body_timeout_s,
                stall_timeout_s=settings.stall_timeout_s,
            ),
            registry=metrics.registry,
        )
        _gauges(metrics.registry, usage, keys, picker, access_log, running, abuse)
        admin_routes = await stack.enter_async_context(
            open_admin(settings, channels, clock=clock, idempotency=idempotency, client_address=edge.client_address)
        )
        app = make_app(
            AppDeps(
                edge=edge,
                inference=inference,
                catalogue=catalogue,
                metrics=metrics,
                readiness=_readiness(
                    catalogue, usage, picker, watches, price_watch, answers, admission, overload, budget_watch
                ),
                metrics_allowed=settings.metrics_allowed,
                admin_routes=admin_routes,
                idempotency=idempotency,
            )
        )
        async with _listening(app, settings), metrics.loop_watched():
            metrics.serving = True
            _settle_collector()
            await stop.wait()
            metrics.serving = False
            get_logger(__name__).info("stopping")
            until = asyncio.get_running_loop().time() + settings.shutdown_grace_s
        await _finish(idempotency, attempts, usage, until)


def _stream(settings: GatewaySettings, target: str, method: str, deserialize: Callable[[bytes], In]) -> H2Stream[In]:
    """A stream to the service that `method`, `/crosslogic.<service>.v1...`, belongs to."""
    name = service_dns_name(method.split(".")[1])
    return H2Stream(target=H2Target(target, name, method), tls=settings.tls, deserialize=deserialize)


def _admission_options(settings: GatewaySettings) -> AdmissionOptions:
    return AdmissionOptions(
        redis_url=settings.redis_url.reveal(),
        budget_s=settings.redis_budget_s,
        workers=settings.workers,
        global_limits=settings.global_limits,
        window_scale=settings.limit_window_scale,
    )


def _settle_collector() -> None:
    # What lives now lives for ever: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # Requests leave no cycles behind; collecting every 700 allocations would cost 4 % of the CPU.
    gc.set_threshold(50_000, 20, 20)


@contextlib.asynccontextmanager
async def _listening(app: web.Application, settings: GatewaySettings) -> AsyncIterator[None]:
    runner = EdgeRunner(app, head_timeout_s=settings.head_timeout_s, keepalive_timeout_s=settings.keepalive_timeout_s)
    await runner.setup()
    host, _, port = settings.http_listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]"), int(port), reuse_port=settings.workers > 1, backlog=4096)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(f"cannot listen on {settings.http_listen}: {error.strerror}") from None
    async with runner.refusing_slow_heads():
        yield
        await site.stop()
        await runner.finish(settings.shutdown_grace_s)
    await runner.cleanup()


async def _finish(idempotency: Idempotency, attempts: Attempts, usage: UsageOutbox, until: float) -> None:
    """What goes on behind answered requests ends, by the loop's clock `until` then at the latest."""
    loop = asyncio.get_running_loop()
    await idempotency.drain(max(until - loop.time(), 0.0))
    await attempts.drain(max(until - loop.time(), HAND_OVER_S))
    await _hand_over(usage, max(until - loop.time(), HAND_OVER_S))


async def _hand_over(usage: UsageOutbox, grace_s: float) -> None:
    """Waits until the accountant has every record. What it does not get in time, the nodes' witnesses settle."""
    loop = asyncio.get_running_loop()
    until = loop.time() + grace_s
    while len(usage) and loop.time() < until:
        await asyncio.sleep(0.02)
    if len(usage):
        get_logger(__name__).error("records left to the witnesses", records=len(usage))


def _readiness(
    catalogue: Catalogue,
    usage: UsageOutbox,
    picker: Picker,
    watches: Watches,
    prices: PriceWatch,
    answers: RedisAnswers,
    admission: RunningAdmission,
    overload: RunningOverload,
    budgets: BudgetWatch,
) -> Readiness:
    return Readiness(
        required=lambda: {"catalogue": catalogue.loaded, "usage_outbox": not usage.full},
        degraded=lambda: {
            "scheduler": not picker.connected,
            "accountant": not usage.connected,
            **{f"watch_{name}": lost for name, lost in watches.lost.items()},
            "watch_prices": prices.lost,
            "idempotency": answers.away,
            "reserved_capacity": overload.away,
            "admission": admission.away,
            "watch_budgets": budgets.lost,
        },
    )


def _cold_starts(settings: GatewaySettings, channels: Channels, *, clock: Clock) -> ColdStarts | None:
    """None: nobody launches machines."""
    if not settings.orchestrator_target:
        return None
    return ColdStarts(
        deployments=lambda: cast(
            "Deployments",
            deployments_rpc.DeploymentServiceStub(channels.service("orchestrator", settings.orchestrator_target)),
        ),
        reporter=uuid4().hex,
        monotonic=clock.monotonic,
    )


def _gauges(
    registry: CollectorRegistry,
    usage: UsageOutbox,
    keys: KeyCache,
    picker: Picker,
    access_log: AccessLog,
    running: Running,
    abuse: AbuseWatch,
) -> None:
    age = OutboxAge(usage, time.monotonic)
    for name, text, read in (
        ("crosslogic_usage_outbox_records", "Usage records that are not durable yet.", lambda: len(usage)),
        ("crosslogic_usage_outbox_oldest_seconds", "How long the oldest of them has waited.", age.seconds),
        ("crosslogic_usage_refused", "Usage records that the accountant refused for good.", lambda: usage.refused),
        ("crosslogic_keys_stale", "Answers from keys kept while identity was away.", lambda: keys.stale_answers),
        ("crosslogic_picks_from_memory", "Picks made while the scheduler was away.", lambda: picker.picked_from_memory),
        ("crosslogic_requests_cut", "Requests ended with their tenant's suspension.", lambda: running.cut_total),
        ("crosslogic_keys_suspended", "Keys that this worker had suspended for abuse.", lambda: abuse.suspended_total),
        ("crosslogic_access_log_dropped", "Access log lines dropped.", lambda: access_log.dropped),
    ):
        Gauge(name, text, registry=registry).set_function(read)
