"""What is secret of a route, sealed: a copy of the database shows no address and forges no signature."""

import json

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.seal import Sealer
from crosslogic_orchestrator.notify.domain import Target


class Vault:
    """Seals and opens targets."""

    def __init__(self, sealer: Sealer | None) -> None:
        """None: there is no key, and so no route."""
        self._sealer = sealer

    def seal(self, route_id: str, target: Target) -> bytes:
        """A target, bound to its route. Raises NOT_SUPPORTED without a key."""
        kept = [target.address, target.secret, target.old_secret, target.old_until]
        return self._key().seal(json.dumps(kept).encode(), aad=_bound_to(route_id))

    def open(self, route_id: str, sealed: bytes) -> Target:
        """What was sealed. Raises INVALID_ARGUMENT (another key, another route's), NOT_SUPPORTED."""
        address, secret, old_secret, old_until = json.loads(self._key().open(sealed, aad=_bound_to(route_id)))
        return Target(address=address, secret=secret, old_secret=old_secret, old_until=old_until)

    def _key(self) -> Sealer:
        if self._sealer is None:
            raise CodedError(
                ErrorCode.NOT_SUPPORTED,
                "There are no notifications: the orchestrator has no CROSSLOGIC_NOTIFY_SEAL_KEY.",
            )
        return self._sealer


def _bound_to(route_id: str) -> bytes:
    return f"notify-route:{route_id}".encode()
