"""What a job does next, from what is known of its machine and its node. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from crosslogic_orchestrator.domain import Job, Machine, MachineState, NodeView, Step


@dataclass(frozen=True, slots=True)
class Limits:
    """How long steps may take, in seconds."""

    provision_s: float = 1_800.0
    """From the request to the agent's joining."""
    load_s: float = 3_600.0
    """From the joining to the first served request: weights, warm-up and measurement together."""
    dead_s: float = 300.0
    """Until a node that is dead counts as one that does not come back, as with machines that have served."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write down what the provider will be asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask the provider for the machine."""

    again: str = ""
    """Why, where it was asked before and forgot."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take the node out of picking."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask the provider to delete the machine."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The job has reached a step: it and those before it are noted."""

    step: Step
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later."""

    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The launch fails: what was made is deleted first."""

    error: str


@dataclass(frozen=True, slots=True)
class End:
    """The job is over."""


Decision = Write | Request | Drain | Delete | Reach | Wait | GiveUp | End

MOST_DEATHS = 3
"""Of an engine, before its machine has ever served."""
MOST_ASKED_AGAIN = 6
"""Of a provider that forgets its launch each time."""
_ASK_AGAIN_S = 15.0
"""From the first time that it was asked again to the second; each rest after it is twice as long."""
_LOOK_S = 1.0
_LOOK_LOADING_S = 0.5
# What an agent says while it warms, by how its reasons begin (services/node_agent, supervisor.py).
_WARMING: Mapping[str, Step] = MappingProxyType(
    {"the engine is warming up": Step.WARM_UP, "the engine is being measured": Step.BENCHMARK}
)


def decide(job: Job, machine: Machine, node: NodeView | None, *, now: datetime, limits: Limits) -> Decision:
    """What to do next. `machine` is the provider's word, `node` the registry's; None: it has not joined."""
    if job.kind == "terminate":
        return _terminate(job, machine, node, now=now)
    if job.error:
        return _clean_up(machine)
    return _launch(job, machine, node, now=now, limits=limits)


def needs_node(job: Job, *, now: datetime) -> bool:
    """Whether it matters what the registry says. An end goes on without it, once running requests had their time."""
    if job.kind == "terminate":
        return job.step == Step.DRAINING and (now - job.step_at).total_seconds() < job.drain_timeout_s
    return not job.error


def refused(job: Job, words: str, *, temporary: bool, now: datetime, limits: Limits) -> str | None:
    """Why the launch fails after a provider or the registry refused it in `words`. None: it is tried again."""
    if job.kind == "terminate" or job.error:
        # An end is tried for as long as it takes: a machine that is left would be paid for.
        return None
    if not temporary:
        return words
    most_s = limits.provision_s if job.step <= Step.PROVISIONING else limits.load_s
    if (now - job.step_at).total_seconds() <= most_s:
        return None
    return f"It was tried for {most_s:g} s, and the last answer was: {words}"


_COMES_TO_NOTHING: Mapping[MachineState, str] = MappingProxyType(
    {
        "failed": "The machine could not be made",
        "gone": "The machine went away while it was made",
        "absent": "Its provider knows of no such machine any more, though its agent has joined",
    }
)
_FORGOTTEN: Mapping[MachineState, str] = MappingProxyType(
    {
        "absent": (
            "Its provider knows of no such launch any more, as when it was restarted meanwhile: it is asked for again."
        ),
        "stalled": "Its provider left off making it, as when it was restarted meanwhile: it is asked to go on.",
    }
)
"""A launch that nobody is at, and how the provider is asked again for the same machine."""


def _launch(job: Job, machine: Machine, node: NodeView | None, *, now: datetime, limits: Limits) -> Decision:
    waited_s = (now - job.step_at).total_seconds()
    if job.step == Step.VALIDATED:
        return Write()
    if job.step in (Step.TASK_WRITTEN, Step.REQUESTED):
        # A machine that is there was asked for by whoever held this job before.
        return Request() if machine.state == "absent" else Reach(Step.PROVISIONING, machine.detail)
    if job.step == Step.PROVISIONING and node is None and machine.state in _FORGOTTEN:
        return _ask_again(job, machine, now=now, limits=limits)
    if machine.state in _COMES_TO_NOTHING:
        return GiveUp(_because(_COMES_TO_NOTHING[machine.state], machine.detail))
    if node is None:
        return _not_joined(machine, waited_s=waited_s, limits=limits)
    return _joined(job, node, now=now, waited_s=waited_s, limits=limits)


def _because(what: str, why: str) -> str:
    """A sentence; `why` may be one of somebody else's, or none."""
    reason = why.strip().removesuffix(".")
    return f"{what}: {reason}." if reason else f"{what}."


def _ask_again(job: Job, machine: Machine, *, now: datetime, limits: Limits) -> Decision:
    """Only before an agent has joined: nobody makes a second machine for a node, whatever its provider forgot."""
    if (now - job.step_at).total_seconds() > limits.provision_s:
        return GiveUp(
            "Its provider forgot the launch, as when it is restarted, and no agent has joined within "
            f"{limits.provision_s:g} s of when it was first asked for."
        )
    if job.asked_again >= MOST_ASKED_AGAIN:
        return GiveUp(
            f"Its provider forgot the launch {job.asked_again + 1} times, as when it is restarted each time. "
            "See what ends it there, then launch again."
        )
    words = _FORGOTTEN[machine.state]
    if job.asked_again_at is not None:
        rest_s = _ASK_AGAIN_S * 2 ** (job.asked_again - 1)
        if (now - job.asked_again_at).total_seconds() < rest_s:
            return Wait(_LOOK_S, words)
    return Request(again=words)


def _not_joined(machine: Machine, *, waited_s: float, limits: Limits) -> Decision:
    if waited_s <= limits.provision_s:
        return Wait(_LOOK_S, machine.detail)
    return GiveUp(
        f"No agent has joined from the machine within {limits.provision_s:g} s. Does it reach the registry? "
        f"{machine.detail}".strip()
    )


def _joined(job: Job, node: NodeView, *, now: datetime, waited_s: float, limits: Limits) -> Decision:
    if node.status == "dead":
        return _dead(node, now=now, limits=limits)
    reached = _reached(node)
    if reached > job.step:
        return Reach(reached, node.reason)
    if job.step == Step.ACTIVE:
        return End()
    if node.engine_deaths >= MOST_DEATHS:
        # The agent tries for ever. A machine that never serves is not paid for until the longest load would be over.
        return GiveUp(_because(f"The engine ended {node.engine_deaths} times before it served", node.reason))
    if waited_s > limits.load_s:
        return GiveUp(_because(f"The engine did not serve within {limits.load_s:g} s of its last step", node.reason))
    return Wait(_LOOK_LOADING_S, node.reason)


def _dead(node: NodeView, *, now: datetime, limits: Limits) -> Decision:
    """A machine or a network that stood still goes on, and half of the weights may be there."""
    if node.dead_since is None or (now - node.dead_since).total_seconds() < limits.dead_s:
        return Wait(_LOOK_S, node.reason)
    words = f"The node died before it served, and has not come back within {limits.dead_s:g} s"
    return GiveUp(_because(words, node.reason or "no reason was given"))


def _reached(node: NodeView) -> Step:
    if node.status in ("active", "draining"):
        return Step.ACTIVE
    if node.status == "registering":
        return Step.AGENT_REGISTERED
    for words, step in _WARMING.items():
        if node.reason.startswith(words):
            return step
    return Step.WEIGHTS_LOADING


def _clean_up(machine: Machine) -> Decision:
    return End() if machine.state in ("gone", "absent") else Delete()


def _terminate(job: Job, machine: Machine, node: NodeView | None, *, now: datetime) -> Decision:
    gone = machine.state in ("gone", "absent")
    if job.step == Step.DRAINING:
        if gone or node is None or node.status == "dead":
            return Reach(Step.DELETING)
        return _draining(job, node, waited_s=(now - job.step_at).total_seconds())
    if job.step == Step.DELETING:
        return Reach(Step.TERMINATED) if gone else Delete()
    return End()


def _draining(job: Job, node: NodeView, *, waited_s: float) -> Decision:
    if node.status != "draining" and waited_s < job.drain_timeout_s:
        return Drain()
    if node.running == 0:
        return Reach(Step.DELETING)
    if waited_s >= job.drain_timeout_s:
        return Reach(Step.DELETING, f"{node.running} requests go on elsewhere")
    return Wait(_LOOK_LOADING_S, f"{node.running} requests under way")
