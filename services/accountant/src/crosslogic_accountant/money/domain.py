"""The words of the money ledger. Amounts are whole pico-dollars; debits are positive, credits negative."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID


class Account(IntEnum):
    """The numbers are crosslogic.accountant.v1.Account's and are stored."""

    RECEIVABLE = 1
    PREPAID = 2
    FREE_TIER = 3
    RESERVED = 4
    REVENUE = 5
    CASH = 6
    GRANTED = 7


class TransferKind(IntEnum):
    """The numbers are crosslogic.accountant.v1.TransferKind's and are stored."""

    TOP_UP = 1
    GRANT = 2
    USAGE = 3
    HOLD = 4
    RESOLUTION = 5
    FEE = 6
    ADJUSTMENT = 7
    PAYMENT = 8


class HoldState(IntEnum):
    """The numbers are crosslogic.accountant.v1.HoldState's and are stored."""

    PENDING = 1
    POSTED = 2
    VOID = 3
    EXPIRED = 4


Postings = Mapping[Account, int]
"""Amount by account; the sum is 0 and none is 0."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Postings that belong together."""

    id: UUID
    org_id: UUID
    kind: TransferKind
    postings: Postings
    reason: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class PostedTransfer:
    """A transfer as it is in the books."""

    transfer: Transfer
    post_time: datetime
    number: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Money or budgets held for a request."""

    id: UUID
    org_id: UUID
    environment_id: UUID | None
    api_key_id: UUID | None
    amount_picodollars: int
    prepaid: bool
    """Free-tier and prepaid credit must cover it."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Where a hold's money came from."""

    free_picodollars: int
    prepaid_picodollars: int
