"""All SQL of machines."""

from collections.abc import Sequence
from datetime import datetime

from crosslogic_billing.views.domain import Machine
from crosslogic_common.postgres import Connection, Pool, transaction

_TIMEOUT_S = 60.0


class PostgresMachines:
    """Machines and their hours in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read_at(self) -> datetime | None:
        """Until when the registry has been read. None: never."""
        async with transaction(self._pool) as connection:
            found = await connection.execute("SELECT read_at FROM machine_cursor")
            row = await found.fetchone()
        return None if row is None else row[0]

    async def keep(self, machines: Sequence[Machine], read_at: datetime) -> None:
        """What the registry said, all or nothing: each machine once, however often it is told of.

        A node whose cost an operator has set stays as that was.
        """
        async with transaction(self._pool, timeout_s=_TIMEOUT_S) as connection:
            # One replica at a time; one that read earlier adds nothing that is older than what is there.
            found = await connection.execute("SELECT read_at FROM machine_cursor FOR UPDATE")
            row = await found.fetchone()
            if row is not None and row[0] is not None and row[0] >= read_at:
                return
            found = await connection.execute(
                "SELECT DISTINCT node_id FROM machine_costs WHERE by_hand AND node_id = ANY(%s)",
                ([machine.node_id for machine in machines],),
            )
            by_hand = {str(row[0]) for row in await found.fetchall()}
            for machine in machines:
                if machine.node_id not in by_hand:
                    await put(connection, machine, by_hand=False)
            await connection.execute("UPDATE machine_cursor SET read_at = %s", (read_at,))

    async def set_by_hand(self, machine: Machine) -> None:
        """What an operator says of a machine. One of the same start is replaced, and what the node said is gone."""
        async with transaction(self._pool) as connection:
            await connection.execute("SELECT FROM machine_cursor FOR UPDATE")
            await connection.execute("DELETE FROM machine_costs WHERE node_id = %s AND NOT by_hand", (machine.node_id,))
            await put(connection, machine, by_hand=True)


async def put(connection: Connection, machine: Machine, *, by_hand: bool) -> None:
    """Keeps one machine."""
    await connection.execute(
        "INSERT INTO machine_costs (node_id, from_time, to_time, region, gpu_type, gpu_count, spot, "
        "hourly_picodollars, models, by_hand) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (node_id, from_time) DO UPDATE SET to_time = excluded.to_time, region = excluded.region, "
        "gpu_type = excluded.gpu_type, gpu_count = excluded.gpu_count, spot = excluded.spot, "
        "hourly_picodollars = excluded.hourly_picodollars, models = excluded.models, by_hand = excluded.by_hand",
        (
            machine.node_id,
            machine.begins,
            machine.ends,
            machine.region,
            machine.gpu_type,
            machine.gpu_count,
            machine.spot,
            machine.hourly_picodollars,
            list(machine.models),
            by_hand,
        ),
    )
