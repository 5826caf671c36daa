"""The weights of this node's model, brought from the object storage before its engine starts.

The registry says which version this node may read, and gives addresses that read its objects for a while. The node has
no key of the storage. What was fetched once stays on the disk for later starts, also while the registry is away.
"""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic.registry.v1 import model_store_pb2_grpc as rpc
from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.fetch import FetchOptions, Urls, fetch, present
from crosslogic_model_store.fit import Accelerators
from crosslogic_model_store.manifest import Manifest, folder_name, parse_manifest
from crosslogic_node_agent.engine_process import EngineCommand
from crosslogic_node_agent.engine_split import DATA_PARALLEL_WORD, TENSOR_PARALLEL_WORD, split_of
from crosslogic_node_agent.supervisor import PreparationError
from crosslogic_node_agent.weights import WeightsCleaner

WEIGHTS_WORD: Final = "{weights}"
_RPC_S: Final = 15.0
_TELL_EVERY_S: Final = 0.5
_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class StoredWeights:
    """Brings the weights. `changed` is set when there is news of how far it is."""

    def __init__(
        self,
        *,
        root: Path,
        cleaner: WeightsCleaner,
        granted_file: Path,
        accelerators: Callable[[], Accelerators | None] = lambda: None,
    ) -> None:
        """`root` has a folder for each version, which `cleaner` keeps from filling the disk.

        `granted_file` keeps what the registry granted last, for a start while it is away. `accelerators` are this
        machine's, over which the engine splits the model; None: it has none. Asked for in a thread.
        """
        self._root = root
        self._granted_file = granted_file
        self._accelerators = accelerators
        self._cleaner = cleaner
        self._stub: rpc.ModelStoreServiceAsyncStub | None = None
        self._opened = asyncio.Event()
        self._log = get_logger(__name__)
        self._told_at = 0.0
        self._loop = asyncio.get_running_loop()
        self.version = ""
        """The version that is on the disk. Empty: none is yet."""
        self.progress: registry_pb2.WeightsProgress | None = None
        """None: nothing was fetched yet."""
        self.changed = asyncio.Event()

    def open(self, channels: Channels, registry_target: str) -> None:
        """From now on the registry can be asked: this machine has joined."""
        self._stub = rpc.ModelStoreServiceStub(channels.service("registry", registry_target))
        self._opened.set()

    async def prepare(self, command: EngineCommand) -> EngineCommand:
        """The command, for weights that are there. Raises PreparationError.

        `{weights}` in it is their folder, `{tensor_parallel}` over how many accelerators the model is split, and
        `{data_parallel}` how many copies of it the machine then has room for.
        """
        await self._opened.wait()
        stop = threading.Event()
        try:
            manifest, folder = await self._bring(stop)
        except ModelStoreError as error:
            raise PreparationError(f"weights: {error}") from None
        except OSError as error:
            raise PreparationError(f"weights: the disk: {error.strerror}") from None
        except grpc.aio.AioRpcError as error:
            raise PreparationError(f"weights: {from_rpc_error(error).public}") from None
        finally:
            # The thread ends by itself, soon.
            stop.set()
        split = split_of(manifest.facts, await asyncio.to_thread(self._accelerators), command.arguments)
        words = {
            WEIGHTS_WORD: str(folder),
            TENSOR_PARALLEL_WORD: str(split.tensor_parallel),
            DATA_PARALLEL_WORD: str(split.data_parallel),
        }
        self._log.info(
            "the engine's split",
            tensor_parallel=split.tensor_parallel,
            data_parallel=split.data_parallel,
            why=split.why,
        )
        return dataclasses.replace(command, arguments=tuple(_filled(argument, words) for argument in command.arguments))

    async def _bring(self, stop: threading.Event) -> tuple[Manifest, Path]:
        try:
            first = await self._ask()
        except grpc.aio.AioRpcError as error:
            kept = await self._kept() if error.code() in _AWAY else None
            if kept is None:
                raise
            return kept
        manifest = parse_manifest(first.manifest)
        held = [first]

        def urls() -> Urls:
            # Asked in the fetching threads. The first answer is good once; later ones are asked for when it has ended.
            answer = held.pop() if held else self._ask_from_thread(stop)
            return {each.sha256: each.url for each in answer.objects}

        options = FetchOptions(make_room=self._make_room, on_progress=self._count, stop=stop)
        self._log.info("weights wanted", model=manifest.model, version=manifest.revision, bytes=manifest.size_bytes)
        await asyncio.to_thread(self._cleaner.keep_also, folder_name(manifest.model, manifest.revision))
        folder = await asyncio.to_thread(fetch, manifest, root=self._root, urls=urls, options=options)
        self._log.info("weights are there", folder=str(folder))
        await asyncio.to_thread(self._keep, first.manifest)
        self._is_there(manifest)
        return manifest, folder

    def _keep(self, manifest: bytes) -> None:
        try:
            self._granted_file.write_bytes(manifest)
        except OSError as error:
            # The weights are there: the engine is not to wait for a disk that is full.
            self._log.warning("what was granted is not kept", reason=error.strerror)

    async def _kept(self) -> tuple[Manifest, Path] | None:
        """The version that was granted last, if it is on the disk: an engine need not wait for the registry."""
        try:
            manifest = parse_manifest(await asyncio.to_thread(self._granted_file.read_bytes))
        except (OSError, ModelStoreError):
            return None
        await asyncio.to_thread(self._cleaner.keep_also, folder_name(manifest.model, manifest.revision))
        folder = await asyncio.to_thread(present, self._root, manifest)
        if folder is None:
            return None
        self._log.warning("the registry is away: the weights that it granted last are used", folder=str(folder))
        self._is_there(manifest)
        return manifest, folder

    def _is_there(self, manifest: Manifest) -> None:
        self.version = manifest.revision
        self._tell(manifest.size_bytes, manifest.size_bytes)

    def _make_room(self, wanted_bytes: int) -> None:
        self._cleaner.make_room(wanted_bytes)

    async def _ask(self) -> pb.GetWeightsResponse:
        if self._stub is None:
            raise ModelStoreError("This machine has not joined yet.")
        return await self._stub.GetWeights(pb.GetWeightsRequest(), timeout=_RPC_S)

    def _ask_from_thread(self, stop: threading.Event) -> pb.GetWeightsResponse:
        if stop.is_set():
            raise ModelStoreError("The fetching was stopped.")
        asking = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        try:
            return asking.result(_RPC_S + 1)
        except grpc.aio.AioRpcError as error:
            raise ModelStoreError(from_rpc_error(error).public) from None
        except TimeoutError:
            raise ModelStoreError("The registry does not answer.") from None

    def _count(self, done: int, total: int) -> None:
        """Told from several threads; tells the registry of it now and then."""
        now = self._loop.time()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self._loop.call_soon_threadsafe(self._tell, done, total)

    def _tell(self, done: int, total: int) -> None:
        self.progress = registry_pb2.WeightsProgress(bytes_done=done, bytes_total=total)
        self.changed.set()


def _filled(argument: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        argument = argument.replace(word, value)
    return argument
