"""One sequence: the tokens of one choice of one request."""

from crosslogic_sim_engine import vocabulary
from crosslogic_sim_engine.parsing import GenerationRequest
from crosslogic_sim_engine.vocabulary import EOS, FIRST_WORD, WORD_TEXTS, ends_at, state_after, word_at


class Choice:
    """Generates one token at a time, and holds text back where a stop string may have begun, as vLLM does."""

    __slots__ = (
        "_end_one_in",
        "_hold",
        "_state",
        "_text",
        "finish_reason",
        "generated",
        "index",
        "opened",
        "pending_ids",
        "pending_text",
        "prompt_ids",
        "ready_at_s",
        "request",
        "stop_reason",
    )

    def __init__(
        self, request: GenerationRequest, *, index: int, prompt_ids: list[int], seed: int, end_one_in: int
    ) -> None:
        self.request = request
        self.index = index
        self.prompt_ids = prompt_ids
        self.generated = 0
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self.opened = False
        """Its first chunk was sent."""
        self.pending_ids: list[int] = []
        """Ids generated and not sent yet."""
        self.pending_text = vocabulary.decode(prompt_ids) if request.echo else ""
        """Text to send with them: it may be that of earlier ids."""
        self.ready_at_s = 0.0
        """When its prompt is read, in the loop's time."""
        self._state = vocabulary.state_of(prompt_ids, seed=seed)
        if index % request.n:
            self._state = state_after(self._state, index % request.n)
        self._end_one_in = end_one_in
        self._hold = max(map(len, request.stops), default=1) - 1
        self._text = ""

    def advance(self) -> None:
        """Generates one token; sets `finish_reason` when it was the last."""
        state = self._state
        request = self.request
        self.generated += 1
        if self._end_one_in and ends_at(state, one_in=self._end_one_in) and self.generated > request.min_tokens:
            self.pending_ids.append(EOS)
            self._state = state_after(state, EOS)
            if not request.ignore_end:
                self._finish("stop", None)
                return
            text = ""
        else:
            word = word_at(state)
            token = FIRST_WORD + word
            self.pending_ids.append(token)
            self._state = state_after(state, token)
            text = WORD_TEXTS[word]
            if token in request.stop_ids and self.generated > request.min_tokens:
                self._finish("stop", token)
                return
        if request.stops:
            self._add_guarded(text)
        else:
            self.pending_text += text
        if self.finish_reason is None and self.generated >= request.max_tokens:
            self._finish("length", None)

    def run_to_end(self) -> None:
        """Generates all that is left."""
        if not (self.request.stops or self.request.stop_ids or self._end_one_in):
            self._run_unwatched()
        while self.finish_reason is None:
            self.advance()

    def _run_unwatched(self) -> None:
        """All but the last token of a text that nothing but its length can end: the same as `advance`, in less time."""
        state, ids, texts = self._state, self.pending_ids, []
        for _ in range(self.request.max_tokens - self.generated - 1):
            word = word_at(state)
            ids.append(FIRST_WORD + word)
            texts.append(WORD_TEXTS[word])
            state = state_after(state, FIRST_WORD + word)
        self._state = state
        self.pending_text += "".join(texts)
        self.generated += len(texts)

    def abort(self) -> None:
        """Ends it as vLLM ends what runs when it is told to stop."""
        self._finish("abort", None)

    def take(self) -> tuple[str, list[int]]:
        """The text and ids to send now."""
        taken = self.pending_text, self.pending_ids
        self.pending_text = ""
        self.pending_ids = []
        return taken

    def _finish(self, reason: str, stop_reason: str | int | None) -> None:
        self.finish_reason = reason
        self.stop_reason = stop_reason
        self.pending_text += self._text
        self._text = ""

    def _add_guarded(self, text: str) -> None:
        held = self._text + text
        if self.generated > self.request.min_tokens:
            found = [(held.find(stop), stop) for stop in self.request.stops if stop in held]
            if found:
                place, stop = min(found)
                self._text = held[:place]
                self._finish("stop", stop)
                return
        keep = min(self._hold, len(held))
        self.pending_text += held[: len(held) - keep]
        self._text = held[len(held) - keep :]
