"""What is removed once nobody asks for it any more."""

import asyncio

from crosslogic_billing.export.closing import Closer
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

_DAY_S = 86_400.0
_FIRST_S = 600.0


async def forget_daily(closer: Closer) -> None:
    """Removes old windows once a day, for ever."""
    await asyncio.sleep(_FIRST_S)
    while True:
        try:
            await closer.forget_old()
        except CodedError as error:
            get_logger(__name__).warning("old windows not removed", reason=error.private or error.public)
        await asyncio.sleep(_DAY_S)
