"""Which transfers follow from a month and from an invoice, pure."""

import uuid
from datetime import date

from crosslogic_billing.posting.domain import Transfer
from crosslogic_billing.rating.domain import Statement, Terms
from crosslogic_billing.rating.policy import PICODOLLARS_A_CENT

_SPACE = uuid.UUID("5f3f7c0e-2f6e-5f0a-9c4e-8d1f0b7a6e21")


def adjustment_of(charged: Statement, everything_at_list: int) -> int:
    """What a month's charge differs by from all its usage at its prices, fee included."""
    return charged.total_picodollars - everything_at_list


def adjustment(*, org_id: str, month: date, terms: Terms, number: int, amount: int) -> Transfer:
    """The transfer for a change of a month's adjustment, which is not 0; `number` counts the month's.

    What is taken off goes back where it was paid from: prepaid credit, or what is owed.
    """
    lowered = amount < 0
    payer = "prepaid" if terms.collection == "prepaid" and lowered else "receivable"
    return Transfer(
        id=str(uuid.uuid5(_SPACE, f"{org_id}|{month.isoformat()}|{number}")),
        org_id=org_id,
        kind="adjustment",
        debit="revenue" if lowered else payer,  # type: ignore[arg-type]  # one of the two words above
        credit=payer if lowered else "revenue",  # type: ignore[arg-type]
        amount=abs(amount),
        reference=f"month {month:%Y-%m}",
    )


def payment(*, org_id: str, invoice_id: str, paid_before_cents: int, paid_cents: int) -> Transfer | None:
    """The transfer for what was paid of an invoice since; None: nothing."""
    if paid_cents <= paid_before_cents:
        return None
    return Transfer(
        id=str(uuid.uuid5(_SPACE, f"{invoice_id}|{paid_cents}")),
        org_id=org_id,
        kind="payment",
        debit="cash",
        credit="receivable",
        amount=(paid_cents - paid_before_cents) * PICODOLLARS_A_CENT,
        reference=f"invoice {invoice_id}"[:256],
    )
