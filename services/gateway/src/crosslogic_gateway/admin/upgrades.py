"""Model upgrades: from one version to another while it serves."""

import uuid
from typing import Any

from msgspec import UNSET

from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import upgrade_schemas as schemas
from crosslogic_gateway.admin.conversion import text_or_none, time
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.schemas import PageQuery
from crosslogic_gateway.admin.upgrade_stub import UpgradeStub

_PHASES: dict[int, schemas.PhaseName] = {
    pb.UPGRADE_PHASE_WAITING: "waiting",
    pb.UPGRADE_PHASE_SHIFTING: "shifting",
    pb.UPGRADE_PHASE_FINISHING: "finishing",
    pb.UPGRADE_PHASE_DRAINING: "draining",
    pb.UPGRADE_PHASE_DONE: "done",
    pb.UPGRADE_PHASE_ROLLED_BACK: "rolled_back",
}


async def create_upgrade(call: Call[schemas.NewUpgrade, None]) -> schemas.Upgrade:
    """POST /admin/models/{model}/upgrades."""
    body = call.body
    request = pb.CreateModelUpgradeRequest(
        model=call.path["model"],
        to_version=body.to_version,
        from_version=None if body.from_version is UNSET else body.from_version,
        rules=pb.UpgradeRules(
            steps_percent=body.rules.steps_percent,
            step_s=body.rules.step_s,
            step_requests=body.rules.step_requests,
            max_error_percent=body.rules.max_error_percent,
            max_first_token_ratio=body.rules.max_first_token_ratio,
            first_token_slack_ms=body.rules.first_token_slack_ms,
            min_nodes=body.rules.min_nodes,
            wait_s=body.rules.wait_s,
            lost_s=body.rules.lost_s,
            finish_s=body.rules.finish_s,
        ),
        request_id=call.create_request_id("upgrade") or str(uuid.uuid4()),
    )
    return _upgrade((await call.rpc(_stub(call).CreateModelUpgrade, request)).upgrade)


async def list_upgrades(call: Call[None, PageQuery]) -> schemas.UpgradeList:
    """GET /admin/models/{model}/upgrades."""
    request = pb.ListModelUpgradesRequest(
        model=call.path["model"], page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(_stub(call).ListModelUpgrades, request)
    return schemas.UpgradeList(
        data=[_upgrade(each) for each in page.upgrades], next_page_token=text_or_none(page.next_page_token)
    )


async def get_upgrade(call: Call[None, None]) -> schemas.Upgrade:
    """GET /admin/upgrades/{id}."""
    request = pb.GetModelUpgradeRequest(id=call.path["id"])
    return _upgrade((await call.rpc(_stub(call).GetModelUpgrade, request)).upgrade)


async def roll_back(call: Call[schemas.NewRollBack, None]) -> schemas.Upgrade:
    """POST /admin/upgrades/{id}/roll-back."""
    request = pb.RollBackModelUpgradeRequest(id=call.path["id"], reason=call.body.reason)
    return _upgrade((await call.rpc(_stub(call).RollBackModelUpgrade, request)).upgrade)


def _stub(call: Call[Any, Any]) -> UpgradeStub:
    if call.deps.upgrades is None:
        raise CodedError(ErrorCode.UNAVAILABLE, private="upgrades are not kept from here")
    return call.deps.upgrades()


def _upgrade(upgrade: pb.ModelUpgrade) -> schemas.Upgrade:
    rules = upgrade.rules
    return schemas.Upgrade(
        id=upgrade.id,
        model=upgrade.model,
        from_version=upgrade.from_version,
        to_version=upgrade.to_version,
        phase=_PHASES.get(upgrade.phase, "waiting"),
        percent=upgrade.percent,
        reason=upgrade.reason,
        rules=schemas.UpgradeRules(
            steps_percent=list(rules.steps_percent),
            step_s=rules.step_s,
            step_requests=rules.step_requests,
            max_error_percent=rules.max_error_percent,
            max_first_token_ratio=rules.max_first_token_ratio,
            first_token_slack_ms=rules.first_token_slack_ms,
            min_nodes=rules.min_nodes,
            wait_s=rules.wait_s,
            lost_s=rules.lost_s,
            finish_s=rules.finish_s,
        ),
        new_outcomes=_outcomes(upgrade.new_outcomes),
        old_outcomes=_outcomes(upgrade.old_outcomes),
        create_time=time(upgrade.create_time),
        change_time=time(upgrade.change_time),
    )


def _outcomes(seen: pb.VersionOutcomes) -> schemas.VersionOutcomes:
    return schemas.VersionOutcomes(
        succeeded=seen.succeeded, failed=seen.failed, first_token_ms=round(seen.first_token_ms, 3)
    )
