"""The registry, which knows every node's price and hours."""

from datetime import UTC, datetime

import grpc.aio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_billing.views.domain import Machine
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels

_TIMEOUT_S = 10.0
_PAGE = 1_000
_MAX_PAGES = 1_000


class RegistryNodes:
    """Reads the registry over gRPC."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of the registry."""
        self._channels = channels
        self._target = target

    async def machines(self, since: datetime | None) -> list[Machine]:
        """Machines that had not ended before `since` (None: all). Raises UNAVAILABLE, TIMEOUT."""
        stub = rpc.RegistryServiceStub(self._channels.service("registry", self._target))
        request = pb.ListNodeLivesRequest(page_size=_PAGE)
        if since is not None:
            request.since_time.FromDatetime(since)
        found: list[Machine] = []
        for _ in range(_MAX_PAGES):
            try:
                page = await stub.ListNodeLives(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            # A node that has only joined has not said yet what it is.
            found.extend(_machine(life) for life in page.lives if life.facts.region)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return found


def _machine(life: pb.NodeLife) -> Machine:
    facts = life.facts
    return Machine(
        node_id=life.node_id,
        region=facts.region,
        gpu_type=facts.gpu_type,
        gpu_count=facts.gpu_count,
        spot=facts.spot,
        hourly_picodollars=facts.hourly_price_picodollars,
        models=tuple(facts.models),
        begins=life.start_time.ToDatetime(tzinfo=UTC),
        ends=life.end_time.ToDatetime(tzinfo=UTC) if life.HasField("end_time") else None,
    )
