"""What nodes log."""

from types import MappingProxyType
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_gateway.admin.conversion import time
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.schemas import Asked, Count, Time

Level = Literal["debug", "info", "warning", "error"]
_LEVELS: Final = MappingProxyType[Level, "pb.LogLevel.ValueType"](
    {
        "debug": pb.LOG_LEVEL_DEBUG,
        "info": pb.LOG_LEVEL_INFO,
        "warning": pb.LOG_LEVEL_WARNING,
        "error": pb.LOG_LEVEL_ERROR,
    }
)
_NAMES: Final = MappingProxyType[int, Level]({value: name for name, value in _LEVELS.items()})
_SOURCES: Final = MappingProxyType(
    {"": pb.LOG_SOURCE_UNSPECIFIED, "agent": pb.LOG_SOURCE_AGENT, "engine": pb.LOG_SOURCE_ENGINE}
)


class NodeLogsQuery(Asked):
    """Which lines."""

    cursor: Annotated[str, Meta(max_length=64, description="Of the answer before: only what came since.")] = ""
    level: Annotated[Level, Meta(description="Only lines as grave as this or graver.")] = "debug"
    source: Annotated[Literal["", "agent", "engine"], Meta(description="Only of this log.")] = ""


class NodeLogLine(Struct, kw_only=True):
    """A line of a node's log."""

    time: Time
    level: Level
    source: Literal["agent", "engine"]
    text: str


class NodeLogs(Struct, kw_only=True):
    """The end of a node's logs, oldest line first."""

    data: list[NodeLogLine]
    cursor: Annotated[str, Meta(description="For the next question, also when there are no lines.")]
    dropped: Annotated[Count, Meta(description="Lines that the agent has dropped since its start.")]


async def list_node_logs(call: Call[None, NodeLogsQuery]) -> NodeLogs:
    """GET /admin/nodes/{id}/logs."""
    request = pb.ListNodeLogsRequest(
        node_id=call.path["id"],
        cursor=call.query.cursor,
        least_level=_LEVELS[call.query.level],
        source=_SOURCES[call.query.source],
    )
    answer = await call.rpc(call.deps.registry().ListNodeLogs, request)
    return NodeLogs(
        data=[
            NodeLogLine(
                time=time(line.time),
                level=_NAMES.get(line.level, "info"),
                source="engine" if line.source == pb.LOG_SOURCE_ENGINE else "agent",
                text=line.text,
            )
            for line in answer.lines
        ],
        cursor=answer.cursor,
        dropped=answer.dropped,
    )
