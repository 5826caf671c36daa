"""Requests as the scheduler's decisions see them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """A crosslogic_scheduler.domain.Question."""

    model: str = "llama"
    org_id: str = ""
    region: str = ""
    excluded_node_ids: Collection[str] = ()
    session_key: int = 0
    prefix_hashes: Sequence[int] = ()
    client_key: int = 0
    residency_pinned: bool = False
    allowed_regions: Sequence[str] = ()
    prompt_tokens: int = 0
    estimated_tokens: int = 0
    reserved: bool = False
