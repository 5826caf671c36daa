"""A message as each channel wants it. What stands in events was written by anybody: it commands nothing."""

import json
import re
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from crosslogic_common.clock import Clock
from crosslogic_orchestrator.notify.domain import Event, Message, Severity

SHOWN_EVENTS = 20
"""More of one message are counted only."""
_MAX_LINE = 300
_MAX_SLACK = 3_000
_MAX_DISCORD = 1_900
_MAX_SUBJECT = 150
_SIGNS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "CRITICAL"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~@&:])")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def webhook_body(message: Message) -> bytes:
    """JSON for programs: the same bytes for every attempt."""
    body = {
        "type": message.kind,
        "timestamp": message.at.isoformat(),
        "data": {
            "delivery_id": message.delivery_id,
            "severity": message.severity.name.lower(),
            "count": message.count,
            "events": [_event(event) for event in message.events],
        },
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def slack_body(message: Message) -> bytes:
    """For Slack's incoming webhooks, and what understands the same. Nothing in it is a mention or a link."""
    lines = [f"*{_slack(title(message))}*", *(_slack(line) for line in lines_of(message))]
    return json.dumps({"text": _cut(lines, _MAX_SLACK), "unfurl_links": False, "unfurl_media": False}).encode()


def discord_body(message: Message) -> bytes:
    """For Discord's webhooks. Nothing in it mentions anybody."""
    lines = [f"**{_discord(title(message))}**", *(_discord(line) for line in lines_of(message))]
    return json.dumps({"content": _cut(lines, _MAX_DISCORD), "allowed_mentions": {"parse": []}}).encode()


def mail(message: Message, *, sender: str, to: str) -> EmailMessage:
    """Plain text. The delivery's id is the mail's: who gets it twice can tell."""
    made = EmailMessage()
    made["From"] = sender
    made["To"] = to
    made["Subject"] = title(message)[:_MAX_SUBJECT]
    made["Date"] = format_datetime(message.at)
    made["Message-ID"] = f"<{message.delivery_id}@crosslogic.invalid>"
    # Absences and lists must not answer (RFC 3834).
    made["Auto-Submitted"] = "auto-generated"
    made.set_content("\n".join([title(message), "", *lines_of(message)]) + "\n", cte="quoted-printable")
    return made


def title(message: Message) -> str:
    """One line."""
    first = message.events[0].title if message.events else message.kind
    times = f" ({message.count} times)" if message.count > 1 else ""
    return _plain(f"[{_SIGNS[message.severity]}] {first}{times}")


def lines_of(message: Message) -> list[str]:
    """What happened, a line each."""
    lines = [_plain(f"{event.at:%Y-%m-%d %H:%M:%S} UTC: {event.text}") for event in message.events]
    rest = message.count - len(message.events)
    return [*lines, f"and {rest} more"] if rest > 0 else lines


def test_message(delivery_id: str, *, org_id: str, clock: Clock) -> Message:
    """Tells that a route works."""
    now = clock.now()
    event = Event(
        key=f"test:{delivery_id}",
        kind="test",
        severity=Severity.INFO,
        org_id=org_id,
        at=now,
        title="A test of notifications",
        text="This route works.",
    )
    return Message(delivery_id=delivery_id, kind="test", severity=Severity.INFO, at=now, count=1, events=(event,))


def _event(event: Event) -> dict[str, Any]:
    return {
        "key": event.key,
        "kind": event.kind,
        "severity": event.severity.name.lower(),
        "org_id": event.org_id or None,
        "time": event.at.isoformat(),
        "title": event.title,
        "text": event.text,
        "details": dict(event.details),
    }


def _plain(text: str) -> str:
    """Without line ends and what turns the direction of writing."""
    line = _UNSEEN.sub(" ", text).encode("utf-8", "replace").decode()
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _discord(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _cut(lines: list[str], most: int) -> str:
    """As many lines as there is room for."""
    kept: list[str] = []
    room = most
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return "\n".join([*kept, "…"])
        kept.append(line)
    return "\n".join(kept)
