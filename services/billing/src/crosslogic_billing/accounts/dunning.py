"""Organisations that do not pay are suspended after a grace time, and let in again when they have paid."""

import asyncio
from datetime import timedelta
from typing import Protocol

import grpc.aio

from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic_billing.accounts.store import PostgresAccounts
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels

REASON = "An invoice is overdue."
LOOK_S = 5.0
_AT_ONCE = 100
_TIMEOUT_S = 10.0


class Tenants(Protocol):
    """Identity, as far as dunning needs it."""

    async def suspend(self, org_id: str, reason: str) -> None:
        """Refuses its requests from now on. Raises UNAVAILABLE, NOT_FOUND."""

    async def let_in(self, org_id: str, reason: str) -> bool:
        """Undoes a suspension for that reason. False: it is suspended for another one, and stays so."""


class IdentityTenants:
    """Implements Tenants over gRPC."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of identity."""
        self._channels = channels
        self._target = target

    async def suspend(self, org_id: str, reason: str) -> None:
        """See Tenants."""
        await self._update(org_id, identity_pb.STATUS_SUSPENDED, reason)

    async def let_in(self, org_id: str, reason: str) -> bool:
        """See Tenants."""
        try:
            answer = await self._stub().GetOrg(identity_pb.GetOrgRequest(id=org_id), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if answer.org.status != identity_pb.STATUS_SUSPENDED or answer.org.status_reason != reason:
            return False
        await self._update(org_id, identity_pb.STATUS_ACTIVE, "")
        return True

    async def _update(self, org_id: str, status: "identity_pb.Status.ValueType", reason: str) -> None:
        request = identity_pb.UpdateOrgRequest(
            id=org_id, status=status, status_reason=reason, actor=identity_pb.Actor(name="billing")
        )
        try:
            await self._stub().UpdateOrg(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def _stub(self) -> "identity_rpc.IdentityServiceAsyncStub":
        return identity_rpc.IdentityServiceStub(self._channels.service("identity", self._target))


class Dunning:
    """Looks every few seconds who is overdue and who has paid."""

    def __init__(self, *, accounts: PostgresAccounts, tenants: Tenants, clock: Clock, grace_s: float) -> None:
        """`grace_s`: how long an invoice may be unpaid after its first failure."""
        self._accounts = accounts
        self._tenants = tenants
        self._clock = clock
        self._grace = timedelta(seconds=grace_s)
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            try:
                await self.look()
            except CodedError as error:
                self._log.warning("overdue accounts not looked at", reason=error.private or error.public)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Suspends who is overdue, lets in who has paid. What fails for one does not keep the others waiting."""
        now = self._clock.now()
        for account in await self._accounts.overdue(now - self._grace, _AT_ONCE):
            try:
                await self._tenants.suspend(account.org_id, REASON)
            except CodedError as error:
                self._log.warning("not suspended, trying again", org_id=account.org_id, reason=str(error))
                continue
            await self._accounts.suspended(account.org_id, now)
            self._log.info("suspended for an overdue invoice", org_id=account.org_id)
        for account in await self._accounts.paid_while_suspended(_AT_ONCE):
            try:
                let_in = await self._tenants.let_in(account.org_id, REASON)
            except CodedError as error:
                self._log.warning("not let in, trying again", org_id=account.org_id, reason=str(error))
                continue
            await self._accounts.suspended(account.org_id, None)
            self._log.info("paid", org_id=account.org_id, let_in=let_in)
