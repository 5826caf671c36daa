"""Puts idempotency together for one worker."""

import base64
import hashlib
import hmac

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from crosslogic_common.clock import Clock
from crosslogic_common.seal import Sealer
from crosslogic_common.settings import Secret
from crosslogic_gateway.idempotency.answers import Idempotency, IdempotencyLimits
from crosslogic_gateway.idempotency.store import RedisAnswers, StoreLimits


def derived_key(seal_key: Secret, purpose: str) -> bytes:
    """32 bytes for one purpose from the key of the settings, so that no key serves two (NIST SP 800-108, by HMAC)."""
    return hmac.new(
        base64.b64decode(seal_key.reveal().strip()), f"crosslogic {purpose}".encode(), hashlib.sha256
    ).digest()


def open_answers(redis: Redis, *, seal_key: Secret, clock: Clock, keep_s: float) -> RedisAnswers:
    """The store of first answers, for `keep_s` seconds each."""
    sealer = Sealer(derived_key(seal_key, "idempotency answers"))
    return RedisAnswers(redis, sealer=sealer, clock=clock, limits=StoreLimits(keep_s=keep_s))


def make_idempotency(
    store: RedisAnswers, *, seal_key: Secret, limits: IdempotencyLimits, registry: CollectorRegistry
) -> Idempotency:
    """Idempotency over `store`."""
    names = derived_key(seal_key, "idempotency names")
    return Idempotency(store=store, secret=names, limits=limits, registry=registry)
