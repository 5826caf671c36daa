"""A sender for each channel."""

import ssl
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from crosslogic_common.clock import Clock
from crosslogic_common.public_addresses import AddressRules, Network
from crosslogic_orchestrator.notify import payloads
from crosslogic_orchestrator.notify.domain import Channel, Message, Route, Target
from crosslogic_orchestrator.notify.mailing import MailSender, MailServer
from crosslogic_orchestrator.notify.ports import Resolve, Sender
from crosslogic_orchestrator.notify.posting import PinnedPoster
from crosslogic_orchestrator.notify.signing import headers_of
from crosslogic_orchestrator.notify.targets import read_url

_JSON = "application/json; charset=utf-8"


class HttpSender:
    """See ports.Sender: Slack, Discord and signed webhooks."""

    def __init__(
        self,
        channel: Channel,
        operators: PinnedPoster,
        tenants: PinnedPoster,
        *,
        allowed: tuple[Network, ...],
        clock: Clock,
    ) -> None:
        """`allowed` are networks that are not public and that operators' routes may lead to."""
        self._channel = channel
        self._operators = operators
        self._tenants = tenants
        self._allowed = allowed
        self._clock = clock

    async def send(self, message: Message, route: Route, target: Target) -> None:
        """See ports.Sender."""
        headers = {"Content-Type": _JSON}
        if self._channel == "slack":
            body = payloads.slack_body(message)
        elif self._channel == "discord":
            body = payloads.discord_body(message)
        else:
            body = payloads.webhook_body(message)
            now_s = self._clock.now().timestamp()
            headers |= headers_of(target, message_id=message.delivery_id, body=body, now_s=now_s)
        operators = not route.org_id
        # An organisation's target never gains from what operators allowed themselves.
        rules = AddressRules(self._allowed if operators else ())
        where = read_url(target.address, operators=operators)
        poster = self._operators if operators else self._tenants
        await poster.post(where, headers=headers, body=body, rules=rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How messages leave."""

    resolve: Resolve
    tenants_resolve: Resolve
    """For organisations' routes: names that nobody answers for keep a thread for long."""
    executor: Executor
    """Runs what blocks: mail."""
    clock: Clock
    timeout_s: float
    """Of an attempt."""
    allowed: tuple[Network, ...] = ()
    mail: MailServer | None = None
    """None: there is no mail."""


def open_senders(sending: Sending, *, context: ssl.SSLContext) -> Mapping[Channel, Sender]:
    """A sender for each channel that there is."""
    posters = tuple(
        PinnedPoster(resolve=resolve, context=context, timeout_s=sending.timeout_s)
        for resolve in (sending.resolve, sending.tenants_resolve)
    )
    http: tuple[Channel, ...] = ("slack", "discord", "webhook")
    senders: dict[Channel, Sender] = {
        channel: HttpSender(channel, *posters, allowed=sending.allowed, clock=sending.clock) for channel in http
    }
    if sending.mail is not None:
        senders["email"] = MailSender(
            sending.mail, context=lambda: context, executor=sending.executor, timeout_s=sending.timeout_s
        )
    return senders
