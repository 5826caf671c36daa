"""Kafka, through librdkafka."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Producer

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

_FLUSH_S = 20.0
_CLOSE_S = 5.0


class KafkaSink:
    """Publishes batches: each is on enough brokers before the call returns."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def publish(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Publishes keys and values. Raises UNAVAILABLE unless Kafka has them all; then some may be there twice."""
        await asyncio.to_thread(self._publish, messages)

    def _publish(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        failed: list[str] = []

        def ended(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failed.append(str(error))

        try:
            for key, value in messages:
                self._producer.produce(self._topic, value=value, key=key, on_delivery=ended)
                self._producer.poll(0)
            waiting = self._producer.flush(_FLUSH_S)
        except (KafkaException, BufferError) as error:
            self._producer.purge()
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"Kafka: {error}") from None
        if waiting:
            # What is still on its way is given up here and published again from the ledger.
            self._producer.purge()
            self._producer.flush(_CLOSE_S)
        if waiting or failed:
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"Kafka: {failed[0] if failed else 'no answer in time'}")


@contextlib.asynccontextmanager
async def kafka_sink(*, brokers: str, topic: str, properties: Mapping[str, str]) -> AsyncIterator[KafkaSink]:
    """A sink on host:port brokers. `properties` are librdkafka's, for example of SASL."""
    log = get_logger(__name__)
    producer = Producer(
        {
            "client.id": "crosslogic-billing",
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "gzip",
            "linger.ms": 5,
            "message.timeout.ms": round(_FLUSH_S * 1000),
            **properties,
            "bootstrap.servers": brokers,
            "error_cb": lambda error: log.warning("Kafka", reason=str(error)),
        }
    )
    try:
        yield KafkaSink(producer, topic)
    finally:
        await asyncio.to_thread(producer.flush, _CLOSE_S)
