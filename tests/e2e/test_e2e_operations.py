"""What an operator does to a suite in use, and its tenants do not notice."""

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from crosslogic_common.tls import service_dns_name
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.progress import no_progress
from crosslogic_dev.stack import Stack
from crosslogic_dev.suite import Suite
from crosslogic_dev.waiting import wait_until
from tests.e2e.conftest import simulated
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_load import Load, Seen, running, wait_for

PROCESSES = (
    *("postgres", "redis", "identity", "registry", "scheduler", "accountant", "gateway"),
    *("node_agent-1", "node_agent-2", "engine-1", "engine-2"),
)
WITH_CERTIFICATES = ("identity", "registry", "scheduler", "accountant", "gateway")


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with simulated(nodes=2, step_ms=20) as started:
        yield started


@contextlib.asynccontextmanager
async def _steady(load: Load, seen: list[Seen], *, at_once: int = 8) -> AsyncIterator[None]:
    """Requests without a pause for as long as the block lasts; `seen` gathers them."""
    stopping = asyncio.Event()

    async def client() -> None:
        while not stopping.is_set():
            each = Seen(stream=len(seen) % 2 == 0)
            seen.append(each)
            await load.one(len(seen), each)

    clients = [asyncio.create_task(client()) for _ in range(at_once)]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*clients)


def test_second_up_changes_nothing(suite: Suite) -> None:
    before = {name: suite.pid(name) for name in PROCESSES}
    assert None not in before.values()
    again = Stack(suite._the_stack._wishes, no_progress).up()
    assert {name: suite.pid(name) for name in PROCESSES} == before
    assert not again.changed
    assert again.api_key == suite.api_key


async def test_gateway_that_is_told_to_stop_finishes_its_streams(suite: Suite, ledger: Ledger) -> None:
    seen = [Seen(stream=number % 2 == 0) for number in range(60)]
    async with Load(suite, max_tokens=60) as load, running(load, seen):
        await wait_for(lambda: sum(each.content_chunks > 2 for each in seen) == 30)
        assert not any(each.complete for each in seen)
        await asyncio.to_thread(suite.kill, "gateway", signal.SIGTERM)
    await asyncio.to_thread(suite.start, "gateway")

    assert [each for each in seen if not each.complete] == []
    entries = await asyncio.to_thread(ledger.holding, {each.request_id for each in seen})
    assert all(entries[each.request_id].tokens == each.tokens for each in seen)


async def test_node_that_is_drained_finishes_its_streams_and_gets_no_more(suite: Suite, ledger: Ledger) -> None:
    nodes = {node["id"]: node for node in suite.admin.all_of("/admin/nodes")}
    drained = next(iter(nodes))
    seen: list[Seen] = []
    async with Load(suite, max_tokens=20) as load, _steady(load, seen):
        await wait_for(lambda: sum(each.complete for each in seen) >= 10)
        answer = await asyncio.to_thread(suite.admin.ask, "POST", f"/admin/nodes/{drained}/drain")
        assert answer.status == 200
        await wait_for(
            lambda: next(n["status"] for n in suite.admin.all_of("/admin/nodes") if n["id"] == drained) == "draining"
        )
        moved_at = len(seen)
        await wait_for(lambda: len(seen) > moved_at + 40)

    assert [each for each in seen if not each.complete] == []
    # Those of the first moment after the drain may have been picked before the scheduler heard of it.
    late = [each.request_id for each in seen[moved_at + 16 :]]
    records = [await asyncio.to_thread(ledger.record, request_id) for request_id in late]
    assert {record["node_id"] for record in records} == nodes.keys() - {drained}


def _served_serial(suite: Suite, name: str) -> int:
    """The serial number of the certificate that a service shows now."""
    files = suite.tls()
    context = ssl.create_default_context(cafile=str(files.ca_file))
    context.load_cert_chain(files.cert_file, files.key_file)
    host, _, port = suite.target(name).rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=service_dns_name(name)) as secure,
    ):
        raw = secure.getpeercert(binary_form=True)
    assert raw is not None
    return x509.load_der_x509_certificate(raw).serial_number


def _serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def test_certificates_are_rotated_under_load_without_a_failed_request(suite: Suite) -> None:
    seen: list[Seen] = []
    old = {name: _serial(suite.tls(name).cert_file) for name in WITH_CERTIFICATES}
    async with Load(suite, max_tokens=4) as load, _steady(load, seen):
        await wait_for(lambda: sum(each.complete for each in seen) >= 20)
        for name in WITH_CERTIFICATES:
            suite.tls(name).cert_file.unlink()
        ca = DevelopmentCa(suite.run_dir.tls)
        for name in WITH_CERTIFICATES:
            ca.service(name)
        for name in ("identity", "registry", "scheduler", "accountant"):
            fresh = _serial(suite.tls(name).cert_file)
            assert fresh != old[name]
            await wait_for(lambda name=name, fresh=fresh: _served_serial(suite, name) == fresh)  # type: ignore[misc]
        rotated_at = len(seen)
        await wait_for(lambda: len(seen) > rotated_at + 40)
    assert [each for each in seen if not each.complete] == []


def test_revoked_key_stops_working_within_a_second(suite: Suite) -> None:
    for number in range(3):
        made = suite.admin.must("POST", f"/admin/environments/{suite.environment_id}/keys", {"name": f"k{number}"})
        assert suite.admin.key_works(made["key"])
        suite.admin.must("DELETE", f"/admin/keys/{made['id']}")
        began = time.monotonic()
        assert wait_until(lambda key=made["key"]: not suite.admin.key_works(key), timeout_s=2.0, poll_s=0.005)  # type: ignore[misc]
        assert time.monotonic() - began < 1.0


def test_suspended_organisation_is_locked_out_within_a_second_and_comes_back(suite: Suite) -> None:
    admin = suite.admin
    org = admin.must("POST", "/admin/orgs", {"name": "late payer"})["id"]
    environment = admin.must("POST", f"/admin/orgs/{org}/environments", {"name": "e"})["id"]
    key = admin.must("POST", f"/admin/environments/{environment}/keys", {"name": "k"})["key"]
    assert admin.key_works(key)
    admin.must("PATCH", f"/admin/orgs/{org}", {"status": "suspended"})
    assert wait_until(lambda: not admin.key_works(key), timeout_s=1.0, poll_s=0.005)
    admin.must("PATCH", f"/admin/orgs/{org}", {"status": "active"})
    assert wait_until(lambda: admin.key_works(key), timeout_s=5.0, poll_s=0.02)
