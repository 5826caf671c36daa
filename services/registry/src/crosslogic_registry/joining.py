"""How a machine becomes a node, and keeps being one."""

import asyncio
import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_registry.certificates import NodeCertificates
from crosslogic_registry.domain import MAX_NODES, StoredNode
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.ports import TokenStore

DEFAULT_TTL_S = 600
MAX_TTL_S = 86_400
MAX_JOINS_AT_ONCE = 8
"""Anyone may ask to join: those who only try must not take the database from the nodes."""
_TOKEN = re.compile(r"cljt_[A-Za-z0-9_-]{43}", re.ASCII)


class Joining:
    """Join tokens and node certificates."""

    def __init__(
        self,
        *,
        store: TokenStore,
        fleet: Fleet,
        certificates: NodeCertificates,
        clock: Clock,
        ids: Uuid7Source,
        origin: str,
        random_text: Callable[[int], str] = secrets.token_urlsafe,
    ) -> None:
        """`random_text(n)` holds n cryptographically random bytes; `origin` names this replica to the others."""
        self._store = store
        self._fleet = fleet
        self._certificates = certificates
        self._clock = clock
        self._ids = ids
        self._origin = origin
        self._random_text = random_text
        self._turn = asyncio.Semaphore(MAX_JOINS_AT_ONCE)

    async def create_token(self, org_id: str, ttl_s: int, *, node_id: str = "") -> tuple[str, datetime]:
        """A new token and when it ends. `node_id` is the id that its node gets; empty: a new one."""
        if ttl_s > MAX_TTL_S:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`ttl_s` must be 1 to {MAX_TTL_S} seconds.", param="ttl_s")
        org_id, node_id = _uuid(org_id, "org_id"), _uuid(node_id, "node_id")
        token = "cljt_" + self._random_text(32)
        expires_at = self._clock.now() + timedelta(seconds=ttl_s or DEFAULT_TTL_S)
        await self._store.add_join_token(_digest(token), org_id, expires_at, node_id=node_id)
        return token, expires_at

    async def join(self, token: str, csr_der: bytes) -> tuple[StoredNode, bytes]:
        """A node and its certificate chain: a new one, or the one that this token and key made, whose answer was lost.

        A bad certificate request does not use the token up. Raises JOIN_TOKEN_INVALID, INVALID_ARGUMENT, and OVERLOADED
        when the fleet is full.
        """
        if not _TOKEN.fullmatch(token):
            raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
        key_sha256 = self._certificates.key_sha256(csr_der)
        if len(self._fleet) >= MAX_NODES:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{len(self._fleet)} nodes")
        async with self._turn:
            node = await self._store.consume_join_token(
                _digest(token), str(self._ids.next()), self._clock.now(), key_sha256=key_sha256, origin=self._origin
            )
        chain = self._certificates.issue(csr_der, node.id, node.org_id)
        # One that asked twice may be further by now than what the first call read of it.
        if not self._fleet.knows(node.id):
            self._fleet.adopt(node, link="here")
        return node, chain

    async def renew(self, node_id: str, csr_der: bytes) -> bytes:
        """A fresh certificate for a node that is known. Raises NOT_FOUND, INVALID_ARGUMENT."""
        return self._certificates.issue(csr_der, node_id, await self._fleet.org_of(node_id))

    def trust_pem(self) -> bytes:
        """The certificates that nodes must trust."""
        return self._certificates.trust_pem()


def _uuid(text: str, name: str) -> str:
    """A UUID as it is written everywhere; empty stays empty."""
    try:
        return str(UUID(text)) if text else ""
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be a UUID.", param=name) from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
