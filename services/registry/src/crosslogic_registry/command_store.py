"""All SQL of commands that go from one replica to another."""

from dataclasses import dataclass

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, transaction

COMMANDS_CHANNEL = "registry_commands"
"""Payload: `ask:<id>` for whoever holds the node's stream, `told:<id>` for whoever asked."""
_KEPT = "1 hour"


@dataclass(frozen=True, slots=True)
class TakenCommand:
    """A command that this replica is to carry out."""

    id: str
    node_id: str
    command: pb.NodeCommand
    timeout_s: int


class PostgresCommands:
    """Commands in PostgreSQL. Every method raises UNAVAILABLE while it is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, command_id: str, node_id: str, command: pb.NodeCommand, timeout_s: int) -> None:
        """Asks the other replicas to carry a command out."""
        async with transaction(self._pool) as connection:
            await connection.execute(f"DELETE FROM node_commands WHERE created_at < now() - interval '{_KEPT}'")
            await connection.execute(
                "INSERT INTO node_commands (id, node_id, command, timeout_s) VALUES (%s, %s, %s, %s)",
                (command_id, node_id, command.SerializeToString(), timeout_s),
            )
            await connection.execute("SELECT pg_notify(%s, %s)", (COMMANDS_CHANNEL, f"ask:{command_id}"))

    async def waiting(self) -> list[tuple[str, str]]:
        """Commands, with their nodes, that nobody has taken and somebody still waits for."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT id, node_id FROM node_commands WHERE taken_by IS NULL AND error_code IS NULL "
                "AND created_at > now() - timeout_s * interval '1 second'"
            )
            return [(str(row[0]), str(row[1])) for row in await cursor.fetchall()]

    async def node_of(self, command_id: str) -> str | None:
        """Whom a command is for; None: it is there no more."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute("SELECT node_id FROM node_commands WHERE id = %s", (command_id,))
            row = await cursor.fetchone()
            return str(row[0]) if row else None

    async def take(self, command_id: str, origin: str) -> TakenCommand | None:
        """Takes a command for this replica alone. None: another one has it, or nobody waits for it."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "UPDATE node_commands SET taken_by = %s WHERE id = %s AND taken_by IS NULL "
                "AND created_at > now() - timeout_s * interval '1 second' RETURNING id, node_id, command, timeout_s",
                (origin, command_id),
            )
            row = await cursor.fetchone()
            return (
                None
                if row is None
                else TakenCommand(str(row[0]), str(row[1]), pb.NodeCommand.FromString(row[2]), row[3])
            )

    async def answer(self, command_id: str, outcome: pb.NodeCommandOutcome | CodedError) -> None:
        """Tells what came of a command."""
        kept: tuple[bytes | None, str | None, str]
        if isinstance(outcome, CodedError):
            kept = (None, outcome.code.value, outcome.public)
        else:
            kept = (outcome.SerializeToString(), None, "")
        async with transaction(self._pool) as connection:
            await connection.execute(
                "UPDATE node_commands SET outcome = %s, error_code = %s, error_text = %s WHERE id = %s",
                (*kept, command_id),
            )
            await connection.execute("SELECT pg_notify(%s, %s)", (COMMANDS_CHANNEL, f"told:{command_id}"))

    async def result(self, command_id: str) -> pb.NodeCommandOutcome | None:
        """What came of a command; None: nothing yet. Raises what carrying it out raised."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "SELECT outcome, error_code, error_text FROM node_commands WHERE id = %s", (command_id,)
            )
            row = await cursor.fetchone()
        if row is None or (row[0] is None and row[1] is None):
            return None
        if row[1] is not None:
            raise CodedError(ErrorCode(row[1]), row[2])
        return pb.NodeCommandOutcome.FromString(row[0])

    async def forget(self, command_id: str, *, unless_taken: bool) -> bool:
        """Nobody waits for it any more; `unless_taken`: unless a replica has taken it. Whether it was forgotten."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                "DELETE FROM node_commands WHERE id = %s AND (NOT %s OR taken_by IS NULL)", (command_id, unless_taken)
            )
            return cursor.rowcount > 0
