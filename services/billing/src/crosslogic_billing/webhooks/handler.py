"""What follows from what Stripe tells us. Events come late, twice and in any order: each is a reason to look."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from crosslogic_billing.accounts.store import PostgresAccounts
from crosslogic_billing.export.outbox_store import PostgresOutbox
from crosslogic_billing.export.stripe_sink import StripeSink
from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.webhooks.store import PostgresWebhooks
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

LOOK_S = 60.0
_AT_ONCE = 100
_KEPT = timedelta(days=30)
_RETRY_AFTER = timedelta(minutes=1)
_THIN = frozenset({"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"})


class WebhookHandler:
    """Handles events once each."""

    def __init__(
        self,
        *,
        webhooks: PostgresWebhooks,
        accounts: PostgresAccounts,
        outbox: PostgresOutbox,
        stripe: StripeSink,
        clock: Clock,
        metrics: BillingMetrics,
    ) -> None:
        self._webhooks = webhooks
        self._accounts = accounts
        self._outbox = outbox
        self._stripe = stripe
        self._clock = clock
        self._metrics = metrics
        self._log = get_logger(__name__)

    async def take(self, payload: bytes) -> None:
        """An event whose signature was checked. Raises INVALID_ARGUMENT, or what kept it from being handled."""
        event = _read(payload)
        if not await self._webhooks.received(event["id"], event["type"], payload, self._clock.now()):
            self._metrics.webhook("repeated")
            return
        await self._handle(event)

    async def run(self) -> None:
        """Handles for ever what could not be handled when it came."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except CodedError as error:
                self._log.warning("webhooks not looked at", reason=error.private or error.public)

    async def look(self) -> None:
        """Handles what waits, and forgets what was handled long ago."""
        now = self._clock.now()
        for payload in await self._webhooks.open(now - _RETRY_AFTER, _AT_ONCE):
            try:
                await self._handle(_read(payload))
            except CodedError as error:
                self._log.warning("webhook not handled", reason=error.private or error.public)
        await self._webhooks.forget(now - _KEPT)

    async def _handle(self, event: Mapping[str, Any]) -> None:
        try:
            result = await self._follow(event)
        except CodedError as error:
            self._metrics.webhook("failed")
            await self._webhooks.failed(event["id"], (error.private or error.public)[:500])
            raise
        await self._webhooks.handled(event["id"], result, self._clock.now())
        self._metrics.webhook(result)

    async def _follow(self, event: Mapping[str, Any]) -> str:
        kind: str = event["type"]
        subject = event.get("data", {}).get("object", {}) if event.get("object") == "event" else {}
        id_ = str(subject.get("id", ""))
        if kind in _THIN:
            return await self._meter_report(event["id"])
        if kind.startswith("invoice.") and id_:
            return await self._invoice(id_, kind, event)
        if kind.startswith("customer.subscription.") and id_:
            return await self._subscription(id_)
        if kind == "customer.deleted" and id_:
            return await self._customer_deleted(id_)
        return "ignored"

    async def _invoice(self, id_: str, kind: str, event: Mapping[str, Any]) -> str:
        try:
            invoice = await self._stripe.invoice(id_)
        except CodedError as error:
            if error.code == ErrorCode.NOT_FOUND:
                # A draft that was deleted.
                return "ignored"
            raise
        account = await self._accounts.by_customer(invoice.customer_id)
        if account is None:
            return "ignored"
        failed = kind in ("invoice.payment_failed", "invoice.payment_action_required", "invoice.overdue")
        failed_at = datetime.fromtimestamp(int(event.get("created", 0)), UTC) if failed else None
        await self._webhooks.invoice(account.org_id, invoice, failed_at=failed_at, now=self._clock.now())
        return "handled"

    async def _subscription(self, id_: str) -> str:
        try:
            subscription = await self._stripe.subscription(id_)
        except CodedError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return "ignored"
            raise
        account = await self._accounts.by_customer(subscription.customer_id)
        if account is None:
            return "ignored"
        await self._accounts.subscription(account.org_id, subscription_id=subscription.id, status=subscription.status)
        return "handled"

    async def _customer_deleted(self, id_: str) -> str:
        account = await self._accounts.by_customer(id_)
        if account is None or not await self._stripe.customer_is_gone(id_):
            return "ignored"
        await self._accounts.unlink(account.org_id)
        self._log.error("a customer was deleted at Stripe: nothing more is exported for it", org_id=account.org_id)
        return "handled"

    async def _meter_report(self, event_id: str) -> str:
        handled = False
        try:
            problems = await self._stripe.meter_problems(event_id)
        except CodedError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return "ignored"
            raise
        for identifier, reason in problems.items():
            if await self._outbox.reported_dead(identifier, reason):
                self._metrics.exported("dead")
                handled = True
        return "handled" if handled else "ignored"


def _read(payload: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(payload)
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The body is no JSON.") from None
    known = isinstance(event, dict) and isinstance(event.get("id"), str) and isinstance(event.get("type"), str)
    if not known or not 1 <= len(event["id"]) <= 255 or "\0" in event["id"] + event["type"]:  # noqa: PLR2004  # as stored
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The body is no event.")
    found: Mapping[str, Any] = event
    return found
