"""The decisions of the registry. Pure."""

import re
from collections.abc import Sequence

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.domain import Silence, Status

MAX_PRICE_PICODOLLARS = 10**12
MAX_MODELS = 10_000
"""Of the catalogue: a watcher is sent all of it in one message."""
MAX_RATE = 1e12
MAX_REASON_CHARS = 512
MAX_NOTICE_CHARS = 64
MAX_VERSION_CHARS = 100

_NEXT: dict[Status, frozenset[Status]] = {
    "registering": frozenset({"warming", "active", "draining", "dead"}),
    "warming": frozenset({"active", "draining", "dead"}),
    "active": frozenset({"warming", "draining", "dead"}),
    "draining": frozenset({"dead", "active", "warming"}),
    # A node that was only silent comes back as what it says it is.
    "dead": frozenset({"warming", "active", "draining"}),
}
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"[A-Za-z0-9._\[\]:-]{1,253}:\d{1,5}", re.ASCII)
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")


def next_status(current: Status, said: Status, *, drain_asked: bool) -> Status:
    """What a node is after it said what it is. An operator's drain holds until the node is gone."""
    wanted: Status = "draining" if drain_asked and said in ("active", "warming") else said
    return wanted if wanted in _NEXT[current] else current


def is_forgotten(status: Status, dead_for_s: float, silence: Silence) -> bool:
    """Whether a node has been dead for so long that watchers need not know it any more."""
    return status == "dead" and dead_for_s >= silence.forgotten_s


def short_reason(text: str) -> str:
    """A node's own words, made fit for logs and the database."""
    return "".join(char if char.isprintable() else " " for char in text[:MAX_REASON_CHARS])


def check_facts(facts: pb.NodeFacts) -> pb.NodeFacts:
    """Facts that may be kept and shown to schedulers. Raises INVALID_ARGUMENT."""
    if facts.tunnel:
        if facts.address:
            raise _bad("facts.address", "must be empty for a node behind tunnels")
    else:
        check_address(facts.address, "facts.address")
    if not _REGION.fullmatch(facts.region):
        raise _bad("facts.region", "must be 1 to 63 of a-z, 0-9 and `-`")
    if len(facts.models) > 64 or any(not _NAME.fullmatch(model) for model in facts.models):  # noqa: PLR2004  # as the contract says
        raise _bad("facts.models", "must be at most 64 names of 1 to 200 printable characters")
    if len(facts.engine_paths) > 64 or any(not _NAME.fullmatch(path) for path in facts.engine_paths):  # noqa: PLR2004  # as models
        raise _bad("facts.engine_paths", "must be at most 64 paths of 1 to 200 printable characters")
    texts = (
        *(facts.engine, facts.engine_version, facts.agent_version, facts.gpu_type),
        *(facts.driver_version, facts.cloud, facts.zone, facts.instance_type),
    )
    if any(text and not _NAME.fullmatch(text) for text in texts):
        raise _bad("facts", "must name engine, versions, GPU and cloud in at most 200 printable characters each")
    if facts.model_version and not (
        len(facts.model_version) <= MAX_VERSION_CHARS and _NAME.fullmatch(facts.model_version)
    ):
        raise _bad("facts.model_version", f"must have at most {MAX_VERSION_CHARS} printable characters")
    if facts.hourly_price_picodollars >= 2**63:
        raise _bad("facts.hourly_price_picodollars", "must be less than 2^63 pico-dollars")
    rates = (facts.max_tokens_per_sec, facts.prefill_tokens_per_sec, facts.decode_tokens_per_sec)
    if any(not 0 <= rate <= MAX_RATE for rate in rates):
        raise _bad("facts", "must have rates of 0 or more tokens per second")
    return facts


def check_load(load: pb.NodeLoad) -> pb.NodeLoad:
    """A load that schedulers may compute with: no NaN, nothing negative. Raises INVALID_ARGUMENT."""
    if not 0 <= load.current_tokens_per_sec <= MAX_RATE:
        raise _bad("load.current_tokens_per_sec", "must be 0 or more tokens per second")
    if not 0 <= load.kv_cache_usage <= 1:
        raise _bad("load.kv_cache_usage", "must be 0 to 1")
    return load


def check_metrics(metrics: pb.NodeMetrics) -> pb.NodeMetrics:
    """Metrics that a score can be made of: no NaN, shares that are shares. Raises INVALID_ARGUMENT."""
    for field in ("gpu_utilization", "memory_fragmentation", "prefix_cache_hit_rate"):
        if not 0 <= getattr(metrics, field) <= 1:
            raise _bad(f"metrics.{field}", "must be 0 to 1")
    if not 0 <= metrics.tokens_per_sec <= MAX_RATE:
        raise _bad("metrics.tokens_per_sec", "must be 0 or more tokens per second")
    if metrics.failed_calls > metrics.calls:
        raise _bad("metrics.failed_calls", "must be at most `calls`")
    return metrics


def check_notice(notice: pb.SpotNotice) -> pb.SpotNotice:
    """A notice that may be shown. Raises INVALID_ARGUMENT."""
    if any(len(text) > MAX_NOTICE_CHARS or not (text + " ").isprintable() for text in (notice.source, notice.action)):
        raise _bad("spot_notice", f"must have at most {MAX_NOTICE_CHARS} printable characters in each text")
    return notice


def is_name(text: str) -> bool:
    """Whether a model may be named so."""
    return _NAME.fullmatch(text) is not None


def check_address(address: str, field: str) -> None:
    """Raises INVALID_ARGUMENT for what is no host:port."""
    if not _ADDRESS.fullmatch(address):
        raise _bad(field, "must be host:port")


def check_model(model: pb.Model) -> pb.Model:
    """A model that may be in the catalogue. Raises INVALID_ARGUMENT."""
    if not _NAME.fullmatch(model.name):
        raise _bad("name", "must have 1 to 200 printable characters")
    if model.family and not _NAME.fullmatch(model.family):
        raise _bad("family", "must have at most 200 printable characters")
    if not 1 <= model.context_length <= 10_000_000:  # noqa: PLR2004  # as the contract says
        raise _bad("context_length", "must be 1 to 10,000,000 tokens")
    if model.vram_required_bytes >= 2**63:
        raise _bad("vram_required_bytes", "must be less than 2^63 bytes")
    for field in ("prompt_price_picodollars", "completion_price_picodollars"):
        if getattr(model, field) > MAX_PRICE_PICODOLLARS:
            raise _bad(field, f"must be 0 to {MAX_PRICE_PICODOLLARS} pico-dollars a token")
    if len(model.regions) > 100:  # noqa: PLR2004  # more than any cloud has
        raise _bad("regions", "must be at most 100")
    if any(not _REGION.fullmatch(region) for region in model.regions):
        raise _bad("regions", "must each be 1 to 63 of a-z, 0-9 and `-`")
    check_deployments(model.deployments)
    return model


def check_deployments(deployments: Sequence[pb.Deployment]) -> Sequence[pb.Deployment]:
    """Deployments that a model may have. Raises INVALID_ARGUMENT."""
    if len(deployments) > 200:  # noqa: PLR2004  # as the contract says
        raise _bad("deployments", "must be at most 200")
    if any(each.region and not _REGION.fullmatch(each.region) for each in deployments):
        raise _bad("deployments.region", "must be empty or 1 to 63 of a-z, 0-9 and `-`")
    if len({each.region for each in deployments}) < len(deployments):
        raise _bad("deployments.region", "must be named at most once each")
    if any(each.strategy not in pb.PickStrategy.values() for each in deployments):
        raise _bad("deployments.strategy", "must be a known strategy")
    return deployments


def _bad(field: str, rule: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {rule}.", param=field)
