"""AccountEventService over gRPC."""

from typing import Any

import grpc.aio

from crosslogic.billing.v1 import account_events_pb2 as pb
from crosslogic.billing.v1 import account_events_pb2_grpc as rpc
from crosslogic_billing.account_events.store import PostgresAccountEvents
from crosslogic_common.clock import timestamp
from crosslogic_common.paging import page_limit

Context = grpc.aio.ServicerContext[Any, Any]
_MAX_SEQUENCE = 2**63 - 1


class AccountEventServicer(rpc.AccountEventServiceServicer):
    """AccountEventService."""

    def __init__(self, events: PostgresAccountEvents) -> None:
        self._events = events

    async def ListAccountEvents(
        self, request: pb.ListAccountEventsRequest, context: Context
    ) -> pb.ListAccountEventsResponse:
        after = min(request.after_sequence, _MAX_SEQUENCE)
        found = await self._events.after(after, page_limit(request.page_size))
        return pb.ListAccountEventsResponse(
            events=[
                pb.AccountEvent(
                    sequence=event.sequence,
                    kind=event.kind,
                    org_id=event.org_id,
                    subject=event.subject,
                    event_time=timestamp(event.event_time),
                    text=event.text,
                )
                for event in found
            ]
        )
