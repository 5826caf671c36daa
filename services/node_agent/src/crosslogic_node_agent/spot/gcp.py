"""Google Compute Engine, by its metadata server.

https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption and
https://cloud.google.com/compute/docs/metadata/querying-metadata (waiting for changes)
"""

from datetime import datetime, timedelta
from typing import Final

from crosslogic_node_agent.spot.metadata import MetadataClient
from crosslogic_node_agent.spot.notice import UNREADABLE, MetadataError, NoticeKind, SpotNotice

URL: Final = "http://metadata.google.internal"
PATH: Final = "/computeMetadata/v1/instance/preempted"
WARNING_S: Final = 30.0
WAIT_S: Final = 60
_SLACK_S: Final = 5.0


class GcpSpot:
    """Preemption, told while the question is held open."""

    def __init__(self, client: MetadataClient, *, wait_s: int = WAIT_S) -> None:
        """One question is held open for `wait_s` seconds at most."""
        self._client = client
        self._wait_s = wait_s
        self._etag = ""

    @property
    def pause_s(self) -> float:
        """Nearly none: the question itself waits, once there is a tag to wait with."""
        return 0.05 if self._etag else 1.0

    async def look(self, now: datetime) -> SpotNotice | None:
        """What is known, at once the first time, later as soon as it changes. Raises MetadataError."""
        path, timeout_s = PATH, 2.0
        if self._etag:
            # With the last answer's tag no change falls between two questions.
            path = f"{PATH}?wait_for_change=true&last_etag={self._etag}&timeout_sec={self._wait_s}"
            timeout_s = self._wait_s + _SLACK_S
        etag, self._etag = self._etag, ""
        answer = await self._client.ask("GET", path, headers={"Metadata-Flavor": "Google"}, timeout_s=timeout_s)
        if answer.status != 200 or answer.headers.get("metadata-flavor") != "Google":  # noqa: PLR2004  # HTTP's
            raise MetadataError(f"{PATH} answered {answer.status}")
        given = answer.headers.get("etag", "")
        self._etag = given if given.isalnum() else etag
        word = answer.body.strip()
        if word == b"FALSE":
            return None
        told_at = now if not etag else datetime.now(now.tzinfo)
        if word == b"TRUE":
            return SpotNotice(
                NoticeKind.TERMINATION, "gcp", "preempted", told_at, told_at + timedelta(seconds=WARNING_S)
            )
        return SpotNotice(NoticeKind.RISK, "gcp", UNREADABLE, told_at)

    async def acknowledge(self) -> None:
        """Google waits for nobody."""
