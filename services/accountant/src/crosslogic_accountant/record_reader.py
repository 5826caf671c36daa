"""Protobuf to domain: what gateways and nodes report, checked one by one."""

from collections.abc import Callable
from uuid import UUID

from google.protobuf.message import DecodeError

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant import policy
from crosslogic_accountant.domain import Counts, CountSource, Outcome, Terms, UsageRecord, Witness
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.seal import Sealer

MAX_TEXT_CHARS = 256
MAX_DURATION_US = 2**62
MAX_HTTP_STATUS = 999
MAX_ATTEMPTS = 2**15 - 1
_UUID_CHARS = 36
_UUID_VERSION_7 = 7
_MIN_START_US = 1_500_000_000_000_000
_MAX_START_US = 32_503_680_000_000_000  # the year 3000
_OUTCOMES = frozenset(map(int, Outcome))
_SOURCES = frozenset(map(int, CountSource))

_TermsKey = tuple[str, str, str, str, str, str, str, int, int, int, int | None, str, str]


class RecordReader:
    """Reads usage records. What the requests of one key share is checked once and remembered."""

    def __init__(self, *, now_ms: Callable[[], int], max_remembered: int = 10_000) -> None:
        """`now_ms` is the wall clock in milliseconds since the epoch."""
        self._now_ms = now_ms
        self._max_remembered = max_remembered
        self._terms: dict[_TermsKey, Terms] = {}

    def read(self, message: pb.UsageRecord) -> UsageRecord:
        """The record of a gateway. Raises INVALID_ARGUMENT with a sentence that says what is wrong."""
        counts = read_counts(message.usage)
        outcome = read_outcome(message.outcome)
        # Each field is read once: that is a call into protobuf.
        latency_us, first_token_us = message.latency_us, message.time_to_first_token_us
        http_status, attempts = message.http_status, message.attempts
        if latency_us > MAX_DURATION_US or first_token_us > MAX_DURATION_US:
            raise _invalid("A duration is above 2^62 microseconds.")
        if http_status > MAX_HTTP_STATUS:
            raise _invalid("`http_status` is above 999.")
        if attempts > MAX_ATTEMPTS:
            raise _invalid(f"`attempts` is above {MAX_ATTEMPTS}.")
        return self.charge(
            message.context,
            counts,
            outcome,
            latency_us=latency_us,
            time_to_first_token_us=first_token_us,
            http_status=http_status,
            from_witness=False,
            attempts=attempts or 1,
            failed_over=message.failed_over,
            region_failover=message.region_failover,
            resumed=message.resumed,
        )

    def charge(
        self,
        context: pb.RequestContext,
        counts: Counts,
        outcome: int,
        *,
        latency_us: int,
        time_to_first_token_us: int = 0,
        http_status: int = 0,
        from_witness: bool,
        attempts: int = 1,
        failed_over: bool = False,
        region_failover: bool = False,
        resumed: bool = False,
    ) -> UsageRecord:
        """A record of these counts under the terms of `context`. Raises INVALID_ARGUMENT."""
        request_id = read_request_id(context.request_id, self._now_ms())
        terms = self._read_terms(context)
        start_time_us = context.start_time_unix_us
        if not _MIN_START_US <= start_time_us <= _MAX_START_US:
            raise _invalid("`start_time_unix_us` is not a time in microseconds since the epoch.")
        cost = policy.cost_picodollars(
            counts,
            outcome,
            terms.prompt_price_picodollars,
            terms.completion_price_picodollars,
            terms.cached_prompt_price_picodollars,
        )
        # By position: names would cost half as much again, for every record.
        return UsageRecord(
            request_id,
            terms,
            counts,
            start_time_us,
            context.stream,
            outcome,
            latency_us,
            time_to_first_token_us,
            http_status,
            cost,
            from_witness,
            attempts,
            failed_over,
            region_failover,
            resumed,
        )

    def _read_terms(self, context: pb.RequestContext) -> Terms:
        key = (
            context.org_id,
            context.environment_id,
            context.api_key_id,
            context.model,
            context.api,
            context.region,
            context.node_id,
            context.prompt_price_picodollars,
            context.completion_price_picodollars,
            context.max_total_tokens,
            context.cached_prompt_price_picodollars if context.HasField("cached_prompt_price_picodollars") else None,
            context.price_version,
            context.plan,
        )
        terms = self._terms.get(key)
        if terms is None:
            terms = _checked_terms(*key)
            if len(self._terms) >= self._max_remembered:
                self._terms.clear()
            self._terms[key] = terms
        return terms


class WitnessReader:
    """Opens what a node echoes: the seal shows that a gateway admitted this request to this very node."""

    def __init__(self, *, sealer: Sealer, now_ms: Callable[[], int]) -> None:
        """`now_ms` is the wall clock in milliseconds since the epoch."""
        self._sealer = sealer
        self._now_ms = now_ms

    def read(self, message: pb.Witness) -> Witness:
        """The witness. Raises INVALID_ARGUMENT; the node is not trusted, so nothing it says is taken unchecked."""
        node_id = message.node_id
        if not node_id:
            raise _invalid("`node_id` is empty.")
        plain = self._sealer.open(message.sealed_context, aad=node_id.encode())
        try:
            context = pb.RequestContext.FromString(plain)
        except DecodeError:
            raise _invalid("The sealed context is not a RequestContext.") from None
        if context.node_id != node_id:
            raise _invalid("The sealed context is another node's.")
        counts = read_counts(message.usage)
        outcome = read_outcome(message.outcome)
        if policy.above_honest_total(counts, context.max_total_tokens):
            raise _invalid("More tokens were counted than the request could use.")
        if message.duration_us > MAX_DURATION_US:
            raise _invalid("`duration_us` is above 2^62.")
        return Witness(
            request_id=read_request_id(context.request_id, self._now_ms()),
            node_id=node_id,
            context=plain,
            counts=counts,
            outcome=outcome,
            duration_us=message.duration_us,
        )


def read_counts(usage: common_pb.TokenUsage) -> Counts:
    """Checked counts. Raises INVALID_ARGUMENT."""
    source = usage.source
    counts = Counts(usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens, source)
    if source not in _SOURCES:
        raise _invalid("`usage.source` is not stated.")
    problem = policy.counts_problem(counts)
    if problem:
        raise _invalid(problem)
    return counts


def read_outcome(value: int) -> int:
    """A known outcome. Raises INVALID_ARGUMENT."""
    if value not in _OUTCOMES:
        raise _invalid("`outcome` is not stated.")
    return value


def read_request_id(text: str, now_ms: int) -> bytes:
    """The 16 bytes of a UUIDv7 that is neither too old nor from the future. Raises INVALID_ARGUMENT."""
    try:
        value = bytes.fromhex(text.replace("-", "")) if len(text) == _UUID_CHARS else b""
    except ValueError:
        value = b""
    if len(value) != 16 or value[6] >> 4 != _UUID_VERSION_7:  # noqa: PLR2004  # the bytes of a UUID
        raise _invalid("`request_id` must be the text of a UUIDv7.")
    if problem := policy.time_problem(int.from_bytes(value[:6], "big"), now_ms):
        raise _invalid(problem)
    return value


def read_id(text: str, name: str) -> bytes:
    """The 16 bytes of any UUID. Raises INVALID_ARGUMENT that names the field."""
    try:
        return UUID(text).bytes
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be the text of a UUID.", param=name) from None


def _checked_terms(  # the parts of its cache key, in order
    org_id: str,
    environment_id: str,
    api_key_id: str,
    model: str,
    api: str,
    region: str,
    node_id: str,
    prompt_price: int,
    completion_price: int,
    max_total_tokens: int,
    cached_prompt_price: int | None,
    price_version: str,
    plan: str,
) -> Terms:
    texts = {
        "model": model,
        "api": api,
        "region": region,
        "node_id": node_id,
        "price_version": price_version,
        "plan": plan,
    }
    for name, value in texts.items():
        if len(value) > MAX_TEXT_CHARS:
            raise _invalid(f"`{name}` is longer than {MAX_TEXT_CHARS} characters.")
        if "\0" in value:
            raise _invalid(f"`{name}` holds a zero byte.")
    if not model:
        raise _invalid("`model` is empty.")
    if max(prompt_price, completion_price, cached_prompt_price or 0) > policy.MAX_PRICE_PICODOLLARS:
        raise _invalid("A price is above 10^12 pico-dollars a token.")
    return Terms(
        org_id=read_id(org_id, "org_id"),
        environment_id=read_id(environment_id, "environment_id"),
        api_key_id=read_id(api_key_id, "api_key_id"),
        model=model,
        api=api,
        region=region,
        node_id=node_id,
        prompt_price_picodollars=prompt_price,
        completion_price_picodollars=completion_price,
        max_total_tokens=max_total_tokens,
        cached_prompt_price_picodollars=cached_prompt_price,
        price_version=price_version,
        plan=plan,
    )


def _invalid(message: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, message)
