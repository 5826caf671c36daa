"""From the ledger's rows to windows, pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from crosslogic_billing.rating.policy import window_of
from crosslogic_billing.usage.domain import Bucket, UsageRow


def cost_of(row: UsageRow) -> int:
    """What a row's counts come to at its prices, in pico-dollars."""
    if not row.charged:
        return 0
    return (
        (row.prompt_tokens - row.cached_prompt_tokens) * row.prompt_price
        + row.cached_prompt_tokens * row.cached_prompt_price
        + row.completion_tokens * row.completion_price
    )


def buckets(
    rows: Iterable[UsageRow], categories: Mapping[str, str], default_category: str, window_s: int
) -> dict[Bucket, int]:
    """Tokens by window and price, reversals taken off. `categories` are those of price versions, by id."""
    counted: dict[Bucket, int] = {}
    for row in rows:
        if not row.charged:
            continue
        window = window_of(row.start_time, window_s)
        category = categories.get(row.price_version, default_category)
        for tokens, price in (
            (row.prompt_tokens - row.cached_prompt_tokens, row.prompt_price),
            (row.cached_prompt_tokens, row.cached_prompt_price),
            (row.completion_tokens, row.completion_price),
        ):
            if tokens:
                bucket = Bucket(row.org_id, window, row.model, category, price)
                counted[bucket] = counted.get(bucket, 0) + tokens * row.sign
    return {bucket: tokens for bucket, tokens in counted.items() if tokens}


def uncharged(rows: Iterable[UsageRow], window_s: int) -> dict[tuple[str, datetime], int]:
    """Tokens of requests that cost nothing, by organisation and window, reversals taken off."""
    counted: dict[tuple[str, datetime], int] = {}
    for row in rows:
        if not row.charged:
            key = (row.org_id, window_of(row.start_time, window_s))
            counted[key] = counted.get(key, 0) + (row.prompt_tokens + row.completion_tokens) * row.sign
    return {key: tokens for key, tokens in counted.items() if tokens}
