"""The words of posting."""

from dataclasses import dataclass
from typing import Literal

MoneyAccount = Literal["receivable", "prepaid", "revenue", "cash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One amount from one account of an organisation to another, in pico-dollars above 0."""

    id: str
    org_id: str
    kind: Literal["adjustment", "payment"]
    debit: MoneyAccount
    credit: MoneyAccount
    amount: int
    reference: str
    """A month, or an invoice."""
