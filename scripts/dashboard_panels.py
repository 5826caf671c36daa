"""What the dashboards show: titles, queries, units. scripts/k8s_dashboards.py makes Grafana's JSON of it.

Each query is run in tests/e2e/test_e2e_observed.py against a Prometheus that scraped a suite at work.
"""

from dataclasses import dataclass

RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    text: str
    """What it means, and when to worry."""
    queries: tuple[tuple[str, str], ...]
    """PromQL, and the legend of its lines."""
    unit: str = "short"
    """Of Grafana's units."""
    kind: str = "timeseries"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str, str], ...] = ()
    """Each one's name, and the metric and the label whose values are offered."""


def _legend(by: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by.split(",") if label)


def _quantiles(metric: str, by: str, where: str = "", window: str = RATE) -> tuple[tuple[str, str], ...]:
    inside = ",".join(each for each in ("le", by) if each)
    return tuple(
        (
            f"histogram_quantile({quantile}, sum by ({inside}) (rate({metric}_bucket{where}[{window}])))",
            f"p{round(quantile * 100)} {_legend(by)}".strip(),
        )
        for quantile in (0.5, 0.95)
    )


def _rate(metric: str, by: str = "", where: str = "") -> tuple[tuple[str, str], ...]:
    grouping = f" by ({by})" if by else ""
    return ((f"sum{grouping} (rate({metric}{where}[{RATE}]))", _legend(by) or "all"),)


def _of_the_hour(metric: str, by: str, words: str = "") -> tuple[tuple[str, str], ...]:
    return ((f"sum by ({by}) (increase({metric}[1h]))", f"{words} {_legend(by)}".strip()),)


def _now(query: str, legend: str = "") -> tuple[tuple[str, str], ...]:
    return ((query, legend),)


_PLACE = '{model=~"$model",region=~"$region"}'
_REGION = '{region=~"$region"}'
_MODEL = '{model=~"$model"}'
_V1 = '{path=~"/v1/.*"}'

REGIONS = Dashboard(
    uid="crosslogic-regions",
    title="CrossLogic: region overview",
    variables=(("region", "node_health_score", "region"),),
    panels=(
        Panel(
            "Nodes",
            "Nodes that are not dead, by region.",
            _now(f"count by (region) (max by (region, node) (node_health_score{_REGION}))", "{{region}}"),
        ),
        Panel(
            "Least well node",
            "0 (useless) to 100; below 40 is NodeUnwell.",
            _now(f"min by (region) (node_health_score{_REGION})", "{{region}}"),
        ),
        Panel(
            "Streams begun",
            "Streams that got a first token, a second.",
            _rate("crosslogic_time_to_first_token_seconds_count", "region", _REGION),
            "reqps",
        ),
        Panel(
            "Time to first token",
            "As clients see it.",
            _quantiles("crosslogic_time_to_first_token_seconds", "region", _REGION),
            "s",
        ),
        Panel(
            "Time between tokens",
            "Mean of each stream.",
            _quantiles("crosslogic_inter_token_seconds", "region", _REGION),
            "s",
        ),
        Panel(
            "Oldest heartbeat",
            "Above 15 s a node counts as unreachable.",
            _now(f"max by (region) (min by (region, node) (node_heartbeat_age_seconds{_REGION}))", "{{region}}"),
            "s",
        ),
        Panel(
            "Key-value cache in use",
            "Near 100 % requests wait inside engines.",
            _now(f"avg by (region) (node_kv_cache_usage_ratio{_REGION})", "{{region}}"),
            "percentunit",
        ),
        Panel(
            "Waiting in engines",
            "Requests that an engine has and does not work on yet.",
            _now(f"sum by (region) (max by (region, node) (node_requests_waiting{_REGION}))", "{{region}}"),
        ),
        Panel(
            "Places taken",
            "Part of a lane's places; at 1 requests wait in the gateways.",
            _now(f"max by (model, region) (crosslogic_scheduler_lane_taken{_REGION})", "{{model}} {{region}}"),
            "percentunit",
        ),
        Panel(
            "Sent to other regions",
            "Requests, by the region that is down.",
            _rate("crosslogic_scheduler_region_failovers_total", "region", _REGION),
            "reqps",
        ),
    ),
)

MODELS = Dashboard(
    uid="crosslogic-models",
    title="CrossLogic: model performance",
    variables=(
        ("model", "tokens_processed_total", "model"),
        ("region", "crosslogic_time_to_first_token_seconds_count", "region"),
    ),
    panels=(
        Panel("Requests", "Sent to nodes.", _rate("loadbalancer_requests_total", "model", _MODEL), "reqps"),
        Panel("Tokens", "Of prompts and answers.", _rate("tokens_processed_total", "model", _MODEL), "short"),
        Panel(
            "Time to first token",
            "As clients see it; promised are 2.5 s for 99 %.",
            _quantiles("crosslogic_time_to_first_token_seconds", "model", _PLACE),
            "s",
        ),
        Panel(
            "Time between tokens",
            "Mean of each stream.",
            _quantiles("crosslogic_inter_token_seconds", "model", _PLACE),
            "s",
        ),
        Panel(
            "Before the node",
            "Limits, queue, pick and failed nodes. Rises first where places are short.",
            _quantiles("loadbalancer_latency_seconds", "model", _MODEL),
            "s",
        ),
        Panel(
            "Requests by node",
            "One that gets far less than its neighbours is slow, full or ejected.",
            _rate("loadbalancer_requests_total", "node", _MODEL),
            "reqps",
        ),
        Panel(
            "Failed attempts",
            "Another node often served these.",
            _rate("loadbalancer_errors_total", "model,reason", _MODEL),
            "reqps",
        ),
        Panel("Tokens by engines", "As the engines counted.", _rate("crosslogic_node_tokens_total", "kind")),
        Panel(
            "Loading the model",
            "What each engine's last start took.",
            _now("max by (instance) (crosslogic_node_model_load_seconds)", "{{instance}}"),
            "s",
        ),
        Panel(
            "Hottest accelerator",
            "From 90 °C on it slows itself down.",
            _now("max by (node) (node_gpu_temperature_celsius)", "{{node}}"),
            "celsius",
        ),
        Panel(
            "Accelerator memory in use",
            "Most is reserved by the engine at its start.",
            _now("max by (node) (node_vram_used_bytes / node_vram_total_bytes)", "{{node}}"),
            "percentunit",
        ),
        Panel(
            "Memory that cannot be given away",
            "Share of the engine's reserved memory.",
            _now("max by (node) (node_vram_fragmentation_ratio)", "{{node}}"),
            "percentunit",
        ),
    ),
)

BILLING = Dashboard(
    uid="crosslogic-billing",
    title="CrossLogic: billing overview",
    panels=(
        Panel(
            "Settled cost",
            "Dollars an hour, at the prices of the book.",
            _now("sum(rate(billing_cost_total[1h])) * 3600", "all"),
            "currencyUSD",
        ),
        Panel("Settled tokens", "A second.", _rate("billing_tokens_total")),
        Panel("Usage records", "That became durable, a second.", _rate("usage_records_created_total")),
        Panel(
            "What became of records",
            "`refused` must stay at 0.",
            _rate("crosslogic_accountant_records_total", "result"),
        ),
        Panel(
            "Records that wait in gateways",
            "Rising: the accountant or its database is away.",
            _now("sum(crosslogic_usage_outbox_records)", "records"),
        ),
        Panel(
            "Oldest record in a gateway",
            "From 5 minutes on UsageSettlesLate.",
            _now("max(crosslogic_usage_outbox_oldest_seconds)", "age"),
            "s",
        ),
        Panel(
            "Rows not settled", "How far billing is behind the ledger.", _now("max(billing_ledger_behind_rows)", "rows")
        ),
        Panel("Ledger's commits", "Time of one.", _quantiles("crosslogic_accountant_commit_seconds", "writer"), "s"),
        Panel(
            "Items a commit",
            "Large batches mean much traffic or a slow disk.",
            _now(
                f"sum by (writer) (rate(crosslogic_accountant_batch_size_sum[{RATE}]))"
                f" / sum by (writer) (rate(crosslogic_accountant_batch_size_count[{RATE}]))",
                "{{writer}}",
            ),
        ),
        Panel("Meter events", "Sent to Stripe, by what became of them.", _rate("billing_exports_total", "status")),
        Panel(
            "Delivered and dead",
            "Dead ones want an operator.",
            (
                *_now("sum(billing_records_pushed_total)", "pushed"),
                *_now("sum(billing_records_failed_total)", "failed"),
            ),
        ),
        Panel("Outbox", "Events for Stripe.", _now("max by (state) (billing_outbox_events)", "{{state}}")),
        Panel("Oldest event", "From 2 h on BillingOutboxOld.", _now("max(billing_outbox_oldest_seconds)", "age"), "s"),
        Panel(
            "Unexplained differences",
            "Of the last reconciliation. Must be 0.",
            _now("max(billing_reconciliation_unexplained)", "differences"),
            kind="stat",
        ),
        Panel(
            "Settled from witnesses",
            "A gateway died before it could tell.",
            _rate("crosslogic_accountant_settled_total"),
        ),
        Panel("Webhooks", "From Stripe.", _rate("billing_webhooks_total", "result")),
    ),
)

RELIABILITY = Dashboard(
    uid="crosslogic-reliability",
    title="CrossLogic: reliability",
    panels=(
        Panel("Processes that answer", "By job.", _now("sum by (job) (up)", "{{job}}")),
        Panel(
            "Serving and draining",
            "Nodes.",
            (*_now("max(nodes_active_total)", "active"), *_now("max(nodes_draining_total)", "draining")),
        ),
        Panel(
            "Nodes by status", "Of the whole fleet.", _now("max by (status) (crosslogic_registry_nodes)", "{{status}}")
        ),
        Panel(
            "Silent nodes",
            "Active ones that are not heard of; 1 on the second line: most are.",
            (
                *_now("max(crosslogic_registry_unreachable_nodes)", "unreachable"),
                *_now("max(crosslogic_registry_mass_silence)", "mass silence"),
            ),
        ),
        Panel("Failed attempts", "At nodes, by kind.", _rate("loadbalancer_errors_total", "reason"), "reqps"),
        Panel(
            "Failovers",
            "Requests that another node was asked for, and streams that went on there.",
            (
                *_now(f"sum(rate(crosslogic_failovers[{RATE}]))", "failovers"),
                *_now(f"sum(rate(crosslogic_streams_resumed[{RATE}]))", "resumed"),
                *_now(f"sum(rate(crosslogic_retries_denied[{RATE}]))", "denied by the budget"),
            ),
            "reqps",
        ),
        Panel(
            "Ejected nodes",
            "Passed over for errors or slowness.",
            _now("max(crosslogic_scheduler_nodes_ejected)", "nodes"),
        ),
        Panel(
            "Engines that died",
            "Restarts in the last hour.",
            _now("sum(increase(crosslogic_node_engine_restarts_total[1h]))", "restarts"),
        ),
        Panel(
            "Spot notices",
            "Machines that clouds take back, in the last hour.",
            _of_the_hour("crosslogic_registry_spot_notices_total", "source,kind"),
        ),
        Panel(
            "Waiting and shed",
            "Requests without a place at a node.",
            (
                *_now("sum(crosslogic_lane_waiting)", "waiting"),
                *_now(f"sum by (priority) (rate(crosslogic_shed_total[{RATE}]))", "shed {{priority}}"),
            ),
        ),
        Panel("Limits reached", "By layer and reason.", _rate("rate_limit_exceeded_total", "layer,reason"), "reqps"),
        Panel(
            "Least left of limits",
            "Share that the caller nearest its limit has left.",
            _now("min by (layer) (rate_limit_remaining)", "{{layer}}"),
            "percentunit",
        ),
        Panel(
            "Event loop lag",
            "What everything in a process waits for when it is busy.",
            _now("max by (job) (crosslogic_event_loop_lag_seconds)", "{{job}}"),
            "s",
        ),
        Panel(
            "Scheduler's decisions",
            "Time to answer one message of picks.",
            _quantiles("crosslogic_scheduler_decision_seconds", ""),
            "s",
        ),
        Panel("Picks", "By outcome.", _rate("crosslogic_scheduler_picks_total", "outcome"), "reqps"),
        Panel(
            "RPCs that fail",
            "By method and status.",
            _rate("crosslogic_rpcs_total", "method,code", '{code!~"OK|CANCELLED"}'),
            "reqps",
        ),
        Panel(
            "Slowest RPCs",
            "95 % of a method's are faster.",
            _now(
                "topk(10, histogram_quantile(0.95,"
                f" sum by (le, method) (rate(crosslogic_rpc_seconds_bucket[{RATE}]))))",
                "{{method}}",
            ),
            "s",
        ),
        Panel(
            "Degraded",
            "1: gateways do without Redis, or pick without the scheduler.",
            (
                *_now("max(crosslogic_admission_local)", "without Redis"),
                *_now(f"sum(rate(crosslogic_picks_from_memory[{RATE}]))", "picks from memory"),
            ),
        ),
        Panel("API keys that do not open", "By reason.", _rate("auth_failures_total", "reason"), "reqps"),
    ),
)

FLEET = Dashboard(
    uid="crosslogic-fleet",
    title="CrossLogic: the fleet",
    panels=(
        Panel(
            "Machines",
            "That are launching, serving or ending, by provider.",
            _now("max by (provider) (crosslogic_instances)", "{{provider}}"),
        ),
        Panel(
            "Machines wanted",
            "What each deployment should have, by the autoscaler's last look.",
            _now("max by (model, region) (crosslogic_deployment_desired)", "{{model}} {{region}}"),
        ),
        Panel(
            "Machines that do not end",
            "Their end was asked for 15 minutes ago or more: they may be paid for. Must be 0; MachineNotEnded.",
            _now("max by (provider) (crosslogic_machines_not_ended)", "{{provider}}"),
            kind="stat",
        ),
        Panel(
            "Held though they look dead",
            "Most of the fleet looks dead at once, so none of it is ended. Must be 0; DeadNodesHeld.",
            _now("max(crosslogic_dead_nodes_held)", "machines"),
            kind="stat",
        ),
        Panel(
            "Launches and ends",
            "That came to an end. In the last hour.",
            _of_the_hour("crosslogic_jobs_total", "kind,outcome"),
        ),
        Panel(
            "Time in a step",
            "Where launches and ends spend their time. In the last hour.",
            _quantiles("crosslogic_job_step_seconds", "kind,step", window="1h"),
            "s",
        ),
        Panel(
            "Scaled",
            "Machines that the autoscaler launched or ended. In the last hour.",
            _of_the_hour("crosslogic_scaled_total", "kind"),
        ),
        Panel(
            "Machines gone",
            "Active ones gone by themselves, and those ended because their node was dead. In the last hour.",
            (
                *_of_the_hour("crosslogic_machines_lost_total", "provider", "gone"),
                *_of_the_hour("crosslogic_machines_given_up_total", "provider", "dead"),
            ),
        ),
        Panel(
            "Providers that forget",
            "Launches asked for again, and machines deleted that nobody knew of. In the last hour.",
            (
                *_of_the_hour("crosslogic_launches_asked_again_total", "provider", "asked again"),
                *_of_the_hour("crosslogic_machines_swept_total", "provider", "nobody's"),
            ),
        ),
        Panel(
            "Notifications",
            "Attempts to send, by channel and outcome. In the last hour.",
            _of_the_hour("crosslogic_notification_attempts_total", "channel,outcome"),
        ),
        Panel(
            "Notifications given up",
            "Dead letters that nobody has sent again.",
            _now("max by (whose) (crosslogic_notification_dead_letters)", "{{whose}}"),
        ),
        Panel(
            "Notifications behind",
            "For how long the oldest that is due has waited.",
            _now("max by (whose) (crosslogic_notification_behind_seconds)", "{{whose}}"),
            "s",
        ),
        Panel(
            "Sources of notifications",
            "1: its events cannot be read, and nobody is told of them.",
            _now("min by (source) (crosslogic_notification_source_failing)", "{{source}}"),
        ),
    ),
)

SLO = Dashboard(
    uid="crosslogic-slo",
    title="CrossLogic: SLO",
    panels=(
        Panel(
            "Budget of errors left",
            "Of 30 days; promised are 99.9 % of requests. Below 0 the promise is broken.",
            _now("crosslogic:error_budget_left:30d", "left"),
            "percentunit",
            "stat",
        ),
        Panel(
            "Burn rate",
            "1: the budget lasts 30 days exactly. 14.4 for an hour wakes somebody.",
            tuple((f"crosslogic:error_ratio:{window} / 0.001", window) for window in ("5m", "1h", "6h", "3d")),
        ),
        Panel(
            "Requests by status",
            "5xx are ours; 429 and 499 are not counted as failures.",
            _rate("http_requests_total", "status", _V1),
            "reqps",
        ),
        Panel(
            "Failing paths",
            "5xx by path.",
            _rate("http_requests_total", "path,status", '{path=~"/v1/.*",status=~"5.."}'),
            "reqps",
        ),
        Panel(
            "Late first tokens",
            "Share of streams that begin after more than 2.5 s; promised is at most 1 %.",
            tuple((f"crosslogic:late_first_token_ratio:{window}", window) for window in ("5m", "1h")),
            "percentunit",
        ),
        Panel(
            "Duration of requests",
            "From head to end: long answers take long.",
            _quantiles("http_request_duration_seconds", "path", _V1),
            "s",
        ),
        Panel("Size of requests", "Bodies.", _quantiles("http_request_size_bytes", "path", _V1), "bytes"),
        Panel("Size of answers", "Bodies.", _quantiles("http_response_size_bytes", "path", _V1), "bytes"),
        Panel("Traffic", "Requests a second.", _now("crosslogic:request_rate:5m", "requests"), "reqps"),
        Panel("Under way", "Requests in gateways now.", _now("sum(http_requests_in_flight)", "requests")),
    ),
)

DASHBOARDS = (REGIONS, MODELS, BILLING, RELIABILITY, FLEET, SLO)
