"""What is sent reaches the address that was checked and no other, over real sockets; mail by a real conversation."""

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from crosslogic_common.clock import SystemClock
from crosslogic_common.public_addresses import AddressRules, networks
from crosslogic_common.settings import Secret
from crosslogic_orchestrator.notify.domain import Event, Message, Severity, Target
from crosslogic_orchestrator.notify.mailing import MailServer as Server
from crosslogic_orchestrator.notify.ports import Resolve, SendError
from crosslogic_orchestrator.notify.posting import PinnedPoster
from crosslogic_orchestrator.notify.senders import Sending, open_senders
from crosslogic_orchestrator.notify.targets import read_url
from crosslogic_orchestrator.notify.wiring import resolver
from tests.fakes.notify_receiver import OK, answering, receiver
from tests.fakes.notify_route import NOW, ROUTE
from tests.fakes.smtp_server import mail_server
from tests.fakes.test_ca import CertificateMaker

HERE = AddressRules(networks("127.0.0.0/8"))
NOBODY = AddressRules()
EVENT = Event(
    key="k", kind="node_lost", severity=Severity.CRITICAL, org_id="", at=NOW, title="A machine was lost", text="x"
)
MESSAGE = Message(delivery_id="d1", kind="node_lost", severity=Severity.CRITICAL, at=NOW, count=1, events=(EVENT,))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def authority(tmp_path: Path) -> CertificateMaker:
    return CertificateMaker(tmp_path)


def client_context(authority: CertificateMaker) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca_file))


def server_context(authority: CertificateMaker, name: str) -> ssl.SSLContext:
    files = authority.issue(name, uris=[], dns_names=[name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert_file, files.key_file)
    return context


def names(**known: Sequence[str]) -> Resolve:
    """A resolver that knows some names; each time the next of a name's answers, the last again and again."""
    asked: dict[str, list[str]] = {name: list(addresses) for name, addresses in known.items()}

    async def resolve(host: str, port: int) -> Sequence[str]:
        answers = asked[host]
        return (answers.pop(0) if len(answers) > 1 else answers[0]).split()

    return resolve


async def posted(
    url: str, resolve: Resolve, *, rules: AddressRules, context: ssl.SSLContext | None = None, timeout_s: float = 30.0
) -> None:
    poster = PinnedPoster(resolve=resolve, context=context or ssl.create_default_context(), timeout_s=timeout_s)
    await poster.post(read_url(url, operators=True), headers={"x": "y"}, body=b"{}", rules=rules)


async def refused(url: str, resolve: Resolve, *, rules: AddressRules = NOBODY, **kwargs: float) -> SendError:
    with pytest.raises(SendError) as caught:
        await posted(url, resolve, rules=rules, **kwargs)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "127.0.0.1."),
    ],
)
async def test_no_way_of_writing_an_inner_address_reaches_it(host: str, executor: ThreadPoolExecutor) -> None:
    async with receiver() as inner:
        error = await refused(f"http://{host}:{inner.port}/", resolver(executor))
        assert inner.connections == 0
    assert str(error) == "The host has no address that may be reached."


@pytest.mark.parametrize(
    "address",
    [
        *(
            "169.254.169.254",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
        ),
        *(
            "fe80::1%1",
            "224.0.0.1",
            "168.63.129.16",
            "2002:7f00:1::",
            "64:ff9b::a9fe:a9fe",
            "203.0.113.1",
            "not an address",
        ),
    ],
)
async def test_a_name_that_leads_inside_is_refused_before_a_connection(address: str) -> None:
    async with receiver() as inner:
        # Also as one of several, of which another is public.
        for found in (address, f"8.8.8.8 {address}"):
            error = await refused(f"http://evil.example:{inner.port}/", names(**{"evil.example": [found]}))
            assert str(error) == "The host has no address that may be reached."
        assert inner.connections == 0


async def test_a_name_that_changes_after_it_was_checked_changes_nothing() -> None:
    """Rebinding: the first answer is harmless, and the second, which a second look would get, leads inside."""
    async with receiver("127.0.0.2") as harmless, receiver("127.0.0.1") as inner:
        rules = AddressRules(networks("127.0.0.2/32"))
        resolve = names(**{"evil.example": ["127.0.0.2", "127.0.0.1"]})
        await posted(f"http://evil.example:{harmless.port}/", resolve, rules=rules)
        assert harmless.got[0].headers["host"] == f"evil.example:{harmless.port}"
        await refused(f"http://evil.example:{inner.port}/", resolve, rules=rules)
        assert inner.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiver("127.0.0.2") as outer, receiver("127.0.0.1") as inner:
        outer.answers = [answering(status, f"Location: http://127.0.0.1:{inner.port}/")]
        resolve = names(**{"outer.example": ["127.0.0.2"]})
        error = await refused(f"http://outer.example:{outer.port}/", resolve, rules=HERE)
        assert error.for_good
        assert inner.connections == 0


async def test_an_organisations_route_gains_nothing_from_what_operators_allowed_themselves(
    executor: ThreadPoolExecutor,
) -> None:
    sending = Sending(
        resolve=names(**{"inner.example": ["127.0.0.1"]}),
        tenants_resolve=names(**{"inner.example": ["127.0.0.1"]}),
        executor=executor,
        clock=SystemClock(),
        timeout_s=30.0,
        allowed=networks("127.0.0.0/8"),
    )
    sender = open_senders(sending, context=ssl.create_default_context())["webhook"]
    async with receiver() as inner:
        target = Target(address=f"http://inner.example:{inner.port}/")
        await sender.send(MESSAGE, ROUTE, target)
        assert inner.connections == 1
        own = replace(ROUTE, org_id="a")
        with pytest.raises(SendError, match="no address that may be reached"):
            await sender.send(MESSAGE, own, replace(target, address="https://inner.example/"))
        with pytest.raises(ValueError, match="must be an URL"):
            await sender.send(MESSAGE, own, target)
        assert inner.connections == 1


async def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(authority: CertificateMaker) -> None:
    context, resolve = (
        server_context(authority, "hooks.example"),
        names(**{"hooks.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}),
    )
    async with receiver(context=context) as server:
        trusting = client_context(authority)
        await posted(f"https://hooks.example:{server.port}/x", resolve, rules=HERE, context=trusting)
        assert server.got[0].line == "POST /x HTTP/1.1"
        for host, trusted in (("other.example", trusting), ("hooks.example", ssl.create_default_context())):
            with pytest.raises(SendError, match="certificate"):
                await posted(f"https://{host}:{server.port}/x", resolve, rules=HERE, context=trusted)
        assert len(server.got) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answering(500), "answered 500"),
        (answering(404), "answered 404"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 50, "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000, "no HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 \xb2\xb2\xb2 x\r\n\r\n", "no HTTP"),
        (b"", "no HTTP"),
    ],
)
async def test_what_a_receiver_answers_instead_is_an_error_and_no_more(answer: bytes, words: str) -> None:
    async with receiver() as server:
        server.answers = [answer]
        error = await refused(f"http://x.example:{server.port}/", names(**{"x.example": ["127.0.0.1"]}), rules=HERE)
    assert words in str(error)
    assert not error.for_good


async def test_a_receiver_that_hangs_costs_its_time_limit_and_one_that_asks_for_time_gets_it() -> None:
    resolve = names(**{"x.example": ["127.0.0.1"]})
    async with receiver() as server:
        server.answer_when = asyncio.Event()
        error = await refused(f"http://x.example:{server.port}/", resolve, rules=HERE, timeout_s=0.3)
        assert "did not answer" in str(error)
        server.answer_when = None
        server.answers = [
            answering(429, "Retry-After: 120"),
            answering(503, "Retry-After: Fri, 20 Nov 2026"),
            answering(410),
        ]
        url = f"http://x.example:{server.port}/"
        errors = [await refused(url, resolve, rules=HERE) for _ in range(3)]
    assert [each.retry_after_s for each in errors] == [120.0, None, None]
    assert [each.for_good for each in errors] == [False, False, True]


async def test_an_answer_after_hints_and_a_second_address_are_found() -> None:
    async with receiver() as server:
        server.answers = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK]
        # Nobody listens at the first address.
        resolve = names(**{"x.example": ["127.0.0.3 127.0.0.1"]})
        await posted(f"http://x.example:{server.port}/", resolve, rules=HERE)
    assert len(server.got) == 1


async def test_a_receiver_that_is_not_there_is_an_error() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        error = await refused(f"http://x.example:{port}/", names(**{"x.example": ["127.0.0.1"]}), rules=HERE)
    assert str(error) == "The connection to the receiver failed."


# Mail


def mailing(port: int, *, security: str = "starttls", user: str = "", password: str = "") -> Server:
    return Server(
        host="localhost",
        port=port,
        security=security,  # type: ignore[arg-type]
        sender="ops@example.com",
        user=user,
        password=Secret(password),
    )


async def sent_by_mail(
    server: Server, executor: ThreadPoolExecutor, context: ssl.SSLContext, *, to: str = "a@example.com"
) -> None:
    sending = Sending(
        resolve=resolver(executor),
        tenants_resolve=resolver(executor),
        executor=executor,
        clock=SystemClock(),
        timeout_s=20.0,
        mail=server,
    )
    await open_senders(sending, context=context)["email"].send(MESSAGE, ROUTE, Target(address=to))


async def test_mail_goes_over_tls_after_a_login(authority: CertificateMaker, executor: ThreadPoolExecutor) -> None:
    async with mail_server(server_context(authority, "localhost")) as server:
        server.users = {"ops": "secret"}
        context = client_context(authority)
        await sent_by_mail(mailing(server.port, user="ops", password="secret"), executor, context)
        (mail,) = server.mails
        assert (mail.sender, mail.recipients, mail.user, mail.secure) == (
            "ops@example.com",
            ("a@example.com",),
            "ops",
            True,
        )
        assert mail.message["Message-ID"] == "<d1@crosslogic.invalid>"
        assert "A machine was lost" in mail.message["Subject"]
        with pytest.raises(SendError, match="answered 535"):
            await sent_by_mail(mailing(server.port, user="ops", password="wrong"), executor, context)


async def test_no_mail_goes_to_a_server_without_tls_or_with_a_strangers_certificate(
    authority: CertificateMaker, executor: ThreadPoolExecutor
) -> None:
    async with mail_server() as bare, mail_server(server_context(authority, "localhost")) as strange:
        for port, context in ((bare.port, client_context(authority)), (strange.port, ssl.create_default_context())):
            with pytest.raises(SendError, match="could not be reached"):
                await sent_by_mail(mailing(port, user="ops", password="secret"), executor, context)
        assert bare.mails == strange.mails == []


async def test_a_recipient_who_is_refused_for_good_is_given_up_and_another_is_tried_again(
    authority: CertificateMaker, executor: ThreadPoolExecutor
) -> None:
    async with mail_server(server_context(authority, "localhost")) as server:
        server.refused = {"gone@example.com": 550, "full@example.com": 452}
        for to, for_good in (("gone@example.com", True), ("full@example.com", False)):
            with pytest.raises(SendError, match="refused the recipient") as caught:
                await sent_by_mail(mailing(server.port), executor, client_context(authority), to=to)
            assert caught.value.for_good is for_good
