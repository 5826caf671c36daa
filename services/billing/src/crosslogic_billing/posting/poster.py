"""Tells the money ledger what months and payments come to, each transfer once."""

import asyncio
from datetime import timedelta
from typing import Protocol

import grpc.aio

from crosslogic.accountant.v1 import money_pb2 as pb
from crosslogic.accountant.v1 import money_pb2_grpc as rpc
from crosslogic_billing.posting.domain import MoneyAccount, Transfer
from crosslogic_billing.posting.store import PostgresTransfers
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels

LOOK_S = 5.0
EVERY = timedelta(hours=1)
"""How often a month's adjustment is told: each is a transfer that is kept for ever."""
_AT_ONCE = 200
_TIMEOUT_S = 10.0
_ACCOUNTS: dict[MoneyAccount, "pb.Account.ValueType"] = {
    "receivable": pb.ACCOUNT_RECEIVABLE,
    "prepaid": pb.ACCOUNT_PREPAID,
    "revenue": pb.ACCOUNT_REVENUE,
    "cash": pb.ACCOUNT_CASH,
}
_FOR_GOOD = frozenset({ErrorCode.INVALID_ARGUMENT, ErrorCode.CONFLICT})


class Money(Protocol):
    """The accountant's money ledger."""

    async def post(self, transfer: Transfer) -> None:
        """Posts a transfer; twice with one id: once. Raises UNAVAILABLE, INVALID_ARGUMENT, CONFLICT."""


class AccountantMoney:
    """Implements Money over gRPC."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target

    async def post(self, transfer: Transfer) -> None:
        """See Money."""
        stub = rpc.MoneyServiceStub(self._channels.service("accountant", self._target))
        adjusts = transfer.kind == "adjustment"
        message = pb.Transfer(
            id=transfer.id,
            org_id=transfer.org_id,
            kind=pb.TRANSFER_KIND_ADJUSTMENT if adjusts else pb.TRANSFER_KIND_PAYMENT,
            postings=[
                pb.Posting(account=_ACCOUNTS[transfer.debit], amount_picodollars=str(transfer.amount)),
                pb.Posting(account=_ACCOUNTS[transfer.credit], amount_picodollars=str(-transfer.amount)),
            ],
            reason="free tokens, tiers, discount, cap, reserved capacity and its fee" if adjusts else "invoice paid",
            reference=transfer.reference,
        )
        try:
            await stub.PostTransfer(pb.PostTransferRequest(transfer=message), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


class Poster:
    """Looks every few seconds what there is to tell."""

    def __init__(self, *, transfers: PostgresTransfers, money: Money, clock: Clock) -> None:
        self._transfers = transfers
        self._money = money
        self._clock = clock
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Tells for ever."""
        while True:
            try:
                await self.look()
            except CodedError as error:
                self._log.warning("transfers not posted, trying again", reason=error.private or error.public)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Makes the transfers that are due, and posts those that wait. Raises UNAVAILABLE."""
        now = self._clock.now()
        await self._transfers.adjust(now, now - EVERY, _AT_ONCE)
        for transfer in await self._transfers.open(_AT_ONCE):
            try:
                await self._money.post(transfer)
            except CodedError as error:
                if error.code not in _FOR_GOOD:
                    raise
                self._log.error("the money ledger refuses a transfer", id=transfer.id, reason=error.public)
                await self._transfers.refused(transfer.id, error.public)
                continue
            await self._transfers.posted(transfer.id, self._clock.now())
