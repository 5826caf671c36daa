"""Who a key belongs to: this worker's cache, then Redis, then identity. Pushed revocations empty it within a second."""

import asyncio
import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_gateway.domain import Principal
from crosslogic_gateway.key_index import KeyIndex
from crosslogic_gateway.ports import PrincipalSource

_REMEMBERED = frozenset({ErrorCode.TENANT_SUSPENDED, ErrorCode.PERMISSION_DENIED})
"""Refusals of keys that exist: they are lifted one day, and then at once."""

_KEY_FORM = re.compile(r"clsk_(?:live|test)_[0-9a-f]{32}", re.ASCII)

PLAN_CHUNK = 1_000
"""Keys that are looked at in one go when a plan has changed."""
STALE_RETRY_S = 5.0
"""How long an answer is used that could not be confirmed, before identity is asked again."""


@dataclass(slots=True)
class _Entry:
    principal: Principal | None
    """None: the key is refused."""
    fresh_until: float
    usable_until: float
    refusal: ErrorCode = ErrorCode.INVALID_API_KEY
    """Where there is no principal."""


class KeyCache:
    """Resolves keys. Bounded; single-flight; keeps serving what it last knew while identity is away."""

    def __init__(
        self,
        *,
        shared: PrincipalSource,
        identity: PrincipalSource,
        clock: Clock,
        fresh_s: float = 60.0,
        usable_s: float = 600.0,
        refused_s: float = 2.0,
        suspended_s: float = 0.5,
        max_entries: int = 100_000,
    ) -> None:
        """`shared` is the cache in Redis, which may fail at any time; `identity` is the truth.

        An answer is used for `fresh_s`; while identity is away, up to `usable_s`. A refusal is remembered for
        `refused_s`, and that of a suspended tenant for `suspended_s`, so that a client in a retry loop costs identity
        little.
        """
        self._shared = shared
        self._identity = identity
        self._clock = clock
        self._fresh_s = fresh_s
        self._usable_s = usable_s
        self._refused_s = refused_s
        self._suspended_s = suspended_s
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._index = KeyIndex()
        self._resolving: dict[bytes, asyncio.Task[Principal]] = {}
        self._generation = 0
        self._log = get_logger(__name__)
        self.stale_answers = 0

    def cached(self, secret: str) -> Principal | None:
        """The owner, if this worker knows it right now. The hot path: no await."""
        entry = self._entries.get(hashlib.sha256(secret.encode()).digest())
        if entry is None or entry.principal is None or entry.fresh_until <= self._clock.monotonic():
            return None
        return self._unless_expired(entry.principal)

    async def resolve(self, secret: str) -> Principal:
        """The owner of a key.

        Raises INVALID_API_KEY (not a key, unknown, revoked, expired: all alike), PERMISSION_DENIED (suspended),
        UNAVAILABLE (nothing is known of it and identity is away).
        """
        if not _KEY_FORM.fullmatch(secret):
            raise CodedError(ErrorCode.INVALID_API_KEY)
        digest = hashlib.sha256(secret.encode()).digest()
        entry = self._entries.get(digest)
        if entry is not None and entry.fresh_until > self._clock.monotonic():
            if entry.principal is None:
                raise CodedError(entry.refusal)
            return self._checked(entry.principal)
        task = self._resolving.get(digest)
        if task is None:
            task = asyncio.create_task(self._fetch(digest))
            self._resolving[digest] = task
            task.add_done_callback(lambda _: self._resolving.pop(digest, None))
        return self._checked(await asyncio.shield(task))

    def forget_all(self) -> None:
        """Everything known is in doubt."""
        self._generation += 1
        self._entries.clear()
        self._index.clear()

    def forget(self, *, org_id: str = "", environment_id: str = "", api_key_id: str = "") -> None:
        """Every key of the organisation, of the environment, or the key itself is in doubt."""
        self._generation += 1
        for digest in self._index.of(org_id=org_id, environment_id=environment_id, api_key_id=api_key_id):
            self._drop(digest)

    async def forget_plan(self, plan: str) -> None:
        """Every key of organisations on the plan is in doubt. They may be all: requests go on in between."""
        self._generation += 1
        digests = list(self._entries)
        for start in range(0, len(digests), PLAN_CHUNK):
            for digest in digests[start : start + PLAN_CHUNK]:
                entry = self._entries.get(digest)
                if entry is not None and entry.principal is not None and entry.principal.plan == plan:
                    self._drop(digest)
            await asyncio.sleep(0)

    async def _fetch(self, digest: bytes) -> Principal:
        """Asks Redis, then identity. An answer that crossed a revocation on its way is asked for again."""
        for _ in range(3):
            generation = self._generation
            try:
                principal = await self._ask(digest)
            except CodedError as error:
                if error.code in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT):
                    return self._last_known(digest, error)
                raise
            if generation == self._generation:
                self._remember(digest, principal, self._fresh_s)
                return principal
        return principal

    async def _ask(self, digest: bytes) -> Principal:
        try:
            return await self._shared.resolve(digest)
        except CodedError:
            # Not there, or Redis is away: identity decides.
            pass
        try:
            return await self._identity.resolve(digest)
        except CodedError as error:
            if error.code == ErrorCode.INVALID_API_KEY:
                self._remember(digest, None, self._refused_s)
            elif error.code in _REMEMBERED:
                self._remember(digest, None, self._suspended_s, error.code)
            raise

    def _last_known(self, digest: bytes, error: CodedError) -> Principal:
        now = self._clock.monotonic()
        entry = self._entries.get(digest)
        if entry is None or entry.principal is None or entry.usable_until <= now:
            raise error
        # Ask again soon, and no longer than since identity last said so.
        entry.fresh_until = min(now + STALE_RETRY_S, entry.usable_until)
        self.stale_answers += 1
        return entry.principal

    def _remember(
        self,
        digest: bytes,
        principal: Principal | None,
        fresh_s: float,
        refusal: ErrorCode = ErrorCode.INVALID_API_KEY,
    ) -> None:
        now = self._clock.monotonic()
        usable_s = self._usable_s if principal is not None else fresh_s
        self._drop(digest)
        if principal is not None:
            self._index.add(digest, principal)
        self._entries[digest] = _Entry(principal, now + fresh_s, now + usable_s, refusal)
        if len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))

    def _drop(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None and entry.principal is not None:
            self._index.remove(digest, entry.principal)

    def _checked(self, principal: Principal) -> Principal:
        if self._unless_expired(principal) is None:
            raise CodedError(ErrorCode.INVALID_API_KEY)
        return principal

    def _unless_expired(self, principal: Principal) -> Principal | None:
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            return None
        return principal
