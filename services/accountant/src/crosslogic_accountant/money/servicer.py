"""MoneyService: protobuf to domain and back."""

import re
from typing import Any
from uuid import UUID

import grpc.aio

from crosslogic.accountant.v1 import money_pb2 as pb
from crosslogic.accountant.v1 import money_pb2_grpc as rpc
from crosslogic_accountant.budgets.messages import read_uuid
from crosslogic_accountant.budgets.servicer import read_number
from crosslogic_accountant.money.domain import Account, Hold, PostedTransfer, Transfer, TransferKind
from crosslogic_accountant.money.hold_store import HoldStore
from crosslogic_accountant.money.policy import postings_problem
from crosslogic_accountant.money.store import MoneyStore
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, wrap

MAX_POSTINGS = 10
MAX_REASON_CHARS = 1_000
MAX_REFERENCE_CHARS = 256
MAX_HOLD_PICODOLLARS = 2**63 - 1
DEFAULT_EXPIRY_S = 3_600
MAX_EXPIRY_S = 86_400
_AMOUNT = re.compile(r"-?[1-9][0-9]{0,37}", re.ASCII)
_ACCOUNTS = {account.value: account for account in Account}
_OWN_KINDS = frozenset({TransferKind.USAGE, TransferKind.HOLD, TransferKind.RESOLUTION})
Context = grpc.aio.ServicerContext[Any, Any]


class MoneyServicer(rpc.MoneyServiceServicer):
    """MoneyService."""

    def __init__(self, *, money: MoneyStore, holds: HoldStore) -> None:
        self._money = money
        self._holds = holds

    async def PostTransfer(self, request: pb.PostTransferRequest, context: Context) -> pb.PostTransferResponse:
        return pb.PostTransferResponse(duplicate=await self._money.post(_read_transfer(request.transfer)))

    async def GetBalances(self, request: pb.GetBalancesRequest, context: Context) -> pb.GetBalancesResponse:
        balances, sequence = await self._money.balances(read_uuid(request.org_id, "org_id"))
        available = -balances.get(Account.PREPAID, 0) - balances.get(Account.FREE_TIER, 0)
        return pb.GetBalancesResponse(
            balances=[
                pb.Balance(account=account.value, amount_picodollars=str(amount))  # type: ignore[arg-type]  # the same numbers
                for account, amount in balances.items()
            ],
            available_picodollars=str(available),
            posted_sequence=sequence,
        )

    async def ListTransfers(self, request: pb.ListTransfersRequest, context: Context) -> pb.ListTransfersResponse:
        limit = page_limit(request.page_size)
        posted = await self._money.transfers(
            read_uuid(request.org_id, "org_id"),
            before=read_number(request.page_token) if request.page_token else None,
            limit=limit + 1,
        )
        token = wrap(str(posted[limit - 1].number)) if len(posted) > limit else ""
        return pb.ListTransfersResponse(transfers=[_transfer(each) for each in posted[:limit]], next_page_token=token)

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        if not 1 <= request.amount_picodollars <= MAX_HOLD_PICODOLLARS:
            raise _invalid("amount_picodollars", "must be 1 to 2^63 - 1")
        if request.expires_in_s > MAX_EXPIRY_S:
            raise _invalid("expires_in_s", f"must be at most {MAX_EXPIRY_S}")
        hold = Hold(
            id=read_uuid(request.id, "id"),
            org_id=read_uuid(request.org_id, "org_id"),
            environment_id=_optional(request.environment_id, "environment_id"),
            api_key_id=_optional(request.api_key_id, "api_key_id"),
            amount_picodollars=request.amount_picodollars,
            prepaid=request.prepaid,
        )
        duplicate = await self._holds.reserve(hold, expires_in_s=request.expires_in_s or DEFAULT_EXPIRY_S)
        return pb.ReserveResponse(duplicate=duplicate)

    async def ResolveHold(self, request: pb.ResolveHoldRequest, context: Context) -> pb.ResolveHoldResponse:
        stored, before = await self._holds.resolve(
            read_uuid(request.id, "id"), min(request.amount_picodollars, MAX_HOLD_PICODOLLARS + 1)
        )
        return pb.ResolveHoldResponse(
            state=stored.state.value,  # type: ignore[arg-type]  # the same numbers
            amount_picodollars=stored.spent_picodollars,
            duplicate=before,
        )

    async def CheckBooks(self, request: pb.CheckBooksRequest, context: Context) -> pb.CheckBooksResponse:
        problems, transfers, debits, credited = await self._money.check(_optional(request.org_id, "org_id"))
        return pb.CheckBooksResponse(
            problems=problems,
            transfers=transfers,
            debits_picodollars=str(debits),
            credits_picodollars=str(credited),
        )


def _read_transfer(message: pb.Transfer) -> Transfer:
    try:
        kind = TransferKind(message.kind)
    except ValueError:
        raise _invalid("kind", "is not stated") from None
    if kind in _OWN_KINDS:
        raise _invalid("kind", "is one that only the accountant makes")
    postings = _read_postings(message)
    for name, longest in (("reason", MAX_REASON_CHARS), ("reference", MAX_REFERENCE_CHARS)):
        text = getattr(message, name)
        if len(text) > longest or "\0" in text:
            raise _invalid(name, f"must be at most {longest} characters")
    if kind is TransferKind.ADJUSTMENT and not message.reason:
        raise _invalid("reason", "of an adjustment must be given")
    return Transfer(
        id=read_uuid(message.id, "id"),
        org_id=read_uuid(message.org_id, "org_id"),
        kind=kind,
        postings=dict(sorted(postings.items())),
        reason=message.reason,
        reference=message.reference,
    )


def _read_postings(message: pb.Transfer) -> dict[Account, int]:
    if len(message.postings) > MAX_POSTINGS:
        raise _invalid("postings", f"are more than {MAX_POSTINGS}")
    postings: dict[Account, int] = {}
    for posting in message.postings:
        account = _ACCOUNTS.get(posting.account)
        if account is None or account in postings:
            raise _invalid("postings", "must name different accounts")
        if not _AMOUNT.fullmatch(posting.amount_picodollars):
            raise _invalid("amount_picodollars", "must be a whole number, not 0, of at most 38 digits")
        postings[account] = int(posting.amount_picodollars)
    problem = postings_problem(postings)
    if problem:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, problem, param="postings")
    if Account.RESERVED in postings:
        raise _invalid("postings", "may not touch reserved money: only holds do")
    return postings


def _transfer(posted: PostedTransfer) -> pb.Transfer:
    transfer = posted.transfer
    return pb.Transfer(
        id=str(transfer.id),
        org_id=str(transfer.org_id),
        kind=transfer.kind.value,  # type: ignore[arg-type]  # the same numbers
        postings=[
            pb.Posting(account=account.value, amount_picodollars=str(amount))  # type: ignore[arg-type]  # the same numbers
            for account, amount in transfer.postings.items()
        ],
        reason=transfer.reason,
        reference=transfer.reference,
        post_time=timestamp(posted.post_time),
    )


def _optional(text: str, name: str) -> UUID | None:
    return read_uuid(text, name) if text else None


def _invalid(name: str, what: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` {what}.", param=name)
