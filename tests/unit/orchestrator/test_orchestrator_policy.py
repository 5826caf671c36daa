"""What a job does next: whatever was done before, by whomever, it ends in a true state and asks for one machine."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as registry
from crosslogic_orchestrator import policy
from crosslogic_orchestrator.domain import Instance, Job, Machine, NodeView, Spec, Step, in_words
from crosslogic_orchestrator.fleet import log_line_of
from crosslogic_orchestrator.policy import Delete, Drain, End, GiveUp, Limits, Reach, Request, Wait, Write

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIMITS = Limits(provision_s=100, load_s=50, dead_s=70)
ABSENT = Machine("m", "absent")
PENDING = Machine("m", "pending", "the cloud looks for one")
RUNNING = Machine("m", "running")
STALLED = Machine("m", "stalled", "SkyPilot is not at it")
GONE = Machine("m", "gone", "taken away")


def job(kind: str = "launch", step: Step = Step.VALIDATED, *, waited_s: float = 0, error: str = "") -> Job:
    instance = Instance(
        id="m",
        spec=Spec(model="x", provider="local", region="r"),
        state="launching",
        hourly_price_picodollars=0,
        job_id="j",
        created_at=NOW,
        ended_at=None,
    )
    return Job(
        id="j",
        kind=kind,  # type: ignore[arg-type]
        instance=instance,
        status="running",
        step=step,
        step_at=NOW - timedelta(seconds=waited_s),
        read_at=NOW,
        task="",
        error=error,
        drain_timeout_s=30.0,
        created_at=NOW,
        updated_at=NOW,
        epoch=1,
    )


def node(status: str, reason: str = "", running: int = 0) -> NodeView:
    return NodeView("m", status, reason, running)  # type: ignore[arg-type]


def decide(job: Job, machine: Machine, node: NodeView | None = None) -> policy.Decision:
    return policy.decide(job, machine, node, now=NOW, limits=LIMITS)


@pytest.mark.parametrize(
    ("made", "machine", "seen", "wanted"),
    [
        (job(), ABSENT, None, Write()),
        (job(step=Step.TASK_WRITTEN), ABSENT, None, Request()),
        (job(step=Step.REQUESTED), ABSENT, None, Request()),
        (job(step=Step.REQUESTED), PENDING, None, Reach(Step.PROVISIONING, "the cloud looks for one")),
        (job(step=Step.PROVISIONING), PENDING, None, Wait(1.0, "the cloud looks for one")),
        (job(step=Step.PROVISIONING), RUNNING, node("registering"), Reach(Step.AGENT_REGISTERED, "")),
        (
            job(step=Step.PROVISIONING),
            RUNNING,
            node("warming", "the engine is starting"),
            Reach(Step.WEIGHTS_LOADING, "the engine is starting"),
        ),
        (
            job(step=Step.WEIGHTS_LOADING),
            RUNNING,
            node("warming", "the engine is being measured"),
            Reach(Step.BENCHMARK, "the engine is being measured"),
        ),
        (job(step=Step.WEIGHTS_LOADING), RUNNING, node("warming", "x"), Wait(0.5, "x")),
        (job(step=Step.BENCHMARK), RUNNING, node("active"), Reach(Step.ACTIVE, "")),
        (job(step=Step.ACTIVE), RUNNING, node("active"), End()),
        (job("terminate", Step.DRAINING), RUNNING, node("active", running=3), Drain()),
        (
            job("terminate", Step.DRAINING, waited_s=5),
            RUNNING,
            node("draining", running=3),
            Wait(0.5, "3 requests under way"),
        ),
        (job("terminate", Step.DRAINING), RUNNING, node("draining"), Reach(Step.DELETING)),
        (
            job("terminate", Step.DRAINING, waited_s=31),
            RUNNING,
            node("draining", running=3),
            Reach(Step.DELETING, "3 requests go on elsewhere"),
        ),
        (job("terminate", Step.DRAINING), GONE, node("active"), Reach(Step.DELETING)),
        (job("terminate", Step.DRAINING), RUNNING, None, Reach(Step.DELETING)),
        (job("terminate", Step.DELETING), RUNNING, None, Delete()),
        (job("terminate", Step.DELETING), GONE, None, Reach(Step.TERMINATED)),
        (job("terminate", Step.TERMINATED), GONE, None, End()),
    ],
)
def test_next_thing_to_do(made: Job, machine: Machine, seen: NodeView | None, wanted: policy.Decision) -> None:
    assert decide(made, machine, seen) == wanted


@pytest.mark.parametrize(
    ("made", "machine", "seen", "words"),
    [
        (job(step=Step.PROVISIONING), GONE, None, "went away while it was made: taken away."),
        (job(step=Step.WEIGHTS_LOADING), ABSENT, None, "knows of no such machine any more"),
        (job(step=Step.PROVISIONING), ABSENT, node("registering"), "no such machine any more, though its agent"),
        (job(step=Step.PROVISIONING, waited_s=101), RUNNING, None, "No agent has joined from the machine within 100 s"),
        (
            job(step=Step.WEIGHTS_LOADING),
            RUNNING,
            replace(node("warming", "engine died: exit code 1. no such model"), engine_deaths=policy.MOST_DEATHS),
            "ended 3 times before it served: engine died: exit code 1. no such model",
        ),
        (
            job(step=Step.WEIGHTS_LOADING),
            RUNNING,
            replace(node("dead", "not heard of."), dead_since=NOW - timedelta(seconds=70)),
            "died before it served, and has not come back within 70 s: not heard of.",
        ),
        (job(step=Step.WEIGHTS_LOADING, waited_s=51), RUNNING, node("warming", "stuck"), "did not serve within 50 s"),
    ],
)
def test_launch_that_cannot_succeed_says_why(made: Job, machine: Machine, seen: NodeView | None, words: str) -> None:
    decision = decide(made, machine, seen)
    assert isinstance(decision, GiveUp)
    assert words in decision.error


def asked_again(times: int, *, ago_s: float = 0, waited_s: float = 50) -> Job:
    before = NOW - timedelta(seconds=ago_s) if times else None
    return replace(job(step=Step.PROVISIONING, waited_s=waited_s), asked_again=times, asked_again_at=before)


@pytest.mark.parametrize("dead_since", [None, NOW - timedelta(seconds=69)], ids=["since we do not know when", "lately"])
@pytest.mark.parametrize("step", [Step.PROVISIONING, Step.WEIGHTS_LOADING, Step.ACTIVE])
def test_node_that_died_before_it_served_is_waited_for_as_one_that_served(
    step: Step, dead_since: datetime | None
) -> None:
    seen = replace(node("dead", "not heard of for 60 s"), dead_since=dead_since)
    decision = decide(job(step=step, waited_s=1000), RUNNING, seen)
    assert isinstance(decision, Wait)
    assert decision.detail == "not heard of for 60 s"


@pytest.mark.parametrize(("machine", "words"), [(ABSENT, "asked for again"), (STALLED, "asked to go on")])
def test_a_launch_that_its_provider_forgot_is_asked_for_again_and_its_operator_is_told(
    machine: Machine, words: str
) -> None:
    decision = decide(asked_again(0), machine)
    assert isinstance(decision, Request)
    assert "as when it was restarted meanwhile" in decision.again
    assert words in decision.again


def test_a_launch_that_its_provider_forgets_each_time_is_asked_for_ever_less_often_and_then_fails() -> None:
    for times, rest_s in enumerate((15, 30, 60, 120, 240), start=1):
        early = decide(asked_again(times, ago_s=rest_s - 1), ABSENT)
        assert isinstance(early, Wait), times
        assert early.seconds < 2, "an agent that joins meanwhile is seen at once"
        assert isinstance(decide(asked_again(times, ago_s=rest_s), ABSENT), Request), times
    last = decide(asked_again(policy.MOST_ASKED_AGAIN, ago_s=1), ABSENT)
    assert isinstance(last, GiveUp)
    assert "forgot the launch 7 times" in last.error


@pytest.mark.parametrize("machine", [ABSENT, STALLED])
def test_asking_again_goes_on_for_no_longer_than_the_launch_may_take(machine: Machine) -> None:
    decision = decide(asked_again(1, ago_s=60, waited_s=101), machine)
    assert isinstance(decision, GiveUp)
    assert "within 100 s of when it was first asked for" in decision.error


@pytest.mark.parametrize("step", [each for each in Step if Step.PROVISIONING <= each <= Step.ACTIVE])
@pytest.mark.parametrize("machine", [Machine("m", "gone"), Machine("m", "failed")])
def test_what_was_ended_or_could_not_be_made_is_never_asked_for_again(step: Step, machine: Machine) -> None:
    for seen in (None, node("warming")):
        assert isinstance(decide(job(step=step), machine, seen), GiveUp)


@pytest.mark.parametrize("step", [each for each in Step if Step.PROVISIONING < each <= Step.ACTIVE])
@pytest.mark.parametrize("machine", [ABSENT, STALLED])
def test_no_second_machine_is_made_for_a_node_that_was_there(step: Step, machine: Machine) -> None:
    for seen in (None, node("registering"), node("warming"), node("active"), node("dead")):
        assert not isinstance(decide(job(step=step), machine, seen), Request)
    assert not isinstance(decide(job(step=Step.PROVISIONING), machine, node("registering")), Request)


def test_a_machine_whose_provider_left_off_and_whose_agent_joined_all_the_same_serves() -> None:
    assert decide(job(step=Step.PROVISIONING), STALLED, node("active")) == Reach(Step.ACTIVE, "")
    assert decide(job(step=Step.ACTIVE), STALLED, node("active")) == End()


@pytest.mark.parametrize("kind", ["launch", "terminate"])
def test_what_a_provider_left_half_made_is_deleted_and_never_asked_for_by_a_job_that_ends_it(kind: str) -> None:
    failed = job(kind, Step.DELETING if kind == "terminate" else Step.PROVISIONING, error="no")
    assert decide(failed, STALLED) == Delete()
    assert not isinstance(decide(failed, ABSENT), Request | GiveUp)


def test_failed_launch_leaves_no_machine() -> None:
    failed = job(step=Step.PROVISIONING, error="no")
    assert decide(failed, RUNNING) == Delete()
    assert decide(failed, GONE) == End()


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["absent", "pending", "stalled", "running", "gone"]),
            st.sampled_from([None, "registering", "warming", "active", "draining", "dead"]),
            st.floats(0, 200),
        ),
        max_size=30,
    ),
    kind=st.sampled_from(["launch", "terminate"]),
)
def test_steps_only_go_forward_and_every_job_can_end(steps: list[tuple[str, str | None, float]], kind: str) -> None:
    at = job(kind, Step.VALIDATED if kind == "launch" else Step.DRAINING)
    for state, status, waited_s in steps:
        at = replace(at, step_at=NOW - timedelta(seconds=waited_s))
        decision = decide(at, Machine("m", state), None if status is None else node(status))  # type: ignore[arg-type]
        if isinstance(decision, Reach):
            assert decision.step > at.step
            at = replace(at, step=decision.step)
        elif isinstance(decision, Write):
            at = replace(at, step=Step.TASK_WRITTEN)
        elif isinstance(decision, GiveUp):
            assert kind == "launch"
            at = replace(at, error=decision.error)
    for _ in range(20):
        # From wherever it is, a machine that goes away, and time, end it.
        decision = decide(replace(at, step_at=NOW - timedelta(seconds=1000)), GONE)
        if isinstance(decision, End):
            return
        if isinstance(decision, Reach):
            at = replace(at, step=decision.step)
        elif isinstance(decision, Write):
            at = replace(at, step=Step.TASK_WRITTEN)
        elif isinstance(decision, GiveUp):
            at = replace(at, error=decision.error)
    raise AssertionError(f"it never ends: {at}")


def test_an_agents_log_is_read_by_people() -> None:
    line = '{"reason": "exit code 3. CUDA error", "restart_in_s": 0.5, "event": "engine ended", "level": "error"}'
    assert in_words(line) == "engine ended reason=exit code 3. CUDA error restart_in_s=0.5"
    for other in ("CUDA error", "[1, 2]", '{"level": "info"}', '{"event": 3}', "[" * 2_000):
        assert in_words(other) == other


def test_a_node_whose_clock_is_impossible_ends_nothing() -> None:
    line = registry.NodeLogLine(text="x", time=Timestamp(seconds=2**62))
    assert log_line_of(line).text == "x"
