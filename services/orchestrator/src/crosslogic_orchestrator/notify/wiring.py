"""Builds what notifies."""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool
from crosslogic_common.process import StartError
from crosslogic_common.seal import Sealer
from crosslogic_common.tls import Channels
from crosslogic_orchestrator.notify.dispatcher import AT_ONCE, Dispatcher
from crosslogic_orchestrator.notify.intake import Intake
from crosslogic_orchestrator.notify.mailing import MailServer
from crosslogic_orchestrator.notify.metrics import NotifyMetrics
from crosslogic_orchestrator.notify.outbox_store import OutboxStore
from crosslogic_orchestrator.notify.policy import Retry
from crosslogic_orchestrator.notify.ports import Resolve, Source
from crosslogic_orchestrator.notify.route_store import RouteStore
from crosslogic_orchestrator.notify.senders import Sending, open_senders
from crosslogic_orchestrator.notify.service import MAX_TESTS_AT_ONCE, Notifications
from crosslogic_orchestrator.notify.servicer import NotificationServicer
from crosslogic_orchestrator.notify.sources import AccountSource, BudgetSource, FleetSource
from crosslogic_orchestrator.notify.vault import Vault
from crosslogic_orchestrator.scaling.store import ScalingStore
from crosslogic_orchestrator.settings import OrchestratorSettings

_FLEET_S = 1.0
_NEIGHBOURS_S = 3.0


@dataclass(frozen=True, slots=True)
class OpenNotify:
    """What runs and serves."""

    servicer: NotificationServicer
    loops: list[Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_notify(
    settings: OrchestratorSettings, *, pool: Pool, channels: Channels, clock: Clock, metrics: Metrics
) -> AsyncIterator[OpenNotify]:
    """Raises StartError for a seal key that is none, or mail settings that contradict each other."""
    # Names and mail block a thread each; operators' names wait for no tenant's, and neither for a mail server.
    executors = [
        ThreadPoolExecutor(AT_ONCE + MAX_TESTS_AT_ONCE, f"notify-{part}") for part in ("own", "tenants", "mail")
    ]
    try:
        yield _build(settings, executors, pool=pool, channels=channels, clock=clock, metrics=metrics)
    finally:
        for executor in executors:
            executor.shutdown(wait=False, cancel_futures=True)


def resolver(executor: Executor) -> Resolve:
    """Asks the system for a host's addresses, in whatever way the host is written."""

    def ask(host: str, port: int) -> Sequence[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[4][0]) for address in found))

    async def resolve(host: str, port: int) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(executor, ask, host, port)

    return resolve


def mail_server(settings: OrchestratorSettings) -> MailServer | None:
    """The operators' mail server. None: there is none. Raises StartError."""
    if not settings.smtp_host:
        return None
    if not settings.smtp_sender:
        raise StartError("CROSSLOGIC_SMTP_FROM is not set, and CROSSLOGIC_SMTP_HOST is.")
    if settings.smtp_user and settings.smtp_security == "none":
        raise StartError("CROSSLOGIC_SMTP_USER: a password is not sent where CROSSLOGIC_SMTP_SECURITY is none.")
    return MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        sender=settings.smtp_sender,
        user=settings.smtp_user,
        password=settings.smtp_password,
    )


def _build(
    settings: OrchestratorSettings,
    executors: Sequence[Executor],
    *,
    pool: Pool,
    channels: Channels,
    clock: Clock,
    metrics: Metrics,
) -> OpenNotify:
    own, tenants, mail = executors
    wake, ids, counted = asyncio.Event(), Uuid7Source(), NotifyMetrics(metrics)
    sending = Sending(
        resolve=resolver(own),
        tenants_resolve=resolver(tenants),
        executor=mail,
        clock=clock,
        timeout_s=settings.notify_timeout_s,
        allowed=settings.notify_allowed,
        mail=mail_server(settings),
    )
    senders = open_senders(sending, context=ssl.create_default_context())
    outbox, vault = OutboxStore(pool, ids=ids), Vault(_sealer(settings))
    dispatcher = Dispatcher(
        outbox=outbox,
        senders=senders,
        vault=vault,
        clock=clock,
        retry=Retry(),
        metrics=counted,
        uniform=random.random,
        wake=wake,
        # Mail takes twice as long at most, and the outcome is to be written down.
        lease_s=settings.notify_timeout_s * 3 + 1,
    )
    notifications = Notifications(
        routes=RouteStore(pool), outbox=outbox, senders=senders, vault=vault, clock=clock, ids=ids, wake=wake.set
    )
    intakes = [
        Intake(source, outbox=outbox, clock=clock, metrics=counted, wake=wake, interval_s=interval_s)
        for source, interval_s in _sources(settings, pool, channels, ids)
    ]
    loops = [dispatcher.run(), dispatcher.count(), *(intake.run() for intake in intakes)]
    return OpenNotify(NotificationServicer(notifications), loops)


def _sources(
    settings: OrchestratorSettings, pool: Pool, channels: Channels, ids: Uuid7Source
) -> list[tuple[Source, float]]:
    """Each with the seconds between two looks."""
    found: list[tuple[Source, float]] = [(FleetSource(ScalingStore(pool, ids=ids)), _FLEET_S)]
    if settings.accountant_target:
        found.append((BudgetSource(channels=channels, target=settings.accountant_target), _NEIGHBOURS_S))
    if settings.billing_target:
        found.append((AccountSource(channels=channels, target=settings.billing_target), _NEIGHBOURS_S))
    return found


def _sealer(settings: OrchestratorSettings) -> Sealer | None:
    if not settings.notify_seal_key:
        return None
    try:
        return Sealer.from_base64(settings.notify_seal_key.reveal())
    except CodedError as error:
        raise StartError(f"CROSSLOGIC_NOTIFY_SEAL_KEY: {error.public}") from None
