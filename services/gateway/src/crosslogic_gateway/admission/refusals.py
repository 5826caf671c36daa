"""What callers are told of their limits: headers on every answer, and why a request was refused. Pure."""

from collections.abc import Sequence

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.limits import (
    CONCURRENCY,
    QUOTA_KINDS,
    REQUESTS_MINUTE,
    TOKENS_MINUTE,
    Counter,
    Kind,
    Layer,
    Spec,
)

CONCURRENCY_RETRY_S = 1.0
"""When to come back where only the end of another request makes room."""
_OWNERS: dict[Layer, str] = {
    "key": "this API key",
    "environment": "this environment",
    "org": "this organisation",
    "global": "the service",
}


class RefusedError(CodedError):
    """A request that admission refused, with what the caller is told besides."""

    def __init__(
        self,
        code: ErrorCode,
        public: str,
        *,
        layer: Layer,
        reason: str,
        headers: str = "",
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        """`layer` and `reason` are for the metric; `headers` are whole lines."""
        super().__init__(code, public, retry_after_s=retry_after_s, param=param)
        self.layer = layer
        self.reason = reason
        self.headers = headers


def duration(microseconds: float) -> str:
    """A time as OpenAI's headers have it: `20ms`, `1.5s`, `6m0s`."""
    milliseconds = max(0, round(microseconds / 1000))
    if milliseconds < 1000:  # below a second  # noqa: PLR2004
        return f"{milliseconds}ms"
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    shown = f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") if rest else str(seconds)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or hours else "") + f"{shown}s"


class HeaderLines:
    """Makes the `x-ratelimit-*` lines of one principal's answers."""

    def __init__(self, spec: Spec, kinds: Sequence[Kind]) -> None:
        """Of the layers' limits a minute the one with the least left is told."""
        self._requests = self._of(spec, REQUESTS_MINUTE)
        self._tokens = self._of(spec, TOKENS_MINUTE)
        self._reset_requests = duration(kinds[REQUESTS_MINUTE].window_us)
        self._reset_tokens = duration(kinds[TOKENS_MINUTE].window_us)

    @staticmethod
    def _of(spec: Spec, kind: int) -> tuple[tuple[int, int], ...]:
        return tuple(
            (place, counter.limit) for place, counter in enumerate(spec.counters) if counter.kind_index == kind
        )

    def lines(self, totals: Sequence[int], first: int = 0) -> str:
        """The header lines, each with its line end. `totals` has one number a counter of the spec from `first` on."""
        text = ""
        if self._requests:
            text = self._three("requests", self._requests, totals, first, self._reset_requests)
        if self._tokens:
            text += self._three("tokens", self._tokens, totals, first, self._reset_tokens)
        return text

    @staticmethod
    def _three(
        counted: str, counters: tuple[tuple[int, int], ...], totals: Sequence[int], first: int, reset: str
    ) -> str:
        limit, left = 0, -1
        for place, its_limit in counters:
            its_left = its_limit - totals[first + place]
            if left < 0 or its_left < left:
                limit, left = its_limit, max(0, its_left)
        if left >= limit:
            reset = "0ms"
        return (
            f"x-ratelimit-limit-{counted}: {limit}\r\nx-ratelimit-remaining-{counted}: {left}\r\n"
            f"x-ratelimit-reset-{counted}: {reset}\r\n"
        )


def rate_refusal(counter: Counter, kinds: Sequence[Kind], total: int, retry_us: float) -> RefusedError:
    """A limit is reached. Names the layer by kind, and figures of that layer only: they are the caller's own."""
    owner = _OWNERS[counter.layer]
    if counter.kind_index == CONCURRENCY:
        return RefusedError(
            ErrorCode.RATE_LIMITED,
            f"Too many requests at once: {owner} may have {counter.limit:,} under way.",
            layer=counter.layer,
            reason="concurrency",
            retry_after_s=CONCURRENCY_RETRY_S,
        )
    kind = kinds[counter.kind_index]
    quota = counter.kind_index in QUOTA_KINDS
    left = max(0, counter.limit - total)
    retry_s = max(0.001, retry_us / 1e6)
    return RefusedError(
        ErrorCode.QUOTA_EXCEEDED if quota else ErrorCode.RATE_LIMITED,
        f"{'Quota' if quota else 'Rate limit'} reached for {owner}: {counter.limit:,} {kind.counted} per {kind.unit}, "
        f"{left:,} left. Try again in {duration(retry_us)}.",
        layer=counter.layer,
        reason=f"{kind.counted}_per_{kind.unit}",
        headers=_reached(counter, kind, left, retry_us),
        retry_after_s=retry_s,
    )


def _reached(counter: Counter, kind: Kind, left: int, retry_us: float) -> str:
    if counter.kind_index not in (REQUESTS_MINUTE, TOKENS_MINUTE):
        return ""
    return (
        f"x-ratelimit-limit-{kind.counted}: {counter.limit}\r\nx-ratelimit-remaining-{kind.counted}: {left}\r\n"
        f"x-ratelimit-reset-{kind.counted}: {duration(retry_us)}\r\n"
    )


def too_large(counter: Counter, kinds: Sequence[Kind], tokens: int) -> RefusedError:
    """The request alone is more than its limit: waiting does not help."""
    kind = kinds[counter.kind_index]
    return RefusedError(
        ErrorCode.QUOTA_EXCEEDED,
        f"This request may use {tokens:,} tokens, its answer included, but {_OWNERS[counter.layer]} may use "
        f"{counter.limit:,} per {kind.unit}. Shorten the prompt or ask for fewer with `max_tokens`.",
        layer=counter.layer,
        reason=f"{kind.counted}_per_{kind.unit}",
        param="max_tokens",
    )


def budget_refusal(scope: str, period: str) -> RefusedError:
    """A hard budget does not cover what the request may cost."""
    layer: Layer = "org" if scope == "org" else "environment" if scope == "environment" else "key"
    return RefusedError(
        ErrorCode.BUDGET_EXCEEDED,
        f"The budget of {_OWNERS[layer]} for this {period} does not cover what this request may cost. "
        "Ask for fewer tokens with `max_tokens`, or raise the budget.",
        layer=layer,
        reason="budget",
    )


def overloaded(retry_s: float) -> RefusedError:
    """The limit of the whole service is reached."""
    return RefusedError(
        ErrorCode.OVERLOADED,
        "The service is overloaded: try again shortly.",
        layer="global",
        reason="global",
        retry_after_s=retry_s,
    )
