"""What is done for a deployment now: `(deployment, snapshot, history) -> plan`. Pure.

What is never done, whatever the signals say: more machines than `max_nodes`, more spending an hour than allowed, an end
that leaves less than `min_nodes`, the reserved capacity sold or the on-demand floor. Machines that a cloud takes back
count for neither bound: they are gone within minutes, and their replacement must not wait for that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from crosslogic_orchestrator.scaling.demand import SMOOTH_S, machine_of, needs_of, point_of
from crosslogic_orchestrator.scaling.domain import (
    Deployment,
    End,
    History,
    Launch,
    Member,
    Need,
    Offer,
    Plan,
    Point,
    Snapshot,
)

MAX_POINTS = 4_000
_FLOORS = ("min", "reserved")
_RETRY_S, _RETRY_MOST_S = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class _Own:
    """The deployment's own machines, sorted by what becomes of them."""

    kept: tuple[Member, ...]
    at_risk: tuple[Member, ...]
    leaving: tuple[Member, ...]
    silent: tuple[Member, ...]
    taken: tuple[Member, ...]

    @property
    def paid(self) -> tuple[Member, ...]:
        """Those that count against the bounds."""
        return (*self.kept, *self.at_risk, *self.leaving, *self.silent)


def decide(deployment: Deployment, snapshot: Snapshot, history: History) -> Plan:
    """What to do now."""
    ready = [member for member in snapshot.members if member.phase == "ready"]
    own = _own(snapshot.members)
    now_point = point_of(snapshot, ready, machine_of(snapshot, ready))
    history = replace(history, points=_past(history.points, snapshot.now))
    points = (*history.points, now_point)
    needs = needs_of(deployment, snapshot, ready, points)
    others = sum(1 for member in ready if not member.own)
    wanted = _wanted(deployment, needs, others=others)
    desired = min(wanted, deployment.max_nodes)
    point = replace(now_point, wanted=wanted)
    plan = Plan(desired=desired, kept=len(own.kept), needs=needs, point=point)
    if wanted > desired:
        plan = _but(plan, f"{wanted} machines are needed, `max_nodes` is {deployment.max_nodes}")
    if deployment.mode == "paused":
        return _but(plan, "the deployment is paused")
    plan = _up(deployment, snapshot, history, plan, own)
    return plan if plan.launches else _down(deployment, snapshot, history, plan, own)


def remember(deployment: Deployment, history: History, plan: Plan, *, now: datetime) -> History:
    """The history after a plan was carried out."""
    keep = timedelta(seconds=max(deployment.scale_down_cooldown_s, SMOOTH_S))
    past = _past(history.points, now)
    points = past if plan.point is None else (*past, plan.point)
    # One that is older than all that is asked stays: it tells for how long the load has been watched.
    old = sum(1 for point in points if now - point.at > keep)
    # What only takes the place of another is no change of size.
    grew = any(not launch.replaces for launch in plan.launches)
    return replace(
        history,
        points=points[max(0, old - 1) :][-MAX_POINTS:],
        scaled_up_at=now if grew else history.scaled_up_at,
        scaled_down_at=now if plan.ends else history.scaled_down_at,
    )


def _past(points: tuple[Point, ...], now: datetime) -> tuple[Point, ...]:
    """What was seen before a clock went back is forgotten: nobody knows how long ago it was."""
    return points if not points or points[-1].at <= now else tuple(point for point in points if point.at <= now)


def _own(members: Sequence[Member]) -> _Own:
    own = [member for member in members if member.own]
    there = [member for member in own if member.phase in ("launching", "ready")]
    return _Own(
        kept=tuple(member for member in there if not member.at_risk),
        at_risk=tuple(member for member in there if member.at_risk),
        leaving=tuple(member for member in own if member.phase == "leaving"),
        silent=tuple(member for member in own if member.phase == "silent"),
        taken=tuple(member for member in own if member.phase == "taken"),
    )


def _wanted(deployment: Deployment, needs: Sequence[Need], *, others: int) -> int:
    """Own machines: what other nodes of the model carry need not be launched; `min_nodes` are own ones."""
    load = max((need.nodes for need in needs if need.signal != "min"), default=0)
    return max(deployment.min_nodes, max(0, load - others) + deployment.warm_spares)


def _but(plan: Plan, why: str) -> Plan:
    return plan if why in plan.held else replace(plan, held=(*plan.held, why))


# More machines.


def _up(deployment: Deployment, snapshot: Snapshot, history: History, plan: Plan, own: _Own) -> Plan:
    missing = plan.desired - len(own.kept)
    mixed = _on_demand_wanted(deployment, plan.desired) - _on_demand(own.kept)
    if missing <= 0 and (mixed <= 0 or not any(member.spot for member in own.kept)):
        return plan
    gone = [member for member in (*own.taken, *own.silent, *own.at_risk) if not member.replaced]
    # Replacements and floors wait for no cool-down: they are no change of mind.
    urgent = min(max(missing, 0), max(len(gone), _floor(deployment, plan) - len(own.kept)))
    waiting = _still(history.scaled_up_at, deployment.scale_up_cooldown_s, snapshot.now)
    count = max(missing, 1 if mixed > 0 else 0)
    if waiting > 0 and urgent < count:
        plan = _but(plan, f"the last growth was too lately: {waiting:.0f} s to wait")
        count = urgent
    backoff = _backoff(history, snapshot.now)
    if backoff > 0 and count > 0:
        return _but(plan, f"{history.failed_launches} launches in a row failed: {backoff:.0f} s to wait")
    why = _why(plan.needs)
    spent = sum(member.price_picodollars for member in own.paid)
    room = deployment.max_nodes - len(own.paid)
    chosen: list[Launch] = []
    on_demand = _on_demand(own.kept)
    for _ in range(count):
        if room <= 0:
            plan = _but(plan, f"{_counted(own)} still count against `max_nodes`")
            break
        spot = on_demand >= _on_demand_wanted(deployment, plan.desired)
        offer, refusal = _choose(deployment, snapshot.offers, spot=spot, spent=spent)
        if offer is None:
            plan = _but(plan, refusal)
            break
        place_of = gone[len(chosen)] if len(chosen) < len(gone) and len(chosen) < missing else None
        chosen.append(Launch(offer, *_reason(place_of, why, only_mix=missing <= 0)))
        spent += offer.price_picodollars
        room -= 1
        on_demand += 0 if offer.spot else 1
    return replace(plan, launches=tuple(chosen))


def _counted(own: _Own) -> str:
    if own.silent:
        return f"{len(own.silent)} machines that look dead, with most of the fleet, are not ended and"
    return "machines that are about to end"


def _reason(gone: Member | None, why: str, *, only_mix: bool) -> tuple[str, str]:
    if only_mix:
        return "fewer machines than wanted are on demand", ""
    if gone is None:
        return why, ""
    word = "may be taken back by its cloud" if gone.at_risk else "is taken back by its cloud or died"
    return f"in place of {gone.id}, which {word}", gone.id


def _choose(deployment: Deployment, offers: Sequence[Offer], *, spot: bool, spent: int) -> tuple[Offer | None, str]:
    """The best offer that may be paid; on demand where no spot is to be had."""
    kinds = [[offer for offer in offers if offer.spot], [offer for offer in offers if not offer.spot]]
    candidates = [*kinds[0], *kinds[1]] if spot else kinds[1]
    if not candidates:
        return None, "no machine that meets the constraints is on offer" + ("" if spot else " on demand")
    limit = deployment.max_spend_picodollars
    for offer in candidates:
        if not limit or spent + offer.price_picodollars <= limit:
            return offer, ""
    cheapest = min(offer.price_picodollars for offer in candidates)
    return None, (
        f"another machine would cost ${cheapest / 1e12:.2f} an hour more than the ${spent / 1e12:.2f} of now, and "
        f"${limit / 1e12:.2f} are allowed"
    )


def _why(needs: Sequence[Need]) -> str:
    strongest = max(needs, key=lambda need: need.nodes)
    return f"{strongest.signal}: {strongest.why}"


def _floor(deployment: Deployment, plan: Plan) -> int:
    """Machines that are owed, whatever the load."""
    return min(deployment.max_nodes, max(need.nodes for need in plan.needs if need.signal in _FLOORS))


def _on_demand_wanted(deployment: Deployment, nodes: int) -> int:
    """Of so many machines, those that must not be spot."""
    return min(nodes, max(deployment.on_demand_floor, math.ceil(nodes * (1 - deployment.spot_share) - 1e-9)))


def _on_demand(members: Sequence[Member]) -> int:
    return sum(1 for member in members if not member.spot)


def _still(since: datetime | None, seconds: float, now: datetime) -> float:
    """Seconds that are left of a cool-down. One that begins only in the future comes of a clock that went back."""
    return 0.0 if since is None or since > now else max(0.0, seconds - (now - since).total_seconds())


def _backoff(history: History, now: datetime) -> float:
    if not history.failed_launches:
        return 0.0
    return _still(history.failed_at, min(_RETRY_MOST_S, _RETRY_S * 2 ** min(history.failed_launches - 1, 10)), now)


# Fewer machines.


def _down(deployment: Deployment, snapshot: Snapshot, history: History, plan: Plan, own: _Own) -> Plan:
    serving = [member for member in own.kept if member.phase == "ready"]
    if own.at_risk and len(serving) >= plan.desired:
        ends = [End(member.id, "its cloud may take it back, and its replacement serves") for member in own.at_risk]
        return replace(plan, ends=tuple(ends))
    lately = [point for point in history.points if _still(point.at, deployment.scale_down_cooldown_s, snapshot.now)]
    stay = min(deployment.max_nodes, max([plan.desired, *(point.wanted for point in lately)]))
    surplus = len(own.kept) - stay
    if len(own.kept) > plan.desired >= 0 and surplus <= 0:
        return _but(plan, f"{stay} machines were needed within the last {deployment.scale_down_cooldown_s:g} s")
    if surplus <= 0:
        return plan
    if len(serving) < len(own.kept):
        return _but(plan, "machines are on their way: what they change is waited for")
    left = _cooling(deployment, snapshot, history)
    if left > 0:
        return _but(plan, f"the load was not watched for long enough since the last change: {left:.0f} s to wait")
    chosen = _to_end(deployment, own.kept, surplus=surplus, desired=stay)
    why = f"{len(own.kept)} machines are there, {stay} were needed in the last {deployment.scale_down_cooldown_s:g} s"
    return replace(plan, ends=tuple(End(member.id, why) for member in chosen))


def _cooling(deployment: Deployment, snapshot: Snapshot, history: History) -> float:
    cooldown_s, now = deployment.scale_down_cooldown_s, snapshot.now
    watched_since = history.points[0].at if history.points else now
    return max(_still(history.scaled_up_at, cooldown_s, now), _still(watched_since, cooldown_s, now))


def _to_end(deployment: Deployment, kept: Sequence[Member], *, surplus: int, desired: int) -> list[Member]:
    """Those that are missed least: dear, with little to do. Never too many of those on demand."""
    spare_on_demand = _on_demand(kept) - _on_demand_wanted(deployment, desired)
    order = sorted(
        kept,
        key=lambda member: (
            -member.price_picodollars,
            member.load.running + member.load.waiting,
            -member.since.timestamp(),
            member.id,
        ),
    )
    chosen: list[Member] = []
    for member in order:
        if len(chosen) == surplus:
            break
        if not member.spot:
            if spare_on_demand <= 0:
                continue
            spare_on_demand -= 1
        chosen.append(member)
    return chosen
