"""`crosslogic doctor` finds each of twelve faults, and says what to do."""

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from crosslogic_cli import gateway_checks, machine_checks
from crosslogic_cli.client import Client
from crosslogic_cli.commands.doctor import examined
from crosslogic_cli.config import Config
from crosslogic_cli.findings import Finding
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import free_port

ENDING: Any = {
    "kind": "terminate",
    "instance_id": "i1",
    "status": "running",
    "error": "",
    "steps": [{"start_time": "2025-11-21T12:00:00Z", "detail": "There is no provider azure any more"}],
}
NODE = {"id": "n1", "status": "active", "status_reason": "", "agent_version": "0.1.0"}


def the_one(findings: list[Finding] | Finding, check: str) -> Finding:
    found = [findings] if isinstance(findings, Finding) else findings
    (one,) = [each for each in found if each.check == check and each.verdict in ("broken", "worth a look")]
    assert one.fix, "it says nothing of what to do"
    return one


class _Answers(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, Any]]

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path.partition("?")[0], (404, {}))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815  # the base class's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Says nothing."""


@contextlib.contextmanager
def served(answers: dict[str, tuple[int, Any]]) -> Iterator[str]:
    handler = type("Handler", (_Answers,), {"answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    ca = DevelopmentCa(tmp_path / "tls")
    ca.node_ca()
    ca.service("gateway")
    return tmp_path / "tls"


def test_certificates_that_are_well_are_said_to_be(tls: Path) -> None:
    (finding,) = machine_checks.check_certificates(tls)
    assert finding.verdict == "well"


def test_expired_certificate(tls: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=91)
    assert "gateway.pem expired" in the_one(machine_checks.check_certificates(tls, now=later), "certificates").what


def test_certificate_that_ends_soon(tls: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=86)
    assert the_one(machine_checks.check_certificates(tls, now=later), "certificates").verdict == "worth a look"


def test_wrong_ca(tls: Path, tmp_path: Path) -> None:
    DevelopmentCa(tmp_path / "other").service("gateway")
    shutil.copy(tmp_path / "other/gateway.pem", tls / "gateway.pem")
    assert "not issued by the CA" in the_one(machine_checks.check_certificates(tls), "certificates").what


def test_redis_down() -> None:
    assert the_one(machine_checks.check_redis(f"redis://127.0.0.1:{free_port()}/0"), "redis").verdict == "broken"


def test_database_down() -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    assert "away" in the_one(machine_checks.check_database(url), "database").what


@pytest.mark.parametrize(("skew_s", "verdict"), [(1, "well"), (90, "broken"), (-90, "broken")])
def test_clock_skew(skew_s: int, verdict: str) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    said = (now + timedelta(seconds=skew_s)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert gateway_checks.check_clock(said, now=now).verdict == verdict


def test_no_nodes() -> None:
    assert "503" in the_one(gateway_checks.check_nodes([]), "nodes").what
    assert the_one(gateway_checks.check_nodes([{**NODE, "status": "dead"}]), "nodes").verdict == "broken"
    assert "draining" in the_one(gateway_checks.check_nodes([{**NODE, "status": "draining"}]), "nodes").what


def test_dead_engine() -> None:
    node = {**NODE, "status": "warming", "status_reason": "engine died: out of memory"}
    assert "out of memory" in the_one(gateway_checks.check_nodes([NODE, node]), "engine").what


def test_machine_that_does_not_end() -> None:
    begun = datetime(2025, 11, 21, 12, tzinfo=UTC)
    launching, over = {**ENDING, "kind": "launch"}, {**ENDING, "status": "failed"}
    failing = {**launching, "error": "No agent has joined."}
    cases: tuple[tuple[Any, bool], ...] = ((ENDING, True), (failing, True), (launching, False), (over, False))
    for job, late in cases:
        (found,) = gateway_checks.check_ends([job], now=begun + timedelta(minutes=16))
        assert (found.verdict == "worth a look") is late
        (found,) = gateway_checks.check_ends([job], now=begun + timedelta(minutes=14))
        assert found.verdict == "well"
    one = the_one(gateway_checks.check_ends([ENDING], now=begun + timedelta(hours=2)), "machines")
    assert "i1" in one.what
    assert "There is no provider azure any more" in one.what
    assert "terminate i1 --abandon" in one.fix


def test_version_skew() -> None:
    nodes = [NODE, {**NODE, "agent_version": "0.0.9"}]
    assert "0.0.9" in the_one(gateway_checks.check_versions("0.1.0", nodes), "versions").what
    assert gateway_checks.check_versions("0.1.0", [NODE]).verdict == "well"


def test_wrong_stripe_key() -> None:
    with served({"/v1/balance": (401, {"error": {"message": "Invalid API Key"}})}) as base:
        assert "refuses" in the_one(machine_checks.check_stripe("sk_test_wrong", base), "stripe").what
    with served({"/v1/balance": (200, {})}) as base:
        assert machine_checks.check_stripe("sk_test_right", base).verdict == "well"
    assert (
        "no secret key" in the_one(machine_checks.check_stripe("pk_live_public", "http://127.0.0.1:1"), "stripe").what
    )
    finding = the_one(machine_checks.check_stripe("sk_test_x", f"http://127.0.0.1:{free_port()}"), "stripe")
    assert "sk_test_x" not in f"{finding}", "a secret is shown"


def test_unreachable_bucket() -> None:
    where = f"http://127.0.0.1:{free_port()}"
    assert "does not answer" in the_one(machine_checks.check_bucket(where, "weights"), "bucket").what
    with served({}) as base:
        assert "no bucket weights" in the_one(machine_checks.check_bucket(base, "weights"), "bucket").what
    with served({"/weights": (403, {})}) as base:
        assert machine_checks.check_bucket(base, "weights").verdict == "well"


def test_taken_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert "another program" in the_one(machine_checks.check_port(address, gateway_answers=False), "port").what
        assert machine_checks.check_port(address, gateway_answers=True).verdict == "well"


def test_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil._ntuple_diskusage(100 * 1024**3, 99 * 1024**3, 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "1.0 GiB are free of 100" in the_one(machine_checks.check_disk(tmp_path), "disk").what


def examination(base_url: str, tmp_path: Path, **environ: str) -> list[Finding]:
    config = Config(base_url=base_url, admin_token="t", api_key="", as_json=True, assume_yes=False)
    with Client(config, timeout_s=5) as client:
        return examined(client, base_url, environ, tls=tmp_path, data=tmp_path)


def test_all_of_it_against_a_gateway_that_is_half_well(tmp_path: Path) -> None:
    answers: dict[str, tuple[int, Any]] = {
        "/health": (200, {}),
        "/ready": (200, {"catalogue": True, "degraded": ["scheduler"]}),
        "/admin/nodes": (200, {"data": [NODE], "next_page_token": None}),
        "/admin/instances": (
            200,
            {"data": [{"state": "terminating", "job_id": "j1"}, {"state": "active", "job_id": "j2"}]},
        ),
        "/admin/instances/j1": (200, ENDING),
        "/openapi.json": (200, {"info": {"version": "0.1.0"}}),
    }
    with served(answers) as base:
        found = examination(base, tmp_path)
    assert {each.check for each in found if each.verdict == "well"} >= {"clock", "token", "nodes", "versions", "port"}
    assert "scheduler is away" in the_one(found, "gateway").what
    assert "i1" in the_one(found, "machines").what
    assert {each.check for each in found if each.verdict == "not checked"} == {
        "certificates",
        "redis",
        "database",
        "stripe",
        "bucket",
    }


def test_gateway_that_is_not_there(tmp_path: Path) -> None:
    found = examination(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert "does not answer" in the_one(found, "gateway").what


def test_something_else_at_the_gateways_address(tmp_path: Path) -> None:
    with served({"/health": (200, {}), "/ready": (503, {"catalogue": False})}) as base:
        assert (
            "not ready: catalogue"
            in the_one([each for each in examination(base, tmp_path) if each.check == "gateway"], "gateway").what
        )
