"""What differs and why, pure."""

from collections.abc import Collection, Iterable, Sequence

from crosslogic_billing.reconcile.domain import CreditTotals, LedgerTotals, Line, MeterTotals, MonthTotals, WindowTotals

MAX_LINES = 1_000
_EXACT = 2**53
"""Stripe's sums are floating-point numbers: above this they are rounded."""


def terms_lines(count: int, drifted: Collection[str]) -> list[Line]:
    """Identity's plans and capacity, and what charges go by. Nothing explains a difference."""
    return [
        Line("identity = terms", "organisations", count, count - len(drifted)),
        *(Line("identity = terms", "organisations", 1, 0, org_id=org_id) for org_id in sorted(drifted)),
    ]


def ledger_lines(ledger: LedgerTotals) -> list[Line]:
    """Witnesses, records and rollups."""
    behind = ledger.last_sequence - ledger.rolled_up_sequence
    waits = f"{behind} rows of the ledger are not rolled up yet" if behind else ""
    witnesses = Line(
        "witnesses = records",
        "requests",
        ledger.witness_differences,
        0,
        explanation=_if_differs(
            ledger.witness_differences,
            0,
            "nodes counted otherwise than gateways; the gateway's count stands, each is kept with both counts",
        ),
    )
    settled = Line(
        "records from witnesses alone",
        "requests",
        ledger.from_witnesses,
        0,
        explanation=_if_differs(
            ledger.from_witnesses, 0, "no gateway reported them in time; they were made from the nodes' counts"
        ),
    )
    waiting = Line(
        "witnesses that wait",
        "requests",
        ledger.open_witnesses,
        0,
        explanation=_if_differs(ledger.open_witnesses, 0, "they are younger than the grace time"),
    )
    pairs = (
        ("requests", ledger.requests, ledger.rollup_requests),
        ("tokens", ledger.tokens, ledger.rollup_tokens),
        ("picodollars", ledger.cost, ledger.rollup_cost),
    )
    rollups = [
        Line("records = rollups", unit, left, right, explanation=_if_differs(left, right, waits))
        for unit, left, right in pairs
    ]
    return [witnesses, settled, waiting, *rollups]


def window_lines(ledger: LedgerTotals, windows: WindowTotals) -> list[Line]:
    """Records and what was settled from them."""
    behind = ledger.last_sequence - windows.settled_sequence
    why = f"{behind} rows of the ledger are not settled yet" if behind > 0 else ""
    if behind < 0:
        why = f"{-behind} rows were recorded and settled while this was compared"
    tokens = windows.charged_tokens + windows.uncharged_tokens
    return [
        Line("records = windows", "tokens", ledger.tokens, tokens, _if_differs(ledger.tokens, tokens, why)),
        Line(
            "records = windows", "picodollars", ledger.cost, windows.cost, _if_differs(ledger.cost, windows.cost, why)
        ),
    ]


def month_lines(months: Iterable[MonthTotals]) -> list[Line]:
    """From windows to months to the outbox."""
    lines: list[Line] = []
    for month in months:
        where = {"unit": month.unit, "org_id": month.org_id, "category": month.category}
        if month.unit == "tokens":
            lines.append(Line(what="windows = month", left=month.in_windows, right=month.in_month, **where))
        lines.append(
            Line(
                what="month = exported",
                left=month.in_month,
                right=month.exported - month.credited,
                explanation=_if_differs(month.in_month, month.exported - month.credited, month.why_not),
                **where,
            )
        )
        if month.credited or month.in_credits:
            lines.append(Line(what="credited = credits", left=month.credited, right=month.in_credits, **where))
        lines.append(Line(what="exported = outbox", left=month.exported, right=month.in_outbox, **where))
    return lines


def meter_lines(meters: Iterable[MeterTotals]) -> list[Line]:
    """The outbox and Stripe's sums."""
    return [
        Line(
            what="outbox = Stripe",
            unit="picodollars" if meter.event_name.endswith("_picodollars") else "tokens",
            left=meter.delivered + meter.pending + meter.dead,
            right=meter.at_stripe,
            explanation=_why_stripe_differs(meter),
            org_id=meter.org_id,
            category=meter.event_name,
        )
        for meter in meters
    ]


def credit_lines(customers: Iterable[CreditTotals]) -> list[Line]:
    """Credits here and on customers' balances."""
    return [
        Line(
            what="credits = Stripe",
            unit="cents",
            left=credit.given + credit.waiting,
            right=credit.at_stripe,
            explanation=_why_credit_differs(credit),
            org_id=credit.org_id,
        )
        for credit in customers
    ]


def _why_credit_differs(credit: CreditTotals) -> str:
    missing = credit.given + credit.waiting - credit.at_stripe
    if 0 < missing <= credit.waiting:
        return f"{missing} cents wait to be given" + (f": {credit.last_error}" if credit.last_error else "")
    return ""


def _why_stripe_differs(meter: MeterTotals) -> str:
    everything = meter.delivered + meter.pending + meter.dead
    if everything == meter.at_stripe:
        return ""
    told = []
    if meter.pending:
        told.append(f"{meter.pending} wait to be sent")
    if meter.dead:
        told.append(f"{meter.dead} are dead letters")
    missing = meter.delivered - meter.at_stripe
    if _same(meter.delivered, meter.at_stripe):
        return "; ".join(told) or "Stripe's sum is rounded: it is a floating-point number"
    if 0 < missing <= meter.lately:
        told.append(f"{missing} were delivered so lately that Stripe may not have added them up")
        return "; ".join(told)
    # A pending event's answer may have been lost: Stripe has it, and it will be found to be a duplicate.
    if 0 < -missing <= meter.pending:
        return f"{-missing} of {meter.pending} that wait are there already: their answer was lost"
    return ""


def _same(ours: int, theirs: int) -> bool:
    return ours == theirs or (ours > _EXACT and float(ours) == float(theirs))


def ordered(lines: Sequence[Line]) -> list[Line]:
    """The most that a report keeps: what is unexplained first, then what differs."""
    return sorted(lines, key=lambda line: (not line.unexplained, line.left == line.right))[:MAX_LINES]


def _if_differs(left: int, right: int, text: str) -> str:
    return text if left != right else ""
