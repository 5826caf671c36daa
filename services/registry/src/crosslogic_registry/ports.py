"""What the registry needs from the world."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.domain import NodeEvent, StatusChange, StoredNode


class FleetStore(Protocol):
    """Identity and status of nodes, kept durably. Every method raises UNAVAILABLE while the store is away."""

    async def nodes(self, *, dead_within_s: float) -> list[StoredNode]:
        """All nodes by id, without those that have been dead for longer than `dead_within_s`."""

    async def nodes_by_id(self, node_ids: Sequence[str]) -> list[StoredNode]:
        """The nodes of these that are known, dead ones too."""

    async def save(self, changes: Sequence[StatusChange], facts: Mapping[str, pb.NodeFacts], *, origin: str) -> None:
        """Keeps changes of status in order and what nodes are (by node id), all or nothing.

        Unknown nodes are passed over, and so is a change to the status that a node has already. The other replicas are
        told that `origin` changed these nodes.
        """

    async def ask_drain(self, node_id: str, *, drain: bool, origin: str) -> bool:
        """Keeps whether an operator wants the node drained. False: there is no such node."""

    async def events(self, node_id: str, *, before: int, limit: int) -> list[NodeEvent]:
        """A node's life, newest first: at most `limit` events older than the one numbered `before` (0: the newest)."""


class TokenStore(Protocol):
    """Join tokens. Every method raises UNAVAILABLE while the store is away."""

    async def add_join_token(
        self, token_sha256: bytes, org_id: str, expires_at: datetime, *, node_id: str = ""
    ) -> None:
        """Keeps a token; `node_id` is the id of the node that joins by it, empty: whatever it is given then."""

    async def consume_join_token(
        self, token_sha256: bytes, node_id: str, now: datetime, *, key_sha256: bytes, origin: str
    ) -> StoredNode:
        """Uses a token up and makes its node, both or neither. Raises JOIN_TOKEN_INVALID.

        `node_id` is the node's, unless the token names one; then a token whose node has joined before is invalid too.
        Used up by `key_sha256` and not expired, it gives the node that it made: the first answer may have been lost.
        """


class ModelStore(Protocol):
    """The catalogue. Every method raises UNAVAILABLE while the store is away."""

    async def add_model(self, model: pb.Model) -> pb.Model:
        """Adds a model. Raises ALREADY_EXISTS; CONFLICT when the catalogue is full."""

    async def replace_deployments(self, name: str, deployments: Sequence[pb.Deployment]) -> pb.Model:
        """Puts a model's deployments in place of those it had. Raises NOT_FOUND."""

    async def models(self, after: str = "", limit: int = 10_000) -> list[pb.Model]:
        """The catalogue by name (code points), after a name."""


class LeaseBook(Protocol):
    """The last word of nodes, shared by the registry's replicas. Raises UNAVAILABLE while it is away."""

    async def write(self, leases: Mapping[str, bytes]) -> None:
        """Writes leases by node id; each ends by itself after a while."""

    async def read(self, node_ids: Sequence[str]) -> dict[str, bytes]:
        """The leases of these nodes that have not ended."""

    async def release(self, leases: Mapping[str, bytes]) -> None:
        """Ends leases early, each only if it is still the one given."""

    async def offer_tunnels(self, origin: str, addresses: Sequence[str]) -> list[str]:
        """Tells the other replicas which tunnels gateways offer here; all that are offered anywhere now.

        What is not offered again ends by itself after a while. `origin` names this replica.
        """


class WitnessSink(Protocol):
    """Where witnesses become durable."""

    async def record(self, witnesses: Sequence[accountant_pb.Witness]) -> list[str]:
        """One entry a witness: empty when durable, else why it was refused for good. Raises CodedError."""
