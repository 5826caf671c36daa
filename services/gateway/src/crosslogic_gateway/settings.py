"""The gateway's settings."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.regions import RegionTable, regions_file
from crosslogic_common.settings import (
    Secret,
    Settings,
    address,
    boolean,
    existing_file,
    integer,
    number,
    one_of,
    optional_address,
    secret_setting,
    setting,
    words,
)
from crosslogic_common.tls import TlsFiles
from crosslogic_gateway.domain import Limits
from crosslogic_gateway.oidc.domain import ProviderSettings
from crosslogic_gateway.oidc.settings import providers, public_url

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR form, between commas."""
    return tuple(ipaddress.ip_network(word) for word in words(text))


def limits_of_text(text: str) -> Limits:
    """Limits as `name=number` between commas. Raises ValueError for other names and for what is no positive number."""
    found: dict[str, int] = {}
    for word in words(text):
        name, _, value = word.partition("=")
        if name not in Limits.__slots__ or name == "concurrency" or int(value) < 1:
            raise ValueError(f"{word!r} is no limit of the whole service")
        found[name] = int(value)
    return Limits(**found)


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(Settings):
    """Read from the environment once, at start."""

    http_listen: str = setting(
        "CROSSLOGIC_HTTP_LISTEN", default="127.0.0.1:8080", parse=address, doc="host:port for clients"
    )
    workers: int = setting(
        "CROSSLOGIC_WORKERS", default="1", parse=integer(1, 256), doc="worker processes that share the port, 1 to 256"
    )
    metrics_listen: str = setting(
        "CROSSLOGIC_METRICS_LISTEN",
        default="",
        parse=optional_address,
        doc="host:port of the first worker's Prometheus metrics, each further one on the next port; empty: none",
    )
    metrics_allowed: tuple[Network, ...] = setting(
        "CROSSLOGIC_METRICS_ALLOWED",
        default="127.0.0.0/8,::1/128",
        parse=networks,
        doc="networks that may read /metrics on the clients' port",
    )
    log_level: str = setting(
        "CROSSLOGIC_LOG_LEVEL",
        default="INFO",
        parse=one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        doc="DEBUG, INFO, WARNING or ERROR",
    )
    trace_ratio: float = setting(
        "CROSSLOGIC_TRACE_RATIO",
        default="0",
        parse=number(0, 1),
        doc="share of requests that are traced while OTEL_EXPORTER_OTLP_ENDPOINT is set; a client may ask for its own",
    )
    access_log: bool = setting(
        "CROSSLOGIC_ACCESS_LOG", default="1", parse=boolean, doc="1: one line a request on stdout"
    )
    shutdown_grace_s: float = setting(
        "CROSSLOGIC_SHUTDOWN_GRACE_S",
        default="20",
        parse=number(0, 3600),
        doc="seconds that running requests have to finish after SIGTERM",
    )
    tls_cert_file: Path = setting(
        "CROSSLOGIC_TLS_CERT_FILE", parse=existing_file, doc="this service's certificate, PEM"
    )
    tls_key_file: Path = setting("CROSSLOGIC_TLS_KEY_FILE", parse=existing_file, doc="its private key, PEM")
    tls_ca_file: Path = setting("CROSSLOGIC_TLS_CA_FILE", parse=existing_file, doc="certificates to trust, PEM")
    seal_key: Secret = secret_setting(
        "CROSSLOGIC_SEAL_KEY", doc="32 random bytes in base64, shared with the accountant, that seal what nodes carry"
    )
    admin_token: Secret = secret_setting(
        "CROSSLOGIC_ADMIN_TOKEN", default="", doc="the operators' token for /admin; empty: nobody gets in"
    )
    oidc_providers: tuple[ProviderSettings, ...] = setting(
        "CROSSLOGIC_OIDC_PROVIDERS",
        default="",
        parse=providers,
        doc="OpenID providers that administrators sign in with, a JSON array; see the README",
    )
    public_url: str = setting(
        "CROSSLOGIC_PUBLIC_URL",
        default="",
        parse=public_url,
        doc="https address where browsers reach the gateway, for signing in; empty: browsers cannot",
    )
    admin_session_s: int = setting(
        "CROSSLOGIC_ADMIN_SESSION_S",
        default="28800",
        parse=integer(60, 604_800),
        doc="seconds that a browser stays signed in",
    )
    abuse_invalid_requests: int = setting(
        "CROSSLOGIC_ABUSE_INVALID_REQUESTS",
        default="2000",
        parse=integer(0, 10**9),
        doc="invalid requests of a key a minute in one worker from which it can be suspended; 0: never",
    )
    abuse_invalid_share: float = setting(
        "CROSSLOGIC_ABUSE_INVALID_SHARE",
        default="0.9",
        parse=number(0, 1),
        doc="share of a key's requests that must be invalid before it is suspended",
    )
    abuse_velocity: float = setting(
        "CROSSLOGIC_ABUSE_VELOCITY",
        default="20",
        parse=number(0, 1_000_000),
        doc="a key's rate-limited requests in one worker, in multiples of its limit a minute, that suspend it; 0: none",
    )
    redis_url: Secret = secret_setting("REDIS_URL", doc="Redis, as redis://host:port/db")
    identity_target: str = setting("CROSSLOGIC_IDENTITY_TARGET", parse=address, doc="host:port of identity")
    tunnel_listen: str = setting(
        "CROSSLOGIC_TUNNEL_LISTEN",
        default="",
        parse=optional_address,
        doc="host:port where nodes that cannot be dialled dial the first worker, each further one on the next port; "
        "empty: no tunnels",
    )
    tunnel_advertise: str = setting(
        "CROSSLOGIC_TUNNEL_ADVERTISE",
        default="",
        parse=optional_address,
        doc="host:port of it as nodes see it, counted on alike; empty: TUNNEL_LISTEN",
    )
    registry_target: str = setting("CROSSLOGIC_REGISTRY_TARGET", parse=address, doc="host:port of the registry")
    scheduler_target: str = setting("CROSSLOGIC_SCHEDULER_TARGET", parse=address, doc="host:port of the scheduler")
    orchestrator_target: str = setting(
        "CROSSLOGIC_ORCHESTRATOR_TARGET",
        default="",
        parse=optional_address,
        doc="host:port of the orchestrator; empty: machines are not launched from here",
    )
    accountant_target: str = setting("CROSSLOGIC_ACCOUNTANT_TARGET", parse=address, doc="host:port of the accountant")
    billing_target: str = setting(
        "CROSSLOGIC_BILLING_TARGET",
        default="",
        parse=optional_address,
        doc="host:port of billing, for its price book; empty: the catalogue's prices count",
    )
    regions: RegionTable = setting(
        "CROSSLOGIC_REGIONS_FILE",
        default="",
        parse=regions_file,
        doc="the region table, TOML; empty: the one in crosslogic_common/regions/default.toml",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "CROSSLOGIC_TRUSTED_PROXIES",
        default="",
        parse=networks,
        doc="networks of proxies whose X-Forwarded-For is believed, between commas",
    )
    cors_origins: tuple[str, ...] = setting(
        "CROSSLOGIC_CORS_ORIGINS",
        default="",
        parse=words,
        doc="origins that browsers may call from, between commas; `*`: any",
    )
    first_byte_timeout_s: float = setting(
        "CROSSLOGIC_FIRST_BYTE_TIMEOUT_S",
        default="60",
        parse=number(0.1, 600),
        doc="seconds until an engine's first byte",
    )
    whole_timeout_s: float = setting(
        "CROSSLOGIC_WHOLE_TIMEOUT_S",
        default="600",
        parse=number(0.1, 600),
        doc="seconds until an answer that an engine sends whole, as it does with tools and log probabilities",
    )
    idle_timeout_s: float = setting(
        "CROSSLOGIC_IDLE_TIMEOUT_S", default="60", parse=number(0.1, 600), doc="seconds between bytes of a stream"
    )
    stall_timeout_s: float = setting(
        "CROSSLOGIC_STALL_TIMEOUT_S",
        default="60",
        parse=number(0.1, 600),
        doc="seconds that a client may take nothing of its stream",
    )
    failover_window_s: float = setting(
        "CROSSLOGIC_FAILOVER_WINDOW_S",
        default="120",
        parse=number(0, 3600),
        doc="seconds that a client may wait over all nodes asked: for its first byte, or for the next after its "
        "stream broke",
    )
    retry_budget_percent: float = setting(
        "CROSSLOGIC_RETRY_BUDGET_PERCENT",
        default="20",
        parse=number(0, 100),
        doc="retries after a node's refusal, in percent of this worker's requests",
    )
    retry_budget_min: int = setting(
        "CROSSLOGIC_RETRY_BUDGET_MIN",
        default="3",
        parse=integer(0, 10_000),
        doc="such retries that a worker may always make in 10 seconds",
    )
    hedged_models: tuple[str, ...] = setting(
        "CROSSLOGIC_HEDGED_MODELS",
        default="",
        parse=words,
        doc="models, between commas, of which a second node is asked when a stream's first token takes longer than 95 "
        "% of the others did; `*`: all",
    )
    head_timeout_s: float = setting(
        "CROSSLOGIC_HEAD_TIMEOUT_S", default="10", parse=number(0.1, 600), doc="seconds that a request's head may take"
    )
    body_timeout_s: float = setting(
        "CROSSLOGIC_BODY_TIMEOUT_S",
        default="30",
        parse=number(0.1, 600),
        doc="seconds that a request's body may take after its head",
    )
    keepalive_timeout_s: float = setting(
        "CROSSLOGIC_KEEPALIVE_TIMEOUT_S",
        default="75",
        parse=number(1, 3600),
        doc="seconds that an idle connection stays open",
    )
    outbox_records: int = setting(
        "CROSSLOGIC_OUTBOX_RECORDS",
        default="500000",
        parse=integer(1, 10_000_000),
        doc="usage records kept in memory while the accountant is away; then requests are refused",
    )
    queue_wait_s: float = setting(
        "CROSSLOGIC_QUEUE_WAIT_S",
        default="5",
        parse=number(0, 60),
        doc="seconds that a request may wait for a place at a node, unless it says otherwise",
    )
    shed_lag_s: float = setting(
        "CROSSLOGIC_SHED_LAG_S",
        default="0.5",
        parse=number(0.01, 60),
        doc="lag of the event loop from which low priority is refused; normal from twice, high from four times that",
    )
    idempotency_keep_s: float = setting(
        "CROSSLOGIC_IDEMPOTENCY_KEEP_S",
        default="86400",
        parse=number(1, 604_800),
        doc="seconds that the answer to an Idempotency-Key is kept",
    )
    idempotency_max_answer_bytes: int = setting(
        "CROSSLOGIC_IDEMPOTENCY_MAX_ANSWER_BYTES",
        default="8388608",
        parse=integer(1024, 67_108_864),
        doc="the largest answer that is kept for repeats",
    )

    redis_budget_s: float = setting(
        "CROSSLOGIC_REDIS_BUDGET_S",
        default="0.05",
        parse=number(0.001, 60),
        doc="seconds that Redis may take to admit a request; then each worker enforces its share of the limits",
    )
    global_limits: Limits = setting(
        "CROSSLOGIC_GLOBAL_LIMITS",
        default="",
        parse=limits_of_text,
        doc="limits of the whole service, as `requests_per_second=500,tokens_per_minute=2000000`; empty: none",
    )
    limit_window_scale: float = setting(
        "CROSSLOGIC_LIMIT_WINDOW_SCALE",
        default="1",
        parse=number(0.001, 1),
        doc="shortens every window of every limit, for tests: 0.05 makes a minute 3 s long",
    )

    @property
    def tls(self) -> TlsFiles:
        """Where the gateway's identity lies."""
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
