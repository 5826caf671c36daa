"""Mail by the operators' mail server."""

import asyncio
import smtplib
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Literal

from crosslogic_common.settings import Secret
from crosslogic_orchestrator.notify.domain import Message, Route, Target
from crosslogic_orchestrator.notify.payloads import mail
from crosslogic_orchestrator.notify.ports import SendError

Security = Literal["starttls", "tls", "none"]
_PERMANENT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """How mail is handed over."""

    host: str
    port: int
    security: Security
    """`none` is for a server on this machine: mail and password would be read on the way."""
    sender: str
    user: str = ""
    """Empty: no login."""
    password: Secret


class MailSender:
    """See ports.Sender. One connection a mail: there are few, and a server that went away is noticed."""

    def __init__(
        self, server: MailServer, *, context: Callable[[], ssl.SSLContext], executor: Executor, timeout_s: float
    ) -> None:
        """`context` checks the server's certificate; `timeout_s` is for each step of the conversation."""
        self._server = server
        self._context = context
        self._executor = executor
        self._timeout_s = timeout_s

    async def send(self, message: Message, route: Route, target: Target) -> None:  # noqa: ARG002  # as the port has it
        """See ports.Sender."""
        made = mail(message, sender=self._server.sender, to=target.address)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                await loop.run_in_executor(self._executor, self._hand_over, made)
        except TimeoutError:
            raise SendError("The mail server did not answer in time.") from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            refused = bool(codes) and min(codes) >= _PERMANENT
            raise SendError("The mail server refused the recipient.", for_good=refused) from None
        except smtplib.SMTPResponseException as error:
            raise SendError(f"The mail server answered {error.smtp_code}.") from None
        except (smtplib.SMTPException, OSError):
            raise SendError("The mail server could not be reached.") from None

    def _hand_over(self, made: EmailMessage) -> None:
        server = self._server
        if server.security == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=self._timeout_s, context=self._context()
            )
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=self._timeout_s)
        with client:
            if server.security == "starttls":
                client.starttls(context=self._context())
            if server.user:
                client.login(server.user, server.password.reveal())
            client.send_message(made)
