"""A mail server on a real socket: STARTTLS, login and mail, as RFC 5321, 3207 and 4954 want it of one message."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message


@dataclass(frozen=True, slots=True)
class Mail:
    """One that was taken."""

    sender: str
    recipients: tuple[str, ...]
    user: str
    """Who had logged in; empty: nobody."""
    secure: bool
    message: Message


@dataclass(slots=True)
class MailServer:
    """What came, and who may send."""

    context: ssl.SSLContext | None
    """None: STARTTLS is not offered."""
    users: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """Recipients that are refused, with the code."""
    port: int = 0
    mails: list[Mail] = field(default_factory=list)
    hangs: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        talk = _Talk(self, reader, writer)
        try:
            if self.hangs:
                await reader.read()
                return
            await talk.say("220 mail.test ESMTP")
            while await talk.step():
                pass
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


class _Talk:
    """One conversation."""

    def __init__(self, server: MailServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._user = ""
        self._secure = False
        self._sender = ""
        self._recipients: list[str] = []

    async def say(self, text: str) -> bool:
        """A line; True: it goes on."""
        self._writer.write(text.encode() + b"\r\n")
        await self._writer.drain()
        return True

    async def step(self) -> bool:
        """One command. False: it was the last."""
        line = (await self._reader.readuntil(b"\r\n")).decode().strip()
        word, _, rest = line.partition(" ")
        commands = {
            "EHLO": self._hello,
            "STARTTLS": self._secured,
            "AUTH": self._login,
            "MAIL": self._mail_from,
            "RCPT": self._rcpt_to,
            "DATA": self._take,
        }
        command = commands.get(word.upper())
        if command is not None:
            return await command(rest)
        await self.say("221 bye" if word.upper() == "QUIT" else "250 ok")
        return word.upper() != "QUIT"

    async def _secured(self, rest: str) -> bool:
        if self._server.context is None or self._secure:
            return await self.say("502 no")
        await self.say("220 go ahead")
        await self._writer.start_tls(self._server.context)
        self._secure = True
        return True

    async def _mail_from(self, rest: str) -> bool:
        if self._server.users and not self._user:
            return await self.say("530 log in first")
        self._sender = _address(rest)
        return await self.say("250 ok")

    async def _rcpt_to(self, rest: str) -> bool:
        code = self._server.refused.get(_address(rest))
        if code is not None:
            return await self.say(f"{code} no")
        self._recipients.append(_address(rest))
        return await self.say("250 ok")

    async def _hello(self, rest: str) -> bool:
        offers = ["mail.test"]
        if self._server.context is not None and not self._secure:
            offers.append("STARTTLS")
        if self._secure and self._server.users:
            offers.append("AUTH PLAIN")
        for offer in offers[:-1]:
            await self.say(f"250-{offer}")
        return await self.say(f"250 {offers[-1]}")

    async def _login(self, rest: str) -> bool:
        if not self._secure:
            return await self.say("538 not in the clear")
        _, user, password = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")
        if self._server.users.get(user) != password:
            return await self.say("535 no")
        self._user = user
        return await self.say("235 yes")

    async def _take(self, rest: str) -> bool:
        if not self._sender or not self._recipients:
            return await self.say("503 not now")
        await self.say("354 go on")
        raw = (await self._reader.readuntil(b"\r\n.\r\n"))[: -len(b".\r\n")].replace(b"\r\n..", b"\r\n.")
        self._server.mails.append(
            Mail(self._sender, tuple(self._recipients), self._user, self._secure, message_from_bytes(raw))
        )
        return await self.say("250 taken")


def _address(rest: str) -> str:
    return rest[rest.index("<") + 1 : rest.index(">")]


@contextlib.asynccontextmanager
async def mail_server(context: ssl.SSLContext | None = None) -> AsyncIterator[MailServer]:
    """Serves for as long as the block lasts."""
    made = MailServer(context)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()
