"""The decisions of the registry. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode

Status = Literal["registering", "warming", "active", "draining", "dead"]
MAX_PRICE_PICODOLLARS = 10**12
MAX_REASON_CHARS = 512

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


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a node may be silent, in seconds."""

    suspect_s: float = 3.0
    """After its stream broke, until it counts as unreachable."""
    unhealthy_s: float = 15.0
    """With its stream open, until it counts as unreachable."""
    dead_s: float = 60.0
    """Until it counts as dead."""


def next_status(current: Status, said: Status, *, drain_asked: bool) -> Status:
    """What a node is after it said what it is. An operator's drain holds until the node is gone."""
    wanted: Status = "draining" if drain_asked and said in ("active", "warming") else said
    return wanted if wanted in _NEXT[current] else current


def is_dead(status: Status, silent_s: float, silence: Silence) -> bool:
    """Whether a node that has been silent so long is given up."""
    return status != "dead" and silent_s >= silence.dead_s


def is_reachable(silent_s: float, silence: Silence, *, connected: bool) -> bool:
    """Whether a node's heartbeats come."""
    return silent_s < (silence.unhealthy_s if connected else silence.suspect_s)


def check_facts(facts: pb.NodeFacts) -> pb.NodeFacts:
    """Facts that may be kept and shown to schedulers. Raises INVALID_ARGUMENT."""
    if not _ADDRESS.fullmatch(facts.address):
        raise _bad("facts.address", "must be host:port")
    if not _REGION.fullmatch(facts.region):
        raise _bad("facts.region", "must be 1 to 63 of a-z, 0-9 and `-`")
    if len(facts.models) > 64 or any(not _NAME.fullmatch(model) for model in facts.models):  # noqa: PLR2004  # as the contract says
        raise _bad("facts.models", "must be at most 64 names of 1 to 200 printable characters")
    rates = (facts.max_tokens_per_sec, facts.prefill_tokens_per_sec, facts.decode_tokens_per_sec)
    if any(not 0 <= rate <= 1e12 for rate in rates):  # noqa: PLR2004  # no machine is that fast, NaN is not either
        raise _bad("facts", "must have rates of 0 or more tokens per second")
    return facts


def check_model(model: pb.Model) -> pb.Model:
    """A model that may be in the catalogue. Raises INVALID_ARGUMENT."""
    if not _NAME.fullmatch(model.name):
        raise _bad("name", "must have 1 to 200 printable characters")
    if len(model.family) > 200:  # noqa: PLR2004  # as names
        raise _bad("family", "must have at most 200 characters")
    if not 1 <= model.context_length <= 10_000_000:  # noqa: PLR2004  # as the contract says
        raise _bad("context_length", "must be 1 to 10,000,000 tokens")
    if model.vram_required_bytes >= 2**63:
        raise _bad("vram_required_bytes", "must be less than 2^63 bytes")
    for field in ("prompt_price_picodollars", "completion_price_picodollars"):
        if getattr(model, field) > MAX_PRICE_PICODOLLARS:
            raise _bad(field, f"must be 0 to {MAX_PRICE_PICODOLLARS} pico-dollars a token")
    if any(not _REGION.fullmatch(region) for region in model.regions):
        raise _bad("regions", "must each be 1 to 63 of a-z, 0-9 and `-`")
    return model


def _bad(field: str, rule: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {rule}.", param=field)
