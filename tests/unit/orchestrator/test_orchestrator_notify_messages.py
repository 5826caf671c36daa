"""What receivers get: what strangers wrote commands nothing, and a signature is verified as the specification says."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic_orchestrator.notify import payloads
from crosslogic_orchestrator.notify.domain import Event, Message, Severity, Target
from crosslogic_orchestrator.notify.signing import headers_of, key_of, new_secret
from crosslogic_orchestrator.notify.targets import read_url, shown

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def message(*texts: str, title: str = "Something", count: int = 0) -> Message:
    events = tuple(
        Event(key=f"k{n}", kind="node_lost", severity=Severity.CRITICAL, org_id="", at=NOW, title=title, text=text)
        for n, text in enumerate(texts)
    )
    return Message(
        delivery_id="018f4e5c-0000-7000-8000-000000000001",
        kind="node_lost",
        severity=Severity.CRITICAL,
        at=NOW,
        count=count or len(events),
        events=events,
    )


def test_a_budgets_name_mentions_nobody_and_links_nowhere() -> None:
    hostile = message("<!channel> <https://evil.example|invoice> @everyone [pay](https://evil.example) *b*")
    slack = json.loads(payloads.slack_body(hostile))["text"]
    assert "<" not in slack
    discord = json.loads(payloads.discord_body(hostile))
    assert discord["allowed_mentions"] == {"parse": []}
    assert "](" not in discord["content"].replace("\\]\\(", "")
    assert "https://" not in discord["content"], "Discord makes a link of a bare address"


def test_a_mails_headers_are_not_broken_by_what_an_event_says() -> None:
    made = payloads.mail(
        message("text\r\nBcc: x@evil.example", title="lost\r\nBcc: x@evil.example\r\n\r\nbody"),
        sender="ops@example.com",
        to="a@example.com",
    )
    raw = made.as_bytes()
    head, _, body = raw.partition(b"\n\n")
    assert b"\nBcc" not in head
    assert b"\nBcc" not in body
    assert made["Message-ID"] == "<018f4e5c-0000-7000-8000-000000000001@crosslogic.invalid>"


def test_a_flood_is_one_message_with_a_count_that_every_channel_takes() -> None:
    flood = message(*("x" * 2_000,) * 20, count=5_000)
    assert "5000 times" in payloads.title(flood)
    assert payloads.lines_of(flood)[-1] == "and 4980 more"
    assert len(json.loads(payloads.slack_body(flood))["text"]) <= 3_100
    assert len(json.loads(payloads.discord_body(flood))["content"]) <= 2_000
    data = json.loads(payloads.webhook_body(flood))["data"]
    assert (data["count"], len(data["events"])) == (5_000, 20)


@settings(deadline=None, derandomize=True)
@given(st.text(), st.text())
def test_no_text_whatever_breaks_a_message(title: str, text: str) -> None:
    hostile = message(text, title=title)
    for body in (payloads.webhook_body(hostile), payloads.slack_body(hostile), payloads.discord_body(hostile)):
        json.loads(body)
    payloads.mail(hostile, sender="ops@example.com", to="a@example.com").as_bytes()
    assert "\n" not in payloads.title(hostile)


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As a receiver does it who reads the specification and not our code."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(wanted, each) for each in headers["webhook-signature"].split(" "))


def test_a_receiver_verifies_what_we_sign_and_nothing_else() -> None:
    secret, body = new_secret(), payloads.webhook_body(message("gone"))
    headers = headers_of(Target(address="", secret=secret), message_id="msg", body=body, now_s=1_800_000_000.9)
    assert headers["webhook-timestamp"] == "1800000000"
    assert verified(headers, body, secret)
    assert not verified(headers, body + b" ", secret)
    assert not verified(headers | {"webhook-id": "other"}, body, secret)
    assert not verified(headers | {"webhook-timestamp": "1800000001"}, body, secret)
    assert not verified(headers, body, new_secret())


def test_the_specifications_own_example_comes_out_as_it_says() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = headers_of(
        Target(address="", secret=secret), message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", body=body, now_s=1614265330
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_both_secrets_sign_for_a_day_after_a_change() -> None:
    old, new = new_secret(), new_secret()
    target = Target(address="", secret=new, old_secret=old, old_until=2_000.0)
    during = headers_of(target, message_id="m", body=b"{}", now_s=1_999.0)
    assert verified(during, b"{}", old)
    assert verified(during, b"{}", new)
    after = headers_of(target, message_id="m", body=b"{}", now_s=2_000.0)
    assert not verified(after, b"{}", old)
    assert verified(after, b"{}", new)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_AAAA", "whsec_" + "A" * 1_000, "secret", "whsec_ä", "A" * 44])
def test_a_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        key_of(secret)


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "https://example.com:8443/", "https://example.com:0/", "ftp://example.com/", ""),
        *(
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https://example.com@127.0.0.1/",
            "https:///x",
        ),
        *("https://exa mple.com/", "https://example.com\\@127.0.0.1/", "https://exämple.com/", "https://[::1", "//x"),
        *("https://[fe80::1%25eth0]/", "https://example.com/\r\nHost: inside", "https://example.com:99999/"),
        "https://example.com/" + "x" * 2_048,
    ],
)
def test_an_organisations_url_is_https_at_its_own_port_and_nothing_clever(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|is no URL"):
        read_url(url, operators=False)


def test_an_url_leads_where_it_says() -> None:
    where = read_url("https://Hooks.Example.com/services/T0/B0?x=1#fragment", operators=False)
    assert (where.host, where.port, where.path) == ("hooks.example.com", 443, "/services/T0/B0?x=1")
    assert where.authority == "hooks.example.com"
    own = read_url("http://[fd00::1]:8080", operators=True)
    assert (own.host, own.port, own.path, own.authority) == ("fd00::1", 8080, "/", "[fd00::1]:8080")


@pytest.mark.parametrize(
    "address",
    ["a@b", "A.b+c@example.com"],
)
def test_an_address_of_mail_is_taken(address: str) -> None:
    assert shown("email", address, operators=False) == address


@pytest.mark.parametrize(
    "address",
    ["", "a", "a@", "@b", "a@b\r\nBcc: c@d", "a b@c", "a@b,c@d", "<a@b>", '"a b"@c', "a@-b", "ä@b", "a@" + "b" * 300],
)
def test_what_is_no_address_of_mail_is_refused(address: Any) -> None:
    with pytest.raises(ValueError, match="address of mail"):
        shown("email", address, operators=False)


def test_of_an_url_only_its_host_is_shown() -> None:
    assert shown("slack", "https://hooks.slack.com/services/T0/B0/secret", operators=False) == "hooks.slack.com"
