"""What callers ask of notifications."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.paging import page_limit, page_start, page_token
from crosslogic_orchestrator.notify import signing, targets
from crosslogic_orchestrator.notify.domain import CHANNELS, Channel, Delivery, QuietHours, Route, Severity, Target
from crosslogic_orchestrator.notify.outbox_store import OutboxStore
from crosslogic_orchestrator.notify.payloads import test_message
from crosslogic_orchestrator.notify.policy import KINDS
from crosslogic_orchestrator.notify.ports import Sender, SendError
from crosslogic_orchestrator.notify.route_store import RouteStore
from crosslogic_orchestrator.notify.vault import Vault

MAX_NAME = 100
MAX_KINDS = 50
MAX_GATHER_S = 86_400
DEFAULT_GATHER_S = 60
MAX_TESTS_AT_ONCE = 4
"""Of operators, and as many of all organisations together, of which each has one at a time."""
TEST_AGAIN_S = 10.0
"""An organisation's route is tested this often at most: tests go wherever it says, also to people who never asked."""
OLD_SECRET_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a route is to be."""

    name: str
    channel: str
    target: str
    secret: str
    kinds: tuple[str, ...]
    min_severity: Severity
    quiet: QuietHours | None
    gather_s: int
    enabled: bool


class Notifications:
    """Keeps routes; the dispatcher sends."""

    def __init__(
        self,
        *,
        routes: RouteStore,
        outbox: OutboxStore,
        senders: Mapping[Channel, Sender],
        vault: Vault,
        clock: Clock,
        ids: Uuid7Source,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when there is something to send."""
        self._routes = routes
        self._outbox = outbox
        self._senders = senders
        self._vault = vault
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._tests: list[str] = []
        self._tested_at: dict[str, float] = {}

    async def create(self, org_id: str, asked: Asked, *, request_id: str) -> tuple[Route, str]:
        """A new route and what signs, which is told this once. Raises INVALID_ARGUMENT, OVERLOADED, NOT_SUPPORTED."""
        channel = self._channel(asked.channel)
        _check(asked)
        now, route_id = self._clock.now(), self._ids.next_text()
        secret = _secret(channel, asked.secret)
        route = Route(
            id=route_id,
            org_id=_uuid(org_id, "org_id") if org_id else "",
            name=asked.name,
            channel=channel,
            shown_target=_shown(channel, asked.target, operators=not org_id),
            kinds=asked.kinds,
            min_severity=asked.min_severity,
            quiet=asked.quiet,
            gather_s=asked.gather_s,
            enabled=asked.enabled,
            revision=1,
            created_at=now,
            updated_at=now,
        )
        sealed = self._vault.seal(route_id, Target(address=asked.target, secret=secret))
        kept, made = await self._routes.create(
            route, sealed, request_id=_uuid(request_id, "request_id") if request_id else ""
        )
        return kept, secret if made else ""

    async def route(self, route_id: str) -> Route:
        """One. Raises NOT_FOUND."""
        route, _ = await self._routes.route(_known_id(route_id))
        return route

    async def routes(self, org_id: str, *, page_size: int, token: str) -> tuple[list[Route], str]:
        """Oldest first, and the token of the next page."""
        limit = page_limit(page_size)
        owner = _uuid(org_id, "org_id") if org_id else ""
        found = await self._routes.routes(org_id=owner, after=page_start(token), limit=limit + 1)
        return found[:limit], page_token([route.id for route in found], limit)

    async def update(self, route_id: str, asked: Asked, *, revision: int, rotate_secret: bool) -> tuple[Route, str]:
        """Replaces what a route asks for; its new secret if there is one.

        Raises NOT_FOUND, INVALID_ARGUMENT, CONFLICT.
        """
        _check(asked)
        known, sealed = await self._routes.route(_known_id(route_id))
        if revision and revision != known.revision:
            raise CodedError(ErrorCode.CONFLICT, f"The route is at revision {known.revision}.", param="revision")
        now, target, secret = self._clock.now(), self._vault.open(known.id, sealed), ""
        shown = known.shown_target
        if asked.target:
            shown = _shown(known.channel, asked.target, operators=not known.org_id)
            target = replace(target, address=asked.target)
        if rotate_secret:
            secret = _secret(known.channel, asked.secret)
            until = now.timestamp() + OLD_SECRET_S
            target = replace(target, secret=secret, old_secret=target.secret, old_until=until)
        elif asked.secret:
            raise _bad("secret", "is changed by `rotate_secret`")
        changed = replace(
            known,
            name=asked.name,
            shown_target=shown,
            kinds=asked.kinds,
            min_severity=asked.min_severity,
            quiet=asked.quiet,
            gather_s=asked.gather_s,
            enabled=asked.enabled,
            updated_at=now,
        )
        kept = await self._routes.update(changed, self._vault.seal(known.id, target), revision=known.revision)
        return kept, secret

    async def end(self, route_id: str) -> None:
        """Ends a route. Raises NOT_FOUND."""
        await self._routes.end(_known_id(route_id), now=self._clock.now())

    async def test(self, route_id: str) -> str:
        """Sends a test now. Why it was not taken; empty: it was. Raises NOT_FOUND, OVERLOADED."""
        route, sealed = await self._routes.route(_known_id(route_id))
        self._check_tests(route)
        self._tests.append(route.org_id)
        try:
            message = test_message(self._ids.next_text(), org_id=route.org_id, clock=self._clock)
            await self._senders[self._channel(route.channel)].send(message, route, self._vault.open(route.id, sealed))
        except SendError as error:
            return str(error)
        finally:
            self._tests.remove(route.org_id)
        return ""

    def _check_tests(self, route: Route) -> None:
        """Raises OVERLOADED. One organisation's slow receivers keep no other and no operator from testing."""
        alike = [org_id for org_id in self._tests if bool(org_id) == bool(route.org_id)]
        if len(alike) >= MAX_TESTS_AT_ONCE or (route.org_id and route.org_id in alike):
            raise CodedError(ErrorCode.OVERLOADED, "Other tests are under way: try again soon.", retry_after_s=5.0)
        if not route.org_id:
            return
        now_s = self._clock.monotonic()
        self._tested_at = {known: at for known, at in self._tested_at.items() if now_s - at < TEST_AGAIN_S}
        if route.id in self._tested_at:
            wait_s = TEST_AGAIN_S - (now_s - self._tested_at[route.id])
            raise CodedError(
                ErrorCode.OVERLOADED,
                f"It was tested a moment ago: try again in {wait_s:.0f} s.",
                retry_after_s=wait_s,
            )
        self._tested_at[route.id] = now_s

    async def deliveries(
        self, *, org_id: str, route_id: str, state: str, page_size: int, token: str
    ) -> tuple[list[Delivery], str]:
        """Newest first, and the token of the next page."""
        limit = page_limit(page_size)
        found = await self._outbox.deliveries(
            org_id=_uuid(org_id, "org_id") if org_id else "",
            route_id=_uuid(route_id, "route_id") if route_id else "",
            state=state,
            before=page_start(token) if token else "",
            limit=limit + 1,
        )
        return found[:limit], page_token([delivery.id for delivery in found], limit)

    async def delivery(self, delivery_id: str) -> Delivery:
        """One. Raises NOT_FOUND."""
        return await self._outbox.delivery(_known_id(delivery_id))

    async def replay(self, delivery_id: str) -> Delivery:
        """Sends a dead letter again. Raises NOT_FOUND, CONFLICT."""
        delivery = await self._outbox.replay(_known_id(delivery_id), now=self._clock.now())
        self._wake()
        return delivery

    def _channel(self, name: str) -> Channel:
        for channel in CHANNELS:
            if channel == name:
                if channel not in self._senders:
                    raise CodedError(
                        ErrorCode.NOT_SUPPORTED, "There is no mail: the orchestrator has no CROSSLOGIC_SMTP_HOST."
                    )
                return channel
        raise _bad("channel", f"must be one of {', '.join(CHANNELS)}")


def _check(asked: Asked) -> None:
    """Raises INVALID_ARGUMENT."""
    if not 1 <= len(asked.name) <= MAX_NAME or not asked.name.isprintable():
        raise _bad("name", f"must have 1 to {MAX_NAME} printable characters")
    if len(asked.kinds) > MAX_KINDS:
        raise _bad("kinds", f"must have at most {MAX_KINDS}")
    for kind in asked.kinds:
        if kind not in KINDS:
            raise _bad("kinds", f"must be some of {', '.join(KINDS)}")
    if not 0 <= asked.gather_s <= MAX_GATHER_S:
        raise _bad("gather", f"must be 0 to {MAX_GATHER_S:,} s")
    if asked.quiet is not None and asked.quiet.start == asked.quiet.end:
        raise _bad("quiet_hours", "must not end when they begin: disable the route")


def _shown(channel: Channel, target: str, *, operators: bool) -> str:
    try:
        return targets.shown(channel, target, operators=operators)
    except ValueError as error:
        raise _bad("target", str(error)) from None


def _secret(channel: Channel, asked: str) -> str:
    """What signs: what was asked for, or a new one. Empty where nothing is signed."""
    if channel != "webhook":
        if asked:
            raise _bad("secret", "is for webhooks")
        return ""
    if not asked:
        return signing.new_secret()
    try:
        signing.key_of(asked)
    except ValueError as error:
        raise _bad("secret", str(error)) from None
    return asked


def _known_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None


def _uuid(text: str, name: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise _bad(name, "must be a UUID") from None


def _bad(name: str, what: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` {what}.", param=name)
