"""Weights from object storage to a node's disk, verified, beside what a plain client gets from the same server."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.table import Budget, Figure
from crosslogic_model_store.fetch import BLOCK_BYTES, CONNECTIONS, FetchOptions, fetch
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import Manifest
from tests.fakes.small_models import make_model

_MIB = 2**20


def measure_weights(*, size_bytes: int, rounds: int) -> list[Figure]:
    """The store's own fetching, and as many plain connections that throw away what they read."""
    with tempfile.TemporaryDirectory(prefix="cl-weights-") as temporary:
        folder = Path(temporary)
        source = make_model(folder / "source", weights_bytes=size_bytes, shards=2)
        manifest = read_model(source, "bench").manifest
        served = folder / "served"
        served.mkdir()
        for file in manifest.files:
            os.link(source / file.path, served / file.sha256)
        with _Server(served) as address:
            urls = {file.sha256: f"{address}/{file.sha256}" for file in manifest.files}

            def stored() -> None:
                fetch(manifest, root=folder / "weights", urls=lambda: urls, options=FetchOptions())
                shutil.rmtree(folder / "weights")

            # In turns, so that what else the machine does meets both alike.
            times = [(_timed(lambda: _plain(manifest, urls)), _timed(stored)) for _ in range(rounds)]
    plain_s, stored_s = median(each[0] for each in times), median(each[1] for each in times)
    ratio = median(plain / own for plain, own in times)
    detail = {"bytes": manifest.size_bytes, "connections": CONNECTIONS, "block_bytes": BLOCK_BYTES, "rounds": rounds}
    return [
        Figure(
            "weights: plain client, read and thrown away", manifest.size_bytes / plain_s / _MIB, "MiB/s", None, detail
        ),
        Figure("weights: on the disk, verified", manifest.size_bytes / stored_s / _MIB, "MiB/s", None, detail),
        Figure("weights: share of the plain client", ratio, "", Budget(0.8, at_most=False), detail),
    ]


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _plain(manifest: Manifest, urls: dict[str, str]) -> None:
    """The same ranges over as many connections, into a buffer and no further."""
    blocks = [
        (urls[file.sha256], start, min(BLOCK_BYTES, file.size_bytes - start))
        for file in manifest.files
        for start in range(0, file.size_bytes, BLOCK_BYTES)
    ]
    lock = threading.Lock()

    def read() -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        connection = HTTPConnection(urlsplit(blocks[0][0]).netloc) if blocks else None
        while connection is not None:
            with lock:
                if not blocks:
                    break
                url, start, size = blocks.pop()
            connection.request("GET", urlsplit(url).path, headers={"Range": f"bytes={start}-{start + size - 1}"})
            with connection.getresponse() as answer:
                got = 0
                while got < size:
                    got += answer.readinto(buffer[got:size])
        if connection is not None:
            connection.close()

    threads = [threading.Thread(target=read) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Server:
    """Serves a folder by range from a process of its own, by `sendfile`: hardly any cost beside the clients'."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.weights_server", str(self._folder)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
