"""The tests' Stripe for suites of processes: served from a thread of the test's own."""

import asyncio
import threading
from typing import Any, Self

from tests.fakes.stripe_server import FakeStripe


class StripeProcess:
    """`with StripeProcess() as stripe:`; `stripe.base` is where it is."""

    def __init__(self) -> None:
        self._fake = FakeStripe()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="stripe", daemon=True)
        self._invoice: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    @property
    def base(self) -> str:
        return self._fake.base

    def total(self, unit: str) -> int:
        return sum(event.value for event in list(self._fake.events) if event.event_name.endswith(f"_{unit}"))

    def totals(self) -> dict[str, int]:
        return {unit: self.total(unit) for unit in ("tokens", "picodollars")}

    def invoice_event(self, customer: str, status: str, type_: str) -> tuple[bytes, dict[str, str]]:
        """The same invoice each time, in another state; a signed event of it."""
        if self._invoice is None:
            self._invoice = self._fake.invoice(customer, status=status)
        self._invoice["status"] = status
        payload = self._fake.snapshot(type_, self._invoice)
        return payload, self._fake.signed(payload)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with self._fake.serving():
            self._started.set()
            await self._stop.wait()
