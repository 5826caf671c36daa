"""What admission costs: the gateway with it less the gateway without, on the same core, taking turns."""

from statistics import median

import grpc.aio

from benchmarks.load import whole_requests
from benchmarks.stack import BenchError, Stack, start_gateway
from benchmarks.table import Budget, Figure
from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic_common.tls import Channels

WITHOUT = "gateway_without_admission"
EVERY_LIMIT = identity_pb.Limits(
    requests_per_second=10**8,
    requests_per_minute=10**9,
    tokens_per_second=10**9,
    tokens_per_minute=10**10,
    tokens_per_hour=10**11,
    tokens_per_day=10**12,
    concurrency=10**6,
)
"""Never reached."""
CAP_PICODOLLARS = 10**18


async def measure_admission(stack: Stack, *, seconds: float, rounds: int) -> list[Figure]:
    """CPU a request at 64 in flight: with the three default limits, and with every limit there is and a hard budget."""
    few, many = stack.api_key, await _key_with_every_limit(stack)
    await start_gateway(stack, WITHOUT, f"benchmarks.{WITHOUT}")

    async def cpu_us(key: str, to: str) -> float:
        stack.api_key = key
        seen = await whole_requests(stack, connections=64, seconds=seconds, to=to)
        if seen.errors:
            raise BenchError(f"{seen.errors} of {seen.requests} requests failed")
        return seen.cpu_us

    turns = ((few, WITHOUT), (few, "gateway"), (many, "gateway"))
    try:
        for key, to in turns:
            await cpu_us(key, to)
        found = [[await cpu_us(key, to) for key, to in turns] for _ in range(rounds)]
    finally:
        stack.api_key = few
        stack.table.stop([WITHOUT])
    detail = {"rounds_us": [dict(zip(("without", "three limits", "every limit"), row, strict=True)) for row in found]}
    return [
        Figure(
            f"admission CPU, request, 64 in flight, {name}",
            median(row[at] - row[0] for row in found),
            "µs",
            Budget(45),
            detail,
        )
        for at, name in ((1, "three limits"), (2, "every limit and a budget"))
    ]


async def _key_with_every_limit(stack: Stack) -> str:
    channels = Channels(stack.tls("operator"))
    try:
        identity = identity_rpc.IdentityServiceStub(channels.service("identity", stack.at("identity")))
        org = await identity.CreateOrg(
            identity_pb.CreateOrgRequest(
                name="every limit", limits=EVERY_LIMIT, monthly_cap_picodollars=CAP_PICODOLLARS
            ),
            timeout=20,
        )
        environment = await identity.CreateEnvironment(
            identity_pb.CreateEnvironmentRequest(org_id=org.org.id, name="bench", limits=EVERY_LIMIT), timeout=20
        )
        key = await identity.CreateApiKey(
            identity_pb.CreateApiKeyRequest(environment_id=environment.environment.id, limits=EVERY_LIMIT), timeout=20
        )
    except grpc.aio.AioRpcError as error:
        raise BenchError(f"no key can be made: {error.code().name} {error.details()}") from error
    finally:
        await channels.close()
    return str(key.secret)
