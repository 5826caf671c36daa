"""Checks of what the gateway and the fleet say of themselves."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from crosslogic_admin.client import InstanceJob
from crosslogic_cli.findings import Finding, broken, doubtful, well

_MOST_SKEW_S = 5.0
_LATE_END = timedelta(minutes=15)

_DEGRADED = {
    "scheduler": "the scheduler is away: requests go where they last went",
    "accountant": "the accountant is away: usage waits in the gateways' memory",
    "redis": "Redis is away: each worker enforces its share of every limit alone",
    "billing": "billing is away: prices are those last known",
}


def check_ready(status: int, body: Mapping[str, Any]) -> list[Finding]:
    """What /ready says."""
    found = []
    if status != 200:  # noqa: PLR2004  # HTTP's own
        missing = [name for name, there in body.items() if there is False]
        found.append(
            broken(
                "gateway",
                f"it is not ready: {', '.join(missing) or body}",
                "look at the logs of those services, and whether the gateway reaches them",
            )
        )
    degraded = body.get("degraded")
    away = degraded if isinstance(degraded, list) else [name for name, lost in (degraded or {}).items() if lost]
    for name in away:
        what = _DEGRADED.get(name, f"{name} is lost: the gateway goes on with what it last knew")
        found.append(doubtful("gateway", what, f"start {name.removeprefix('watch_')}, and look at its log"))
    return found or [well("gateway", "it is ready, and has all that it needs")]


def check_clock(date_header: str | None, *, now: datetime | None = None) -> Finding:
    """Whether the gateway's clock and this one agree."""
    if date_header is None:
        return doubtful("clock", "the gateway does not tell its time", "is there a proxy that strips `Date`?")
    skew_s = abs(((now or datetime.now(UTC)) - parsedate_to_datetime(date_header)).total_seconds())
    if skew_s > _MOST_SKEW_S:
        return broken(
            "clock",
            f"the gateway's clock and this one are {skew_s:.0f} s apart",
            "run NTP on both (`timedatectl set-ntp true`): certificates, tokens and bills depend on the time",
        )
    return well("clock", "the gateway's clock and this one agree")


def check_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether anything can serve."""
    living = [node for node in nodes if node["status"] != "dead"]
    if not living:
        return [
            broken(
                "nodes",
                "there are no nodes: every request is answered 503",
                "launch one with `crosslogic instances launch`, or start an agent with `crosslogic nodes token`",
            )
        ]
    found = [
        broken(
            "engine",
            f"node {node['id']}: {node.get('status_reason')}",
            "look at the engine's log on that machine (engine.log in the agent's STATE_DIR)",
        )
        for node in living
        if "engine" in str(node.get("status_reason") or "")
        and any(word in str(node["status_reason"]) for word in ("died", "does not answer", "again after", "killed"))
    ]
    active = [node for node in living if node["status"] == "active"]
    if not active and not found:
        states = ", ".join(f"{node['status']} ({node.get('status_reason') or 'no reason'})" for node in living[:3])
        found.append(
            broken("nodes", f"no node is active: {states}", "wait for those that warm, resume those that drain")
        )
    return found or [well("nodes", f"{len(active)} of {len(living)} nodes are active")]


def check_ends(jobs: Sequence[InstanceJob], *, now: datetime | None = None) -> list[Finding]:
    """Machines whose end does not come about; `jobs` are the newest of machines that end or are launched."""
    found = []
    for job in jobs:
        step = job["steps"][-1]
        since = datetime.fromisoformat(step["start_time"])
        ending = job["kind"] == "terminate" or job["error"]
        if job["status"] != "running" or not ending or (now or datetime.now(UTC)) - since < _LATE_END:
            continue
        found.append(
            doubtful(
                "machines",
                f"the end of {job['instance_id']} is tried since {since:%Y-%m-%d %H:%M} UTC: {step['detail']}",
                "see to what its provider says; where that is not configured any more, end the machine there and then "
                f"`crosslogic instances terminate {job['instance_id']} --abandon`",
            )
        )
    return found or [well("machines", "none was to end and does not")]


def check_versions(gateway: str, nodes: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether all run the same version."""
    others = sorted({str(node.get("agent_version")) for node in nodes if node["status"] != "dead"} - {gateway, "None"})
    if others:
        return doubtful(
            "versions",
            f"the gateway runs {gateway}, some agents {', '.join(others)}",
            "bring the agents to the gateway's version: neighbouring versions work, further apart is not tried",
        )
    return well("versions", f"all run {gateway}")
