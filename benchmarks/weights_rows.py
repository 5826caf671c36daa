"""Weights from object storage to a node's disk, verified, beside what a plain client brings there, unverified."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.table import Budget, Figure
from crosslogic_model_store.fetch import CONNECTIONS, FetchOptions, fetch
from crosslogic_model_store.fetched_file import PIECE_BYTES
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import Manifest
from tests.fakes.small_models import make_model

_MIB = 2**20


def measure_weights(*, size_bytes: int, rounds: int) -> list[Figure]:
    """The store's own fetching; as many plain connections that write to the disk; and such that write nothing."""
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

            def plain_to_disk() -> None:
                _plain(manifest, urls, folder / "weights")

            def plain() -> None:
                _plain(manifest, urls, None)

            # In turns, so that what else the machine does meets all alike.
            times = [
                [_timed(work, folder / "weights") for work in (plain, plain_to_disk, stored)] for _ in range(rounds)
            ]
    plain_s, to_disk_s, stored_s = (median(column) for column in zip(*times, strict=True))
    detail = {
        "bytes": manifest.size_bytes,
        "connections": CONNECTIONS,
        "part_bytes": manifest.part_bytes,
        "piece_bytes": PIECE_BYTES,
        "rounds": rounds,
        "times_s": times,
    }

    def rate(name: str, took_s: float) -> Figure:
        return Figure(f"weights: {name}", manifest.size_bytes / took_s / _MIB, "MiB/s", None, detail)

    share = median(to_disk / own for _, to_disk, own in times)
    of_unwritten = median(unwritten / own for unwritten, _, own in times)
    return [
        rate("plain client, read and thrown away", plain_s),
        rate("plain client, on the disk, not verified", to_disk_s),
        rate("on the disk, verified", stored_s),
        Figure("weights: share of the plain client to the disk", share, "", Budget(0.8, at_most=False), detail),
        Figure("weights: share of the one that throws away", of_unwritten, "", None, detail),
    ]


def _timed(work: Callable[[], None], made: Path) -> float:
    began = time.perf_counter()
    work()
    took_s = time.perf_counter() - began
    shutil.rmtree(made, ignore_errors=True)
    return took_s


def _plain(manifest: Manifest, urls: dict[str, str], target: Path | None) -> None:
    """The same ranges over as many connections, by pieces of the same length, to the same disk or no further."""
    blocks = [
        (file.sha256, start, min(manifest.part_bytes, file.size_bytes - start))
        for file in reversed(manifest.files)
        for start in reversed(range(0, file.size_bytes, manifest.part_bytes))
    ]
    opened: dict[str, int] = {}
    if target is not None:
        target.mkdir()
        for file in manifest.files:
            opened[file.sha256] = os.open(target / file.sha256, os.O_WRONLY | os.O_CREAT)
            os.ftruncate(opened[file.sha256], file.size_bytes)
    lock = threading.Lock()

    def read() -> None:
        buffer = memoryview(bytearray(PIECE_BYTES))
        connection = HTTPConnection(urlsplit(next(iter(urls.values()))).netloc)
        while True:
            with lock:
                if not blocks:
                    break
                name, start, size = blocks.pop()
            headers = {"Range": f"bytes={start}-{start + size - 1}"}
            connection.request("GET", urlsplit(urls[name]).path, headers=headers)
            with connection.getresponse() as answer:
                got = 0
                while got < size:
                    piece = buffer[: size - got]
                    _fill(answer, piece)
                    if opened:
                        os.pwrite(opened[name], piece, start + got)
                    got += len(piece)
        connection.close()

    threads = [threading.Thread(target=read) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in opened.values():
        os.close(number)


def _fill(answer: HTTPResponse, piece: memoryview) -> None:
    got = 0
    while got < len(piece):
        got += answer.readinto(piece[got:])


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
