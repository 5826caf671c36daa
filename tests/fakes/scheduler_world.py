"""A fleet as the scheduler's view is told of it, with a clock and dice of the test's own."""

import random
from collections import Counter
from dataclasses import dataclass, field

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.outliers import Reason, Seen
from crosslogic_common.regions import RegionTable, default_regions
from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.fleet import FleetView, ViewEvents
from tests.fakes.scheduler_questions import Asked


def told_node(
    name: str,
    *,
    region: str = "us-east",
    org: str = "",
    models: tuple[str, ...] = ("llama",),
    reachable: bool = True,
    current: float = 0.0,
    running: int = 0,
    beat: int = 1,
    health: int = 100,
    version: str = "",
    status: pb.NodeStatus.ValueType = pb.NODE_STATUS_ACTIVE,
    notice: pb.SpotNoticeKind.ValueType = pb.SPOT_NOTICE_KIND_UNSPECIFIED,
) -> pb.Node:
    made = pb.Node(
        id=name,
        org_id=org,
        status=status,
        health_score=health,
        reachable=reachable,
        facts=pb.NodeFacts(
            address=f"{name}:7300",
            region=region,
            models=models,
            max_tokens_per_sec=1000,
            decode_tokens_per_sec=50,
            model_version=version,
        ),
        load=pb.NodeLoad(current_tokens_per_sec=current, running=running),
    )
    if notice:
        made.spot_notice.kind = notice
    made.last_heartbeat_time.FromSeconds(beat)
    return made


@dataclass
class World:
    """A view and what it told of."""

    regions: RegionTable = field(default_factory=default_regions)
    share: float = 0.2
    now: float = 1000.0
    ejected: list[Reason] = field(default_factory=list)
    failed_over: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.view = FleetView(
            draw=random.Random(5).random,
            now=lambda: self.now,
            regions=self.regions,
            failover_share=self.share,
            events=ViewEvents(
                ejected=self.ejected.append, failed_over=lambda region: self.failed_over.update([region])
            ),
        )
        self.tell_all()

    def tell_all(self, *nodes: pb.Node) -> None:
        """A snapshot."""
        self.view.apply(pb.WatchNodesResponse(nodes=nodes, snapshot_start=True, snapshot_complete=True))

    def tell(self, *nodes: pb.Node) -> None:
        """A change."""
        self.view.apply(pb.WatchNodesResponse(nodes=nodes))

    def catalogue(self, *deployments: pb.Deployment, model: str = "llama") -> None:
        """How a model's nodes are to be chosen."""
        self.view.apply_catalogue([pb.Model(name=model, deployments=deployments)])

    def serve(self, *model_versions: tuple[str, int], model: str = "llama") -> None:
        """Which versions of a model serve, with how many of 1,000 requests."""
        shares = [pb.VersionShare(version=version, per_mille=per_mille) for version, per_mille in model_versions]
        self.view.apply_catalogue([pb.Model(name=model, version_shares=shares)])

    def pick(self, asked: Asked = Asked(), *, keep: bool = False) -> NodeState:  # noqa: B008  # frozen
        """A node; unless it is to `keep` it, the request is over at once."""
        return self.route(asked, keep=keep)[0]

    def route(self, asked: Asked, *, keep: bool = False) -> tuple[NodeState, bool]:
        """The same, and whether it is in another region."""
        node, region_failover = self.view.pick(asked)
        if not keep:
            node.ended(1)
        return node, region_failover

    def picks(self, asked: Asked = Asked(), count: int = 60) -> Counter[str]:  # noqa: B008  # frozen
        """Who gets such requests."""
        return Counter(self.pick(asked).id for _ in range(count))

    def fails(self, name: str, count: int = 1) -> None:
        """A gateway tells of failures in a row."""
        self.view.report(name, Seen(0, count, count, 0))

    def answers(self, name: str, count: int = 1, first_byte_us: int = 100_000) -> None:
        """A gateway tells of answered requests."""
        self.view.report(name, Seen(count, 0, 0, count * first_byte_us))
