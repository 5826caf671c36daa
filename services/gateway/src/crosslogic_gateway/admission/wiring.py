"""Admission of one worker, put together."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from crosslogic_gateway.admission.admission import Admission, KnownBudgets, no_budgets
from crosslogic_gateway.admission.cap_notices import CapNotices
from crosslogic_gateway.admission.global_stock import GlobalStock
from crosslogic_gateway.admission.limits import NO_LIMIT, kinds, limit_numbers
from crosslogic_gateway.admission.local import LocalLimits
from crosslogic_gateway.admission.local_budgets import LocalBudgets
from crosslogic_gateway.admission.metrics import AdmissionMetrics
from crosslogic_gateway.admission.pipe import ScriptPipe
from crosslogic_gateway.admission.ports import Ledger
from crosslogic_gateway.admission.redis_link import RedisAddress
from crosslogic_gateway.admission.seeding import Seeding
from crosslogic_gateway.admission.upkeep import Upkeep
from crosslogic_gateway.domain import Limits
from crosslogic_gateway.prices import Prices
from crosslogic_gateway.shedding.service_turns import ServiceTurns

HAND_OVER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionOptions:
    """How admission of one worker is set up."""

    redis_url: str
    budget_s: float
    """How long Redis may take."""
    workers: int
    """At least so many share the limits."""
    global_limits: Limits
    window_scale: float = 1.0
    """For tests of whole windows: see `limits.kinds`."""


@dataclass(frozen=True, slots=True)
class RunningAdmission:
    """What runs."""

    admission: Admission
    pipe: ScriptPipe
    upkeep: Upkeep

    @property
    def away(self) -> bool:
        """Redis does not answer: this worker enforces its share."""
        return not self.pipe.up


def worker_name() -> str:
    """This process among all gateways' workers. A process that is started again is another."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"


@contextlib.asynccontextmanager
async def running_admission(
    options: AdmissionOptions,
    *,
    ledger: Ledger,
    prices: Prices,
    registry: CollectorRegistry,
    known_budgets: KnownBudgets = no_budgets,
    notices: CapNotices | None = None,
) -> AsyncIterator[RunningAdmission]:
    """Runs admission for as long as the block lasts; at its end Redis is told what is still to be told."""
    windows = kinds(options.window_scale)
    worker = worker_name()
    pipe = ScriptPipe(
        address=RedisAddress.from_url(options.redis_url), worker=worker, window_kinds=windows, budget_s=options.budget_s
    )
    metrics = AdmissionMetrics(registry)
    local = LocalLimits(kinds=windows)
    seeding = Seeding(pipe=pipe, ledger=ledger, kinds=windows)
    loop = asyncio.get_running_loop()
    limited = any(limit != NO_LIMIT for limit in limit_numbers(options.global_limits)[:-1])
    stock = GlobalStock(pipe=pipe, kinds=windows, limits=options.global_limits, local=local) if limited else None
    turns = ServiceTurns(stock) if stock is not None else None
    admission = Admission(
        pipe=pipe,
        kinds=windows,
        prices=prices,
        seeding=seeding,
        local=local,
        local_budgets=LocalBudgets(ledger=ledger, share=lambda: local.share, monotonic=loop.time),
        metrics=metrics,
        global_stock=stock,
        turns=turns,
        known_budgets=known_budgets,
        notices=notices,
        now_us=lambda: time.time_ns() // 1000,
    )
    upkeep = Upkeep(
        admission=admission,
        pipe=pipe,
        ledger=ledger,
        metrics=metrics,
        worker=worker,
        least_workers=options.workers,
    )
    for name, text, read in (
        ("crosslogic_admission_local", "1: Redis is away, limits are enforced by share.", lambda: not pipe.up),
        ("crosslogic_admission_unsent", "Settlements that Redis does not have yet.", lambda: len(pipe.unsent)),
        (
            "crosslogic_service_waiting",
            "Requests that wait for the limits of the whole service.",
            lambda: 0 if turns is None else turns.waiting,
        ),
        ("crosslogic_admission_dropped", "Settlements given up, Redis being away for long.", lambda: pipe.dropped),
    ):
        Gauge(name, text, registry=registry).set_function(read)
    async with pipe.running(), upkeep.running():
        try:
            yield RunningAdmission(admission, pipe, upkeep)
        finally:
            await seeding.close()
            if stock is not None and turns is not None:
                turns.close()
                stock.close()
            await pipe.flushed(HAND_OVER_S)
