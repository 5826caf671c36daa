"""Sends what is due: at least once, under an id that stays, and in the end either taken or a dead letter."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import timedelta

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.notify import policy
from crosslogic_orchestrator.notify.domain import Channel, Claimed
from crosslogic_orchestrator.notify.metrics import NotifyMetrics
from crosslogic_orchestrator.notify.outbox_store import OutboxStore
from crosslogic_orchestrator.notify.ports import Sender, SendError
from crosslogic_orchestrator.notify.vault import Vault

AT_ONCE = 8
FOR_OPERATORS = 2
"""So many of these are kept for operators' routes: tenants' slow receivers take the others at most."""
_LOOK_S = 1.0
_AWAY_S = 1.0
_COUNT_S = 10.0
_FORGET_S = 600.0
_KEPT = timedelta(days=30)


class Dispatcher:
    """Runs in every replica."""

    def __init__(
        self,
        *,
        outbox: OutboxStore,
        senders: Mapping[Channel, Sender],
        vault: Vault,
        clock: Clock,
        retry: policy.Retry,
        metrics: NotifyMetrics,
        uniform: Callable[[], float],
        wake: asyncio.Event,
        lease_s: float,
    ) -> None:
        """`lease_s` must be longer than an attempt may take; `wake` is set when there may be something to send."""
        self._outbox = outbox
        self._senders = senders
        self._vault = vault
        self._clock = clock
        self._retry = retry
        self._metrics = metrics
        self._uniform = uniform
        self._wake = wake
        self._lease_s = lease_s
        self._running = 0
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Sends for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                try:
                    while claimed := await self._next():
                        self._running += 1
                        group.create_task(self._see_to(claimed))
                except CodedError as error:
                    self._log.warning("nothing sent", code=error.code, reason=error.private or error.public)
                    await asyncio.sleep(_AWAY_S)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()

    async def count(self) -> None:
        """Counts for ever what waits and what is dead, and forgets what ended long ago."""
        forget_at = 0.0
        while True:
            try:
                await self.count_once()
                if self._clock.monotonic() >= forget_at:
                    forget_at = self._clock.monotonic() + _FORGET_S
                    while await self._outbox.forget(self._clock.now() - _KEPT):
                        pass
            except CodedError as error:
                self._log.warning("notifications not counted", reason=error.private or error.public)
            await asyncio.sleep(_COUNT_S)

    async def count_once(self) -> None:
        """Raises UNAVAILABLE."""
        for whose, number in (await self._outbox.dead()).items():
            self._metrics.dead.labels(whose).set(number)
        for whose, seconds in (await self._outbox.behind_s(now=self._clock.now())).items():
            self._metrics.behind.labels(whose).set(seconds)

    async def send_once(self) -> bool:
        """Sees to the next delivery that is due. False: there is none."""
        claimed = await self._next()
        if claimed is None:
            return False
        self._running += 1
        await self._see_to(claimed)
        return True

    async def _next(self) -> Claimed | None:
        if self._running >= AT_ONCE:
            return None
        operators_only = self._running >= AT_ONCE - FOR_OPERATORS
        return await self._outbox.claim(now=self._clock.now(), lease_s=self._lease_s, operators_only=operators_only)

    async def _see_to(self, claimed: Claimed) -> None:
        give_up_at = self._clock.monotonic() + self._lease_s
        try:
            if await self._postponed(claimed):
                return
            failure = await self._try(claimed)
            while not await self._settled(claimed, failure):
                # It was sent and that could not be written down. Whoever takes it over sends it again, under its id.
                if self._clock.monotonic() >= give_up_at:
                    return
                await asyncio.sleep(_AWAY_S)
        finally:
            self._running -= 1
            self._wake.set()

    async def _postponed(self, claimed: Claimed) -> bool:
        """Whether it is quiet now: what is tried again, or late because nothing ran, wakes nobody either."""
        now = self._clock.now()
        due_at = policy.not_quiet(claimed.route, claimed.message.severity, now)
        if due_at <= now:
            return False
        with contextlib.suppress(CodedError):
            # Else its lease ends, and it is looked at again.
            await self._outbox.postponed(claimed, due_at=due_at)
        return True

    async def _try(self, claimed: Claimed) -> SendError | None:
        """Why it was not taken. None: it was."""
        route = claimed.route
        sender = self._senders.get(route.channel)
        if sender is None:
            return SendError(f"There is nothing that sends over {route.channel} now.")
        try:
            await sender.send(claimed.message, route, self._vault.open(route.id, claimed.sealed))
        except SendError as error:
            return error
        except CodedError as error:
            self._log.error("a route's target does not open", route_id=route.id, reason=str(error))
            return SendError("What is secret of the route cannot be read.")
        except Exception:  # noqa: BLE001  # what is wrong with one message must keep no other from being sent
            self._log.exception("a notification could not be sent", delivery_id=claimed.message.delivery_id)
            return SendError("Something went wrong on our side.")
        return None

    async def _settled(self, claimed: Claimed, failure: SendError | None) -> bool:
        channel, now = claimed.route.channel, self._clock.now()
        wait_s = None
        if failure is not None and not failure.for_good:
            wait_s = policy.retry_in_s(
                self._retry, attempt=claimed.attempt, asked_s=failure.retry_after_s, uniform=self._uniform
            )
        try:
            if failure is None:
                outcome, ours = "sent", await self._outbox.sent(claimed, now=now)
            elif wait_s is None:
                outcome, ours = "dead", await self._outbox.died(claimed, str(failure), now=now)
            else:
                due_at = now + timedelta(seconds=wait_s)
                outcome, ours = "failed", await self._outbox.failed(claimed, str(failure), due_at=due_at)
        except CodedError as error:
            self._log.warning("outcome not written down", reason=error.private or error.public)
            return False
        self._metrics.attempts.labels(channel, outcome).inc()
        if failure is not None:
            self._log.warning(
                "notification not taken",
                delivery_id=claimed.message.delivery_id,
                route_id=claimed.route.id,
                attempt=claimed.attempt,
                dead=wait_s is None,
                reason=str(failure),
            )
        if not ours:
            self._log.warning("notification was taken over", delivery_id=claimed.message.delivery_id)
        return True
