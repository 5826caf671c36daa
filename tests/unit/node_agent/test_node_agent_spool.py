"""Witnesses on disk."""

from collections import deque
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosslogic_node_agent.spool import SEGMENT_BYTES, Spool, Spooled, SpoolFullError


def everything(spool: Spool) -> list[bytes]:
    taken: list[bytes] = []
    while batch := spool.take(7):
        taken += [record.content for record in batch]
    return taken


def test_what_was_put_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(100):
        spool.put(b"w%d" % number)
    # No close: the process is gone.
    again = Spool(tmp_path)
    assert len(again) == 100
    assert everything(again) == [b"w%d" % number for number in range(100)]


def test_a_record_that_was_half_written_costs_only_itself(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(b"whole")
    spool.put(b"torn")
    (file,) = tmp_path.glob("*.spool")
    file.write_bytes(file.read_bytes()[:-2])
    again = Spool(tmp_path)
    again.put(b"later")
    assert everything(again) == [b"whole", b"later"]


def test_a_full_spool_says_so_and_takes_again_once_there_is_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2 * SEGMENT_BYTES)
    big = b"x" * 100_000
    for _ in range(20):
        spool.put(big)
    with pytest.raises(SpoolFullError):
        spool.put(big)
    assert len(spool) == 20
    while batch := spool.take(4):
        for record in batch:
            spool.acknowledge(record)
    assert len(spool) == 0
    spool.put(big)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.spool")) < SEGMENT_BYTES + 100_100


def test_a_clean_end_with_everything_acknowledged_leaves_nothing_to_send_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(b"a")
    for record in spool.take(9):
        spool.acknowledge(record)
    spool.close()
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(steps=st.lists(st.sampled_from(["put", "put_big", "take", "acknowledge", "reopen"]), max_size=60))
def test_no_order_of_events_loses_a_record_that_was_not_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder)
    unacknowledged: set[bytes] = set()
    taken: deque[Spooled] = deque()
    for number, step in enumerate(steps):
        if step.startswith("put"):
            content = b"%d " % number + b"x" * (300_000 if step == "put_big" else 10)
            spool.put(content)
            unacknowledged.add(content)
        elif step == "take":
            taken.extend(spool.take(2))
        elif step == "acknowledge" and taken:
            record = taken.popleft()
            spool.acknowledge(record)
            unacknowledged.discard(record.content)
        elif step == "reopen":
            taken.clear()
            spool = Spool(folder)
    assert len(spool) >= len(unacknowledged)
    assert unacknowledged <= {*everything(spool), *(record.content for record in taken)}
