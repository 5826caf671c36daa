"""What one request asks for: tokens and money, at most. Pure."""

import msgspec

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.estimate import Estimate, TokenEstimates
from crosslogic_gateway.admission.limits import CONCURRENCY, TOKENS_MINUTE, Spec
from crosslogic_gateway.body import InferenceBody
from crosslogic_gateway.domain import Model, Principal
from crosslogic_gateway.prices import Rate

DEFAULT_ROOM_TOKENS = 1024
"""Held for an answer whose request does not say how long it may be."""
UNSEEN_PROMPT_TOKENS = 256
"""What a chat template and its tool descriptions may add to what the client sent."""
MAX_TOKENS = 2**31 - 1


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request may use."""

    prompt: Estimate
    completion_tokens: int
    """Held for the answer."""
    cost_picodollars: int
    """No honest bill of this request is higher."""
    completion_cap: int
    """What the answer is cut at where the request names no limit of its own. 0: nowhere."""


def completion_cap(body: InferenceBody, principal: Principal) -> int:
    """The cap on an answer. Raises INVALID_ARGUMENT when more is asked for than the environment may have."""
    most = principal.max_output_tokens
    if most is None:
        return 0
    if body.max_tokens is None:
        return most
    if body.max_tokens > most:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`max_tokens` must be at most {most:,} in this environment, not {body.max_tokens:,}.",
            param="max_tokens",
        )
    return 0


def check_prompt(estimate: Estimate, principal: Principal) -> None:
    """Raises CONTEXT_LENGTH_EXCEEDED when a prompt is certainly longer than its environment allows."""
    most = principal.max_prompt_tokens
    if most is not None and estimate.likely > most:
        raise CodedError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt has about {estimate.likely:,} tokens, and this environment allows {most:,}. Shorten it.",
            param="messages",
        )


def demand_of(
    *,
    spec: Spec,
    principal: Principal,
    model: Model,
    body: InferenceBody,
    raw: bytes,
    estimates: TokenEstimates,
    rate: Rate | None,
    generates: bool,
) -> Demand:
    """The demand of a request. `generates`: the API makes text, rather than embeddings. Without a `rate`: no cost.

    Raises INVALID_ARGUMENT and CONTEXT_LENGTH_EXCEEDED for what the environment does not allow.
    """
    prompt = estimates.estimate(model.name, raw, context_length=model.context_length, inputs=body.inputs)
    check_prompt(prompt, principal)
    cap = completion_cap(body, principal) if generates else 0
    answers = body.choices * body.inputs if generates else 0
    if body.max_tokens is not None:
        room = body.max_tokens * answers
    else:
        # Never more than could pass: a request that names no limit is not refused for our guess at one.
        one = min(DEFAULT_ROOM_TOKENS, cap or DEFAULT_ROOM_TOKENS, model.context_length)
        room = min(one * answers, max(0, _smallest_token_limit(spec) - prompt.tokens)) if answers else 0
    cost = 0
    if rate is not None:
        longest = (body.max_tokens if body.max_tokens is not None else cap or model.context_length) * answers
        # No tokenizer makes more tokens than the text has bytes.
        prompt_bound = min(len(raw) + UNSEEN_PROMPT_TOKENS, model.context_length * body.inputs)
        cost = prompt_bound * rate.prompt + longest * rate.completion
    return Demand(prompt=prompt, completion_tokens=min(room, MAX_TOKENS), cost_picodollars=cost, completion_cap=cap)


def _smallest_token_limit(spec: Spec) -> int:
    return min(
        (counter.limit for counter in spec.counters if TOKENS_MINUTE <= counter.kind_index < CONCURRENCY),
        default=MAX_TOKENS,
    )
