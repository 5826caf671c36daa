"""The batched stream: many concurrent calls on one long-lived bidi gRPC stream, gathered by natural batching.

A sender appends its item and goes on; while one write is in flight, later items gather, and the next write carries
them all. No timer, no added delay when idle, and the cost per item falls as load rises (docs/architecture.md).
"""

from crosslogic_common.batched.backoff import Backoff
from crosslogic_common.batched.caller import BatchedCaller
from crosslogic_common.batched.deadlines import DeadlineSweeper
from crosslogic_common.batched.gathering import GatheringWriter
from crosslogic_common.batched.link import BatchLink
from crosslogic_common.batched.server import AsyncBatchHandler, SyncBatchHandler, serve_batches

__all__ = [
    "AsyncBatchHandler",
    "Backoff",
    "BatchLink",
    "BatchedCaller",
    "DeadlineSweeper",
    "GatheringWriter",
    "SyncBatchHandler",
    "serve_batches",
]
