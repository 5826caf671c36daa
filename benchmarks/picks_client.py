"""Asks for picks as fast as they are answered: `python -m benchmarks.picks_client '<json>'`.

The requests are serialised beforehand and answers only counted, so that one core of this side can keep the scheduler's
core busy.
"""

import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks.measure import cpu_s, percentile
from benchmarks.picks_registry import MODELS, REGIONS
from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_common.tls import TlsMaterial, open_channel, service_dns_name

METHOD = "/crosslogic.scheduler.v1.SchedulerService/PickStream"


@dataclass(frozen=True, kw_only=True)
class PickLoad:
    """What is asked."""

    target: str
    cert_file: str
    key_file: str
    ca_file: str
    scheduler_pid: int
    batch: int
    """Picks in a message."""
    messages_in_flight: int
    warm_up_s: float
    measure_s: float
    orgs: int = 200


def _messages(load: PickLoad) -> list[bytes]:
    draw = random.Random(11)
    orgs = [f"0190c5b2-0000-7d2c-bf3e-{number:012x}" for number in range(load.orgs)]

    def request() -> pb.PickRequest:
        return pb.PickRequest(
            model=draw.choice(MODELS),
            org_id=draw.choice(orgs),
            region=draw.choice(("", *REGIONS)),
            estimated_tokens=512,
            prompt_tokens=384,
            client_key=draw.getrandbits(64),
        )

    return [
        pb.PickStreamRequest(
            calls=[pb.PickStreamCall(id=number + 1, request=request()) for number in range(load.batch)]
        ).SerializeToString()
        for _ in range(256)
    ]


def _as_is(message: bytes) -> bytes:
    return message


async def run(load: PickLoad) -> dict[str, object]:
    """Runs the load once."""
    material = TlsMaterial(*(Path(file).read_bytes() for file in (load.cert_file, load.key_file, load.ca_file)))
    messages = _messages(load)
    async with open_channel(load.target, material, service_dns_name("scheduler")) as channel:
        stream = channel.stream_stream(METHOD, request_serializer=_as_is, response_deserializer=_as_is)()
        await stream.wait_for_connection()
        sent_at: list[float] = []
        answered = 0
        round_trips: list[float] = []
        last = b""
        until = began = 0.0
        cpu_before = 0.0
        counted_from = 0
        for number in range(load.messages_in_flight):
            sent_at.append(time.perf_counter())
            await stream.write(messages[number % 256])
        began_warm = time.perf_counter()
        while True:
            last = await stream.read()  # type: ignore[assignment]
            now = time.perf_counter()
            round_trips.append(now - sent_at[answered])
            answered += 1
            if not until and now - began_warm > load.warm_up_s:
                until, began, counted_from = now + load.measure_s, now, answered
                cpu_before = cpu_s(load.scheduler_pid)
                round_trips.clear()
            elif until and now > until:
                break
            sent_at.append(now)
            await stream.write(messages[answered % 256])
        cpu_used = cpu_s(load.scheduler_pid) - cpu_before
        stream.cancel()
    picks = (answered - counted_from) * load.batch
    answer = pb.PickStreamResponse.FromString(last)
    failed = Counter(result.error.code for result in answer.results if result.HasField("error"))
    ordered = sorted(round_trips)
    return {
        "picks": picks,
        "seconds": now - began,
        "scheduler_cpu_s": cpu_used,
        "errors": dict(failed),
        "round_trip_ms": {"p50": percentile(ordered, 0.5) * 1000, "p99": percentile(ordered, 0.99) * 1000},
    }


def as_argument(load: PickLoad) -> str:
    """What the process is started with."""
    return json.dumps(asdict(load))


def main() -> None:
    """The process."""
    print(json.dumps(uvloop.run(run(PickLoad(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
