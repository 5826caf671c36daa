"""What the accountant needs from the world."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from crosslogic_accountant.domain import Difference, LedgerRow, UsageRecord, Witness
from crosslogic_common.errors import CodedError

Item_contra = TypeVar("Item_contra", contravariant=True)
Done = TypeVar("Done")


@dataclass(slots=True)
class PreparedRecord:
    """A record and its row, packed when it was read, so that a record that cannot be packed spoils no batch.

    Not frozen, as in domain.py: one is made for every record. Nobody changes one.
    """

    record: UsageRecord
    row: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A record is in the ledger."""

    duplicate: bool = False


class BatchSink(Protocol[Item_contra, Done]):
    """Where batches become durable."""

    async def commit(self, items: Sequence[Item_contra]) -> list[Done | CodedError]:
        """Makes all of `items` durable and says what became of each, in order: an error refuses that one for good.

        Raises UNAVAILABLE when it is not known whether they are durable; the same items may then be given again.
        """

    async def close(self) -> None:
        """Gives back what it holds."""


@dataclass(frozen=True, slots=True)
class OpenWitness:
    """A witness whose grace time is over, and what the ledger holds of its request."""

    witness: Witness
    stored: LedgerRow | None


class SettlingStore(Protocol):
    """What the settler needs of the database."""

    async def settle_slot(
        self, slot: int, *, grace_s: float, decide: Callable[[Sequence[OpenWitness]], "Settlement"]
    ) -> int | None:
        """Empties one slot of witnesses as `decide` says, all in one transaction.

        Returns how many records were written; None when there was nothing to do yet: the slot is empty, another replica
        has it, or it holds a witness younger than `grace_s`.
        """


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of witnesses: records to write, differences and unpaid ones to keep."""

    records: Sequence[UsageRecord] = ()
    differences: Sequence[Difference] = ()
    unpaid: Sequence[Witness] = ()
    """Of requests without a record that cost nothing."""
