"""What the other services know that scaling asks for: capacity that was sold, and the ledger's hours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import accountant_pb2 as ledger
from crosslogic.accountant.v1 import accountant_pb2_grpc as ledger_rpc
from crosslogic.identity.v1 import identity_pb2 as identity
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels
from crosslogic_orchestrator.scaling.forecast import DAYS, Hour, Pattern, pattern_of

_TIMEOUT_S = 10.0
_PAGE = 1_000
_MAX_PAGES = 100


@dataclass(frozen=True, slots=True)
class Sold:
    """Capacity units sold: tokens per second that are promised."""

    by_place: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By model and region; region empty: wherever."""

    def of(self, model: str, region: str) -> float:
        """What a deployment must keep. What was sold without a region counts everywhere: better too much."""
        if not region:
            return sum(units for (name, _), units in self.by_place.items() if name == model)
        return self.by_place.get((model, region), 0.0) + self.by_place.get((model, ""), 0.0)


class NeighbourSources:
    """Asks identity and the accountant. Every method raises UNAVAILABLE while they are away."""

    def __init__(self, *, channels: Channels, identity_target: str, accountant_target: str) -> None:
        """Targets are host:port; empty: what they know is not asked for."""
        self._channels = channels
        self._identity = identity_target
        self._accountant = accountant_target

    async def sold(self) -> Sold:
        """What organisations reserved, those that are suspended not counted."""
        found: dict[tuple[str, str], float] = {}
        if not self._identity:
            return Sold(found)
        stub: identity_rpc.IdentityServiceAsyncStub = identity_rpc.IdentityServiceStub(
            self._channels.service("identity", self._identity)
        )
        token = ""
        try:
            for _ in range(_MAX_PAGES):
                request = identity.ListOrgsRequest(page_size=_PAGE, page_token=token)
                page = await stub.ListOrgs(request, timeout=_TIMEOUT_S)
                for org in page.orgs:
                    if org.status == identity.STATUS_SUSPENDED:
                        continue
                    region = org.allowed_regions[0] if org.allowed_regions else ""
                    for reserved in org.reserved_capacity:
                        key = (reserved.model, region)
                        found[key] = found.get(key, 0.0) + reserved.capacity_units
                token = page.next_page_token
                if not token:
                    break
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return Sold(found)

    async def pattern(self, model: str, region: str, *, now: datetime) -> Pattern:
        """The usual load of each hour."""
        if not self._accountant:
            return Pattern()
        stub: ledger_rpc.AccountantServiceAsyncStub = ledger_rpc.AccountantServiceStub(
            self._channels.service("accountant", self._accountant)
        )
        request = ledger.QueryUsageRequest(
            filter=ledger.UsageFilter(
                model=model, region=region, from_time=timestamp(now - timedelta(days=DAYS)), to_time=timestamp(now)
            ),
            group_by=[ledger.GROUP_BY_HOUR],
            page_size=_PAGE,
        )
        try:
            answer = await stub.QueryUsage(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        hours = [
            Hour(start, row.requests, row.completion_tokens)
            for row in answer.rows
            if (start := _moment(row.time)) is not None
        ]
        return pattern_of(hours, now=now)


def _moment(stamp: Timestamp) -> datetime | None:
    """None: it is no time of any year."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
