"""What operators see of a suite at work: metrics, dashboards, logs. One suite, all of its traffic made once."""

import asyncio
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import httpx
import pytest
import yaml

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic.billing.v1 import billing_pb2_grpc as rpc
from crosslogic_common.tls import Channels
from crosslogic_dev.suite import Suite
from crosslogic_dev.waiting import wait_until
from scripts.dashboard_panels import DASHBOARDS
from tests.e2e.conftest import ROOT
from tests.fakes.dashboard_exceptions import WITHOUT_DATA
from tests.fakes.debian import debian_binary, debian_folder
from tests.fakes.e2e_ports import two_free_ports
from tests.fakes.e2e_sim import Sims
from tests.fakes.k8s_render import K8S
from tests.fakes.otlp_collector import Collector, SeenSpan
from tests.fakes.prometheus_server import Prometheus
from tests.fakes.stripe_process import StripeProcess
from tests.fakes.stripe_server import KEY, WEBHOOK_SECRET
from tests.fakes.written_secrets import LEAST_CHARS, found_in, meant_to_hold_secrets, secrets_of

WORKERS = 2
PROMPT = "Zephyrine keeps her quokka in the observatory"
RULES = yaml.safe_load((K8S / "components/monitoring/rules.yaml").read_text())["spec"]
# Of the issue, by the names that it gives.
ASKED_FOR = (
    *("http_requests_total", "http_request_duration_seconds_bucket", "http_request_size_bytes_bucket"),
    *("http_response_size_bytes_bucket", "rate_limit_exceeded_total", "rate_limit_remaining"),
    *("auth_attempts_total", "auth_failures_total", "loadbalancer_requests_total"),
    *("loadbalancer_latency_seconds_bucket", "loadbalancer_errors_total", "node_health_score"),
    *("node_heartbeat_age_seconds", "nodes_active_total", "nodes_draining_total", "tokens_processed_total"),
    *("usage_records_created_total", "billing_exports_total", "billing_tokens_total", "billing_cost_total"),
    *("billing_records_pushed_total", "billing_records_failed_total"),
    # And what it describes.
    *("crosslogic_scheduler_decision_seconds_bucket", "crosslogic_scheduler_picks_total", "crosslogic_failovers"),
    *("crosslogic_node_model_load_seconds", "crosslogic_node_gpu_temperature_celsius"),
    *("crosslogic_node_vram_used_bytes", "crosslogic_time_to_first_token_seconds_bucket"),
    *("crosslogic_inter_token_seconds_bucket", "crosslogic_event_loop_lag_seconds", "crosslogic_accountant_queued"),
    *(
        "crosslogic_lane_waiting",
        "crosslogic_accountant_batch_size_bucket",
        "crosslogic_scheduler_pick_batch_size_bucket",
    ),
    *("crosslogic_retries_denied", "crosslogic:error_budget_left:30d", "crosslogic_usage_outbox_oldest_seconds"),
)
LABELS = {
    "http_requests_total": {"method", "path", "status"},
    "rate_limit_exceeded_total": {"layer", "reason"},
    "auth_attempts_total": {"status"},
    "auth_failures_total": {"reason"},
    "loadbalancer_requests_total": {"model", "node"},
    "tokens_processed_total": {"model"},
    "billing_exports_total": {"status"},
    "crosslogic_time_to_first_token_seconds_count": {"model", "region"},
    "crosslogic_inter_token_seconds_count": {"model", "region"},
}


@dataclass
class Traffic:
    """What was sent, and what came back."""

    prompts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def stripe() -> Iterator[StripeProcess]:
    with StripeProcess() as running:
        yield running


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return two_free_ports()


@pytest.fixture(scope="module")
def suite(stripe: StripeProcess, collector: Collector, metrics_port: int) -> Iterator[Suite]:
    billing = {
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "STRIPE_BASE_ADDRESS": stripe.base,
        "CROSSLOGIC_WINDOW_S": "1",
        "CROSSLOGIC_CLOSE_DELAY_S": "0.5",
        "CROSSLOGIC_PAYMENT_GRACE_S": "0",
    }
    gateway = {"CROSSLOGIC_WORKERS": str(WORKERS), "CROSSLOGIC_METRICS_LISTEN": f"127.0.0.1:{metrics_port}"}
    with Suite(
        engine="sim",
        nodes=2,
        root=ROOT,
        durable=False,
        sim_arguments=("--step-ms", "5", "--prefill-tps", "0", "--max-num-seqs", "64"),
        settings={
            "billing": {**billing, **collector.settings},
            "gateway": {**gateway, **collector.settings},
            **dict.fromkeys(("identity", "registry", "scheduler", "accountant", "node_agent"), collector.settings),
        },
    ) as started:
        yield started


@pytest.fixture(scope="module")
def prometheus(suite: Suite, metrics_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    services = ("identity", "registry", "scheduler", "accountant", "billing", "orchestrator")
    targets = {
        "gateway": [f"127.0.0.1:{metrics_port + number}" for number in range(WORKERS)],
        **{name: [suite.target(f"{name}_metrics")] for name in services},
        "node_agent": [suite.target(f"node_agent_metrics-{number}") for number in (1, 2)],
    }
    binary = debian_binary("prometheus", "prometheus", debian_folder(tmp_path_factory))
    with Prometheus(binary, tmp_path_factory.mktemp("prometheus"), targets, RULES) as running:
        assert wait_until(lambda: len(running.query("up == 1")) == WORKERS + len(services) + 2, timeout_s=60)
        yield running


def ask(suite: Suite, traffic: Traffic, *, key: str = "", model: str = "", stream: bool = False) -> int:
    """One request; its status."""
    prompt = f"{PROMPT} {len(traffic.prompts)}"
    traffic.prompts.append(prompt)
    body = {
        "model": model or suite.model_name,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 8,
        "stream": stream,
    }
    # A connection of its own: each ends at one of the workers.
    answer = httpx.post(
        f"{suite.base_url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {key or suite.api_key}"},
        timeout=60,
        trust_env=False,
    )
    traffic.request_ids.append(answer.headers["x-crosslogic-request-id"])
    if answer.status_code == 200:
        traffic.answers.append(_streamed(answer.text) if stream else answer.json()["choices"][0]["message"]["content"])
    return answer.status_code


def _streamed(text: str) -> str:
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])


async def _link(suite: Suite) -> None:
    channels = Channels(suite.tls())
    try:
        stub: rpc.BillingServiceAsyncStub = rpc.BillingServiceStub(channels.service("billing", suite.target("billing")))
        terms = pb.Terms(free_tokens=0)
        await stub.SetTerms(pb.SetTermsRequest(org_id=suite.org_id, from_month="2020-01", terms=terms), timeout=30)
        await stub.LinkCustomer(pb.LinkCustomerRequest(org_id=suite.org_id, name="Acme"), timeout=30)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.LinkCustomer(pb.LinkCustomerRequest(), timeout=30)
    finally:
        await channels.close()


@pytest.fixture(scope="module")
def traffic(suite: Suite, prometheus: Prometheus) -> Traffic:
    """Requests of every kind, scraped from before the first to after the last."""
    made = Traffic()
    asyncio.run(_link(suite))
    row = {"context_length": 128, "input_usd_per_million": "1", "output_usd_per_million": "1"}
    suite.admin.must("POST", "/admin/models", {"name": "served-nowhere", **row})
    suite.admin.must("POST", "/admin/deployments", {"model": "served-nowhere", "mode": "dry_run"})
    limited = suite.admin.must(
        "POST",
        f"/admin/environments/{suite.environment_id}/keys",
        {"name": "limited", "limits": {"requests_per_minute": 1}},
    )["key"]
    made.keys += [suite.api_key, limited]

    def lines() -> bool:
        for number in range(8):
            assert ask(suite, made, stream=number % 2 == 0) == 200
        return prometheus.value("sum(usage_records_created_total)") > 0

    # Counters are seen from their first scrape on: what is counted after it makes a rate.
    for _ in range(2):
        assert wait_until(lines, timeout_s=60)
        assert ask(suite, made, key="clsk_live_" + "0" * 40) == 401
        assert wait_until(lambda: ask(suite, made, model="served-nowhere") == 503, timeout_s=30)
        ask(suite, made, key=limited)
        assert ask(suite, made, key=limited) == 429
        url = f"http://{suite.target('billing_webhook')}/webhooks/stripe"
        assert httpx.post(url, content=b"{}", headers={"Stripe-Signature": "t=1,v1=0"}, timeout=30).status_code == 400
    return made


def test_every_metric_that_operators_were_promised_is_there(
    suite: Suite, prometheus: Prometheus, traffic: Traffic
) -> None:
    missing = set(ASKED_FOR)

    def complete() -> bool:
        # Rates need requests between two scrapes, whenever a worker was first seen.
        assert ask(suite, traffic) == 200
        missing.difference_update({name for name in missing if prometheus.query(f"{{__name__='{name}'}}")})
        return not missing

    assert wait_until(complete, timeout_s=90, poll_s=0.5), missing
    for name, labels in LABELS.items():
        seen = prometheus.labels_of(name)
        assert seen - {"__name__", "job", "instance"} == labels, name


def test_workers_together_count_every_request_once(suite: Suite, prometheus: Prometheus, traffic: Traffic) -> None:
    where = '{path="/v1/chat/completions"}'
    asked = len(traffic.prompts)
    assert wait_until(lambda: prometheus.value(f"http_requests_total{where}") == asked, timeout_s=30)
    # One that could not be scraped in time is left out for a moment.
    assert wait_until(
        lambda: len(prometheus.query(f"sum by (instance) (http_requests_total{where})")) == WORKERS, timeout_s=30
    )
    served = len(traffic.answers)
    assert wait_until(lambda: prometheus.value("usage_records_created_total") == served, timeout_s=30)
    # A node that was slow to answer may have been asked twice.
    assert wait_until(lambda: prometheus.value("loadbalancer_requests_total") >= served, timeout_s=30)
    records = suite.admin.must("GET", "/admin/usage/records?page_size=1000")["data"]
    tokens = sum(record["total_tokens"] for record in records)
    assert wait_until(lambda: prometheus.value("tokens_processed_total") == tokens, timeout_s=30)
    assert wait_until(lambda: prometheus.value("nodes_active_total") == 2, timeout_s=30)
    assert wait_until(lambda: len(prometheus.query("0 < node_health_score <= 100")) == 2, timeout_s=30)

    def both_asked() -> bool:
        # So few requests may all have gone to one node.
        ask(suite, traffic, stream=True)
        return len(prometheus.query("sum by (node) (loadbalancer_requests_total)")) == 2

    assert wait_until(both_asked, timeout_s=60, poll_s=0.5)


def _runnable(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$model", ".*").replace("$region", ".*")


def test_every_query_of_every_dashboard_returns_data(prometheus: Prometheus, traffic: Traffic, suite: Suite) -> None:
    queries = {query for board in DASHBOARDS for panel in board.panels for query, _ in panel.queries}
    waiting = queries - WITHOUT_DATA.keys()

    def complete() -> bool:
        ask(suite, traffic, stream=True)
        waiting.difference_update({query for query in waiting if prometheus.query(_runnable(query))})
        return not waiting

    assert wait_until(complete, timeout_s=60), "\n".join(sorted(waiting))
    for board in DASHBOARDS:
        for name, metric, label in board.variables:
            assert prometheus.values_of(label, metric), (board.uid, name)


TREE = {
    ("gateway", "POST /v1/chat/completions"): None,
    ("gateway", "pick"): ("gateway", "POST /v1/chat/completions"),
    ("scheduler", "decide"): ("gateway", "pick"),
    ("gateway", "node"): ("gateway", "POST /v1/chat/completions"),
    ("node_agent", "relay"): ("gateway", "node"),
    ("node_agent", "engine"): ("node_agent", "relay"),
}


def _traced(suite: Suite, trace_id: str, *, stream: bool, flags: str = "01", key: str = "") -> httpx.Response:
    return httpx.post(
        f"{suite.base_url}/v1/chat/completions",
        json={
            "model": suite.model_name,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 4,
            "stream": stream,
        },
        headers={
            "Authorization": f"Bearer {key or suite.api_key}",
            "traceparent": f"00-{trace_id}-{'b7' * 8}-{flags}",
            # A session is picked for by the scheduler, never ahead.
            "X-Session-ID": trace_id,
        },
        timeout=60,
        trust_env=False,
    )


@pytest.mark.parametrize("stream", [False, True])
def test_one_request_gives_one_tree_of_spans_over_four_processes(
    suite: Suite, collector: Collector, prometheus: Prometheus, traffic: Traffic, *, stream: bool
) -> None:
    for _ in range(5):
        trace_id = secrets.token_hex(16)
        answer = _traced(suite, trace_id, stream=stream)
        assert answer.status_code == 200
        # A scheduler that is slower than half a second is not waited for, and there is no span of its then.
        if wait_until(lambda wanted=trace_id: len(collector.spans(wanted)) >= len(TREE), timeout_s=15):  # type: ignore[misc]
            break
    by_id = {span.span_id: span for span in collector.spans(trace_id)}

    def parent(span: SeenSpan) -> tuple[str, str] | None:
        above = by_id.get(span.parent_id)
        return None if above is None else (above.service, above.name)

    assert {(span.service, span.name): parent(span) for span in by_id.values()} == TREE
    [root] = [span for span in by_id.values() if span.parent_id not in by_id]
    assert root.parent_id == "b7" * 8
    assert root.attributes["crosslogic.request_id"] == answer.headers["x-crosslogic-request-id"]
    assert root.attributes["http.response.status_code"] == 200
    for span in by_id.values():
        assert root.begin_ns - 50_000_000 <= span.begin_ns <= span.end_ns, span
        assert not span.failed
    [engine] = [span for span in by_id.values() if span.name == "engine"]
    told = Sims(suite).request(answer.headers["x-crosslogic-request-id"])
    assert told["traceparent"] == f"00-{trace_id}-{engine.span_id}-01"
    assert engine.attributes["gen_ai.usage.output_tokens"] == 4


def test_request_that_fails_has_a_trace_that_says_so_and_slow_buckets_lead_to_traces(
    suite: Suite, collector: Collector, prometheus: Prometheus, traffic: Traffic
) -> None:
    trace_id = secrets.token_hex(16)
    assert _traced(suite, trace_id, stream=False, key="clsk_live_" + "1" * 40).status_code == 401
    assert wait_until(lambda: len(collector.spans(trace_id)) == 1, timeout_s=30)
    streamed = secrets.token_hex(16)
    assert _traced(suite, streamed, stream=True).status_code == 200
    for metric, wanted in (
        ("http_request_duration_seconds_bucket", {streamed}),
        ("crosslogic_time_to_first_token_seconds_bucket", {streamed}),
    ):

        def linked(metric: str = metric, wanted: set[str] = wanted) -> bool:
            found = prometheus.exemplars(metric, 600)
            return wanted <= {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

        assert wait_until(linked, timeout_s=30), metric


def test_nobody_who_does_not_ask_is_traced(suite: Suite, collector: Collector, traffic: Traffic) -> None:
    unsampled, malformed = secrets.token_hex(16), "0" * 32
    for trace_id, flags in ((unsampled, "00"), (malformed, "01"), (secrets.token_hex(15) + "zz", "01")):
        answer = _traced(suite, trace_id, stream=True, flags=flags)
        assert answer.status_code == 200
        assert Sims(suite).request(answer.headers["x-crosslogic-request-id"])["traceparent"] == ""
    marked = secrets.token_hex(16)
    _traced(suite, marked, stream=False)

    def roots() -> list[SeenSpan]:
        return [span for span in collector.spans() if span.name == "POST /v1/chat/completions"]

    assert wait_until(lambda: marked in {span.trace_id for span in roots()}, timeout_s=30)
    assert all(span.parent_id == "b7" * 8 for span in roots()), "a trace that nobody asked for"
    assert not collector.spans(unsampled)

    def whole() -> bool:
        return {span.trace_id for span in collector.spans()} == {span.trace_id for span in roots()}

    assert wait_until(whole, timeout_s=30)


GRPC_CORE = re.compile(r"[EWI]\d{4} \d\d:\d\d:|WARNING: All log messages before absl")
SERVICES = ("gateway", "identity", "registry", "scheduler", "accountant", "billing", "orchestrator", "node_agent-1")


def test_every_line_of_every_log_is_json_and_every_request_is_in_the_gateways(suite: Suite, traffic: Traffic) -> None:
    for name in SERVICES:
        # gRPC's core writes in its own way, past Python.
        lines = [json.loads(line) for line in suite.log(name).splitlines() if not GRPC_CORE.match(line)]
        assert lines or name == "orchestrator", name
        assert all(isinstance(line, dict) and "event" in line for line in lines), name
    assert wait_until(lambda: all(each in suite.log("gateway") for each in traffic.request_ids), timeout_s=30)
    logged = [json.loads(line) for line in suite.log("gateway").splitlines() if not GRPC_CORE.match(line)]
    of_requests = [line for line in logged if line["event"] == "request" and line["path"].startswith("/v1/")]
    assert set(traffic.request_ids) <= {line["request_id"] for line in of_requests}


def _forbidden(suite: Suite, traffic: Traffic) -> dict[str, str]:
    answers = {f"answer {text!r}": text for text in traffic.answers if len(text) >= LEAST_CHARS}
    keys = {f"key {number}": key for number, key in enumerate(traffic.keys)}
    assert answers
    return {
        "prompt": PROMPT,
        "refused key": "clsk_live_" + "0" * 40,
        "Stripe's key": KEY,
        "Stripe's webhook secret": WEBHOOK_SECRET,
        **answers,
        **keys,
        **secrets_of(suite),
    }


def test_nothing_that_the_suite_wrote_holds_a_prompt_an_answer_or_a_secret(suite: Suite, traffic: Traffic) -> None:
    forbidden = _forbidden(suite, traffic)
    assert {"admin_token", "seal_key", "api key", "database password"} <= forbidden.keys(), forbidden.keys()
    # Failures are where secrets slip into logs.
    for body in (b"{" + PROMPT.encode(), json.dumps({"model": PROMPT, "messages": [{"content": PROMPT}]}).encode()):
        for header in ({"Authorization": f"Bearer {suite.api_key}"}, {"x-api-key": suite.api_key}):
            url = f"{suite.base_url}/v1/chat/completions"
            headers = {"Content-Type": "application/json", **header}
            assert httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False).status_code >= 400
    token = forbidden["admin_token"]
    url = f"{suite.base_url}/admin/orgs?x={PROMPT}"
    assert httpx.get(url, headers={"X-Admin-Token": token + "x"}, timeout=30, trust_env=False).status_code >= 400
    assert found_in(suite, forbidden) == []


def test_a_secret_that_is_written_anywhere_is_found(suite: Suite, traffic: Traffic) -> None:
    forbidden = _forbidden(suite, traffic)
    folder = suite.run_dir.state_dir("node_agent-1") / "planted"
    folder.mkdir()
    try:
        for number, text in enumerate(forbidden.values()):
            (folder / str(number)).write_bytes(b"\x00" * 100 + text.encode() + b"\x00")
        found = found_in(suite, forbidden)
    finally:
        shutil.rmtree(folder)
    at = str(folder.relative_to(suite.run_dir.path))
    assert {(f"{at}/{number}", name) for number, name in enumerate(forbidden)} <= set(found)
    assert all(file.startswith(at) for file, _ in found)


def _closed(path: Path) -> bool:
    return path.stat().st_mode & 0o077 == 0


def test_files_that_are_meant_to_hold_secrets_are_for_their_owner_only(suite: Suite) -> None:
    for path in meant_to_hold_secrets(suite):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        if path == suite.run_dir.tls:
            files = [file for file in files if "PRIVATE KEY" in file.read_text()]
        assert files, path
        assert [file.name for file in files if not _closed(file) and not _closed(path)] == []
