"""How the node leaves: told to stop, or because its cloud takes the machine."""

import asyncio
import contextlib

from crosslogic_common.clock import Clock
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.relay import Relay

ACCEPT_WHILE_STOPPING_S = 0.5
"""The fleet hears of a drain within this; what was picked before that is still taken."""


class Departure:
    """Waits for the node's end, lets what fits into the time finish, and hands the rest over."""

    def __init__(self, *, life: NodeLife, relay: Relay, clock: Clock, handover_s: float) -> None:
        """`handover_s` before the machine goes, what still runs is handed over."""
        self._life = life
        self._relay = relay
        self._clock = clock
        self._handover_s = handover_s
        self._log = get_logger(__name__)

    async def wait(self, stop: asyncio.Event, *, grace_s: float) -> None:
        """Returns once no request runs here any more.

        A stop gives running requests `grace_s`; a spot notice gives them what the cloud gives, and a stop after it (the
        machine is being shut down) no more than `grace_s` from then.
        """
        stopped = asyncio.create_task(stop.wait())
        leaving = asyncio.create_task(self._life.leaving.wait())
        try:
            await asyncio.wait([stopped, leaving], return_when=asyncio.FIRST_COMPLETED)
            notice = self._life.notice
            if not stopped.done() and notice is not None:
                window_s = notice.window_s(self._clock.now(), handover_s=self._handover_s)
                self._log.warning("leaving", reason=notice.reason, window_s=round(window_s, 1))
                draining = asyncio.create_task(self._drain(window_s))
                await asyncio.wait([stopped, draining], return_when=asyncio.FIRST_COMPLETED)
                if draining.done():
                    draining.result()
                    return
                draining.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await draining
                grace_s = min(grace_s, notice.window_s(self._clock.now(), handover_s=self._handover_s))
            self._life.stop()
            await self._drain(grace_s)
        finally:
            stopped.cancel()
            leaving.cancel()

    async def _drain(self, grace_s: float) -> None:
        await self._relay.drain(grace_s, min(ACCEPT_WHILE_STOPPING_S, grace_s))
