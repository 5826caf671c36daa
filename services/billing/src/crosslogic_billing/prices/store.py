"""All SQL of the price book."""

from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from typing import LiteralString
from uuid import UUID

from psycopg.rows import TupleRow

from crosslogic_billing.prices import policy
from crosslogic_billing.prices.domain import Market, NewPrices, PriceVersion, TokenPrices
from crosslogic_common.postgres import Connection, Pool, transaction

CHANNEL = "billing_prices"
"""Of NOTIFY; told of every change of the book."""

_VERSION: LiteralString = (
    "v.id, l.model, l.market, l.plan, v.category, v.base_prompt, v.base_cached_prompt, v.base_completion, "
    "v.base_embedding, v.multiplier_numerator, v.multiplier_denominator, v.discount_numerator, v.discount_denominator, "
    "v.rated_prompt, v.rated_cached_prompt, v.rated_completion, v.rated_embedding, lower(v.effective), "
    "upper(v.effective), v.created_at"
)
_FROM: LiteralString = "FROM price_versions v JOIN price_lines l ON l.id = v.line"


def _version(row: TupleRow) -> PriceVersion:
    return PriceVersion(
        id=str(row[0]),
        model=row[1],
        market=row[2],
        plan=row[3],
        category=row[4],
        base=TokenPrices(*row[5:9]),
        multiplier=Fraction(row[9], row[10]),
        discount=Fraction(row[11], row[12]),
        prices=TokenPrices(*row[13:17]),
        effective_from=row[17],
        effective_to=row[18],
        created_at=row[19],
    )


class PostgresPrices:
    """The price book in PostgreSQL. Implements ports.PriceStore."""

    def __init__(self, pool: Pool, *, new_id: Callable[[], str]) -> None:
        """`new_id` makes UUIDv7 texts."""
        self._pool = pool
        self._new_id = new_id

    async def markets(self) -> list[Market]:
        """See ports.PriceStore."""
        async with transaction(self._pool) as connection:
            return await _markets(connection)

    async def add(self, asked: NewPrices) -> list[PriceVersion]:
        """See ports.PriceStore."""
        async with transaction(self._pool) as connection:
            if asked.request_id:
                # Two calls with one id wait for each other here.
                await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", (asked.request_id,))
                made = await _select(connection, "WHERE v.request_id = %s ORDER BY v.id", asked.request_id)
                if made:
                    return made
            markets = policy.chosen_markets(asked.markets, await _markets(connection))
            category = asked.category or await _newest_category(connection, asked.model)
            # In one order whatever the caller's, so that two calls cannot wait for each other.
            versions = [
                await self._add_one(connection, asked, market, category)
                for market in sorted(markets, key=lambda market: market.name)
            ]
            await connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))
            return versions

    async def _add_one(self, connection: Connection, asked: NewPrices, market: Market, category: str) -> PriceVersion:
        line = await _line(connection, asked.model, market.name, asked.plan)
        newest = await _select(connection, "WHERE v.line = %s ORDER BY lower(v.effective) DESC LIMIT 1", line)
        if newest:
            policy.check_follows(newest[0], asked.effective_from)
            await connection.execute(
                "UPDATE price_versions SET effective = tstzrange(lower(effective), %s) WHERE id = %s",
                (asked.effective_from, newest[0].id),
            )
        prices = policy.rated(asked.base, market.multiplier, asked.discount)
        id_ = self._new_id()
        await connection.execute(
            "INSERT INTO price_versions (id, line, category, base_prompt, base_cached_prompt, base_completion, "
            "base_embedding, multiplier_numerator, multiplier_denominator, discount_numerator, discount_denominator, "
            "rated_prompt, rated_cached_prompt, rated_completion, rated_embedding, effective, request_id) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, tstzrange(%s, NULL), %s)",
            (
                id_,
                line,
                category,
                asked.base.prompt,
                asked.base.cached_prompt,
                asked.base.completion,
                asked.base.embedding,
                market.multiplier.numerator,
                market.multiplier.denominator,
                asked.discount.numerator,
                asked.discount.denominator,
                prices.prompt,
                prices.cached_prompt,
                prices.completion,
                prices.embedding,
                asked.effective_from,
                UUID(asked.request_id) if asked.request_id else None,
            ),
        )
        return (await _select(connection, "WHERE v.id = %s", id_))[0]

    async def page(self, model: str, after: str, limit: int) -> list[PriceVersion]:
        """See ports.PriceStore."""
        async with transaction(self._pool) as connection:
            if model:
                return await _select(
                    connection, "WHERE l.model = %s AND v.id > %s ORDER BY v.id LIMIT %s", model, after, limit
                )
            return await _select(connection, "WHERE v.id > %s ORDER BY v.id LIMIT %s", after, limit)

    async def book(self, since: datetime, limit: int) -> list[PriceVersion]:
        """See ports.PriceStore."""
        async with transaction(self._pool) as connection:
            return await _select(
                connection,
                "WHERE upper_inf(v.effective) OR upper(v.effective) > %s ORDER BY v.line, lower(v.effective) LIMIT %s",
                since,
                limit,
            )


async def _markets(connection: Connection) -> list[Market]:
    cursor = await connection.execute("SELECT name, numerator, denominator, region_prefixes FROM markets ORDER BY name")
    return [Market(row[0], Fraction(row[1], row[2]), tuple(row[3])) for row in await cursor.fetchall()]


async def _newest_category(connection: Connection, model: str) -> str:
    cursor = await connection.execute(
        f"SELECT v.category {_FROM} WHERE l.model = %s ORDER BY v.id DESC LIMIT 1", (model,)
    )
    row = await cursor.fetchone()
    return policy.DEFAULT_CATEGORY if row is None else str(row[0])


async def _line(connection: Connection, model: str, market: str, plan: str) -> int:
    """The line's number, locked until the transaction ends."""
    await connection.execute(
        "INSERT INTO price_lines (model, market, plan) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (model, market, plan),
    )
    cursor = await connection.execute(
        "SELECT id FROM price_lines WHERE model = %s AND market = %s AND plan = %s FOR UPDATE", (model, market, plan)
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # it was there or was just made
    return int(row[0])


async def _select(connection: Connection, rest: LiteralString, *values: object) -> list[PriceVersion]:
    cursor = await connection.execute(f"SELECT {_VERSION} {_FROM} {rest}", values)
    return [_version(row) for row in await cursor.fetchall()]


async def version_by_id(connection: Connection, id_: str) -> PriceVersion | None:
    """One version. A text that is no id names none."""
    found = await _select(connection, "WHERE v.id::text = %s", id_)
    return found[0] if found else None
