"""What of a node's log lines is kept: nothing that floods the registry, or an operator's terminal."""

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry.node_logs import MAX_BATCH_BYTES, MAX_LINE_BYTES, MAX_LINES, MAX_WAITING, NodeLogs, fit_to_keep
from crosslogic_registry.observations import Observations


def logs(*texts: str) -> pb.NodeLogs:
    return pb.NodeLogs(lines=[pb.NodeLogLine(source=pb.LOG_SOURCE_AGENT, text=text) for text in texts])


def dropped(observations: Observations) -> float:
    (metric,) = observations.log_lines_dropped.collect()
    return metric.samples[0].value


def test_a_lying_node_writes_nothing_onto_an_operators_terminal() -> None:
    hostile = pb.NodeLogs(lines=[pb.NodeLogLine(text="\x1b]0;owned\x07\r\n\u202eevil", level=77, source=99)])  # type: ignore[arg-type]
    hostile.lines[0].time.seconds = -(2**60)
    (line,) = fit_to_keep(hostile).lines
    assert line.text == " ]0;owned    evil"
    assert (line.level, line.source) == (pb.LOG_LEVEL_INFO, pb.LOG_SOURCE_UNSPECIFIED)
    assert line.time.ToMilliseconds() == 0


def test_a_flooding_node_is_cut_to_its_share() -> None:
    kept = fit_to_keep(logs(*("x" for _ in range(10 * MAX_LINES))))
    assert len(kept.lines) == MAX_LINES
    kept = fit_to_keep(logs(*("é" * 100_000 for _ in range(100))))
    assert all(len(line.text.encode()) <= MAX_LINE_BYTES for line in kept.lines)
    assert sum(len(line.text.encode()) for line in kept.lines) <= MAX_BATCH_BYTES


async def test_while_redis_hangs_lines_are_dropped_and_counted_and_nobody_waits() -> None:
    observations = Observations()
    taking = NodeLogs(redis=None, observations=observations)
    for _ in range(MAX_WAITING + 5):
        taking.take("node", logs("one", "two"))
    assert dropped(observations) == 10
    taking.take("node", logs(*("x" for _ in range(MAX_LINES + 1))))
    assert dropped(observations) == 10 + 1 + MAX_LINES
