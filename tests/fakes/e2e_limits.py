"""Clients that ask for all they can get, and what they got."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from crosslogic_dev.suite import Suite

PATIENCE_S = 0.4
"""What a client waits at most after a refusal, whatever it was told: it is greedy."""


@dataclass(slots=True)
class Got:
    """What all clients together were given."""

    tokens: int = 0
    answered: int = 0
    refused: int = 0
    other: Counter[str] = field(default_factory=Counter)


async def greedy_clients(
    suite: Suite, key: str, *, clients: int, seconds: float, max_tokens: int, requests_each: int = 1_000_000
) -> Got:
    """`clients` ask at once, again and again, until `seconds` have passed; then what runs is waited for."""
    got = Got()
    until = time.monotonic() + seconds
    url = f"{suite.base_url}/v1/chat/completions"
    body = {"model": suite.model_name, "messages": [{"role": "user", "content": "count"}], "max_tokens": max_tokens}

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in range(requests_each):
            if time.monotonic() >= until:
                return
            try:
                async with session.post(url, json=body) as answer:
                    told = await answer.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                got.other[type(error).__name__] += 1
                await asyncio.sleep(0.05)
                continue
            if answer.status == 200:
                got.answered += 1
                got.tokens += told["usage"]["total_tokens"]
            elif answer.status in (402, 403, 429):
                got.refused += 1
                wait_s = float(answer.headers.get("retry-after-ms", "100")) / 1000
                await asyncio.sleep(min(wait_s, PATIENCE_S))
            else:
                got.other[str(answer.status)] += 1
                await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=60),
        headers={"Authorization": f"Bearer {key}"},
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return got
