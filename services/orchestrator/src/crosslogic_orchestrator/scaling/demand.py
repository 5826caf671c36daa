"""How many machines the load needs, signal by signal. Pure.

Load is counted in Erlangs: requests that run at once, or would with room for them. Just so many places would leave half
of all requests waiting; what is added grows with the root of the load, so that a large pool needs a smaller share of it
(Halfin and Whitt, Heavy-traffic limits for queues with many exponential servers, Operations Research 29, 1981).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from crosslogic_orchestrator.scaling.domain import Deployment, Member, Need, Point, Snapshot

SAFETY = 1.3
"""Places beyond the load, in roots of the load."""
SMOOTH_S = 30.0
"""Load is averaged over so long: single requests are no trend."""
SUDDEN_S = 4.0
"""While requests wait, load is averaged over so long as well: a burst is met at the next look."""
DRAIN_S = 60.0
"""What waits is to be worked off within so long."""
FULL = 0.95
"""From here on the load that is seen is only what the machines can do."""
GROWTH_WHEN_FULL = 1.5
KV_FULL = 0.9
MOST_NODES = 100_000
_SEQUENCES = 16
"""Where nobody says how many requests a machine runs at once."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine of the deployment can do."""

    tokens_per_s: float
    """0: not known."""
    places: int
    """Requests at once."""

    @property
    def stream_tokens_per_s(self) -> float:
        """Of one request, when the machine is full. 0: not known."""
        return self.tokens_per_s / self.places


def machine_of(snapshot: Snapshot, ready: Sequence[Member]) -> Machine:
    """The middle one of those that serve; what was measured before where none does."""
    measured = [member.load.capacity_tokens_per_s for member in ready if member.load.capacity_tokens_per_s > 0]
    places = [member.load.max_sequences for member in ready if member.load.max_sequences > 0]
    return Machine(
        median(measured) if measured else snapshot.capacity_tokens_per_s,
        round(median(places)) if places else snapshot.max_sequences or _SEQUENCES,
    )


def nodes_for(erlangs: float, machine: Machine, *, target: float) -> int:
    """Machines that carry so much load without a queue worth mention."""
    if erlangs <= 0:
        return 0
    places = max(erlangs + SAFETY * math.sqrt(erlangs), erlangs / target)
    return max(1, _whole(places / machine.places))


def _whole(machines: float) -> int:
    """So many machines, however mad the figures that they come of: those are others' words."""
    return math.ceil(machines - 1e-9) if machines < MOST_NODES else MOST_NODES


def point_of(snapshot: Snapshot, ready: Sequence[Member], machine: Machine) -> Point:
    """The load as it is now."""
    running = sum(member.load.running for member in ready)
    tokens_per_s = sum(member.load.tokens_per_s for member in ready)
    stream = machine.stream_tokens_per_s
    waiting = sum(member.load.waiting for member in ready) + snapshot.held_requests
    return Point(snapshot.now, max(float(running), tokens_per_s / stream if stream > 0 else 0.0), waiting, 0)


def needs_of(
    deployment: Deployment, snapshot: Snapshot, ready: Sequence[Member], points: Sequence[Point]
) -> tuple[Need, ...]:
    """What each signal asks for, floors first. `points` ends with the one of now."""
    machine = machine_of(snapshot, ready)
    target = deployment.target_utilisation
    needs = [Need("min", deployment.min_nodes, f"`min_nodes` is {deployment.min_nodes}")]
    needs += _reserved(snapshot, machine)
    service_s = _service_s(snapshot, machine)
    waiting = points[-1].waiting
    if waiting and not ready:
        nodes = nodes_for(waiting * service_s / DRAIN_S, machine, target=target) if machine.tokens_per_s > 0 else 1
        needs.append(Need("wake", nodes, f"{waiting} requests are held at gateways and no node serves the model"))
    # Without a node what is held comes and goes as its clients have patience: it is no flow.
    demand = _demand(points, SMOOTH_S, service_s if ready else 0.0)
    if ready and waiting > SAFETY * math.sqrt(points[-1].busy):
        demand = max(demand, _demand(points, SUDDEN_S, service_s))
    if demand > 0:
        why = f"{demand:.1f} requests at once, {machine.places} on a machine, at most {target:.0%} busy"
        needs.append(Need("load", nodes_for(demand, machine, target=target), why))
    # What runs beyond the demand works the queue off.
    growth = (demand - points[-1].busy) / service_s
    if waiting and ready:
        eta_s = _next_machine_s(snapshot)
        expected = max(0.0, waiting + growth * eta_s)
        why = (
            f"{waiting} requests wait, {growth:+.1f} a second; {expected:.0f} will when machines come in "
            f"{eta_s:.0f} s, to be worked off within {DRAIN_S:g} s"
        )
        needs.append(Need("backlog", nodes_for(demand + expected * service_s / DRAIN_S, machine, target=target), why))
    needs += _forecast(snapshot, machine, target)
    stuck = waiting > 0 and waiting + growth * max(DRAIN_S, snapshot.start_s) > 0
    needs += _engines(deployment, ready, machine, stuck=stuck)
    return tuple(needs)


def _demand(points: Sequence[Point], seconds: float, service_s: float) -> float:
    """Requests that would run at once had each found a place: those that ran, and what the queue grew by meanwhile.

    A queue that shrinks keeps machines busier than what comes would: that is no load to keep.
    """
    now = points[-1]
    before = next((at for at in reversed(range(len(points))) if (now.at - points[at].at).total_seconds() >= seconds), 0)
    lately = points[before + 1 :] or points[-1:]
    passed_s = (now.at - points[before].at).total_seconds()
    growth = (now.waiting - points[before].waiting) / passed_s if passed_s > 0 else 0.0
    return max(0.0, sum(point.busy for point in lately) / len(lately) + growth * service_s)


def _next_machine_s(snapshot: Snapshot) -> float:
    """When the first machine comes that is on its way, or would be if it were asked for now."""
    ages = [(snapshot.now - member.since).total_seconds() for member in snapshot.members if member.phase == "launching"]
    return max(0.0, snapshot.start_s - max(0.0, max(ages, default=0.0)))


def _service_s(snapshot: Snapshot, machine: Machine) -> float:
    """How long a request runs on a machine that is full."""
    stream = machine.stream_tokens_per_s
    return snapshot.tokens_per_request / stream if stream > 0 else 1.0


def _reserved(snapshot: Snapshot, machine: Machine) -> list[Need]:
    sold = snapshot.reserved_tokens_per_s
    if sold <= 0:
        return []
    if machine.tokens_per_s <= 0:
        return [Need("reserved", 1, f"{sold:,.0f} tokens/s are sold; what a machine can do is not measured yet")]
    nodes = _whole(sold / machine.tokens_per_s)
    return [Need("reserved", nodes, f"{sold:,.0f} tokens/s are sold, {machine.tokens_per_s:,.0f} a machine")]


def _forecast(snapshot: Snapshot, machine: Machine, target: float) -> list[Need]:
    expected, stream = snapshot.forecast_tokens_per_s, machine.stream_tokens_per_s
    if expected <= 0 or stream <= 0:
        return []
    nodes = nodes_for(expected / stream, machine, target=target)
    return [Need("forecast", nodes, f"{expected:,.0f} tokens/s are usual at this hour")]


def _engines(deployment: Deployment, ready: Sequence[Member], machine: Machine, *, stuck: bool) -> list[Need]:
    """What the engines say of themselves. `stuck`: requests wait, and would still when a machine came."""
    if not ready:
        return []
    needs: list[Need] = []
    kv = sum(member.load.kv_cache_usage for member in ready) / len(ready)
    if kv > KV_FULL:
        nodes = math.ceil(len(ready) * kv / (KV_FULL - 0.05))
        needs.append(Need("kv_cache", nodes, f"{kv:.0%} of the KV cache is in use, at most {KV_FULL:.0%} is wanted"))
    used = sum(member.load.running for member in ready) / (len(ready) * machine.places)
    capacity = machine.tokens_per_s * len(ready)
    if capacity > 0:
        used = max(used, sum(member.load.tokens_per_s for member in ready) / capacity)
    if used >= FULL and stuck:
        nodes = math.ceil(len(ready) * GROWTH_WHEN_FULL)
        needs.append(Need("saturated", nodes, f"the machines are {used:.0%} busy and requests wait"))
    timed = [member.load.first_byte_ms for member in ready if member.load.first_byte_ms > 0]
    slow = sum(timed) / len(timed) if timed else 0.0
    # Slowness without load has another cause, and more machines would not cure it.
    if slow > deployment.slo_first_token_ms / 2 and used > deployment.target_utilisation / 2:
        nodes = math.ceil(len(ready) * 1.25)
        why = f"the first token takes {slow:,.0f} ms on average; its p95 may be {deployment.slo_first_token_ms:,} ms"
        needs.append(Need("first_token", nodes, why))
    return needs
