"""The words of the orchestrator."""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Literal, NamedTuple

JobKind = Literal["launch", "terminate"]
JobStatus = Literal["running", "succeeded", "failed"]
InstanceState = Literal["launching", "active", "terminating", "terminated", "lost"]
MachineState = Literal["absent", "pending", "stalled", "running", "failed", "gone"]
LogSource = Literal["orchestrator", "agent", "engine"]
NodeStatus = Literal["registering", "warming", "active", "draining", "dead"]

MAX_WORDS = 2_000
_EVERY_LINE_HAS = frozenset({"event", "level", "logger", "timestamp", "service"})


def plain(text: str) -> str:
    """What a provider, a node or a process said, fit to be kept and shown: bounded, without control characters."""
    return "".join(char for char in text[:MAX_WORDS] if char.isprintable() or char == "\n")


def in_words(line: str) -> str:
    """A line of an agent's log for people: what happened, and then the rest. What is no such line stays as it is."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(said, dict) or not isinstance(said.get("event"), str):
        return line
    rest = (f"{name}={value}" for name, value in said.items() if name not in _EVERY_LINE_HAS)
    return " ".join([said["event"], *rest])


class Step(IntEnum):
    """Steps of jobs; the numbers are those of the contract's JobStep."""

    VALIDATED = 1
    TASK_WRITTEN = 2
    REQUESTED = 3
    PROVISIONING = 4
    AGENT_REGISTERED = 5
    WEIGHTS_LOADING = 6
    WARM_UP = 7
    BENCHMARK = 8
    ACTIVE = 9
    DRAINING = 10
    DELETING = 11
    TERMINATED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A machine that is asked for."""

    model: str
    provider: str
    region: str
    instance_type: str = ""
    use_spot: bool = False
    org_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A machine as the database keeps it."""

    id: str
    spec: Spec
    state: InstanceState
    hourly_price_picodollars: int
    job_id: str
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step that was begun."""

    step: Step
    started_at: datetime
    ended_at: datetime | None
    detail: str
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a job's log."""

    at: datetime
    source: LogSource
    """Of a machine that is launched, its agent or engine; what providers say is told by the orchestrator."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the database keeps it."""

    id: str
    kind: JobKind
    instance: Instance
    status: JobStatus
    step: Step
    step_at: datetime
    """When its current step began, or its launch failed, by the database's clock: replicas' differ, and jump."""
    read_at: datetime
    """When it was read, by the same clock."""
    task: str
    """What the provider is asked for. Never a secret."""
    error: str
    drain_timeout_s: float
    created_at: datetime
    updated_at: datetime
    epoch: int
    """Raised each time that somebody takes the job: what an older holder writes is refused."""
    steps: tuple[StepRow, ...] = ()
    logs: tuple[LogLine, ...] = ()
    """What was said, oldest first: the last lines of it."""
    asked_again: int = 0
    """How often its provider was asked again for what it had forgotten."""
    asked_again_at: datetime | None = None
    """When it was last, by the database's clock."""


@dataclass(frozen=True, slots=True)
class LateEnd:
    """A machine whose end does not come about."""

    instance_id: str
    provider: str
    region: str
    model: str
    since: datetime
    """Since when nothing but its end is waited for."""
    words: str
    """What its provider said last."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as its provider knows it."""

    name: str
    state: MachineState
    """`failed`: its making went wrong, and what there is of it must be deleted. `stalled`: there is something of it,
    and the provider, restarted meanwhile, is not at it any more; to ask again goes on with it, an end deletes it."""
    detail: str = ""
    """In words, for people: what it waits for, or why it failed or is gone."""
    hourly_price_picodollars: int = 0


ABSENT = Machine("", "absent")


class Loaded(NamedTuple):
    """How much of a machine's weights is there, in bytes. Both 0: nothing is known."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A machine's node as the registry knows it."""

    id: str
    status: NodeStatus
    reason: str
    running: int
    """Requests under way on it."""
    bytes_done: int = 0
    bytes_total: int = 0
    engine_deaths: int = 0
    """How often its engine ended by itself since its agent started."""
    dead_since: datetime | None = None
    """Since when we have known it to be dead. None: it is not, or the registry has been away since."""
