"""An engine that only has answers: what it says costs next to nothing, when it says it is exact.

A request chooses by its `user` field, so that one engine serves every row:
`bench tokens=100 pace_us=10000 lock=1 think_us=0 burst=16`.
"""

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

_USER = re.compile(rb'"user":\s*"bench ([a-z_0-9= ]*)"')
PROMPT_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Profile:
    """How an answer comes."""

    tokens: int = 16
    pace_us: int = 0
    """Between tokens, in microseconds. 0: as fast as they are taken."""
    lock: int = 1
    """1: all streams step at the same instants, as the sequences of one vLLM engine do. 0: each at its own."""
    think_us: int = 0
    """Until the first token or the whole answer, in microseconds."""
    burst: int = 1
    """Tokens that come together, as from one read of the engine's socket. Only without a pace."""


@lru_cache(maxsize=256)
def _parse(words: bytes) -> Profile:
    return Profile(**{name: int(value) for name, _, value in (word.partition("=") for word in words.decode().split())})


def profile_of(body: bytes) -> Profile:
    """What the request asks for."""
    match = _USER.search(body)
    return _parse(match[1]) if match else Profile()


class Listener(Protocol):
    """Who is answered."""

    def whole(self) -> None:
        """The whole answer."""

    def tokens(self, first: int, count: int) -> bool:
        """`count` tokens from number `first` on. False: no room for them now; they come again."""

    def done(self) -> None:
        """After the last token."""


class CannedEngine:
    """Steps all answers. At most as many at a time as there are callers."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}

    def start(self, profile: Profile, stream: bool, listener: Listener) -> Callable[[], None]:
        """Answers `listener`; returns what cancels the answer."""
        loop = asyncio.get_running_loop()
        if not stream:
            if not profile.think_us:
                listener.whole()
                return _nothing
            return loop.call_later(profile.think_us / 1e6, listener.whole).cancel
        answer = _Answer(profile, listener)
        if profile.pace_us and profile.lock:
            step = self._steps.get(profile.pace_us)
            if step is None:
                step = self._steps[profile.pace_us] = _Step(profile.pace_us / 1e6)
            step.add(answer)
        else:
            answer.begin(loop, profile.think_us / 1e6)
        return answer.cancel


class _Answer:
    """One streamed answer."""

    def __init__(self, profile: Profile, listener: Listener) -> None:
        self._profile = profile
        self._listener = listener
        self._sent = 0
        self._due_at = 0.0
        self.ended = False

    def cancel(self) -> None:
        self.ended = True

    def step(self) -> bool:
        """The next token. True: it was the last."""
        if self.ended:
            return True
        if self._listener.tokens(self._sent, 1):
            self._sent += 1
        return self._finished()

    def begin(self, loop: asyncio.AbstractEventLoop, think_s: float) -> None:
        """Steps by itself."""
        self._due_at = loop.time() + think_s
        loop.call_at(self._due_at, self._first if self._profile.pace_us else self._unpaced, loop)

    def _first(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first token comes when it is due; the others follow at the stream's own phase."""
        self._due_at += random.random() * self._profile.pace_us / 1e6
        self._paced(loop)

    def _paced(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.step():
            self._due_at += self._profile.pace_us / 1e6
            loop.call_at(self._due_at, self._paced, loop)

    def _unpaced(self, loop: asyncio.AbstractEventLoop) -> None:
        """A read's worth of tokens each turn of the loop, so that streams take turns."""
        if self.ended:
            return
        count = min(self._profile.burst, self._profile.tokens - self._sent)
        if self._listener.tokens(self._sent, count):
            self._sent += count
            if not self._finished():
                loop.call_soon(self._unpaced, loop)
        else:
            loop.call_later(0.001, self._unpaced, loop)

    def _finished(self) -> bool:
        if self._sent < self._profile.tokens:
            return False
        self.ended = True
        self._listener.done()
        return True


class _Step:
    """Answers that step together; runs while there are any."""

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._answers: list[_Answer] = []
        self._due_at = 0.0

    def add(self, answer: _Answer) -> None:
        loop = asyncio.get_running_loop()
        if not self._answers:
            self._due_at = max(self._due_at + self._pace_s, loop.time())
            loop.call_at(self._due_at, self._tick, loop)
        self._answers.append(answer)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        answers, self._answers = self._answers, []
        going = [answer for answer in answers if not answer.step()]
        self._answers = going + self._answers
        if self._answers:
            self._due_at += self._pace_s
            loop.call_at(self._due_at, self._tick, loop)


def _nothing() -> None:
    pass


def chat_chunk(number: int) -> bytes:
    """One server-sent event as vLLM writes it for a chat completion; about 240 bytes."""
    return (
        b'data: {"id":"chatcmpl-0190c5b2a6f97d2cbf3e5a1d4c7e8f90","object":"chat.completion.chunk","created":1760000000'
        b',"model":"bench","choices":[{"index":0,"delta":{"content":" word%d"},"logprobs":null,"finish_reason":null,'
        b'"token_ids":null}]}\n\n' % number
    )


END_OF_STREAM = b"data: [DONE]\n\n"


def chat_answer(tokens: int) -> bytes:
    """A whole chat completion of `tokens` short words."""
    content = " ".join(f"word{number}" for number in range(tokens))
    return (
        '{"id":"chatcmpl-0190c5b2a6f97d2cbf3e5a1d4c7e8f90","object":"chat.completion","created":1760000000,'
        '"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"' + content + '",'
        '"refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},'
        '"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"service_tier":null,'
        f'"system_fingerprint":null,"usage":{{"prompt_tokens":{PROMPT_TOKENS},"total_tokens":{PROMPT_TOKENS + tokens},'
        f'"completion_tokens":{tokens},"prompt_tokens_details":null}},"prompt_logprobs":null}}'
    ).encode()
