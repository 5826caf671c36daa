"""What PostgreSQL told whoever listens, without waiting for what it might still tell."""

import psycopg

END = "that was all"


async def notices(listener: psycopg.AsyncConnection, *, channel: str, url: str) -> list[str]:
    """What was committed on `channel` before this call and not read yet: PostgreSQL tells in the order of commits."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as teller:
        await teller.execute("SELECT pg_notify(%s, %s)", (channel, END))
    told: list[str] = []
    async for notice in listener.notifies(timeout=30):
        if notice.payload == END:
            return told
        told.append(notice.payload)
    raise TimeoutError(f"PostgreSQL told nothing for 30 s after {told}.")
