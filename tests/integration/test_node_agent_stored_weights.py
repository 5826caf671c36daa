"""An agent brings what the registry grants it before its engine starts, and says why when it cannot."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic_model_store.fetch import present
from crosslogic_model_store.fit import GIB, Accelerators
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import Manifest
from crosslogic_node_agent.engine_process import EngineCommand
from crosslogic_node_agent.stored_weights import StoredWeights
from crosslogic_node_agent.supervisor import PreparationError
from crosslogic_node_agent.weights import WeightsCleaner
from tests.fakes.range_server import RangeServer, range_server
from tests.fakes.small_models import make_model


@dataclass
class Registry:
    """Grants one version; each answer has addresses of its own."""

    manifest: Manifest
    server: RangeServer
    fails_with: grpc.StatusCode | None = None
    asked: int = 0

    async def GetWeights(self, request: Any, timeout: float) -> pb.GetWeightsResponse:
        self.asked += 1
        if self.fails_with is not None:
            raise grpc.aio.AioRpcError(self.fails_with, grpc.aio.Metadata(), grpc.aio.Metadata(), "This node has none.")
        objects = [
            pb.WeightsObject(sha256=sha256, url=f"{self.server.address}/{sha256}?key={self.asked}")
            for sha256 in self.manifest.objects
        ]
        return pb.GetWeightsResponse(manifest=self.manifest.to_json(), objects=objects)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    source = make_model(tmp_path / "source", weights_bytes=300_000)
    manifest = read_model(source, "tiny").manifest
    with range_server({f"/{file.sha256}": (source / file.path).read_bytes() for file in manifest.files}) as server:
        yield Registry(manifest, server)


def agent(tmp_path: Path, registry: Registry) -> StoredWeights:
    root = tmp_path / "weights"
    root.mkdir(exist_ok=True)
    weights = StoredWeights(
        root=root,
        granted_file=tmp_path / "granted.json",
        cleaner=WeightsCleaner(directory=root, keep=(), free_percent=0),
        accelerators=lambda: Accelerators("H100", 79 * GIB, 4),
    )
    weights._stub = registry  # type: ignore[assignment]
    weights._opened.set()
    return weights


def command(tmp_path: Path) -> EngineCommand:
    arguments = ("engine", "--model", "{weights}", "--tensor-parallel-size={tensor_parallel}", "{data_parallel}")
    return EngineCommand(arguments, {}, tmp_path / "log", tmp_path / "pid", "mark")


async def test_the_engine_is_started_on_the_folder_and_the_registry_hears_of_it(
    tmp_path: Path, registry: Registry
) -> None:
    weights = agent(tmp_path, registry)
    prepared = await weights.prepare(command(tmp_path))
    folder = present(tmp_path / "weights", registry.manifest)
    assert folder is not None
    assert prepared.arguments == ("engine", "--model", str(folder), "--tensor-parallel-size=1", "4")
    assert weights.version == registry.manifest.revision
    assert weights.progress is not None
    assert weights.progress.bytes_done == weights.progress.bytes_total == registry.manifest.size_bytes
    assert weights.changed.is_set()
    # The disk's cleaner leaves it, however full the disk is.
    assert weights._cleaner.make_room(2**62) == []


async def test_addresses_that_ended_are_asked_for_again(tmp_path: Path, registry: Registry) -> None:
    registry.server.refused_query = "key=1"
    await agent(tmp_path, registry).prepare(command(tmp_path))
    assert registry.asked == 2


async def test_a_node_without_a_grant_says_so(tmp_path: Path, registry: Registry) -> None:
    registry.fails_with = grpc.StatusCode.NOT_FOUND
    with pytest.raises(PreparationError, match="weights: "):
        await agent(tmp_path, registry).prepare(command(tmp_path))


async def test_a_manifest_that_lies_brings_nothing(tmp_path: Path, registry: Registry) -> None:
    registry.server.bodies = {path: b"x" * len(body) for path, body in registry.server.bodies.items()}
    weights = agent(tmp_path, registry)
    with pytest.raises(PreparationError, match="checksum"):
        await weights.prepare(command(tmp_path))
    assert weights.version == ""
    assert present(tmp_path / "weights", registry.manifest) is None


async def test_an_engine_starts_on_the_weights_of_its_disk_while_the_registry_is_away(
    tmp_path: Path, registry: Registry
) -> None:
    first = await agent(tmp_path, registry).prepare(command(tmp_path))
    registry.fails_with = grpc.StatusCode.UNAVAILABLE
    again = agent(tmp_path, registry)
    assert await again.prepare(command(tmp_path)) == first
    assert again.version == registry.manifest.revision
    # A registry that answers has the last word.
    registry.fails_with = grpc.StatusCode.NOT_FOUND
    with pytest.raises(PreparationError, match="weights: "):
        await agent(tmp_path, registry).prepare(command(tmp_path))
    registry.fails_with = grpc.StatusCode.UNAVAILABLE
    (tmp_path / "granted.json").unlink()
    (tmp_path / "granted.json").mkdir()
    registry.fails_with = None
    # Nowhere to keep it: the engine starts all the same.
    assert await agent(tmp_path, registry).prepare(command(tmp_path)) == first
    (tmp_path / "granted.json").rmdir()
    registry.fails_with = grpc.StatusCode.UNAVAILABLE
    for harm in ((tmp_path / "granted.json").write_text, lambda _: (tmp_path / "granted.json").unlink()):
        harm("{}")
        with pytest.raises(PreparationError, match="weights: "):
            await agent(tmp_path, registry).prepare(command(tmp_path))


async def test_weights_that_are_no_longer_whole_are_not_started_on_while_the_registry_is_away(
    tmp_path: Path, registry: Registry
) -> None:
    await agent(tmp_path, registry).prepare(command(tmp_path))
    next((tmp_path / "weights").rglob("*.safetensors")).unlink()
    registry.fails_with = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(PreparationError, match="weights: "):
        await agent(tmp_path, registry).prepare(command(tmp_path))
    registry.fails_with = None
    await agent(tmp_path, registry).prepare(command(tmp_path))
    assert present(tmp_path / "weights", registry.manifest) is not None
