"""When an upgrade moves on, and when it goes back. Pure."""

import math
import re
from dataclasses import replace
from itertools import pairwise

from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.policy import MAX_VERSION_CHARS
from crosslogic_registry.upgrades.domain import Counts, Move, Outcomes, Phase, Rules, Serving, Share, Upgrade, Wish

MIN_FAILURES = 3
"""Fewer are no sign: a node may die at any time. As many in a row as eject a node are enough."""
KNOWN_AFTER_S = 1.0
"""By then every replica has looked and counts for an upgrade: the first requests may get every node of a bad version
ejected, and whoever does not count these has nothing more to count."""
MAX_STEPS = 20
MAX_REASON_CHARS = 200
_VERSION = re.compile(rf"[^\x00-\x1f\x7f\ud800-\udfff]{{0,{MAX_VERSION_CHARS}}}")
_WHOLE = 1_000


def decide(upgrade: Upgrade, seen: Outcomes, serving: Serving) -> Move | None:
    """What the upgrade becomes now. None: it stays as it is.

    It never goes back to a version that no node serves.
    """
    if upgrade.phase == "waiting":
        return _begin(upgrade, serving)
    if upgrade.phase in ("shifting", "finishing"):
        fault = fault_of(upgrade.rules, seen, serving)
        if fault:
            return Move("rolled_back", upgrade.step, fault) if serving.old_nodes else None
        return _next_step(upgrade, seen) if upgrade.phase == "shifting" else _finish(upgrade, serving)
    if upgrade.phase == "draining" and serving.old_undrained == 0:
        return Move("done", upgrade.step, "the old version's nodes drain")
    return None


def _begin(upgrade: Upgrade, serving: Serving) -> Move | None:
    rules = upgrade.rules
    if serving.new_nodes >= rules.min_nodes and upgrade.for_s >= KNOWN_AFTER_S:
        return Move("shifting", 0, f"{serving.new_nodes} nodes of the new version serve")
    if serving.new_nodes < rules.min_nodes and upgrade.for_s >= rules.wait_s:
        return Move("rolled_back", 0, f"{serving.new_nodes} of {rules.min_nodes} nodes came in {rules.wait_s} s")
    return None


def _next_step(upgrade: Upgrade, seen: Outcomes) -> Move | None:
    rules = upgrade.rules
    if upgrade.for_s < rules.step_s or seen.new.requests < rules.step_requests:
        return None
    if _measurable(rules, _baseline(rules, seen)) and not _measurable(rules, seen.new):
        return None
    step = upgrade.step + 1
    reason = f"{seen.new.requests} requests at {percent(upgrade)} % with {seen.new.failed} failed"
    return Move("shifting" if step < len(rules.steps_percent) else "finishing", step, reason)


def _finish(upgrade: Upgrade, serving: Serving) -> Move | None:
    told_since = upgrade.for_s >= 2 * serving.heartbeat_s + 1.0
    if told_since and serving.old_requests == 0:
        return Move("draining", upgrade.step, "nothing runs on the old version any more")
    if upgrade.for_s >= upgrade.rules.finish_s:
        reason = f"{serving.old_requests} requests still run on the old version after {upgrade.rules.finish_s} s"
        return Move("draining", upgrade.step, reason)
    return None


def fault_of(rules: Rules, seen: Outcomes, serving: Serving) -> str:
    """What speaks against the new version, for people. Empty: nothing does."""
    if serving.new_nodes == 0 and serving.lost_s >= rules.lost_s:
        return f"no node of the new version has served for {serving.lost_s:.0f} s"
    new, old = seen.new, _baseline(rules, seen)
    if new.failed >= MIN_FAILURES and new.failed_share > old.failed_share + rules.max_error_share:
        return (
            f"{new.failed} of {new.requests} requests failed on the new version "
            f"({new.failed_share:.1%}), {old.failed_share:.1%} on the old one"
        )
    if _measurable(rules, new) and _measurable(rules, old):
        allowed_s = max(old.first_token_s * rules.max_first_token_ratio, old.first_token_s + rules.first_token_slack_s)
        if new.first_token_s > allowed_s:
            return (
                f"the first token takes {new.first_token_s * 1000:.0f} ms on the new version, "
                f"{old.first_token_s * 1000:.0f} ms on the old one"
            )
    return ""


def _baseline(rules: Rules, seen: Outcomes) -> Counts:
    """What the new version is compared with: the old one at the same time, or in all where that is too little."""
    return seen.old if seen.old.requests >= rules.step_requests else seen.old_in_all


def _measurable(rules: Rules, counts: Counts) -> bool:
    return counts.first_bytes >= max(rules.step_requests // 2, 1)


def percent(upgrade: Upgrade) -> int:
    """Share of traffic that the new version gets, in percent."""
    if upgrade.phase in ("waiting", "rolled_back"):
        return 0
    steps = upgrade.rules.steps_percent
    return steps[upgrade.step] if upgrade.phase == "shifting" else 100


def shares(upgrade: Upgrade) -> tuple[Share, ...]:
    """Which versions serve the model, the proven one first."""
    old, new = upgrade.from_version, upgrade.to_version
    if upgrade.phase in ("waiting", "rolled_back"):
        return (Share(old, _WHOLE),)
    if upgrade.phase in ("draining", "done"):
        return (Share(new, _WHOLE),)
    per_mille = percent(upgrade) * _WHOLE // 100
    return (Share(old, _WHOLE - per_mille), Share(new, per_mille))


def version_before(wish: Wish, serving: str | None) -> str:
    """The version that an upgrade starts from; `serving` is the catalogue's. Raises CONFLICT."""
    named = wish.from_version
    before = serving if serving is not None else (wish.guess if named is None else named)
    if before is None:
        raise CodedError(
            ErrorCode.CONFLICT,
            "Nodes of several versions serve this model, or none: name `from_version`.",
            param="from_version",
        )
    if named not in (None, before):
        raise CodedError(ErrorCode.CONFLICT, f"The model is at version {before!r}.", param="from_version")
    if before == wish.to_version:
        raise CodedError(ErrorCode.CONFLICT, f"The model is at version {before!r} already.", param="to_version")
    return before


def check_same(upgrade: Upgrade, wish: Wish) -> Upgrade:
    """The upgrade that was started under the same id. Raises CONFLICT when it is another."""
    if (upgrade.model, upgrade.to_version) != (wish.model, wish.to_version):
        raise CodedError(ErrorCode.CONFLICT, "This id belongs to another upgrade.", param="request_id")
    return upgrade


def after(upgrade: Upgrade, move: Move) -> Upgrade:
    """The upgrade as it is after a move."""
    return replace(upgrade, phase=move.phase, step=move.step, reason=move.reason, for_s=0.0)


def may_roll_back(phase: Phase) -> bool:
    """Whether an operator may still send it back."""
    return phase in ("waiting", "shifting", "finishing", "rolled_back")


def check_rules(asked: pb.UpgradeRules) -> Rules:
    """Rules with what was left out filled in. Raises INVALID_ARGUMENT."""
    usual = Rules()
    steps = tuple(asked.steps_percent) or usual.steps_percent
    if (
        len(steps) > MAX_STEPS
        or steps[-1] != 100  # noqa: PLR2004  # percent
        or steps[0] < 1
        or any(later <= sooner for sooner, later in pairwise(steps))
    ):
        raise _bad("rules.steps_percent", f"must be at most {MAX_STEPS} rising percentages of which the last is 100")
    error_percent = asked.max_error_percent if asked.HasField("max_error_percent") else usual.max_error_share * 100
    if not 0 <= error_percent <= 100:  # noqa: PLR2004  # percent
        raise _bad("rules.max_error_percent", "must be 0 to 100")
    ratio = asked.max_first_token_ratio or usual.max_first_token_ratio
    if not (math.isfinite(ratio) and 1 <= ratio <= 100):  # noqa: PLR2004  # as the contract says
        raise _bad("rules.max_first_token_ratio", "must be 1 to 100")
    return Rules(
        steps_percent=steps,
        max_error_share=error_percent / 100,
        max_first_token_ratio=ratio,
        first_token_slack_s=_whole(asked, "first_token_slack_ms", 600_000, round(usual.first_token_slack_s * 1000))
        / 1000,
        step_s=_whole(asked, "step_s", 604_800, usual.step_s),
        step_requests=_whole(asked, "step_requests", 1_000_000, usual.step_requests),
        min_nodes=_whole(asked, "min_nodes", 10_000, usual.min_nodes),
        wait_s=_whole(asked, "wait_s", 604_800, usual.wait_s),
        lost_s=_whole(asked, "lost_s", 3_600, usual.lost_s),
        finish_s=_whole(asked, "finish_s", 86_400, usual.finish_s),
    )


def check_version(version: str, field: str) -> str:
    """A version that nodes can name. Raises INVALID_ARGUMENT."""
    if not _VERSION.fullmatch(version):
        raise _bad(field, f"must have at most {MAX_VERSION_CHARS} printable characters")
    return version


def _whole(asked: pb.UpgradeRules, field: str, most: int, usual: int) -> int:
    value = int(getattr(asked, field)) or usual
    if value > most:
        raise _bad(f"rules.{field}", f"must be 1 to {most}")
    return value


def _bad(field: str, rule: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {rule}.", param=field)
