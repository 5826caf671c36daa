"""The orchestrator's process is killed between a receiver's answer and its own commit: sent again, under one id."""

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic.orchestrator.v1 import notifications_pb2_grpc as rpc
from crosslogic_common.postgres import open_pool, transaction
from crosslogic_common.tls import Channels
from crosslogic_dev.ports import free_port
from crosslogic_orchestrator.events import add_event
from tests.fakes.notify_receiver import receiver
from tests.fakes.test_ca import CertificateMaker


class Process:
    """One orchestrator that can be killed and started again."""

    def __init__(self, url: str, ca: CertificateMaker, folder: Path) -> None:
        tls = ca.service("orchestrator")
        self.target = f"127.0.0.1:{free_port()}"
        self.log = folder / "log"
        self._environ = {
            "PATH": os.environ.get("PATH", ""),
            "DATABASE_URL": url,
            "CROSSLOGIC_MIGRATE": "1",
            "CROSSLOGIC_LISTEN": self.target,
            "CROSSLOGIC_REGISTRY_TARGET": "127.0.0.1:1",
            "CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file),
            "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file),
            "CROSSLOGIC_TLS_CA_FILE": str(tls.ca_file),
            "CROSSLOGIC_NOTIFY_SEAL_KEY": base64.b64encode(bytes(range(32))).decode(),
            "CROSSLOGIC_NOTIFY_ALLOWED_NETWORKS": "127.0.0.1/32",
            # What a dead replica held is taken over after 3 x 0.5 + 1 s.
            "CROSSLOGIC_NOTIFY_TIMEOUT_S": "0.5",
        }
        self.child = self._started()

    def again(self) -> None:
        """Kills it as nothing else does, and starts another."""
        self.kill()
        self.child = self._started()

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(20)

    def _started(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "crosslogic_orchestrator"]
            return subprocess.Popen(command, env=self._environ, stderr=output)


@pytest.fixture
async def running(pg_url: str, tmp_path: Path) -> AsyncIterator[tuple[Process, "rpc.NotificationServiceAsyncStub"]]:
    ca = CertificateMaker(tmp_path / "tls")
    process = Process(pg_url, ca, tmp_path)
    channels = Channels(ca.service("gateway"))
    try:
        yield process, rpc.NotificationServiceStub(channels.service("orchestrator", process.target))
    finally:
        await channels.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def test_killed_after_sending_it_sends_again_under_the_id_that_the_receiver_knows(
    running: tuple[Process, "rpc.NotificationServiceAsyncStub"], pg_url: str
) -> None:
    process, stub = running
    async with receiver() as server, open_pool(pg_url, schema="fleet", max_size=2) as pool:
        spec = pb.NotificationRouteSpec(
            name="pager",
            channel=pb.NOTIFICATION_CHANNEL_WEBHOOK,
            target=f"http://127.0.0.1:{server.port}/hook",
        )
        made = await stub.CreateNotificationRoute(
            pb.CreateNotificationRouteRequest(spec=spec), wait_for_ready=True, timeout=60
        )
        assert made.secret.startswith("whsec_")
        # The process is stopped while it waits for the answer: what it was sent it can never write down.
        server.on_request = lambda: process.child.send_signal(signal.SIGSTOP)
        async with transaction(pool) as connection:
            await add_event(
                connection,
                kind="node_lost",
                at=datetime.now(UTC),
                text="It is gone.",
                details={},
                instance_id=str(uuid4()),
            )
        await server.until(1)
        server.on_request = None
        process.again()
        first, second = (await server.until(2))[:2]
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body
        asked = pb.ListNotificationDeliveriesRequest(route_id=made.route.id)
        async with asyncio.timeout(60):
            while True:
                (delivery,) = (await stub.ListNotificationDeliveries(asked, wait_for_ready=True)).deliveries
                if delivery.state == pb.NOTIFICATION_STATE_SENT:
                    break
                await asyncio.sleep(0.02)
        assert delivery.id == first.headers["webhook-id"]
        assert delivery.attempts >= 2
        shown = await stub.GetNotificationRoute(pb.GetNotificationRouteRequest(route_id=made.route.id))
        assert (shown.route.spec.target, shown.route.spec.secret) == ("", "")
        for each in (made.secret, server.got[0].headers["webhook-signature"]):
            assert each not in process.log.read_text()
