"""Microsoft Azure, by Scheduled Events.

https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events and
https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service (the machine's own name)
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from crosslogic_node_agent.spot.metadata import MetadataClient, plain_token
from crosslogic_node_agent.spot.notice import UNREADABLE, MetadataError, NoticeKind, SpotNotice, short_action, within

URL: Final = "http://169.254.169.254"
PATH: Final = "/metadata/scheduledevents?api-version=2020-07-01"
NAME_PATH: Final = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
WARNING_S: Final = 30.0
FIRST_ANSWER_S: Final = 130.0
"""The first question turns the service on, which may take two minutes."""
_HEADERS: Final = {"Metadata": "true"}
_TAKES_THE_MACHINE: Final = frozenset({"Preempt", "Terminate"})


class AzureSpot:
    """Preemption of this machine, acknowledged once the node has left, so that Azure need not wait."""

    pause_s = 1.0

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._name = ""
        self._answered = False
        self._event_ids: tuple[str, ...] = ()

    async def look(self, now: datetime) -> SpotNotice | None:
        """What is known now. Raises MetadataError."""
        if not self._name:
            self._name = await self._own_name()
        answer = await self._client.ask(
            "GET", PATH, headers=_HEADERS, timeout_s=2.0 if self._answered else FIRST_ANSWER_S
        )
        if answer.status != 200:  # noqa: PLR2004  # HTTP's own number
            raise MetadataError(f"{PATH} answered {answer.status}")
        self._answered = True
        document = answer.json()
        events = document.get("Events") if isinstance(document, dict) else None
        if not isinstance(events, list):
            return SpotNotice(NoticeKind.RISK, "azure", UNREADABLE, now)
        mine = [event for event in events if isinstance(event, dict) and self._takes_this(event)]
        self._event_ids = tuple(event["EventId"] for event in mine if isinstance(event.get("EventId"), str))
        if not mine:
            return None
        deadline = min((within(now, _not_before(event), assumed_s=WARNING_S) for event in mine), default=now)
        return SpotNotice(NoticeKind.TERMINATION, "azure", short_action(mine[0].get("EventType")), now, deadline)

    async def acknowledge(self) -> None:
        """Lets Azure start the events now. Raises MetadataError."""
        if not self._event_ids:
            return
        body = msgspec.json.encode({"StartRequests": [{"EventId": event_id} for event_id in self._event_ids]})
        answer = await self._client.ask(
            "POST", PATH, headers={**_HEADERS, "Content-Type": "application/json"}, body=body
        )
        if not 200 <= answer.status < 300:  # noqa: PLR2004  # HTTP's own numbers
            raise MetadataError(f"{PATH} answered {answer.status} to the acknowledgement")

    def _takes_this(self, event: dict[str, Any]) -> bool:
        resources = event.get("Resources")
        return (
            event.get("EventType") in _TAKES_THE_MACHINE
            and event.get("EventStatus") in ("Scheduled", "Started")
            and isinstance(resources, list)
            # A scale set's events name its other machines too.
            and self._name in resources
        )

    async def _own_name(self) -> str:
        answer = await self._client.ask("GET", NAME_PATH, headers=_HEADERS, timeout_s=5.0)
        if answer.status != 200:  # noqa: PLR2004  # HTTP's own number
            raise MetadataError(f"{NAME_PATH} answered {answer.status}")
        return plain_token(answer)


def _not_before(event: dict[str, Any]) -> datetime | None:
    """`Mon, 19 Sep 2016 18:29:47 GMT`; empty once the event has started."""
    text = event.get("NotBefore")
    if event.get("EventStatus") == "Started":
        return datetime.fromtimestamp(0, UTC)
    if not isinstance(text, str) or not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
