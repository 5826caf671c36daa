"""The registry's store in memory: it passes the same contract suite as the one on PostgreSQL."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.domain import NodeEvent, Status, StatusChange, StoredNode
from crosslogic_registry.policy import MAX_MODELS


class FakeRegistryClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self._start = datetime.now(UTC)

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return 1_000.0 + self.passed_s

    def pass_s(self, seconds: float) -> None:
        self.passed_s += seconds


class FakeRegistryStore:
    """Nodes, tokens and models in dictionaries. `away` makes it a database that cannot be reached."""

    def __init__(self, clock: FakeRegistryClock) -> None:
        self._clock = clock
        self._nodes: dict[str, StoredNode] = {}
        self._tokens: dict[bytes, tuple[str, datetime, str]] = {}
        self._used: dict[bytes, tuple[bytes, str]] = {}
        self._models: dict[str, pb.Model] = {}
        self._life: list[tuple[str, Status, str, datetime]] = []
        self.notices: list[tuple[str, list[str]]] = []
        self.saves = 0
        self.away = False

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """All that was kept of all nodes' lives, oldest first."""
        return [(node_id, status, reason) for node_id, status, reason, _ in self._life]

    def _reach(self) -> None:
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE, private="database: away")

    async def nodes(self, *, dead_within_s: float) -> list[StoredNode]:
        self._reach()
        since = self._clock.now() - timedelta(seconds=dead_within_s)
        return [
            self._nodes[node_id]
            for node_id in sorted(self._nodes)
            if self._nodes[node_id].status != "dead" or self._nodes[node_id].changed_at > since
        ]

    async def nodes_by_id(self, node_ids: Sequence[str]) -> list[StoredNode]:
        self._reach()
        return [self._nodes[node_id] for node_id in sorted(set(node_ids)) if node_id in self._nodes]

    async def save(self, changes: Sequence[StatusChange], facts: Mapping[str, pb.NodeFacts], *, origin: str) -> None:
        self._reach()
        self.saves += 1
        for change in changes:
            node = self._nodes.get(change.node_id)
            if node is not None and node.status != change.status:
                self._nodes[node.id] = replace(
                    node, status=change.status, status_reason=change.reason, changed_at=change.at
                )
                self._life.append((node.id, change.status, change.reason, change.at))
        for node_id, said in facts.items():
            if node_id in self._nodes:
                kept = pb.NodeFacts()
                kept.CopyFrom(said)
                self._nodes[node_id] = replace(self._nodes[node_id], facts=kept)
        self.notices.append((origin, list(dict.fromkeys([*(change.node_id for change in changes), *facts]))))

    async def events(self, node_id: str, *, before: int, limit: int) -> list[NodeEvent]:
        self._reach()
        numbered = [
            NodeEvent(number, status, reason, at)
            for number, (id_, status, reason, at) in enumerate(self._life, start=1)
            if id_ == node_id and (before == 0 or number < before)
        ]
        return numbered[::-1][:limit]

    async def ask_drain(self, node_id: str, *, drain: bool, origin: str) -> bool:
        self._reach()
        if node_id not in self._nodes:
            return False
        self._nodes[node_id] = replace(self._nodes[node_id], drain_asked=drain)
        self.notices.append((origin, [node_id]))
        return True

    async def add_join_token(
        self, token_sha256: bytes, org_id: str, expires_at: datetime, *, node_id: str = ""
    ) -> None:
        self._reach()
        self._tokens[token_sha256] = (org_id, expires_at, node_id)

    async def consume_join_token(
        self, token_sha256: bytes, node_id: str, now: datetime, *, key_sha256: bytes, origin: str
    ) -> StoredNode:
        self._reach()
        org_id, expires_at, named = self._tokens.get(token_sha256, ("", now, ""))
        if expires_at <= now:
            raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
        if token_sha256 in self._used:
            by_key_sha256, made = self._used[token_sha256]
            if by_key_sha256 != key_sha256:
                raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
            return self._nodes[made]
        node_id = named or node_id
        if node_id in self._nodes:
            raise CodedError(ErrorCode.JOIN_TOKEN_INVALID)
        self._used[token_sha256] = (key_sha256, node_id)
        node = StoredNode(
            id=node_id,
            org_id=org_id,
            status="registering",
            status_reason="joined",
            drain_asked=False,
            facts=pb.NodeFacts(),
            created_at=now,
            changed_at=now,
        )
        self._nodes[node_id] = node
        self._life.append((node_id, "registering", "joined", now))
        self.notices.append((origin, [node_id]))
        return node

    async def add_model(self, model: pb.Model) -> pb.Model:
        self._reach()
        if len(self._models) >= MAX_MODELS:
            raise CodedError(ErrorCode.CONFLICT)
        if model.name in self._models:
            raise CodedError(ErrorCode.ALREADY_EXISTS)
        stored = pb.Model()
        stored.CopyFrom(model)
        stored.create_time.CopyFrom(timestamp(self._clock.now()))
        self._models[model.name] = stored
        return stored

    async def replace_deployments(self, name: str, deployments: Sequence[pb.Deployment]) -> pb.Model:
        self._reach()
        if name not in self._models:
            raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no such model.", param="model")
        stored = self._models[name]
        del stored.deployments[:]
        stored.deployments.extend(deployments)
        return stored

    async def models(self, after: str = "", limit: int = 10_000) -> list[pb.Model]:
        self._reach()
        return [self._models[name] for name in sorted(self._models) if name > after][:limit]


class FakeLeaseBook:
    """Leases that last until a test ends them. `away` makes it a Redis that cannot be reached."""

    def __init__(self) -> None:
        self.leases: dict[str, bytes] = {}
        self.tunnels: dict[str, list[str]] = {}
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE, private="redis: away")

    async def write(self, leases: Mapping[str, bytes]) -> None:
        self._reach()
        self.leases.update(leases)

    async def read(self, node_ids: Sequence[str]) -> dict[str, bytes]:
        self._reach()
        return {node_id: self.leases[node_id] for node_id in node_ids if node_id in self.leases}

    async def offer_tunnels(self, origin: str, addresses: Sequence[str]) -> list[str]:
        self._reach()
        self.tunnels[origin] = list(addresses)
        return sorted({address for offered in self.tunnels.values() for address in offered})

    async def release(self, leases: Mapping[str, bytes]) -> None:
        self._reach()
        for node_id, value in leases.items():
            if self.leases.get(node_id) == value:
                del self.leases[node_id]
