"""Voids holds whose time is over."""

import asyncio

from crosslogic_accountant.money.hold_store import HoldStore
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger


class HoldExpiry:
    """Any number of replicas may run one: each hold is voided once."""

    def __init__(self, *, holds: HoldStore) -> None:
        self._holds = holds
        self._log = get_logger(__name__)

    async def run(self, interval_s: float = 5.0) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                while expired := await self._holds.expire():
                    self._log.info("holds expired", holds=expired)
            except CodedError as error:
                self._log.warning("voiding holds waits for the database", reason=error.private)
            except Exception as error:  # noqa: BLE001  # one bad turn must not end all turns
                self._log.error("voiding holds failed", exc_info=error)
