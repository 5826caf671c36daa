"""A short measurement of the engine at its start, kept so that a restart does not repeat it."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from crosslogic_common.logs import get_logger
from crosslogic_node_agent.domain import Capacity, CountSource, EngineFacts
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError
from crosslogic_node_agent.whole_answer import AnswerError, read_count

TOTAL_S = 20.0
"""The whole measurement takes no longer; what was not measured by then is 0."""
_DECODE_TOKENS = 64
_PREFILL_WORDS = 256
_STREAMS = 16
_STREAM_TOKENS = 32


@dataclass(frozen=True, slots=True)
class _Run:
    prompt_tokens: int
    completion_tokens: int
    duration_s: float


class _Kept(msgspec.Struct):
    key: str
    capacity: dict[str, float]


class Measurement:
    """Measures an engine once for each version of it and each model."""

    def __init__(
        self,
        *,
        api: EngineApi,
        file: Path,
        enabled: bool,
        fixed_max_tokens_per_sec: float = 0.0,
        word: Callable[[], int] = lambda: random.randrange(10_000),
    ) -> None:
        """`file` keeps the last result. `fixed_max_tokens_per_sec` over 0 replaces what was measured."""
        self._api = api
        self._file = file
        self._enabled = enabled
        self._fixed = fixed_max_tokens_per_sec
        self._word = word
        self._log = get_logger(__name__)

    async def capacity(self, facts: EngineFacts) -> Capacity:
        """The engine's capacity: as kept, or measured now. Never fails: what could not be measured is 0."""
        measured = Capacity()
        if self._enabled:
            key = f"{facts.name} {facts.version} {' '.join(facts.served_models)} {facts.context_length}"
            measured = self._kept(key) or await self._measured(facts)
            if measured.max_tokens_per_sec:
                self._keep(key, measured)
        if self._fixed:
            return Capacity(self._fixed, measured.prefill_tokens_per_sec, measured.decode_tokens_per_sec)
        return measured

    async def _measured(self, facts: EngineFacts) -> Capacity:
        prefill = decode = total = 0.0
        try:
            async with asyncio.timeout(TOTAL_S):
                model = facts.served_models[0]
                await self._run(model, words=4, tokens=4)
                words = min(_PREFILL_WORDS, max(facts.context_length // 16, 16))
                one = await self._run(model, words=words, tokens=1)
                prefill = one.prompt_tokens / one.duration_s
                single = await self._run(model, words=4, tokens=_DECODE_TOKENS)
                decode = single.completion_tokens / single.duration_s
                total = decode
                loop = asyncio.get_running_loop()
                started_at = loop.time()
                runs = await asyncio.gather(
                    *(self._run(model, words=4, tokens=_STREAM_TOKENS) for _ in range(_STREAMS))
                )
                total = max(decode, sum(run.completion_tokens for run in runs) / (loop.time() - started_at))
        except (EngineFailureError, TimeoutError, AnswerError) as error:
            self._log.warning("measurement not complete", reason=str(error) or "it took too long")
        capacity = Capacity(round(total, 1), round(prefill, 1), round(decode, 1))
        self._log.info("engine measured", **asdict(capacity))
        return capacity

    async def _run(self, model: str, *, words: int, tokens: int) -> _Run:
        # Words that no prefix cache has seen.
        prompt = " ".join(str(self._word()) for _ in range(words))
        body = msgspec.json.encode(
            {
                "model": model,
                "prompt": prompt,
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
                "temperature": 0,
            }
        )
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        status, answer = await self._api.fetch("POST", "/v1/completions", body, timeout_s=TOTAL_S)
        duration_s = max(loop.time() - started_at, 1e-6)
        if status != 200:  # noqa: PLR2004  # HTTP's own number
            raise EngineFailureError(f"/v1/completions answered {status}")
        count = read_count(answer)
        if count.source is CountSource.NONE:
            raise EngineFailureError("an answer without usage")
        return _Run(count.prompt_tokens, count.completion_tokens, duration_s)

    def _kept(self, key: str) -> Capacity | None:
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            return Capacity(**kept.capacity) if kept.key == key else None
        except (OSError, msgspec.DecodeError, TypeError):
            return None

    def _keep(self, key: str, capacity: Capacity) -> None:
        try:
            self._file.write_bytes(msgspec.json.encode(_Kept(key, asdict(capacity))))
        except OSError as error:
            self._log.warning("measurement not kept", reason=str(error))
