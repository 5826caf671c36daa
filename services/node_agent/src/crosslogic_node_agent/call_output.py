"""What of a call waits to be written to the gateway: everything since the last write goes as one frame."""

from types import MappingProxyType
from typing import Final

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, to_call_error
from crosslogic_node_agent.continuation import packed
from crosslogic_node_agent.domain import CountSource, Ending, TokenCount
from crosslogic_node_agent.events import CANNOT_RESUME, Piece

OUTCOMES: Final = MappingProxyType(
    {
        Ending.SUCCEEDED: common_pb.OUTCOME_SUCCEEDED,
        Ending.CLIENT_DISCONNECTED: common_pb.OUTCOME_CLIENT_DISCONNECTED,
        Ending.FAILED: common_pb.OUTCOME_FAILED,
        Ending.TIMED_OUT: common_pb.OUTCOME_TIMED_OUT,
    }
)
SOURCES: Final = MappingProxyType(
    {
        CountSource.NONE: common_pb.COUNT_SOURCE_NONE,
        CountSource.RUNNING: common_pb.COUNT_SOURCE_ENGINE_RUNNING,
        CountSource.FINAL: common_pb.COUNT_SOURCE_ENGINE_FINAL,
    }
)


class CallOutput:
    """The frames of one call."""

    __slots__ = (
        "_data",
        "_end",
        "_head_sent",
        "_opening",
        "_prompt_ids",
        "_token_ids",
        "_tokens",
        "_unsettled_text",
        "_unsettled_tokens",
        "byte_count",
        "call_id",
        "content_type",
        "queued",
        "status",
    )

    def __init__(self, call_id: int) -> None:
        self.call_id = call_id
        self.status = 0
        self.content_type = ""
        self.queued = False
        """Its owner knows that there is something to take."""
        self.byte_count = 0
        self._head_sent = False
        self._opening = b""
        self._unsettled_tokens = CANNOT_RESUME
        self._unsettled_text = ""
        self._prompt_ids: tuple[int, ...] = ()
        self._data: list[bytes] = []
        self._tokens = 0
        self._token_ids: list[int] = []
        self._end: pb.RelayEnd | None = None

    @property
    def filled(self) -> bool:
        """There is something to take."""
        return bool(self._data) or self._end is not None

    def add(self, piece: Piece, prompt_token_ids: tuple[int, ...], opening: bytes = b"") -> None:
        """Bytes for the client. `opening` is what a resume elsewhere needs to know of the stream."""
        if not self._head_sent:
            self._prompt_ids = prompt_token_ids
            self._opening = opening
        self._unsettled_tokens = piece.unsettled_tokens
        self._unsettled_text = piece.unsettled_text
        self._data.append(piece.data)
        self.byte_count += len(piece.data)
        self._tokens = piece.completion_tokens
        if piece.token_ids:
            self._token_ids.extend(piece.token_ids)

    def close(self, count: TokenCount, ending: Ending, error: CodedError | None) -> None:
        """Nothing follows."""
        self._end = pb.RelayEnd(
            outcome=OUTCOMES[ending], usage=usage_message(count), error=None if error is None else to_call_error(error)
        )

    def take_frame(self) -> pb.RelayResponseFrame:
        """Everything since the last frame."""
        data = self._data
        frame = pb.RelayResponseFrame(
            call_id=self.call_id,
            data=data[0] if len(data) == 1 else b"".join(data),
            completion_tokens=self._tokens,
            end=self._end,
        )
        if self._opening:
            self._add_resume_point(frame)
        # The engine's head goes with the first bytes: until then another node can still be asked.
        if not self._head_sent and (
            data or (self._end is not None and not self._end.HasField("error") and self.status)
        ):
            self._head_sent = True
            frame.head.status = self.status
            frame.head.content_type = self.content_type
            if self._opening:
                frame.head.stream_opening = self._opening
                frame.head.prompt_ids = packed(self._prompt_ids)
                self._prompt_ids = ()
        self._data = []
        self._token_ids = []
        self.byte_count = 0
        self.queued = False
        return frame

    def _add_resume_point(self, frame: pb.RelayResponseFrame) -> None:
        try:
            frame.ids = packed(self._token_ids)
        except (OverflowError, TypeError):
            # An engine that tells what is no id is not believed in this; its text is as good as ever.
            self._unsettled_tokens = CANNOT_RESUME
        if self._unsettled_tokens == CANNOT_RESUME:
            frame.cannot_resume = True
        elif self._unsettled_tokens:
            frame.unsettled_tokens = self._unsettled_tokens
            frame.unsettled_text = self._unsettled_text


def usage_message(count: TokenCount) -> common_pb.TokenUsage:
    """A count as the contracts carry it."""
    return common_pb.TokenUsage(
        prompt_tokens=count.prompt_tokens,
        cached_prompt_tokens=min(count.cached_prompt_tokens, count.prompt_tokens),
        completion_tokens=count.completion_tokens,
        source=SOURCES[count.source],
    )
