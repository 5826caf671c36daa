"""What operators do with accounts."""

import re
from datetime import date

from crosslogic_billing.accounts.domain import Account
from crosslogic_billing.accounts.store import PostgresAccounts
from crosslogic_billing.export import policy
from crosslogic_billing.export.stripe_sink import Buyer, StripeSink
from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.rating.policy import check_terms, month_of
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode

_MAX_CHARS = 200
_COUNTRY = re.compile(r"[A-Z]{2}")
_WORD = re.compile(r"[a-z_]{2,40}")


class Accounts:
    """Accounts, their terms, and who they are to Stripe."""

    def __init__(self, *, store: PostgresAccounts, clock: Clock, stripe: StripeSink | None) -> None:
        """Without `stripe` nobody becomes a customer."""
        self._store = store
        self._clock = clock
        self._stripe = stripe

    async def account(self, org_id: str) -> Account:
        """One organisation."""
        return await self._store.account(org_id)

    async def this_month(self, org_id: str) -> date:
        """The month that it is, where the organisation is."""
        zone = (await self._store.terms(org_id, self._clock.now().date())).time_zone
        return month_of(self._clock.now(), zone)

    async def terms(self, org_id: str, month: date) -> Terms:
        """The terms of a month."""
        return await self._store.terms(org_id, month)

    async def agreed_alone(self, org_id: str, month: date) -> bool:
        """Whether the terms of a month were agreed with the organisation itself, and are not its plan's."""
        return await self._store.alone(org_id, month) is not None

    async def set_terms(self, org_id: str, from_month: date, terms: Terms) -> Terms:
        """Agrees on terms from a month on; as they are with what identity says. Raises INVALID_ARGUMENT, CONFLICT."""
        if not await self._store.set_terms(org_id, from_month, check_terms(terms)):
            raise CodedError(
                ErrorCode.CONFLICT, "It has months in another time zone: they would overlap.", param="time_zone"
            )
        return await self._store.terms(org_id, from_month)

    async def link(self, buyer: Buyer) -> Account:
        """Makes an organisation a customer with a subscription, unless it is one. Raises CONFLICT, UNAVAILABLE.

        A customer whose making was begun before is looked for first: after a day Stripe would make a second one.
        """
        if self._stripe is None:
            raise CodedError(ErrorCode.CONFLICT, "No payment provider is configured here: this is licence mode.")
        _check(buyer)
        known = await self._store.account(buyer.org_id)
        customer_id = known.customer_id
        if not customer_id:
            begun = await self._store.asked_customer(buyer.org_id, self._clock.now())
            customer_id = await self._stripe.find_customer(buyer.org_id) if begun is not None else ""
            customer_id = customer_id or await self._stripe.make_customer(buyer)
            await self._store.link(buyer.org_id, customer_id=customer_id)
        for category in await self._store.categories():
            await self._stripe.prepare(
                customer_id=customer_id,
                event_name=policy.event_name(category, "picodollars"),
                unit="picodollars",
                subscription_id="",
            )
        made = await self._stripe.make_subscription(org_id=buyer.org_id, customer_id=customer_id)
        await self._store.link(buyer.org_id, customer_id=customer_id, subscription_id=made.id, status=made.status)
        return await self._store.account(buyer.org_id)


def _check(buyer: Buyer) -> None:
    texts = {"name": buyer.name, "email": buyer.email, "state": buyer.state, "city": buyer.city, "line1": buyer.line1}
    for field, text in texts.items():
        if len(text) > _MAX_CHARS or (text and not text.isprintable()):
            raise _invalid(field, f"must have at most {_MAX_CHARS} printable characters")
    if not buyer.name:
        raise _invalid("name", "must not be empty")
    if buyer.country and not _COUNTRY.fullmatch(buyer.country):
        raise _invalid("country", "must be two capital letters")
    if buyer.tax_id and not _WORD.fullmatch(buyer.tax_id_type):
        raise _invalid("tax_id_type", "must say what kind of tax number it is, for example in_gst")


def _invalid(field: str, text: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {text}.", param=field)
