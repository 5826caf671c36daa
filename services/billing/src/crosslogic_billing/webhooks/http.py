"""Where Stripe reaches us: one path, signed bodies only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import stripe
from aiohttp import web

from crosslogic_billing.metrics import BillingMetrics
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.process import StartError
from crosslogic_common.settings import Secret

PATH = "/webhooks/stripe"
TOLERANCE_S = 300
"""How old a signature may be."""
MAX_BODY_BYTES = 1_000_000
_BODY_TIMEOUT_S = 10.0
_HANDLE_TIMEOUT_S = 15.0
"""Stripe gives up a little later and tells it again."""


def make_app(*, secret: Secret, take: Callable[[bytes], Awaitable[None]], metrics: BillingMetrics) -> web.Application:
    """The web application. `take` handles a body that Stripe has signed with `secret`."""
    log = get_logger(__name__)

    async def receive(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await request.read()
        except TimeoutError:
            return _answer(408, "the body did not come")
        try:
            stripe.WebhookSignature.verify_header(
                body, request.headers.get("Stripe-Signature", ""), secret.reveal(), TOLERANCE_S
            )
        except (stripe.SignatureVerificationError, UnicodeDecodeError):
            metrics.webhook("refused")
            return _answer(400, "the signature does not fit")
        try:
            async with asyncio.timeout(_HANDLE_TIMEOUT_S):
                await take(body)
        except CodedError as error:
            if error.code == ErrorCode.INVALID_ARGUMENT:
                return _answer(400, error.public)
            log.warning("webhook not handled, Stripe will repeat it", reason=error.private or error.public)
            return _answer(503, "try again")
        except TimeoutError:
            return _answer(503, "try again")
        return _answer(200, "thank you")

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post(PATH, receive)
    return app


@contextlib.asynccontextmanager
async def served(app: web.Application, listen: str) -> AsyncIterator[None]:
    """Serves at host:port for as long as the block lasts. Raises StartError when the port is taken."""
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(f"cannot listen on {listen}: {error.strerror}") from None
    try:
        yield
    finally:
        await runner.cleanup()


def _answer(status: int, text: str) -> web.Response:
    return web.json_response({"message": text}, status=status)
