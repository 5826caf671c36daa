"""Billing in one process: its settings, its server, and who calls it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio

from crosslogic.billing.v1 import billing_pb2_grpc as rpc
from crosslogic_billing.main import serve
from crosslogic_billing.settings import BillingSettings
from crosslogic_common.tls import Channels
from crosslogic_dev.ports import free_port
from tests.fakes.test_ca import CertificateMaker


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: datetime = datetime(2026, 11, 21, 12, tzinfo=UTC)) -> None:
        self.time = now
        self._start = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - self._start).total_seconds()

    def advance(self, **of: float) -> None:
        self.time += timedelta(**of)


class Billing:
    """A running billing service."""

    def __init__(self, *, folder: Path, pg_url: str, **settings: str) -> None:
        self.ca = CertificateMaker(folder)
        self.port = free_port()
        files = self.ca.service("billing")
        self.settings = BillingSettings.from_env(
            {
                "CROSSLOGIC_LISTEN": f"127.0.0.1:{self.port}",
                "CROSSLOGIC_TLS_CERT_FILE": str(files.cert_file),
                "CROSSLOGIC_TLS_KEY_FILE": str(files.key_file),
                "CROSSLOGIC_TLS_CA_FILE": str(files.ca_file),
                "CROSSLOGIC_MIGRATE": "1",
                "CROSSLOGIC_SHUTDOWN_GRACE_S": "5",
                "CROSSLOGIC_ACCOUNTANT_TARGET": "127.0.0.1:1",
                "CROSSLOGIC_IDENTITY_TARGET": "127.0.0.1:1",
                "CROSSLOGIC_REGISTRY_TARGET": "127.0.0.1:1",
                "DATABASE_URL": pg_url,
                **settings,
            }
        )
        self._channels: dict[str, Channels] = {}

    def stub(self, caller: str = "operator") -> Any:
        if caller not in self._channels:
            self._channels[caller] = Channels(self.ca.service(caller))
        return rpc.BillingServiceStub(self._channels[caller].service("billing", f"127.0.0.1:{self.port}"))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Billing"]:
        stop = asyncio.Event()
        task = asyncio.create_task(serve(self.settings, stop))
        try:
            await self._ready(task)
            yield self
        finally:
            stop.set()
            for channels in self._channels.values():
                await channels.close()
            async with asyncio.timeout(30):
                await task

    async def _ready(self, task: "asyncio.Task[None]") -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        self.stub()
        channel = self._channels["operator"].service("billing", f"127.0.0.1:{self.port}")
        checks = health_pb2_grpc.HealthStub(channel)
        async with asyncio.timeout(60):
            while True:
                if task.done():
                    task.result()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await checks.Check(health_pb2.HealthCheckRequest())
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.02)
