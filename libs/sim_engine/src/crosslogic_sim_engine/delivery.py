"""One step of one sequence: its tokens, their chunks, and the faults that hit just there."""

import os
from enum import Enum

from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.faults import NO_FAULTS
from crosslogic_sim_engine.job import Job, Sink

DIE_STATUS = 9


class Outcome(Enum):
    """What a step did to its job."""

    GOES_ON = 1
    JOB_ENDED = 2
    """A fault ended the whole job, and what the client was to see of it is written."""


def deliver_step(job: Job, choice: Choice, *, chunks: int, tokens: int) -> Outcome:
    """Generates up to `chunks` x `tokens` tokens and writes them in one go."""
    sink = job.sink
    parts: list[bytes] = []
    outcome = Outcome.GOES_ON
    for _ in range(chunks):
        if job.faults is not NO_FAULTS:
            if _stalls(job, choice):
                break
            if _strikes(job, choice, parts):
                outcome = Outcome.JOB_ENDED
                break
        _generate(job, choice, tokens)
        if sink is not None and (choice.finish_reason is not None or not sink.blocked()):
            parts.append(chunk_of(job, choice))
        if choice.finish_reason is not None:
            break
    if sink is not None and parts:
        sink.write(b"".join(parts))
    if outcome is Outcome.JOB_ENDED and sink is not None:
        _end_of_fault(job, choice, sink)
    return outcome


def close_stream(job: Job, sink: Sink) -> None:
    """Writes what follows a stream's last token, unless a fault forbids it."""
    if job.faults.die_before_usage:
        os._exit(DIE_STATUS)
    if job.faults.cut_before_usage:
        sink.cut(b"")
        return
    sink.write(job.shape.closing(job))
    sink.end()


def chunk_of(job: Job, choice: Choice) -> bytes:
    """What a stream is to get of what its choice has generated, with the stream's beginning before the first."""
    text, ids = choice.take()
    data = job.shape.chunk(job, choice, text, ids)
    choice.opened = True
    if not job.opened:
        job.opened = True
        return job.shape.opening(job) + data
    return data


def _stalls(job: Job, choice: Choice) -> bool:
    limit = job.faults.hang_after_tokens
    return limit is not None and choice.generated >= limit


def _strikes(job: Job, choice: Choice, parts: list[bytes]) -> bool:
    """Whether a fault ends the job before its next token. A cut comes in the middle of that token's chunk."""
    faults = job.faults
    for limit, failure in (
        (faults.cut_after_tokens, "cut"),
        (faults.garbage_after_tokens, "garbage"),
        (faults.error_after_tokens, "error"),
    ):
        if limit is not None and choice.generated >= limit:
            job.failed = failure  # type: ignore[assignment]  # the three words above
            if failure == "error":
                parts.append(job.shape.failure(job))
            return True
    return False


def _end_of_fault(job: Job, choice: Choice, sink: Sink) -> None:
    if job.failed == "cut":
        choice.advance()
        sink.cut(chunk_of(job, choice))
    elif job.failed == "garbage":
        sink.garbage()
    elif not job.shape.failure(job):
        sink.cut(b"")
    else:
        sink.end()


def _generate(job: Job, choice: Choice, tokens: int) -> None:
    for _ in range(tokens):
        choice.advance()
        if choice.finish_reason is not None:
            return
    limit = job.faults.abort_after_tokens
    if limit is not None and choice.generated >= limit and choice.finish_reason is None:
        choice.abort()
