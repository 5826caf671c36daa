"""What the simulated engine says when nothing disturbs it: a function of the request alone."""

from dataclasses import dataclass
from typing import Any, Literal

from crosslogic_node_agent.continuation import held_back
from crosslogic_node_agent.resume_points import ResumePoints
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


def said_again(api: ApiName, body: dict[str, Any], relayed_tokens: int) -> int:
    """How many of the tokens that a client has are generated anew when its stream goes on at another node.

    Those whose text the engine held back because a stop string could begin in it (ADR 19).
    """
    parsed = parse_generation(api, body, served=body["model"], context_tokens=CONTEXT_TOKENS)
    choice = Choice(parsed, index=0, prompt_ids=parsed.prompts[0], seed=0, end_one_in=0)
    points = ResumePoints(hold=held_back(body) or 0)
    for _ in range(relayed_tokens):
        if choice.finish_reason is not None:
            break
        choice.advance()
        text, ids = choice.take()
        points.took(len(ids), text)
    return points.unsettled_tokens
