"""What the simulated engine says when nothing disturbs it: a function of the request alone."""

from dataclasses import dataclass
from typing import Any, Literal

from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.parsing import parse_generation

CONTEXT_TOKENS = 8192
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
ApiName = Literal["chat", "completions"]


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: str

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion."""
        return self.prompt_tokens, len(self.token_ids)


def undisturbed(api: ApiName, body: dict[str, Any]) -> Undisturbed:
    """The answer to a body, whichever engine gives it."""
    parsed = parse_generation(api, body, served=body["model"], context_tokens=CONTEXT_TOKENS)
    choice = Choice(parsed, index=0, prompt_ids=parsed.prompts[0], seed=0, end_one_in=0)
    choice.run_to_end()
    text, ids = choice.take()
    return Undisturbed(text, tuple(ids), len(parsed.prompts[0]), choice.finish_reason or "")
