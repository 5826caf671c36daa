"""How billing's workers go on for ever."""

import asyncio
from collections.abc import Awaitable, Callable

from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger


async def work_for_ever(
    step: Callable[[], Awaitable[bool]], *, name: str, trouble: str, idle_s: float, cap_s: float = 5.0
) -> None:
    """Does a step again and again: at once while it says that there is more, else after `idle_s` seconds.

    A step that fails with a CodedError is logged as `trouble`, under the logger `name`, and tried again after a backoff
    of at most `cap_s` seconds. Anything else ends the worker, and with it the process.
    """
    log = get_logger(name)
    backoff = Backoff(base_s=0.2, cap_s=cap_s)
    while True:
        try:
            more = await step()
        except CodedError as error:
            log.warning(trouble, reason=error.private or error.public)
            await asyncio.sleep(backoff.next_s())
            continue
        backoff.reset()
        if not more:
            await asyncio.sleep(idle_s)
