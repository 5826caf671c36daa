"""What tokens cost now: the price book that billing pushes, kept while billing is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import grpc.aio

from crosslogic.billing.v1 import billing_pb2 as billing_pb
from crosslogic.billing.v1 import billing_pb2_grpc as billing_rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_gateway.domain import Model

EMBEDDINGS = "/v1/embeddings"
MAX_KNOWN = 10_000
"""Remembered answers; a model, region and plan each. Beyond it they are looked up anew."""
_NEVER = 2**63


@dataclass(frozen=True, slots=True)
class Rate:
    """What one request's tokens cost, in pico-dollars."""

    version: str
    """The price version's id. Empty: the catalogue's price."""
    prompt: int
    cached_prompt: int | None
    """None: as any prompt token."""
    completion: int
    embedding: int

    def cost_picodollars(self, prompt_tokens: int, cached_prompt_tokens: int, completion_tokens: int) -> int:
        """What a request costs by its counts, as the accountant rates it."""
        cached = self.prompt if self.cached_prompt is None else self.cached_prompt
        fresh_tokens = prompt_tokens - cached_prompt_tokens
        return fresh_tokens * self.prompt + cached_prompt_tokens * cached + completion_tokens * self.completion


@dataclass(frozen=True, slots=True)
class _Entry:
    """A price version: in force from `begin_us` and until `end_us`, microseconds since the epoch."""

    begin_us: int
    end_us: int
    rate: Rate


class Prices:
    """This worker's copy of the price book."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str], list[_Entry]] = {}
        self._prefixes: list[tuple[str, str]] = []
        # (model, region, plan) to the entry in force; it says itself for how long.
        self._known: dict[tuple[str, str, str], _Entry] = {}

    def replace(self, versions: Iterable[billing_pb.PriceVersion], markets: Iterable[billing_pb.Market]) -> None:
        """Takes the whole book as it is now."""
        lines: dict[tuple[str, str, str], list[_Entry]] = {}
        for version in versions:
            lines.setdefault((version.model, version.market, version.plan), []).append(_entry(version))
        prefixes = [(prefix, market.name) for market in markets for prefix in market.region_prefixes]
        self._lines = lines
        self._prefixes = sorted(prefixes, key=lambda pair: len(pair[0]), reverse=True)
        self._known = {}

    def rate(self, *, model: Model, region: str, plan: str, api: str, now_us: int) -> Rate:
        """The price for a request that is admitted now; the catalogue's where the book has none.

        `now_us` is microseconds since the epoch. On `/v1/embeddings` a prompt token is an embedded one.
        """
        key = (model.name, region, plan)
        entry = self._known.get(key)
        if entry is None or not entry.begin_us <= now_us < entry.end_us:
            entry = self._look_up(model.name, region, plan, now_us)
            if entry is None:
                return Rate("", model.prompt_price_picodollars, None, model.completion_price_picodollars, 0)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = entry
        if api == EMBEDDINGS:
            rate = entry.rate
            return Rate(rate.version, rate.embedding, rate.embedding, rate.completion, rate.embedding)
        return entry.rate

    def ceiling(self, *, model: Model, plan: str, api: str, now_us: int) -> Rate:
        """The most that a request's tokens may cost wherever it is served: what a hard budget must cover."""
        here = self.rate(model=model, region="", plan=plan, api=api, now_us=now_us)
        if not self._lines:
            return here
        prompt, completion = here.prompt, here.completion
        for market in {market for _, market in self._prefixes}:
            # Also at the price without a plan: what goes beyond reserved capacity may be billed so.
            for its_plan in {plan, ""}:
                entry = self._look_up_market(model.name, market, its_plan, now_us)
                if entry is not None:
                    rate = entry.rate
                    prompt = max(prompt, rate.embedding if api == EMBEDDINGS else rate.prompt)
                    completion = max(completion, rate.completion)
        return Rate(here.version, prompt, None, completion, here.embedding)

    def _look_up(self, model: str, region: str, plan: str, now_us: int) -> _Entry | None:
        return self._look_up_market(model, self._market(region), plan, now_us)

    def _look_up_market(self, model: str, market: str, plan: str, now_us: int) -> _Entry | None:
        for line in ((model, market, plan), (model, market, "")):
            for entry in self._lines.get(line, ()):
                if entry.begin_us <= now_us < entry.end_us:
                    return entry
        return None

    def _market(self, region: str) -> str:
        for prefix, market in self._prefixes:
            if not prefix or region == prefix or region.startswith(prefix + "-"):
                return market
        return ""


class PriceWatch:
    """Keeps the book in step with billing."""

    def __init__(self, *, channels: Channels, target: str, prices: Prices) -> None:
        """`target` is host:port of billing; empty: there is none, and the catalogue's prices count."""
        self._channels = channels
        self._target = target
        self._prices = prices
        self._log = get_logger(__name__)
        self.lost = bool(target)
        """The book is not followed now."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for as long as the block lasts."""
        if not self._target:
            yield
            return
        task = asyncio.create_task(self._keep(), name="prices")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        backoff = Backoff(cap_s=2.0)
        while True:
            try:
                stub = billing_rpc.BillingServiceStub(self._channels.service("billing", self._target))
                async for message in stub.WatchPrices(billing_pb.WatchPricesRequest()):
                    backoff.reset()
                    self._prices.replace(message.versions, message.markets)
                    self.lost = False
            except grpc.aio.AioRpcError as error:
                self._log.warning("watch lost", watch="prices", reason=from_rpc_error(error).private)
            self.lost = True
            await asyncio.sleep(backoff.next_s())


def _entry(version: billing_pb.PriceVersion) -> _Entry:
    begins, ends = version.effective_from, version.effective_to
    prices = version.prices
    return _Entry(
        begin_us=begins.seconds * 1_000_000 + begins.nanos // 1000,
        end_us=ends.seconds * 1_000_000 + ends.nanos // 1000 if version.HasField("effective_to") else _NEVER,
        rate=Rate(
            version.id,
            prices.prompt_picodollars,
            prices.cached_prompt_picodollars,
            prices.completion_picodollars,
            prices.embedding_picodollars,
        ),
    )
