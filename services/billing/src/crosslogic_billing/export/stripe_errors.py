"""What Stripe's SDK raises, in our words."""

import asyncio
import contextlib
from collections.abc import Iterator

import aiohttp
import stripe

from crosslogic_billing.export import policy
from crosslogic_billing.export.domain import Outcome
from crosslogic_common.errors import CodedError, ErrorCode

FAILURES = (stripe.StripeError, aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)
"""Everything that a call may raise for what Stripe or the network does.

The SDK wraps what fails before the answer's head; what fails while its body is read comes through as it is, and an
answer that is no JSON as a ValueError.
"""


def outcome(error: BaseException) -> Outcome:
    """What became of a meter event."""
    if not isinstance(error, stripe.StripeError):
        return policy.outcome_of(0, type(error).__name__, str(error))
    status = error.http_status or 0
    message = str(error.user_message or type(error).__name__)
    # An answer that says "fine" in words that make no sense is as good as none.
    return policy.outcome_of(status if status >= 400 else 0, error.code or "", message)  # noqa: PLR2004  # HTTP's own


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turns what Stripe and the network do into coded errors, for calls that an operator waits for."""
    try:
        yield
    except FAILURES as error:
        status = error.http_status if isinstance(error, stripe.StripeError) else None
        private = f"Stripe: {status or 'no answer'}: {type(error).__name__}: {error}"[:500]
        if status == 404:  # noqa: PLR2004  # HTTP's own
            raise CodedError(ErrorCode.NOT_FOUND, private=private) from None
        raise CodedError(ErrorCode.UNAVAILABLE, private=private, retry_after_s=1.0) from None
