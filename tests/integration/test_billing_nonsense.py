"""Nonsense over the wire: every RPC refuses it in words, and none breaks."""

import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from crosslogic.billing.v1 import billing_pb2 as pb
from tests.fakes.billing_world import Billing

ROUNDS = 25
_TEXTS = (
    *("", "\0", "a", "x" * 3_000, "\u00e9\u202e", "00000000-0000-0000-0000-000000000000", "usa", "llama-3-8b"),
    *("2026-11", "9999-99", "2026-11-21", "2026-02-30", "UTC", "Asia/Kolkata", "../../etc/passwd"),
    *("-1", "0", "1e9", "99999999999999999999999999999999999999"),
)
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 1_000, 2**31 - 1, -(2**31)),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 7, 1_000_001, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 253_402_300_800, 2**63 - 1, -(2**63)),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 10**12 + 1, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 99),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -1.0, float("inf"), float("nan")),
}


@pytest.fixture
async def billing(pg_url: str) -> AsyncIterator[Billing]:
    with tempfile.TemporaryDirectory() as folder:
        async with Billing(folder=Path(folder), pg_url=pg_url).running() as running:
            yield running


def fill(message: Message, dice: random.Random, gaps: float) -> None:
    """Each field nonsense or sense by chance; with few gaps hardly a request gets past the first check."""
    fields: list[Any] = list(message.DESCRIPTOR.fields)
    for field in fields:
        if dice.random() < gaps:
            continue
        target: Any = getattr(message, field.name)
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            for _ in range(dice.randrange(3)):
                target[dice.choice(_TEXTS)] = dice.choice((0, 5, 2**32 - 1))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if field.label == FieldDescriptor.LABEL_REPEATED:
                for _ in range(dice.randrange(3)):
                    fill(target.add(), dice, gaps)
            else:
                target.SetInParent()
                fill(target, dice, gaps)
        elif field.label == FieldDescriptor.LABEL_REPEATED:
            target.extend(_value(field, dice) for _ in range(dice.randrange(3)))
        else:
            setattr(message, field.name, _value(field, dice))


def _value(field: Any, dice: random.Random) -> Any:
    return dice.choice(_NUMBERS.get(field.cpp_type, _TEXTS))


async def test_no_request_breaks_an_rpc(billing: Billing) -> None:
    dice = random.Random(7)
    broken: list[str] = []
    methods = [m for m in pb.DESCRIPTOR.services_by_name["BillingService"].methods if not m.server_streaming]
    for method in methods:
        for _ in range(ROUNDS):
            request = getattr(pb, method.input_type.name)()
            fill(request, dice, dice.choice((0.1, 0.5, 0.8)))
            try:
                await getattr(billing.stub(), method.name)(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED):
                    broken.append(f"{method.name}({request}): {error.details()}")
    assert broken == []
