"""Usage events over the wire to librdkafka's mock brokers: every row at least once, keyed by its request."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_billing.events.kafka import KafkaSink, kafka_sink
from crosslogic_billing.events.publisher import Publisher
from crosslogic_common.errors import CodedError, ErrorCode


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    """A cluster of two mock brokers. It lives in the client that has made it, and listens on real ports."""
    cluster = Producer({"test.mock.num.brokers": 2, "log_level": 0})
    found = cluster.list_topics(timeout=20).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found)
    del cluster


@pytest.fixture
async def sink(brokers: str) -> AsyncIterator[KafkaSink]:
    async with kafka_sink(brokers=brokers, topic="usage", properties={}) as made:
        yield made


@dataclass
class Rows:
    """A ledger that can be away."""

    entries_: list[pb.LedgerEntry] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    async def entries(self, after_sequence: int, limit: int) -> Sequence[pb.LedgerEntry]:
        self.asked.append(after_sequence)
        return self.entries_[after_sequence : after_sequence + limit]

    def add(self, *, requests: int = 1, revision: int = 0) -> str:
        request_id = str(uuid.uuid4())
        record = pb.UsageRecord(
            context=pb.RequestContext(request_id=request_id, org_id="o", model="llama"),
            usage=common_pb.TokenUsage(prompt_tokens=7, completion_tokens=3),
            outcome=common_pb.OUTCOME_SUCCEEDED,
        )
        self.entries_.append(
            pb.LedgerEntry(
                sequence=len(self.entries_) + 1,
                record=record,
                requests=requests,
                revision=revision,
                cost_picodollars="9007199254740993",
            )
        )
        return request_id


@dataclass
class Cursors:
    """Cursors in memory."""

    at: dict[str, int] = field(default_factory=lambda: {"usage": 0, "kafka": 0})
    lost_moves: int = 0

    async def cursor(self, name: str = "usage") -> int:
        return self.at[name]

    async def move(self, name: str, *, after: int, upto: int) -> bool:
        if self.lost_moves:
            self.lost_moves -= 1
            raise CodedError(ErrorCode.UNAVAILABLE)
        moved = self.at[name] == after
        self.at[name] = upto if moved else self.at[name]
        return moved


def consumed(brokers: str, topic: str, count: int) -> list[tuple[bytes, dict[str, Any]]]:
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": str(uuid.uuid4()), "auto.offset.reset": "earliest", "log_level": 0}
    )
    # No group is joined: that takes seconds.
    partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    found = []
    try:
        for _ in range(600):
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                key, value = message.key(), message.value()
                assert key is not None
                assert value is not None
                found.append((key, json.loads(value)))
                if len(found) == count:
                    break
    finally:
        consumer.close()
    return found


async def test_every_settled_row_is_published_with_its_request_as_key(brokers: str, sink: KafkaSink) -> None:
    rows, cursors = Rows(), Cursors()
    ids = [rows.add() for _ in range(20)]
    cursors.at["usage"] = 20
    publisher = Publisher(rows=rows, cursors=cursors, sink=sink)
    while await publisher.publish_page():
        pass
    found = await asyncio.to_thread(consumed, brokers, "usage", 20)
    assert sorted(key.decode() for key, _ in found) == sorted(ids)
    for key, value in found:
        assert value["request_id"] == key.decode()
        assert (value["prompt_tokens"], value["completion_tokens"], value["outcome"]) == (7, 3, "succeeded")
        # More than a float can hold.
        assert value["cost_picodollars"] == "9007199254740993"
    assert cursors.at["kafka"] == 20


async def test_publishing_never_overtakes_settling(sink: KafkaSink) -> None:
    rows, cursors = Rows(), Cursors()
    for _ in range(5):
        rows.add()
    publisher = Publisher(rows=rows, cursors=cursors, sink=sink)
    assert not await publisher.publish_page()
    assert rows.asked == []
    cursors.at["usage"] = 3
    await publisher.publish_page()
    await publisher.publish_page()
    assert (cursors.at["kafka"], rows.asked) == (3, [0])


async def test_a_crash_after_publishing_publishes_again_and_loses_nothing(brokers: str) -> None:
    rows, cursors = Rows(), Cursors(lost_moves=1)
    request_id = rows.add()
    cursors.at["usage"] = 1
    async with kafka_sink(brokers=brokers, topic="again", properties={}) as sink:
        publisher = Publisher(rows=rows, cursors=cursors, sink=sink)
        with pytest.raises(CodedError):
            await publisher.publish_page()
        await publisher.publish_page()
    found = await asyncio.to_thread(consumed, brokers, "again", 2)
    assert [key.decode() for key, _ in found] == [request_id] * 2
    assert found[0] == found[1]


async def test_brokers_that_are_away_move_no_cursor() -> None:
    rows, cursors = Rows(), Cursors()
    rows.add()
    cursors.at["usage"] = 1
    properties = {"message.timeout.ms": "300", "log_level": "0"}
    async with kafka_sink(brokers="127.0.0.1:1", topic="usage", properties=properties) as sink:
        with pytest.raises(CodedError) as failed:
            await Publisher(rows=rows, cursors=cursors, sink=sink).publish_page()
    assert failed.value.code == ErrorCode.UNAVAILABLE
    assert cursors.at["kafka"] == 0
