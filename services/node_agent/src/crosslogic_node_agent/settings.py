"""The agent's settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType

from crosslogic_common.public_addresses import Network, networks
from crosslogic_common.settings import (
    Secret,
    Settings,
    address,
    boolean,
    existing_file,
    integer,
    json_strings,
    member_of,
    number,
    one_of,
    optional_address,
    secret_setting,
    setting,
    words,
)
from crosslogic_node_agent.domain import EngineAddress
from crosslogic_node_agent.external.credential import KeyHeader
from crosslogic_node_agent.external.terms import EndpointUrl, StreamUsage, endpoint_url


def json_variables(text: str) -> Mapping[str, str]:
    """A JSON object of strings, or nothing."""
    if not text:
        return MappingProxyType({})
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a JSON object of strings: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("must be a JSON object of strings")
    return MappingProxyType(value)


def directory(text: str) -> Path:
    """The path of a directory, which is made if need be and is for this user only."""
    path = Path(text)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def optional_engine(text: str) -> EngineAddress | None:
    """Where an engine listens, or nothing."""
    return EngineAddress.parse(text) if text else None


def optional_path(text: str) -> Path | None:
    """A path or nothing."""
    return Path(text) if text else None


SPOT_SOURCES = ("aws", "gcp", "azure", "file", "signal")


def spot_sources(text: str) -> tuple[str, ...]:
    """Names of sources of spot notices, between commas."""
    named = words(text)
    unknown = [name for name in named if name not in SPOT_SOURCES]
    if unknown:
        raise ValueError(f"must be of {', '.join(SPOT_SOURCES)}, not {unknown[0]!r}")
    return tuple(named)


def price(text: str) -> int:
    """Dollars with at most 12 decimals, as pico-dollars."""
    try:
        picodollars = Decimal(text).scaleb(12)
    except InvalidOperation:
        raise ValueError(f"must be dollars, not {text!r}") from None
    if not picodollars.is_finite() or picodollars != int(picodollars) or not 0 <= picodollars < 2**60:
        raise ValueError("must be 0 to 1,000,000 dollars with at most 12 decimals")
    return int(picodollars)


def filled(text: str) -> str:
    """Any text but none."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


@dataclass(frozen=True, kw_only=True)
class NodeAgentSettings(Settings):
    """Read from the environment once, at start."""

    tunnel: bool = setting(
        "CROSSLOGIC_TUNNEL",
        default="0",
        parse=boolean,
        doc="1: this machine dials the gateways and listens nowhere; LISTEN and ADVERTISE are not used",
    )
    listen: str = setting(
        "CROSSLOGIC_LISTEN",
        default="",
        parse=optional_address,
        doc="host:port where gateways are served; required without TUNNEL",
    )
    advertise: str = setting(
        "CROSSLOGIC_ADVERTISE", default="", parse=optional_address, doc="host:port that gateways dial; empty: LISTEN"
    )
    metrics_listen: str = setting(
        "CROSSLOGIC_METRICS_LISTEN",
        default="",
        parse=optional_address,
        doc="host:port that serves Prometheus metrics; empty: none",
    )
    log_level: str = setting(
        "CROSSLOGIC_LOG_LEVEL",
        default="INFO",
        parse=one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        doc="DEBUG, INFO, WARNING or ERROR",
    )
    shutdown_grace_s: float = setting(
        "CROSSLOGIC_SHUTDOWN_GRACE_S",
        default="20",
        parse=number(0, 3600),
        doc="seconds that running requests have to finish after SIGTERM",
    )
    registry_target: str = setting("CROSSLOGIC_REGISTRY_TARGET", parse=address, doc="host:port of the registry")
    registry_join_target: str = setting(
        "CROSSLOGIC_REGISTRY_JOIN_TARGET", parse=address, doc="host:port where machines join the fleet"
    )
    join_token: Secret = secret_setting(
        "CROSSLOGIC_JOIN_TOKEN", default="", doc="single-use join token; needed until the machine has joined"
    )
    tls_ca_file: Path = setting(
        "CROSSLOGIC_TLS_CA_FILE", parse=existing_file, doc="certificates to trust when joining, PEM"
    )
    state_dir: Path = setting(
        "CROSSLOGIC_STATE_DIR", parse=directory, doc="directory of this node's identity, witnesses and measurements"
    )
    region: str = setting("CROSSLOGIC_REGION", parse=filled, doc="region of this machine, for example `us-east`")
    model: str = setting("CROSSLOGIC_MODEL", parse=filled, doc="the catalogue's name of the model that is served")
    model_version: str = setting(
        "CROSSLOGIC_MODEL_VERSION",
        default="",
        doc="its version, any text of at most 100 characters; empty: none, which is a version too",
    )
    weights_source: str = setting(
        "CROSSLOGIC_WEIGHTS_SOURCE",
        default="",
        parse=one_of("", "store"),
        doc="`store`: the version that the registry grants is fetched into WEIGHTS_DIR (empty: STATE_DIR) before the "
        "engine starts; in ENGINE_COMMAND `{weights}` is its folder, `{tensor_parallel}` over how many accelerators "
        "the model has to be split, `{data_parallel}` how many copies the others have room for; empty: the engine "
        "finds its weights by itself",
    )
    engine_url: EngineAddress | None = setting(
        "CROSSLOGIC_ENGINE_URL",
        default="",
        parse=optional_engine,
        doc="the engine: http://host:port or unix:/path; required without EXTERNAL_URL",
    )
    external_url: EndpointUrl | None = setting(
        "CROSSLOGIC_EXTERNAL_URL",
        default="",
        parse=endpoint_url,
        doc="an OpenAI-compatible endpoint of somebody else's, in place of an engine: its base address as OpenAI's "
        "clients take it, for example https://api.example.com/v1",
    )
    external_key: Secret = secret_setting(
        "CROSSLOGIC_EXTERNAL_KEY",
        default="",
        doc="what the endpoint knows us by; a new one in the file is used without a restart; empty: nothing",
    )
    external_key_header: KeyHeader = setting(
        "CROSSLOGIC_EXTERNAL_AUTH_HEADER",
        default="authorization",
        parse=member_of(KeyHeader),
        doc="where the key goes: authorization (as a bearer token), api-key (as Azure has it) or x-api-key",
    )
    external_model: str = setting(
        "CROSSLOGIC_EXTERNAL_MODEL", default="", doc="the endpoint's own name of the model; empty: MODEL"
    )
    external_ca_file: Path | None = setting(
        "CROSSLOGIC_EXTERNAL_CA_FILE",
        default="",
        parse=optional_path,
        doc="who must have signed the endpoint's certificate, PEM; empty: whom the system trusts",
    )
    external_networks: tuple[Network, ...] = setting(
        "CROSSLOGIC_EXTERNAL_NETWORKS",
        default="",
        parse=networks,
        doc="networks, between commas, in which the endpoint may be though they are not public; http:// is spoken only "
        "there; empty: public addresses alone",
    )
    external_usage: StreamUsage = setting(
        "CROSSLOGIC_EXTERNAL_USAGE",
        default="final",
        parse=member_of(StreamUsage),
        doc="what the endpoint is asked to count in streams: final (`include_usage`), continuous (with each chunk too, "
        "as a vLLM can), off (it refuses `stream_options`; its streams are then not counted)",
    )
    external_limit_field: str = setting(
        "CROSSLOGIC_EXTERNAL_LIMIT_FIELD",
        default="max_tokens",
        parse=one_of("max_tokens", "max_completion_tokens"),
        doc="what the endpoint calls the limit of a chat's answer: max_tokens or max_completion_tokens",
    )
    external_fields: tuple[str, ...] = setting(
        "CROSSLOGIC_EXTERNAL_FIELDS",
        default="",
        parse=words,
        doc="fields of requests that the endpoint takes beyond OpenAI's, between commas, for example `top_k`",
    )
    external_check_s: float = setting(
        "CROSSLOGIC_EXTERNAL_CHECK_S",
        default="30",
        parse=number(0.05, 3600),
        doc="seconds between two looks at the endpoint's list of models",
    )
    engine_command: tuple[str, ...] = setting(
        "CROSSLOGIC_ENGINE_COMMAND",
        default="",
        parse=json_strings,
        doc="JSON array that starts the engine; empty: somebody else runs it",
    )
    engine_env: Mapping[str, str] = setting(
        "CROSSLOGIC_ENGINE_ENV",
        default="",
        parse=json_variables,
        doc="JSON object of variables to add to the engine's environment",
    )
    engine_log_file: Path | None = setting(
        "CROSSLOGIC_ENGINE_LOG_FILE", default="", parse=optional_path, doc="empty: engine.log in STATE_DIR"
    )
    engine_pid_file: Path | None = setting(
        "CROSSLOGIC_ENGINE_PID_FILE", default="", parse=optional_path, doc="empty: engine.pid in STATE_DIR"
    )
    engine_start_timeout_s: float = setting(
        "CROSSLOGIC_ENGINE_START_TIMEOUT_S",
        default="600",
        parse=number(1, 86_400),
        doc="seconds until a started engine must be well",
    )
    engine_hang_s: float = setting(
        "CROSSLOGIC_ENGINE_HANG_S",
        default="60",
        parse=number(1, 86_400),
        doc="seconds without an answer to /health until a running engine is killed",
    )
    engine_stop_s: float = setting(
        "CROSSLOGIC_ENGINE_STOP_S",
        default="10",
        parse=number(0, 3600),
        doc="seconds that the engine has to end after SIGTERM before it is killed",
    )
    measure: str = setting(
        "CROSSLOGIC_MEASURE",
        default="quick",
        parse=one_of("quick", "off"),
        doc="quick: measure the engine once for each version and model; off: never",
    )
    max_tokens_per_sec: float = setting(
        "CROSSLOGIC_MAX_TOKENS_PER_SEC",
        default="0",
        parse=number(0, 1e9),
        doc="tokens per second to report as the capacity; 0: as measured, or 5,000 of an endpoint of somebody else's",
    )
    assemble_from_tokens: int = setting(
        "CROSSLOGIC_ASSEMBLE_FROM_TOKENS",
        default="256",
        parse=integer(0, 2**31 - 1),
        doc="whole answers that may have this many tokens are streamed from the engine, so that a client that leaves "
        "one pays for exactly what was generated; 0: none",
    )
    max_calls: int = setting(
        "CROSSLOGIC_MAX_CALLS", default="1024", parse=integer(1, 100_000), doc="most requests under way at a time"
    )
    gpu_type: str = setting("CROSSLOGIC_GPU_TYPE", default="", doc="the accelerator's product name; empty: none")
    gpu_count: int = setting("CROSSLOGIC_GPU_COUNT", default="0", parse=integer(0, 1024), doc="accelerators")
    vram_total_bytes: int = setting(
        "CROSSLOGIC_VRAM_TOTAL_BYTES",
        default="0",
        parse=integer(0, 2**50),
        doc="memory of all accelerators together, in bytes; 0: as the driver says",
    )
    cloud: str = setting(
        "CROSSLOGIC_CLOUD", default="", doc="where the machine is from: aws, gcp, azure, on_prem, ...; empty: not told"
    )
    zone: str = setting("CROSSLOGIC_ZONE", default="", doc="the cloud's zone; empty: not told")
    instance_type: str = setting(
        "CROSSLOGIC_INSTANCE_TYPE", default="", doc="the cloud's name of the kind of machine; empty: not told"
    )
    spot: bool = setting(
        "CROSSLOGIC_SPOT", default="0", parse=boolean, doc="1: the cloud may take the machine back with little warning"
    )
    hourly_price_picodollars: int = setting(
        "CROSSLOGIC_HOURLY_PRICE_USD", default="0", parse=price, doc="what the machine costs an hour, in dollars"
    )
    spot_sources: tuple[str, ...] = setting(
        "CROSSLOGIC_SPOT_SOURCES",
        default="",
        parse=spot_sources,
        doc="where notices of the machine's end come from, between commas: aws, gcp, azure (their metadata services), "
        "file, signal (SIGUSR1); empty: none",
    )
    spot_metadata_url: str = setting(
        "CROSSLOGIC_SPOT_METADATA_URL",
        default="",
        doc="http://host:port of the metadata service; empty: the cloud's own",
    )
    spot_file: Path | None = setting(
        "CROSSLOGIC_SPOT_FILE",
        default="",
        parse=optional_path,
        doc="the file whose existence is a notice; empty: spot-notice in STATE_DIR",
    )
    spot_handover_s: float = setting(
        "CROSSLOGIC_SPOT_HANDOVER_S",
        default="5",
        parse=number(0, 600),
        doc="seconds before the machine's end at which what still runs is handed over to other nodes",
    )
    log_file: Path | None = setting(
        "CROSSLOGIC_LOG_FILE",
        default="",
        parse=optional_path,
        doc="where this agent's own output is kept (by systemd, say), for operators who ask for it; empty: nowhere",
    )
    ship_logs: str = setting(
        "CROSSLOGIC_SHIP_LOGS",
        default="info",
        parse=one_of("off", "debug", "info", "warning", "error"),
        doc="lines of the agent's and the engine's logs as grave as this or graver go to the registry, for operators; "
        "off: none leave the machine unless an operator asks for them",
    )
    weights_dir: Path | None = setting(
        "CROSSLOGIC_WEIGHTS_DIR",
        default="",
        parse=optional_path,
        doc="directory with a directory of weights for each model, of which old ones are removed when the disk fills; "
        "empty: nothing is removed",
    )
    weights_keep: tuple[str, ...] = setting(
        "CROSSLOGIC_WEIGHTS_KEEP",
        default="",
        parse=words,
        doc="directories in WEIGHTS_DIR that are never removed, between commas; nor are those with a file `.in-use`",
    )
    weights_free_percent: float = setting(
        "CROSSLOGIC_WEIGHTS_FREE_PERCENT",
        default="10",
        parse=number(0, 90),
        doc="per cent of the weights' file system that is kept free",
    )
    update_dir: Path | None = setting(
        "CROSSLOGIC_UPDATE_DIR",
        default="",
        parse=optional_path,
        doc="where versions of the agent are installed (the installer's directory); empty: no updates by command",
    )
    update_key_file: Path | None = setting(
        "CROSSLOGIC_UPDATE_KEY_FILE",
        default="",
        parse=optional_path,
        doc="Ed25519 public key that updates are signed with, PEM; empty: update.pub in UPDATE_DIR",
    )
    update_trial_s: float = setting(
        "CROSSLOGIC_UPDATE_TRIAL_S",
        default="900",
        parse=number(1, 86_400),
        doc="seconds that a new version has to serve; after three starts that did not the one before comes back",
    )
    air_gapped: bool = setting(
        "CROSSLOGIC_AIR_GAPPED",
        default="0",
        parse=boolean,
        doc="1: nothing outside the site is asked: no metadata services, no downloads, an engine that stays offline",
    )
    metrics_every_s: float = setting(
        "CROSSLOGIC_NODE_METRICS_S",
        default="15",
        parse=number(0.1, 3600),
        doc="seconds between two looks at accelerators, disk and what calls came to",
    )
