"""Watching for abuse, put together."""

import contextlib
from collections.abc import AsyncIterator

from crosslogic_common.tls import Channels
from crosslogic_gateway.abuse.policy import AbusePolicy
from crosslogic_gateway.abuse.suspension import IdentitySuspends
from crosslogic_gateway.abuse.watch import AbuseWatch
from crosslogic_gateway.settings import GatewaySettings


@contextlib.asynccontextmanager
async def watching_abuse(settings: GatewaySettings, channels: Channels) -> AsyncIterator[AbuseWatch]:
    """Watches for as long as the block lasts; then waits for suspensions under way."""
    policy = AbusePolicy(
        invalid_requests=settings.abuse_invalid_requests,
        invalid_share=settings.abuse_invalid_share,
        velocity=settings.abuse_velocity,
    )
    watch = AbuseWatch(policy=policy, suspends=IdentitySuspends(channels=channels, target=settings.identity_target))
    yield watch
    await watch.drain()
