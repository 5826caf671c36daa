"""Protobuf to domain and back, for model upgrades."""

from typing import Any

import grpc.aio

from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic.registry.v1 import upgrades_pb2_grpc as rpc
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, unwrap, wrap
from crosslogic_registry.upgrades import policy
from crosslogic_registry.upgrades.domain import PHASE_TO_PB, Counts, Outcomes, Rules, Upgrade
from crosslogic_registry.upgrades.service import Upgrades

Context = grpc.aio.ServicerContext[Any, Any]


class ModelUpgradeServicer(rpc.ModelUpgradeServiceServicer):
    """ModelUpgradeService."""

    def __init__(self, upgrades: Upgrades) -> None:
        self._upgrades = upgrades

    async def CreateModelUpgrade(
        self, request: pb.CreateModelUpgradeRequest, context: Context
    ) -> pb.CreateModelUpgradeResponse:
        return pb.CreateModelUpgradeResponse(upgrade=_message(await self._upgrades.start(request), Outcomes()))

    async def GetModelUpgrade(self, request: pb.GetModelUpgradeRequest, context: Context) -> pb.GetModelUpgradeResponse:
        return pb.GetModelUpgradeResponse(upgrade=_message(*await self._upgrades.get(request.id)))

    async def ListModelUpgrades(
        self, request: pb.ListModelUpgradesRequest, context: Context
    ) -> pb.ListModelUpgradesResponse:
        limit = page_limit(request.page_size)
        before = unwrap(request.page_token)
        if before and not (before.isascii() and before.isdecimal() and int(before) < 2**63):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`page_token` is none of ours.", param="page_token")
        found = await self._upgrades.page(request.model, before=int(before or "0"), limit=limit + 1)
        return pb.ListModelUpgradesResponse(
            upgrades=[_message(upgrade, seen) for upgrade, seen in found[:limit]],
            next_page_token=wrap(str(found[limit - 1][0].number)) if len(found) > limit else "",
        )

    async def RollBackModelUpgrade(
        self, request: pb.RollBackModelUpgradeRequest, context: Context
    ) -> pb.RollBackModelUpgradeResponse:
        found = await self._upgrades.roll_back(request.id, request.reason)
        return pb.RollBackModelUpgradeResponse(upgrade=_message(*found))


def _message(upgrade: Upgrade, seen: Outcomes) -> pb.ModelUpgrade:
    return pb.ModelUpgrade(
        id=upgrade.id,
        model=upgrade.model,
        from_version=upgrade.from_version,
        to_version=upgrade.to_version,
        phase=PHASE_TO_PB[upgrade.phase],
        percent=policy.percent(upgrade),
        reason=upgrade.reason,
        rules=_rules(upgrade.rules),
        new_outcomes=_outcomes(seen.new),
        old_outcomes=_outcomes(seen.old),
        create_time=timestamp(upgrade.created_at),
        change_time=timestamp(upgrade.changed_at),
    )


def _outcomes(counts: Counts) -> pb.VersionOutcomes:
    return pb.VersionOutcomes(
        succeeded=counts.succeeded, failed=counts.failed, first_token_ms=counts.first_token_s * 1000
    )


def _rules(rules: Rules) -> pb.UpgradeRules:
    return pb.UpgradeRules(
        steps_percent=rules.steps_percent,
        step_s=rules.step_s,
        step_requests=rules.step_requests,
        max_error_percent=rules.max_error_share * 100,
        max_first_token_ratio=rules.max_first_token_ratio,
        first_token_slack_ms=round(rules.first_token_slack_s * 1000),
        min_nodes=rules.min_nodes,
        wait_s=rules.wait_s,
        lost_s=rules.lost_s,
        finish_s=rules.finish_s,
    )
