"""Continuous batching: who gets a token when."""

import asyncio
import os
import random
import time
from collections import deque

from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.config import SimConfig
from crosslogic_sim_engine.delivery import DIE_STATUS, Outcome, chunk_of, close_stream, deliver_step
from crosslogic_sim_engine.faults import NO_FAULTS, FaultBoard
from crosslogic_sim_engine.job import Job
from crosslogic_sim_engine.records import Counters

HANG_POLL_S = 0.02
_CACHE_TOKENS_PER_SEQUENCE = 1024
"""Of the make-believe KV cache, for its usage metric."""


class Engine:
    """Runs jobs. Everything happens in the event loop's thread; nothing here awaits."""

    def __init__(self, config: SimConfig, *, board: FaultBoard, counters: Counters) -> None:
        self._config = config
        self._board = board
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Job, Choice]] = deque()
        self._reading: deque[tuple[Job, Choice]] = deque()
        self._running: dict[Choice, Job] = {}
        self._tick_at: asyncio.Handle | None = None
        self._last_tick_s = 0.0
        self._prompts_read_at_s = 0.0
        self._left_to_live: int | None = None
        self._instant = config.step_s == 0 and config.prefill_tokens_per_s == 0
        self.faults_changed()

    @property
    def running(self) -> int:
        """Sequences that hold a place in the batch."""
        return len(self._running) + len(self._reading)

    @property
    def waiting(self) -> int:
        """Sequences that wait for one."""
        return len(self._waiting)

    @property
    def cache_used_part(self) -> float:
        """0 to 1."""
        tokens = sum(len(choice.prompt_ids) + choice.generated for choice in self._running)
        return min(1.0, tokens / (self._config.max_sequences * _CACHE_TOKENS_PER_SEQUENCE))

    def faults_changed(self) -> None:
        """Takes over the engine-wide faults of the board."""
        self._left_to_live = self._board.current.die_after_tokens

    def submit(self, job: Job) -> None:
        """Starts a job; its `on_done` is called when its answer is complete."""
        job.left = len(job.choices)
        self._counters.prompt_tokens += job.prompt_tokens
        if self._instant and job.sink is None and self._board.current is NO_FAULTS:
            self._run_at_once(job)
            return
        self._waiting.extend((job, choice) for choice in job.choices)
        self._admit()
        self._schedule()

    def abort(self, job: Job) -> None:
        """Stops a job whose client has gone; it generates nothing more."""
        if job.ended:
            return
        job.ended = True
        job.record.aborted = True
        job.record.aborted_at = time.time()
        job.record.finish_reason = "abort"
        self._counters.aborted += 1
        self._drop(job)

    def stop(self) -> None:
        """Ends every job with finish_reason "abort"."""
        for job, choice in [*((job, choice) for choice, job in self._running.items()), *self._reading, *self._waiting]:
            self._running[choice] = job
            choice.abort()
            if job.sink is not None:
                job.sink.write(chunk_of(job, choice))
            del self._running[choice]
            self._end_choice(job, choice)
        self._reading.clear()
        self._waiting.clear()

    def _drop(self, job: Job) -> None:
        for choice in job.choices:
            self._running.pop(choice, None)
        self._waiting = deque(pair for pair in self._waiting if pair[0] is not job)
        self._reading = deque(pair for pair in self._reading if pair[0] is not job)
        self._admit()

    def _run_at_once(self, job: Job) -> None:
        for choice in job.choices:
            choice.run_to_end()
            self._count(job, choice.generated)
            self._end_choice(job, choice)

    # --- who runs

    def _admit(self) -> None:
        now = self._loop.time()
        rate = self._config.prefill_tokens_per_s
        while self._waiting and self.running < self._config.max_sequences:
            job, choice = self._waiting.popleft()
            begin = max(now, self._prompts_read_at_s)
            choice.ready_at_s = begin + (len(choice.prompt_ids) / rate if rate > 0 else 0.0)
            self._prompts_read_at_s = choice.ready_at_s
            if self._config.phase == "random":
                self._running[choice] = job
                begin = choice.ready_at_s + random.random() * self._config.step_s
                self._loop.call_at(begin, self._tick_alone, job, choice)
            else:
                self._reading.append((job, choice))
        self._counters.peak_running = max(self._counters.peak_running, self.running)

    def _start_ready(self, now: float) -> None:
        while self._reading and self._reading[0][1].ready_at_s <= now:
            job, choice = self._reading.popleft()
            self._running[choice] = job

    # --- when

    def _schedule(self) -> None:
        if self._config.phase == "random" or self._tick_at is not None:
            return
        step_s = self._config.step_s + self._board.current.token_delay_s
        if self._running:
            at = self._last_tick_s + step_s
        elif self._reading:
            at = max(self._reading[0][1].ready_at_s, self._last_tick_s + step_s)
        else:
            return
        if at <= self._loop.time():
            self._tick_at = self._loop.call_soon(self._tick)
        else:
            self._tick_at = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._tick_at = None
        now = self._loop.time()
        if self._board.current.hang:
            self._tick_at = self._loop.call_later(HANG_POLL_S, self._tick)
            return
        # A late tick moves the beat: an engine that is too slow does not catch up by running faster.
        step_s = self._config.step_s + self._board.current.token_delay_s
        on_time = now - self._last_tick_s < 2 * step_s
        self._last_tick_s = self._last_tick_s + step_s if on_time else now
        self._start_ready(now)
        for choice, job in list(self._running.items()):
            if choice in self._running:
                self._step(job, choice)
        self._admit()
        self._schedule()

    def _tick_alone(self, job: Job, choice: Choice) -> None:
        if choice not in self._running:
            return
        delay_s = self._config.step_s + self._board.current.token_delay_s
        if self._board.current.hang:
            delay_s = HANG_POLL_S
        else:
            self._step(job, choice)
            self._admit()
        if choice in self._running:
            self._loop.call_later(delay_s, self._tick_alone, job, choice)

    # --- one step of one sequence

    def _step(self, job: Job, choice: Choice) -> None:
        if job.sink is not None and job.sink.gone():
            self.abort(job)
            return
        before = choice.generated
        outcome = deliver_step(job, choice, chunks=self._config.chunks_per_step, tokens=self._config.tokens_per_chunk)
        self._count(job, choice.generated - before)
        if outcome is Outcome.JOB_ENDED:
            job.record.finished_at = time.time()
            job.record.finish_reason = "error"
            self._counters.finished["error"] += 1
            self._drop(job)
            job.finish()
        elif choice.finish_reason is not None:
            del self._running[choice]
            self._end_choice(job, choice)

    def _end_choice(self, job: Job, choice: Choice) -> None:
        job.left -= 1
        job.record.finish_reason = choice.finish_reason
        self._counters.finished[choice.finish_reason or "error"] += 1
        if job.left:
            return
        job.record.finished_at = time.time()
        if job.sink is not None:
            close_stream(job, job.sink)
        job.finish()

    def _count(self, job: Job, tokens: int) -> None:
        if not tokens:
            return
        record = job.record
        if record.first_token_at is None:
            record.first_token_at = time.time()
        record.generated += tokens
        self._counters.generated_tokens += tokens
        if self._left_to_live is not None:
            self._left_to_live -= tokens
            if self._left_to_live <= 0:
                os._exit(DIE_STATUS)
