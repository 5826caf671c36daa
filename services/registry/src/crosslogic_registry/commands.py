"""Commands for nodes on their way, and who waits for what comes of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_registry.fleet import Fleet

DEFAULT_TIMEOUT_S = 30
MAX_TIMEOUT_S = 600
MAX_WAITING = 256
MAX_OUTCOME_BYTES = 1024 * 1024
MAX_LOCATION_CHARS = 2_048
_SHA256_BYTES, _SIGNATURE_BYTES = 32, 64


AskOthers = Callable[[str, str, pb.NodeCommand, int], Awaitable[pb.NodeCommandOutcome]]


class NodeCommands:
    """Hands commands to nodes whose streams end here, and to other replicas those for nodes whose do not."""

    def __init__(self, *, fleet: Fleet, ids: Uuid7Source, ask_others: AskOthers | None = None) -> None:
        """`ask_others` has another replica carry a command out, by its id, node, command and timeout in seconds."""
        self._fleet = fleet
        self._ask_others = ask_others
        self._ids = ids
        self._waiting: dict[tuple[str, str], asyncio.Future[pb.NodeCommandOutcome]] = {}

    async def command(self, node_id: str, command: pb.NodeCommand, timeout_s: int) -> pb.NodeCommandOutcome:
        """Has a node carry a command out; what came of it.

        Raises NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE (its stream ends at no replica), OVERLOADED, TIMEOUT.
        """
        check_command(command)
        if timeout_s > MAX_TIMEOUT_S:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`timeout_s` must be 0 to {MAX_TIMEOUT_S}.", param="timeout_s"
            )
        if len(self._waiting) >= MAX_WAITING:
            raise CodedError(ErrorCode.OVERLOADED, "Too many commands are under way.")
        timeout_s = timeout_s or DEFAULT_TIMEOUT_S
        if (await self._fleet.member(node_id)).session is None and self._ask_others is not None:
            return await self._ask_others(str(self._ids.next()), node_id, command, timeout_s)
        return await self.carry_out(node_id, command, timeout_s)

    async def carry_out(self, node_id: str, command: pb.NodeCommand, timeout_s: int) -> pb.NodeCommandOutcome:
        """The same for a node whose stream ends here. Raises UNAVAILABLE (it does not), OVERLOADED, TIMEOUT."""
        member = self._fleet.known(node_id)
        session = None if member is None else member.session
        if session is None:
            raise CodedError(ErrorCode.UNAVAILABLE, "The node's stream does not end at this replica.")
        sent = pb.NodeCommand()
        sent.CopyFrom(command)
        sent.id = str(self._ids.next())
        outcome: asyncio.Future[pb.NodeCommandOutcome] = asyncio.get_running_loop().create_future()
        self._waiting[node_id, sent.id] = outcome
        try:
            session.order(sent)
            return await asyncio.wait_for(outcome, timeout_s)
        except TimeoutError:
            raise CodedError(ErrorCode.TIMEOUT, "The node has not said what came of it.") from None
        finally:
            del self._waiting[node_id, sent.id]

    def take(self, node_id: str, outcomes: Iterable[pb.NodeCommandOutcome]) -> None:
        """What a node says came of its commands; of those that nobody waits for any more nothing is kept."""
        for outcome in outcomes:
            waiting = self._waiting.get((node_id, outcome.command_id))
            if waiting is not None and not waiting.done() and len(outcome.data) <= MAX_OUTCOME_BYTES:
                waiting.set_result(outcome)


def check_command(command: pb.NodeCommand) -> None:
    """Raises INVALID_ARGUMENT for a command that no node could carry out."""
    kind = command.WhichOneof("kind")
    if kind is None:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`command` must say what to do.", param="command")
    if kind == "collect_logs" and command.collect_logs.source == pb.LOG_SOURCE_UNSPECIFIED:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`source` must name a log.", param="command.collect_logs.source")
    if kind == "update_agent":
        update = command.update_agent
        if (
            not update.version
            or not 0 < len(update.location) <= MAX_LOCATION_CHARS
            or len(update.sha256) != _SHA256_BYTES
            or len(update.signature) != _SIGNATURE_BYTES
        ):
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT,
                "An update needs a version, a location, a SHA-256 of 32 bytes and a signature of 64.",
                param="command.update_agent",
            )
