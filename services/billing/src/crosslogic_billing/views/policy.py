"""What views show, pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from fractions import Fraction

from crosslogic_billing.rating import policy as rating
from crosslogic_billing.rating.domain import Priced, Terms, Usage
from crosslogic_billing.views.domain import Finops, FinopsRow, HourOfUse, Machine

LOOK_BACK = timedelta(days=7)
_HOUR = timedelta(hours=1)


def forecast(
    month: date, terms: Terms, used: Usage, lately: Usage, *, begins: datetime, ends: datetime, now: datetime
) -> int:
    """What the month will come to, in pico-dollars, if it goes on as lately.

    `lately` is what was used in the last seven days of it, or since it began. Tokens are carried forward and rated as a
    whole, so that free tokens, tiers and the cap count as they will.
    """
    if now >= ends:
        return rating.statement(month, terms, used).total_picodollars
    seen = min(now - begins, LOOK_BACK)
    if seen <= timedelta(0):
        return rating.monthly_fee(terms)
    to_come = Fraction(round((ends - now).total_seconds()), max(round(seen.total_seconds()), 1))
    more: dict[Priced, int] = {bucket: int(tokens * to_come) for bucket, tokens in lately.items() if tokens > 0}
    return rating.statement(month, terms, rating.merged((used, more))).total_picodollars


def free_tokens_left(terms: Terms, tokens: int) -> int:
    """Of the month's free tokens."""
    return max(rating.free_tokens(terms) - max(tokens, 0), 0)


def capacity_tokens(terms: Terms, model: str, begins: datetime, seen_until: datetime) -> int:
    """What the reserved capacity of a model comes to since the month began, as it was reserved at the time."""
    if not terms.spans:
        return terms.reserved_units.get(model, 0) * round((seen_until - begins).total_seconds())
    return sum(
        span.reserved_units.get(model, 0) * max(round((min(span.ends, seen_until) - span.begins).total_seconds()), 0)
        for span in terms.spans
        if span.mode == "reserved"
    )


class _Sums:
    """Exact sums of one row until it is shown."""

    def __init__(self) -> None:
        self.cost = Fraction(0)
        self.revenue = 0
        self.tokens = 0
        self.gpu_seconds = Fraction(0)

    def row(self, name: str) -> FinopsRow:
        return FinopsRow(name, round(self.cost), self.revenue, self.tokens, int(self.gpu_seconds))


def finops(machines: Sequence[Machine], usage: Iterable[HourOfUse], since: datetime, until: datetime) -> Finops:
    """Cost, revenue and margin of a period of full hours.

    A machine's cost of an hour is shared among its models by their tokens in its region in that hour. Where they had
    none it is idle, and belongs to no model.
    """
    by_model: defaultdict[str, _Sums] = defaultdict(_Sums)
    by_region: defaultdict[str, _Sums] = defaultdict(_Sums)
    by_market: defaultdict[str, _Sums] = defaultdict(_Sums)
    total, idle = _Sums(), Fraction(0)
    tokens: defaultdict[tuple[str, str, datetime], int] = defaultdict(int)
    for hour in usage:
        tokens[hour.model, hour.region, hour.hour] += hour.tokens
        for sums in (by_model[hour.model], by_region[hour.region], total):
            sums.tokens += hour.tokens
            sums.revenue += hour.revenue_picodollars
    for machine in machines:
        for at, seconds in _hours(machine, since, until):
            cost = Fraction(machine.hourly_picodollars * seconds, 3_600)
            shares = {model: tokens[model, machine.region, at] for model in machine.models}
            used = sum(shares.values())
            idle += 0 if used else cost
            for sums in (by_region[machine.region], by_market["spot" if machine.spot else "on_demand"], total):
                sums.cost += cost
                sums.gpu_seconds += seconds * machine.gpu_count
            for model, count in shares.items():
                if count:
                    by_model[model].cost += cost * count / used
                    by_model[model].gpu_seconds += Fraction(seconds * machine.gpu_count * count, used)
    return Finops(
        models=_rows(by_model),
        regions=_rows(by_region),
        markets=_rows(by_market),
        idle_picodollars=round(idle),
        total=total.row("total"),
    )


def _rows(sums: Mapping[str, _Sums]) -> tuple[FinopsRow, ...]:
    return tuple(sums[name].row(name) for name in sorted(sums))


def _hours(machine: Machine, since: datetime, until: datetime) -> Iterable[tuple[datetime, int]]:
    """The hours that a machine ran in, each with how many seconds of it."""
    at = since
    while at < until:
        begins = max(at, machine.begins)
        ends = min(at + _HOUR, machine.ends or until, until)
        if begins < ends:
            yield at, round((ends - begins).total_seconds())
        at += _HOUR


def sentences(facts: Mapping[str, str], *, whole: Callable[[int], str] = "{:,}".format) -> list[str]:
    """Why a request cost what it cost, for whoever answers a customer."""
    prompt, cached, completion = (int(facts[name]) for name in ("prompt", "cached", "completion"))
    used = f"The request used {whole(prompt)} prompt tokens, {whole(cached)} of them cached, and generated "
    told = [
        f"{used}{whole(completion)} tokens on {facts['model']} in {facts['region']}; it ended as {facts['outcome']}."
    ]
    if facts["charged"] == "yes":
        told.append(
            f"At {facts['prompt_price']} pico-dollars a prompt token, {facts['cached_price']} a cached one and "
            f"{facts['completion_price']} a generated one ({facts['version']}) that is {whole(int(facts['cost']))} "
            "pico-dollars."
        )
    else:
        told.append("Requests that failed or timed out cost nothing.")
    if facts["from_witness"] == "yes":
        told.append("No gateway reported it; the count is the node's own.")
    if int(facts["corrections"]):
        told.append(f"Its record was corrected {facts['corrections']} times; this is how it stands now.")
    told.append(
        f"It counts in the month {facts['month']}; free tokens, tiers, discounts and the cap of that month are applied "
        "to all its usage together."
    )
    return told
