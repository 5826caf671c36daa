"""The metadata services of AWS, Google and Azure, each with exactly its own paths, headers and answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aiohttp import web

AWS_TOKEN = "AQAEA-fake-token=="


@dataclass
class Cloud:
    """What all of them share: what they are asked, and how they misbehave."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    misbehave: Callable[[web.Request], web.StreamResponse | None] = lambda _request: None
    """Answers instead of the service, for tests."""
    hang: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(self.routes())
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            self.ended.set()
            await runner.cleanup()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs))
        if self.hang:
            await self.ended.wait()
        wrong = self.misbehave(request)
        return wrong if wrong is not None else await handler(request)  # type: ignore[misc]


@dataclass
class FakeAws(Cloud):
    """IMDSv2: a token by PUT, and nothing without it."""

    action: dict[str, str] | None = None
    rebalance: bool = False
    tokens: set[str] = field(default_factory=set)

    def interrupt(self, action: str = "terminate", in_s: float = 120.0) -> None:
        at = datetime.now(UTC) + timedelta(seconds=in_s)
        self.action = {"action": action, "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put("/latest/api/token", self._token),
            web.get("/latest/meta-data/spot/instance-action", self._action),
            web.get("/latest/meta-data/events/recommendations/rebalance", self._rebalance),
        ]

    async def _token(self, request: web.Request) -> web.Response:
        if not 1 <= int(request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0")) <= 21_600:
            return web.Response(status=400)
        token = f"{AWS_TOKEN}{len(self.tokens)}"
        self.tokens.add(token)
        return web.Response(text=token)

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return web.Response(status=401)
        return None

    async def _action(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if self.action is None:
            return web.Response(status=404, text="<html>404 - Not Found</html>", content_type="text/html")
        return web.Response(text=json.dumps(self.action), content_type="application/json")

    async def _rebalance(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if not self.rebalance:
            return web.Response(status=404)
        return web.Response(text=json.dumps({"noticeTime": "2026-10-27T08:22:00Z"}))


@dataclass
class FakeGcp(Cloud):
    """One value whose changes can be waited for."""

    value: str = "FALSE"
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    etag: int = 0xA0

    def change(self, value: str) -> None:
        self.value, self.etag = value, self.etag + 1
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/computeMetadata/v1/instance/preempted", self._preempted)]

    async def _preempted(self, request: web.Request) -> web.Response:
        if request.headers.get("Metadata-Flavor") != "Google":
            return web.Response(status=403)
        if request.query.get("wait_for_change") == "true" and request.query.get("last_etag") == f"{self.etag:x}":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), float(request.query["timeout_sec"]))
        return web.Response(text=self.value, headers={"Metadata-Flavor": "Google", "ETag": f"{self.etag:x}"})


@dataclass
class FakeAzure(Cloud):
    """Scheduled Events of a set of machines, this one's among them."""

    name: str = "gpu-vm_3"
    events: list[dict[str, object]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def schedule(self, kind: str = "Preempt", *, resources: list[str] | None = None, in_s: float = 30.0) -> str:
        event_id = f"A123BC45-1234-5678-AB90-{len(self.events):012d}"
        not_before = datetime.now(UTC) + timedelta(seconds=in_s)
        self.events.append(
            {
                "EventId": event_id,
                "EventType": kind,
                "ResourceType": "VirtualMachine",
                "Resources": resources if resources is not None else [self.name],
                "EventStatus": "Scheduled",
                "NotBefore": f"{not_before:%a, %d %b %Y %H:%M:%S GMT}",
                "Description": "",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            }
        )
        return event_id

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metadata/instance/compute/name", self._name),
            web.get("/metadata/scheduledevents", self._events),
            web.post("/metadata/scheduledevents", self._start),
        ]

    def _refused(self, request: web.Request, version: str) -> web.Response | None:
        if request.headers.get("Metadata") != "true" or request.query.get("api-version") != version:
            return web.Response(status=400, text='{"error": "Bad request. Required metadata header not specified"}')
        return None

    async def _name(self, request: web.Request) -> web.Response:
        if request.query.get("format") != "text":
            return web.Response(status=400)
        return self._refused(request, "2021-02-01") or web.Response(text=self.name)

    async def _events(self, request: web.Request) -> web.Response:
        document = {"DocumentIncarnation": len(self.events) + 1, "Events": self.events}
        return self._refused(request, "2020-07-01") or web.Response(
            text=json.dumps(document), content_type="application/json"
        )

    async def _start(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request, "2020-07-01")) is not None:
            return refused
        self.started += [each["EventId"] for each in json.loads(await request.text())["StartRequests"]]
        return web.Response()
