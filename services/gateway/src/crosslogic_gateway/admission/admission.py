"""Whether a request may run now: asked of Redis in one round trip, or decided from this worker's share without it."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from crosslogic_gateway.admission.budget_alerts import BudgetAlerts
from crosslogic_gateway.admission.cap_notices import CapNotices
from crosslogic_gateway.admission.demand import Demand, demand_of
from crosslogic_gateway.admission.estimate import TokenEstimates
from crosslogic_gateway.admission.global_stock import GlobalStock
from crosslogic_gateway.admission.held_ticket import HeldTicket, Undecided
from crosslogic_gateway.admission.limits import CONCURRENCY, PICO_PER_NANO, Kind, Spec, make_spec, nanodollars
from crosslogic_gateway.admission.local import LocalLimits
from crosslogic_gateway.admission.local_budgets import LocalBudgets
from crosslogic_gateway.admission.metrics import AdmissionMetrics
from crosslogic_gateway.admission.pipe import ADMIT, CHARGE, SETTLE, Operation, Result, ScriptPipe
from crosslogic_gateway.admission.redis_link import RedisAway
from crosslogic_gateway.admission.refusals import (
    HeaderLines,
    RefusedError,
    budget_refusal,
    rate_refusal,
    too_large,
)
from crosslogic_gateway.admission.seeding import Seeding
from crosslogic_gateway.admission.view import KNOWN_FOR_S, View
from crosslogic_gateway.body import InferenceBody
from crosslogic_gateway.domain import HardBudget, Model, Principal
from crosslogic_gateway.prices import Prices, Rate
from crosslogic_gateway.shedding.service_turns import ServiceTurns, Turn

ADMITTED, REFUSED, NOT_SEEDED, TOO_LARGE, BUDGET = 1, 0, 2, 3, 4
"""The script's answers."""
BY_SHARE = 2
"""As the script's `forced`: this worker let it in by its share."""
MAX_VIEWS = 50_000
MAX_OWED = 10_000
PLACE_WAIT_S = 0.03
"""How long a request waits, once, for a place that another may be about to free."""
PRICES_FOR_S = 1.0
NO_WAIT = Turn()
KnownBudgets = Callable[[Principal], tuple[HardBudget, ...]]


def no_budgets(_: Principal) -> tuple[HardBudget, ...]:
    """None beside the principal's own."""
    return ()


class Admission:
    """Lets requests in. One a worker."""

    def __init__(
        self,
        *,
        pipe: ScriptPipe,
        kinds: Sequence[Kind],
        prices: Prices,
        seeding: Seeding,
        local: LocalLimits,
        local_budgets: LocalBudgets,
        metrics: AdmissionMetrics,
        global_stock: GlobalStock | None = None,
        turns: ServiceTurns | None = None,
        known_budgets: KnownBudgets = no_budgets,
        notices: CapNotices | None = None,
        now_us: Callable[[], int],
    ) -> None:
        """`turns` is the queue before `global_stock`, None without one.

        `known_budgets` gives hard budgets beside a principal's own; `now_us` is the wall clock, for prices.
        """
        self._pipe = pipe
        self._kinds = kinds
        self._prices = prices
        self._seeding = seeding
        self._local_budgets = local_budgets
        self._metrics = metrics
        self._global = global_stock
        self._turns = turns
        self._known_budgets = known_budgets
        self._now_us = now_us
        self._loop = asyncio.get_running_loop()
        self._estimates = TokenEstimates()
        self._ceilings: dict[tuple[str, str, str], Rate] = {}
        self._ceilings_until = 0.0
        self._views: OrderedDict[str, View] = OrderedDict()
        self._live: dict[str, HeldTicket] = {}
        self._owed: OrderedDict[Spec, list[int]] = OrderedDict()
        self._alerts = BudgetAlerts(passed=self._budget_passed)
        self._notices = notices
        self.local = local
        pipe.on_up = self._redis_is_back
        pipe.on_down = self._redis_is_gone

    async def admit(
        self,
        *,
        request_id: str,
        principal: Principal,
        model: Model,
        body: InferenceBody,
        raw: bytes,
        api: str,
        reserved: bool = False,
        turn: Turn = NO_WAIT,
        early: bool = False,
    ) -> HeldTicket:
        """Lets a request in and holds what it may use. Raises RefusedError and what `demand_of` raises.

        A `reserved` one, within its organisation's reserved capacity, is not held to the whole service's limits. Others
        wait for their `turn` at these. With `early` the ticket may come `undecided`, while Redis is asked: call
        `decide` before the client is told anything.
        """
        view = self._view(principal)
        ticket = self._ticket(request_id, view, principal, model, body, raw, api)
        try:
            if self._turns is not None and not reserved:
                tokens = ticket.prompt_tokens + ticket.completion_tokens
                ticket.global_at = await self._turns.take(principal.org_id, tokens, turn)
            if early and self._pipe.idle and self._has_room(ticket, view):
                asked = self._pipe.ask(view.spec.org_id, view.spec, self._admission_of(ticket, forced=False))
                ticket.undecided = Undecided(view, asked)
            else:
                await self._hold(ticket, view)
        except RefusedError as refused:
            self._refused(ticket, refused, reserved=reserved)
            raise
        return ticket

    async def decide(self, ticket: HeldTicket) -> None:
        """Returns once an `undecided` ticket's request is let in. Raises RefusedError: then it holds nothing."""
        undecided = ticket.undecided
        if undecided is None:
            return
        try:
            await self._hold(ticket, undecided.view, undecided.answer)
        except RefusedError as refused:
            undecided.view.crowded = True
            ticket.void()
            self._refused(ticket, refused, reserved=False)
            raise
        except BaseException:
            ticket.void()
            raise
        ticket.undecided = None

    def _refused(self, ticket: HeldTicket, refused: RefusedError, *, reserved: bool) -> None:
        self._metrics.refused(refused.layer, refused.reason)
        if self._global is not None and not reserved and refused.layer != "global":
            self._global.put_back(ticket.prompt_tokens + ticket.completion_tokens)

    def _budget_passed(self, org_id: str, budget: HardBudget, percent: int) -> None:
        self._metrics.budget_passed(percent)
        if self._notices is not None:
            self._notices.passed(org_id, budget)

    def ended(self, ticket: HeldTicket, prompt_tokens: int, completion_tokens: int, cost_picodollars: int) -> None:
        """Takes back what a request did not use; learns from what it did."""
        if ticket.undecided is not None:
            self._abandoned(ticket, ticket.undecided)
            return
        self._live.pop(ticket.id, None)
        spec = ticket.spec
        if ticket.prompt is not None and prompt_tokens:
            self._estimates.learn(ticket.prompt, prompt_tokens)
        if self._global is not None:
            held = ticket.prompt_tokens + ticket.completion_tokens
            self._global.give_back(held - prompt_tokens - completion_tokens, ticket.global_at)
        if spec.budgets:
            self._local_budgets.ended(spec, ticket.cost_picodollars, cost_picodollars)
        if ticket.local is not None:
            self.local.settle(ticket.local, tokens=prompt_tokens + completion_tokens, now_us=self._loop.time() * 1e6)
            if ticket.unsure:
                self._pipe.tell(spec.org_id, spec, self._admission_of(ticket, forced=True))
            elif not self._pipe.up:
                self._owe(spec, prompt_tokens + completion_tokens, cost_picodollars)
                return
        elif not self._pipe.up:
            self.local.give_place(spec)
        if spec.holds:
            settled = (SETTLE, ticket.id, prompt_tokens, completion_tokens, nanodollars(cost_picodollars))
            self._pipe.tell(spec.org_id, None, lambda _: settled)

    def _abandoned(self, ticket: HeldTicket, undecided: Undecided) -> None:
        """A request ended while Redis was still asked: Redis may let it in although nobody waits any more."""
        if not undecided.answer.cancel():
            # That Redis went away is no news to anybody.
            undecided.answer.exception()
        if self._global is not None:
            self._global.give_back(ticket.prompt_tokens + ticket.completion_tokens, ticket.global_at)
        self._tell_unused(ticket)

    def _tell_unused(self, ticket: HeldTicket) -> None:
        if ticket.spec.holds:
            ticket_id = ticket.id
            self._pipe.tell(ticket.spec.org_id, None, lambda _: (SETTLE, ticket_id, 0, 0, 0))

    def live_orgs(self) -> set[str]:
        """Organisations whose requests hold something."""
        return {ticket.spec.org_id for ticket in self._live.values()}

    def recent_views(self, most: int) -> list[View]:
        """What was asked for last, the latest first."""
        return [view for _, view in zip(range(most), reversed(self._views.values()), strict=False)]

    # One request.

    def _view(self, principal: Principal) -> View:
        view = self._views.get(principal.api_key_id)
        budgets = self._known_budgets(principal)
        if view is not None and view.principal is principal and view.budgets is budgets:
            return view
        if view is None or view.principal != principal or view.budgets != budgets:
            spec = make_spec(principal, budgets)
            view = View(principal, budgets, spec, HeaderLines(spec, self._kinds))
            self._views[principal.api_key_id] = view
            if len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        view.principal, view.budgets = principal, budgets
        self._views.move_to_end(principal.api_key_id)
        return view

    def _ticket(
        self,
        request_id: str,
        view: View,
        principal: Principal,
        model: Model,
        body: InferenceBody,
        raw: bytes,
        api: str,
    ) -> HeldTicket:
        spec = view.spec
        demand: Demand | None = None
        guarded = principal.max_prompt_tokens is not None or principal.max_output_tokens is not None
        if spec.counts_tokens or guarded or (self._global is not None and self._global.counts_tokens):
            demand = demand_of(
                spec=spec,
                principal=principal,
                model=model,
                body=body,
                raw=raw,
                estimates=self._estimates,
                rate=self._ceiling(model, principal.plan, api) if spec.budgets else None,
                generates=api != "/v1/embeddings",
            )
        if demand is None:
            return HeldTicket(
                request_id, spec, self, prompt=None, completion_tokens=0, cost_picodollars=0, completion_cap=0
            )
        return HeldTicket(
            request_id,
            spec,
            self,
            prompt=demand.prompt,
            completion_tokens=demand.completion_tokens,
            cost_picodollars=demand.cost_picodollars,
            completion_cap=demand.completion_cap,
        )

    def _ceiling(self, model: Model, plan: str, api: str) -> Rate:
        """The dearest price of a model, as of this second."""
        now = self._loop.time()
        if now >= self._ceilings_until:
            self._ceilings, self._ceilings_until = {}, now + PRICES_FOR_S
        key = (model.name, plan, api)
        found = self._ceilings.get(key)
        if found is None:
            found = self._prices.ceiling(model=model, plan=plan, api=api, now_us=self._now_us())
            self._ceilings[key] = found
        return found

    def _has_room(self, ticket: HeldTicket, view: View) -> bool:
        return view.has_room(
            self._loop.time(),
            tokens=ticket.prompt_tokens + ticket.completion_tokens,
            nanodollars=nanodollars(ticket.cost_picodollars),
        )

    async def _hold(self, ticket: HeldTicket, view: View, asked: asyncio.Future[Result] | None = None) -> None:
        """`asked` is Redis' answer where it was asked already."""
        spec = view.spec
        if not spec.counters and not spec.budgets:
            return
        make = self._admission_of(ticket, forced=False)
        try:
            result = await self._ask(ticket, make, asked)
            if result[0] == NOT_SEEDED:
                if not await self._seeding.seed(spec):
                    await self._hold_locally(ticket, view)
                    return
                result = await self._ask(ticket, make)
                if result[0] == NOT_SEEDED:
                    await self._hold_locally(ticket, view)
                    return
            if result[0] == REFUSED and result[2] - 1 == CONCURRENCY:
                # Who asks one thing after the other may be quicker than the word that the last one ended.
                await asyncio.sleep(PLACE_WAIT_S)
                result = await self._ask(ticket, make)
        except RedisAway:
            await self._hold_locally(ticket, view)
            return
        if result[0] != ADMITTED:
            raise self._refusal(ticket, view, result)
        if result is not view.totals:
            self._told(view, result)
        ticket.headers = view.lines
        self._goes_on(ticket)

    def _told(self, view: View, totals: Result) -> None:
        """Takes what Redis counts now. All that it let in under one spec in one call is told the same, once."""
        view.growth, view.totals, view.totals_at = view.totals, totals, self._loop.time()
        view.lines = view.headers.lines(totals, first=2)
        view.crowded = False
        spec = view.spec
        for budget, used in zip(spec.budgets, totals[2 + len(spec.counters) :], strict=True):
            self._alerts.seen(spec.org_id, budget, used)
            self._local_budgets.told(budget, used * PICO_PER_NANO)

    async def _ask(
        self, ticket: HeldTicket, make: Callable[[int], Operation], asked: asyncio.Future[Result] | None = None
    ) -> Result:
        spec = ticket.spec
        was_up = asked is not None or self._pipe.up
        try:
            return await (self._pipe.ask(spec.org_id, spec, make) if asked is None else asked)
        except asyncio.CancelledError:
            # Redis may let it in although nobody waits any more.
            self._tell_unused(ticket)
            raise
        except RedisAway:
            ticket.unsure = was_up and spec.holds
            raise

    def _goes_on(self, ticket: HeldTicket) -> None:
        if ticket.spec.holds:
            self._live[ticket.id] = ticket
            if ticket.spec.budgets:
                self._local_budgets.began(ticket.spec, ticket.cost_picodollars, by_share=ticket.local is not None)

    async def _hold_locally(self, ticket: HeldTicket, view: View) -> None:
        spec = view.spec
        await self._local_budgets.check(spec, ticket.cost_picodollars)
        now = self._loop.time()
        ticket.local, totals = self.local.admit(
            spec,
            tokens=ticket.prompt_tokens + ticket.completion_tokens,
            now_us=now * 1e6,
            last_totals=_last_totals(view) if now - view.totals_at < KNOWN_FOR_S else None,
        )
        self._goes_on(ticket)
        if self._pipe.up:
            await self._agreed(ticket, view)
        self._metrics.admitted_locally.inc()
        ticket.headers = view.headers.lines(totals)

    async def _agreed(self, ticket: HeldTicket, view: View) -> None:
        """Has Redis agree to what this worker let in by its share, nobody having said what was used.

        Meanwhile somebody may have: then Redis has the last word. Else it holds the money. Raises RefusedError.
        """
        try:
            result = await self._ask(ticket, self._admission_of(ticket, forced=BY_SHARE))
        except RedisAway:
            return
        except BaseException:
            self._took_back(ticket)
            raise
        if result[0] != ADMITTED:
            self._took_back(ticket)
            raise self._refusal(ticket, view, result)
        ticket.unsure = ticket.spec.holds

    def _took_back(self, ticket: HeldTicket) -> None:
        """What this worker let in by its share does not run."""
        self._live.pop(ticket.id, None)
        if ticket.spec.budgets:
            self._local_budgets.ended(ticket.spec, ticket.cost_picodollars, 0)
        if ticket.local is not None:
            self.local.settle(ticket.local, tokens=0, now_us=self._loop.time() * 1e6)

    def _refusal(self, ticket: HeldTicket, view: View, result: Result) -> RefusedError:
        spec = view.spec
        if result[0] == BUDGET:
            budget = spec.budgets[result[1]]
            self._alerts.seen(spec.org_id, budget, result[2])
            return budget_refusal(budget.scope, budget.period)
        layer, kind = result[1] - 1, result[2] - 1
        counter = next(
            counter for counter in spec.counters if counter.layer_index == layer and counter.kind_index == kind
        )
        if result[0] == TOO_LARGE:
            return too_large(counter, self._kinds, ticket.prompt_tokens + ticket.completion_tokens)
        refused = rate_refusal(counter, self._kinds, result[4], result[5])
        if view.totals is not None and self._loop.time() - view.totals_at < KNOWN_FOR_S and not refused.headers:
            refused.headers = view.headers.lines(view.totals, first=2)
        return refused

    def _admission_of(self, ticket: HeldTicket, *, forced: bool | int) -> Callable[[int], Operation]:
        prompt, completion = ticket.prompt_tokens, ticket.completion_tokens
        cost, ticket_id = nanodollars(ticket.cost_picodollars), ticket.id
        return lambda index: (ADMIT, ticket_id, index, prompt, completion, cost, forced)

    # Redis comes and goes.

    def _redis_is_gone(self) -> None:
        self.local.adopt(ticket.spec for ticket in self._live.values())

    def _redis_is_back(self) -> None:
        """Everything under way is told again: Redis may have lost it. What it has it does not count twice."""
        for ticket in self._live.values():
            self._pipe.tell(ticket.spec.org_id, ticket.spec, self._admission_of(ticket, forced=True))
        owed, self._owed = self._owed, OrderedDict()
        for spec, (requests, tokens, cost) in owed.items():
            self._pipe.tell(spec.org_id, spec, _charge(requests, tokens, nanodollars(cost)))
        for view in self._views.values():
            view.totals = view.growth = None

    def _owe(self, spec: Spec, tokens: int, cost_picodollars: int) -> None:
        owed = self._owed.setdefault(spec, [0, 0, 0])
        owed[0] += 1
        owed[1] += tokens
        owed[2] += cost_picodollars
        if len(self._owed) > MAX_OWED:
            self._owed.popitem(last=False)


def _last_totals(view: View) -> list[int] | None:
    """What Redis counted when it was last heard of, and as much again as came between the last two answers."""
    if view.totals is None:
        return None
    before = view.totals if view.growth is None else view.growth
    return [
        2 * total - earlier if total > earlier else total
        for total, earlier in zip(view.totals[2:], before[2:], strict=True)
    ]


def _charge(requests: int, tokens: int, cost: int) -> Callable[[int], Operation]:
    return lambda index: (CHARGE, index, requests, tokens, cost)
