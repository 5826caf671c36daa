"""What a gateway keeps of a stream so that another node can go on with it."""

from dataclasses import dataclass

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb

ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Relayed:
    """A broken stream, as the client has it."""

    opening: bytes
    """What all its chunks have alike; the agents' affair."""
    prompt_ids: bytes
    token_ids: bytes
    """Of all tokens relayed, 4 bytes each; like the next two, in the agents' words (RelayResponseFrame)."""
    unsettled_tokens: int
    unsettled_text: str
    completion_tokens: int
    """Generated, as of the last frame."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids) // ID_BYTES

    @property
    def settled_ids(self) -> bytes:
        """Ids that the next node is not to generate anew."""
        return self.token_ids[: len(self.token_ids) - self.unsettled_tokens * ID_BYTES]

    def gained(self, before: "Relayed | None") -> int:
        """Tokens that were generated since `before`."""
        return self.completion_tokens - (0 if before is None else before.completion_tokens)

    def resume(self, context_length: int) -> agent_pb.RelayResume:
        """What the next node is told. `context_length` is the model's, in tokens."""
        return agent_pb.RelayResume(
            stream_opening=self.opening,
            prompt_ids=self.prompt_ids,
            token_ids=self.token_ids,
            unsettled_tokens=self.unsettled_tokens,
            unsettled_text=self.unsettled_text,
            context_length=context_length,
        )
