"""The registry while its database is gone: the fleet goes on, and nothing that happened meanwhile is forgotten."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import psycopg
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.run_dir import RunDir
from tests.fakes.registry_suite import RegistrySuite, watching
from tests.fakes.registry_world import heartbeat


class OwnPostgres:
    """A PostgreSQL that a test may stop."""

    def __init__(self, folder: Path) -> None:
        self._run_dir = RunDir(folder / "run")
        self._run_dir.make()
        self._table = ProcessTable(self._run_dir)
        self._port = free_port()
        self.url = ""
        self.start()

    def start(self) -> None:
        self.url = start_postgres(self._table, self._run_dir, port=self._port, durable=False)

    def stop(self) -> None:
        self._table.stop(["postgres"], number=signal.SIGINT)


@pytest.fixture
async def postgres() -> AsyncIterator[OwnPostgres]:
    with tempfile.TemporaryDirectory(prefix="cl-postgres-") as folder:
        Path(folder).chmod(0o711)
        server = OwnPostgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


async def test_nodes_schedulers_and_the_catalogue_go_on_and_what_happened_is_kept(
    postgres: OwnPostgres, tmp_path: Path
) -> None:
    suite = RegistrySuite(tmp_path, pg_url=postgres.url)
    async with suite.running(), watching(suite) as watch:
        await suite.stub().CreateModel(pb.CreateModelRequest(model=pb.Model(name="tiny", context_length=4096)))
        node = await suite.join()
        token = await suite.token()
        async with node.streaming("WARMING") as stream:
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_WARMING)
            await asyncio.to_thread(postgres.stop)

            await stream.write(heartbeat("ACTIVE", "measured"))
            await watch.until(lambda nodes: nodes[node.id].status == pb.NODE_STATUS_ACTIVE, timeout_s=3)
            listed = await suite.stub().ListNodes(pb.ListNodesRequest(), timeout=3)
            assert [known.id for known in listed.nodes] == [node.id]
            models = await suite.stub().ListModels(pb.ListModelsRequest(), timeout=10)
            assert [model.name for model in models.models] == ["tiny"]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await suite.ask_to_join(token, b"")
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await suite.token()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

            await asyncio.to_thread(postgres.start)
            await _until_saved(postgres.url, node.id, "active")
            again = await suite.stub().CreateJoinToken(pb.CreateJoinTokenRequest(), timeout=10)
            assert again.join_token
    await suite.close()


async def _until_saved(url: str, node_id: str, status: str) -> None:
    async with (
        asyncio.timeout(15),
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        while True:
            cursor = await connection.execute("SELECT status FROM registry.nodes WHERE id = %s", (node_id,))
            if await cursor.fetchone() == (status,):
                return
            await asyncio.sleep(0.1)
