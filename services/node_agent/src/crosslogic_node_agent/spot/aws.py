"""Amazon EC2, by the instance metadata service's version 2.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html and
.../rebalance-recommendations.html
"""

from datetime import datetime
from typing import Final

from crosslogic_node_agent.spot.metadata import MetadataClient, plain_token
from crosslogic_node_agent.spot.notice import (
    UNREADABLE,
    MetadataError,
    NoticeKind,
    SpotNotice,
    parse_time,
    short_action,
    within,
)

URL: Final = "http://169.254.169.254"
TOKEN_PATH: Final = "/latest/api/token"  # noqa: S105  # a path
ACTION_PATH: Final = "/latest/meta-data/spot/instance-action"
REBALANCE_PATH: Final = "/latest/meta-data/events/recommendations/rebalance"
TOKEN_TTL_S: Final = 21_600
WARNING_S: Final = 120.0
"""How long before the end the notice comes, at best."""


class AwsSpot:
    """The interruption notice, and the rebalance recommendation as a hint."""

    pause_s = 0.5
    """AWS advises 5 s, of 120: the two questions stay on the machine, and a stale answer costs requests."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._token = ""

    async def look(self, now: datetime) -> SpotNotice | None:
        """What is known now. Raises MetadataError."""
        status, body = await self._get(ACTION_PATH)
        if status == 200:  # noqa: PLR2004  # HTTP's own number
            return _interruption(body, now)
        status, body = await self._get(REBALANCE_PATH)
        if status == 200:  # noqa: PLR2004  # as above
            return SpotNotice(NoticeKind.RISK, "aws", "rebalance", now)
        return None

    async def acknowledge(self) -> None:
        """AWS waits for nobody."""

    async def _get(self, path: str) -> tuple[int, object]:
        """Status (200 or 404) and body of a question; the token is asked for when there is none or it has ended."""
        for fresh in (False, True):
            if fresh or not self._token:
                await self._ask_token()
            answer = await self._client.ask("GET", path, headers={"X-aws-ec2-metadata-token": self._token})
            if answer.status in (200, 404):
                return answer.status, answer.json()
            if answer.status != 401:  # noqa: PLR2004  # the token has ended
                break
        raise MetadataError(f"{path} answered {answer.status}")

    async def _ask_token(self) -> None:
        answer = await self._client.ask(
            "PUT", TOKEN_PATH, headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        )
        if answer.status != 200:  # noqa: PLR2004  # HTTP's own number
            raise MetadataError(f"{TOKEN_PATH} answered {answer.status}")
        self._token = plain_token(answer)


def _interruption(body: object, now: datetime) -> SpotNotice:
    action = body.get("action") if isinstance(body, dict) else None
    if action not in ("terminate", "stop", "hibernate"):
        # Something is announced: whatever it is, nothing new comes here.
        return SpotNotice(NoticeKind.RISK, "aws", UNREADABLE, now)
    deadline = now if action == "hibernate" else parse_time(body.get("time")) if isinstance(body, dict) else None
    return SpotNotice(
        NoticeKind.TERMINATION, "aws", short_action(action), now, within(now, deadline, assumed_s=WARNING_S)
    )
