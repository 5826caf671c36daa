"""What an agent ships of its logs: the latest, in order, without secrets, and never more than it may hold."""

import logging
from pathlib import Path

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_node_agent.log_buffer import MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_KEPT_BYTES, MAX_KEPT_LINES, LogBuffer
from crosslogic_node_agent.log_shipping import MAX_READ_BYTES, LogShipping


def texts(buffer: LogBuffer) -> list[str]:
    """Ships everything."""
    shipped = []
    while (taken := buffer.batch())[1] is not None:
        last, batch = taken
        assert batch is not None
        shipped += [line.text for line in batch.lines]
        buffer.shipped(last)
    return shipped


def test_batch_whose_stream_broke_is_shipped_again_and_one_that_went_out_is_not() -> None:
    buffer = LogBuffer(least="info")
    buffer.add(pb.LOG_SOURCE_AGENT, pb.LOG_LEVEL_INFO, "first")
    last, batch = buffer.batch()
    buffer.add(pb.LOG_SOURCE_AGENT, pb.LOG_LEVEL_DEBUG, "not grave enough")
    buffer.add(pb.LOG_SOURCE_AGENT, pb.LOG_LEVEL_ERROR, "second")
    assert buffer.batch()[1] is not None
    assert [line.text for line in batch.lines] == ["first"] if batch is not None else False
    buffer.shipped(last)
    assert texts(buffer) == ["second"]


def test_while_the_registry_is_away_the_oldest_lines_go_and_are_counted() -> None:
    buffer = LogBuffer(least="info")
    for number in range(MAX_KEPT_LINES + 10):
        buffer.add(pb.LOG_SOURCE_ENGINE, pb.LOG_LEVEL_INFO, str(number))
    _, batch = buffer.batch()
    assert batch is not None
    assert (batch.dropped, len(batch.lines), batch.lines[0].text) == (10, MAX_BATCH_LINES, "10")
    for _ in range(MAX_KEPT_LINES):
        buffer.add(pb.LOG_SOURCE_ENGINE, pb.LOG_LEVEL_INFO, "x" * 10_000)
    _, batch = buffer.batch()
    assert batch is not None
    assert sum(len(line.text) for line in batch.lines) <= MAX_BATCH_BYTES
    assert sum(map(len, texts(buffer))) <= MAX_KEPT_BYTES


def test_a_line_that_went_out_of_the_buffer_while_its_batch_was_written_takes_no_other_with_it() -> None:
    buffer = LogBuffer(least="info")
    buffer.add(pb.LOG_SOURCE_AGENT, pb.LOG_LEVEL_INFO, "old")
    last, _ = buffer.batch()
    for number in range(MAX_KEPT_LINES):
        buffer.add(pb.LOG_SOURCE_AGENT, pb.LOG_LEVEL_INFO, str(number))
    buffer.shipped(last)
    assert len(texts(buffer)) == MAX_KEPT_LINES


async def test_agents_own_lines_are_shipped_as_they_are_printed() -> None:
    shipping = LogShipping(least="warning", engine_log=Path("nowhere"))
    async with shipping.running():
        logging.getLogger("crosslogic").warning("the registry is away")
        logging.getLogger("crosslogic").info("not grave enough")
    logging.getLogger("crosslogic").warning("afterwards")
    (line,) = texts(shipping.buffer)
    assert "the registry is away" in line


def test_engines_log_is_followed_from_its_end_on_through_rotation_with_levels_and_without_secrets(
    tmp_path: Path,
) -> None:
    log = tmp_path / "engine.log"
    log.write_text("INFO of an engine before this one\n")
    shipping = LogShipping(least="info", engine_log=log)
    with log.open("a") as out:
        out.write("(APIServer pid=7) INFO 11-21 started\nERROR 11-21 broke: Authorization: Bearer abcdef123456\n")
        out.write("  a line of its traceback\nDEBUG nobody wants this\nINFO half of a li")
    shipping.look()
    with log.open("a") as out:
        out.write("ne\n")
    shipping.look()
    _, batch = shipping.buffer.batch()
    assert batch is not None
    assert [(line.level, line.text) for line in batch.lines] == [
        (pb.LOG_LEVEL_INFO, "(APIServer pid=7) INFO 11-21 started"),
        (pb.LOG_LEVEL_ERROR, "ERROR 11-21 broke: (secret)"),
        (pb.LOG_LEVEL_ERROR, "  a line of its traceback"),
        (pb.LOG_LEVEL_INFO, "INFO half of a line"),
    ]
    texts(shipping.buffer)
    log.unlink()
    shipping.look()
    log.write_text("WARNING begun anew\n")
    shipping.look()
    assert texts(shipping.buffer) == ["WARNING begun anew"]


@pytest.mark.parametrize("ended", [True, False])
def test_an_engine_that_floods_its_log_costs_lines_and_no_memory(tmp_path: Path, *, ended: bool) -> None:
    log = tmp_path / "engine.log"
    shipping = LogShipping(least="info", engine_log=log)
    log.write_bytes((b"INFO x" + b"\n" * ended) * MAX_READ_BYTES)
    shipping.look()
    assert shipping.buffer.dropped > 0
    assert sum(map(len, texts(shipping.buffer))) <= MAX_KEPT_BYTES
