"""The use cases of views."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from crosslogic_billing.export.domain import MeterEvent
from crosslogic_billing.export.stripe_sink import Invoice
from crosslogic_billing.machines.store import PostgresMachines
from crosslogic_billing.prices.domain import PriceVersion
from crosslogic_billing.prices.policy import DEFAULT_CATEGORY, MAX_PRICE_PICODOLLARS
from crosslogic_billing.rating import policy as rating
from crosslogic_billing.views import policy
from crosslogic_billing.views.accountant import AccountantUsage, StoredRequest
from crosslogic_billing.views.domain import Finops, Machine, MonthView, ReservedUse
from crosslogic_billing.views.store import PostgresViews
from crosslogic_billing.webhooks.store import PostgresWebhooks
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode

MAX_PERIOD = timedelta(days=35)
MAX_MACHINES = 20_000
_MAX_CHARS = 200
_MAX_MODELS = 64


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one request cost what it cost."""

    request: StoredRequest
    version: PriceVersion | None
    month: date
    window_start: datetime
    events: tuple[MeterEvent, ...]
    sentences: tuple[str, ...]


class Views:
    """Statements, invoices, disputes and FinOps."""

    def __init__(
        self,
        *,
        store: PostgresViews,
        machines: PostgresMachines,
        invoices: PostgresWebhooks,
        usage: AccountantUsage,
        clock: Clock,
        window_s: int,
        close_delay_s: float,
    ) -> None:
        self._store = store
        self._machines = machines
        self._invoices = invoices
        self._usage = usage
        self._clock = clock
        self._window_s = window_s
        self._close_delay = timedelta(seconds=close_delay_s)

    async def month(self, org_id: str, asked: date | None) -> MonthView:
        """A month of an organisation; None: this one."""
        now = self._clock.now()
        _, zone = await self._store.terms(org_id, now.date())
        month = asked or rating.month_of(now, zone)
        terms, _ = await self._store.terms(org_id, month)
        begins, ends = rating.month_bounds(month, zone)
        used, tokens = await self._store.month_usage(org_id, month)
        settled_until = rating.window_of(now - self._close_delay, self._window_s)
        seen_until = max(min(settled_until, ends), begins)
        lately = await self._store.used(org_id, max(begins, seen_until - policy.LOOK_BACK), seen_until)
        by_model = await self._store.by_model(org_id, begins, ends) if terms.reserved_units else {}
        return MonthView(
            org_id=org_id,
            month=month,
            begins=begins,
            ends=ends,
            statement=rating.statement(month, terms, used),
            exported=await self._store.exported(org_id, month),
            forecast_picodollars=policy.forecast(
                month, terms, used, lately, begins=begins, ends=ends, now=settled_until
            ),
            free_tokens_left=policy.free_tokens_left(terms, tokens),
            reserved=tuple(
                ReservedUse(
                    model,
                    units,
                    by_model.get(model, 0),
                    policy.capacity_tokens(terms, model, begins, seen_until),
                )
                for model, units in sorted(terms.reserved_units.items())
            ),
            settled_until=settled_until,
        )

    async def invoices(self, org_id: str, limit: int) -> list[Invoice]:
        """An organisation's invoices, newest first."""
        return await self._invoices.invoices(org_id, limit)

    async def explain(self, request_id: str) -> Explanation:
        """Why one request cost what it cost. Raises NOT_FOUND, UNAVAILABLE."""
        request = await self._usage.request(request_id)
        version = await self._store.version(request.price_version)
        _, zone = await self._store.terms(request.org_id, request.start_time.date())
        month = rating.month_of(request.start_time, zone)
        window = rating.window_of(request.start_time, self._window_s)
        category = DEFAULT_CATEGORY if version is None else version.category
        charged = request.outcome in ("succeeded", "client_disconnected")
        facts = {
            "prompt": str(request.prompt_tokens),
            "cached": str(request.cached_prompt_tokens),
            "completion": str(request.completion_tokens),
            "model": request.model,
            "region": request.region or "an unnamed region",
            "outcome": request.outcome.replace("_", " "),
            "charged": "yes" if charged else "no",
            "prompt_price": str(request.prompt_price),
            "cached_price": str(request.cached_prompt_price),
            "completion_price": str(request.completion_price),
            "version": "the catalogue's price" if version is None else f"price version {version.id}",
            "cost": str(request.cost_picodollars),
            "from_witness": "yes" if request.from_witness else "no",
            "corrections": str(request.corrections),
            "month": f"{month:%Y-%m}",
        }
        return Explanation(
            request=request,
            version=version,
            month=month,
            window_start=window,
            events=tuple(await self._store.window_events(request.org_id, category, window)) if charged else (),
            sentences=tuple(policy.sentences(facts)),
        )

    async def set_machine(self, machine: Machine) -> Machine:
        """Sets what a machine costs, in the place of what its node says. Raises INVALID_ARGUMENT."""
        for field, text in (("node_id", machine.node_id), ("region", machine.region), ("gpu_type", machine.gpu_type)):
            if len(text) > _MAX_CHARS or (text and not text.isprintable()):
                raise _invalid(field, f"must have at most {_MAX_CHARS} printable characters")
        if not machine.node_id:
            raise _invalid("node_id", "must not be empty")
        if len(machine.models) > _MAX_MODELS or any("\0" in model for model in machine.models):
            raise _invalid("models", f"has more than {_MAX_MODELS} models, or a name that is none")
        if machine.hourly_picodollars > MAX_PRICE_PICODOLLARS * 1_000_000 or machine.gpu_count > 1_000:  # noqa: PLR2004
            raise _invalid("hourly_picodollars", "is more than a million dollars, or there are more than 1,000 GPUs")
        if machine.ends is not None and machine.ends <= machine.begins:
            raise _invalid("to_time", "must be after `from_time`")
        await self._machines.set_by_hand(machine)
        return machine

    async def finops(self, since: datetime, until: datetime) -> Finops:
        """Cost, revenue and margin of a period. Raises INVALID_ARGUMENT, UNAVAILABLE."""
        full = all(not (time.minute or time.second or time.microsecond) for time in (since, until))
        if not full or not timedelta(0) < until - since <= MAX_PERIOD:
            raise _invalid("to_time", "must be a full hour, at most 35 days after `from_time`, which is one too")
        machines = await self._store.machines(since, until, MAX_MACHINES)
        return policy.finops(machines, await self._usage.hours(since, until), since, min(until, self._clock.now()))


def _invalid(field: str, text: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {text}.", param=field)
