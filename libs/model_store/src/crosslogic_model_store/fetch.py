"""From signed addresses to a folder on this machine: in parallel, verified, and gone on with after a kill.

A version is fetched into `.fetch-<folder>`, block by block; a journal of whole blocks lies beside each file. Each
thread reckons the checksum of its block while it comes. Once all are right the folder gets its name in one step, so a
folder with a version's name is always whole. Other agents of the machine wait, and find it.
"""

import contextlib
import fcntl
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.fetched_file import PIECE_BYTES, FetchedFile, open_file
from crosslogic_model_store.in_use import fetched_folder
from crosslogic_model_store.manifest import FileEntry, Manifest, folder_name, parse_manifest
from crosslogic_model_store.selection import MANIFEST_NAME
from crosslogic_model_store.tree_digest import PartDigest

BLOCK_BYTES: Final = 16 * 2**20
CONNECTIONS: Final = 8
SPARE_BYTES: Final = 512 * 2**20
"""Of the disk, left to everybody else."""
_TIMEOUT_S: Final = 30.0
_ATTEMPTS: Final = 6
_LONGEST_PAUSE_S: Final = 8.0
_LOCK_POLL_S: Final = 0.1
_STOP_POLL_S: Final = 0.25
_OK, _PARTIAL = 200, 206
_REFUSED: Final = frozenset({400, 401, 403})
"""What storages say of an address that has ended: S3 and MinIO 403, R2 400."""

Urls = Mapping[str, str]
"""Addresses by SHA-256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How a version is fetched."""

    connections: int = CONNECTIONS
    block_bytes: int = BLOCK_BYTES
    """Of files whose manifest does not say how long their parts are."""
    make_room: Callable[[int], None] = lambda _bytes: None
    """Asked to free so many bytes of the disk before there are said to be too few."""
    on_progress: Callable[[int, int], None] = lambda _done, _total: None
    """Told bytes done and in all, from several threads."""
    stop: threading.Event = threading.Event()  # noqa: RUF009  # never set by anybody
    pause_s: float = 0.5
    """Before the first repetition of what failed; doubled with each."""


class _Stopped(Exception):  # noqa: N818  # no error: somebody asked
    pass


def present(root: Path, manifest: Manifest) -> Path | None:
    """The folder of a version that was fetched before, if it is there whole."""
    folder = root / folder_name(manifest.model, manifest.revision)
    try:
        kept = parse_manifest((folder / MANIFEST_NAME).read_bytes())
        whole = all((folder / file.path).stat().st_size == file.size_bytes for file in kept.files)
    except (OSError, ModelStoreError):
        return None
    return folder if whole and kept.revision == manifest.revision else None


def fetch(manifest: Manifest, *, root: Path, urls: Callable[[], Urls], options: FetchOptions | None = None) -> Path:
    """Brings a version below `root`; its folder. Blocks for as long as it takes: for a thread.

    Whoever calls it holds the version in use (`in_use.Use`), or somebody may clean it away meanwhile. `urls` gives
    addresses; it is asked again once those that it gave are refused. Raises ModelStoreError: the disk is too small, the
    storage does not answer, or what it sent is not what the manifest says.
    """
    options = options or FetchOptions()
    root.mkdir(parents=True, exist_ok=True)
    name = folder_name(manifest.model, manifest.revision)
    with _only_one(root / f".lock-{name}", options.stop):
        found = present(root, manifest)
        if found is None:
            found = _Fetch(manifest, root=root, urls=urls, options=options).run()
        options.on_progress(manifest.size_bytes, manifest.size_bytes)
        return found


class _Fetch:
    """One run."""

    def __init__(self, manifest: Manifest, *, root: Path, urls: Callable[[], Urls], options: FetchOptions) -> None:
        self._manifest = manifest
        self._root = root
        self._folder = fetched_folder(root, folder_name(manifest.model, manifest.revision))
        self._options = options
        self._addresses = _Addresses(urls)
        self._counting = threading.Lock()
        self._done_bytes = 0
        self._failed = threading.Event()
        self._opened: list[HTTPConnection] = []
        self._asked: dict[int, socket.socket] = {}
        """What each thread waits at for an answer. A connection that closes after its answer has forgotten its own."""

    def run(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        files = [
            open_file(self._folder, file, part_bytes=self._manifest.part_bytes, block_bytes=self._options.block_bytes)
            for file in self._manifest.files
        ]
        self._count(sum(file.held_bytes for file in files))
        self._check_disk(sum(file.missing_bytes for file in files))
        try:
            self._fetch_all(files)
        except _Stopped:
            raise ModelStoreError("The fetching was stopped.") from None
        finally:
            for file in files:
                file.close()
            for connection in self._opened:
                connection.close()
        for file in files:
            file.clean_up()
        (self._folder / MANIFEST_NAME).write_bytes(self._manifest.to_json())
        target = self._root / folder_name(self._manifest.model, self._manifest.revision)
        shutil.rmtree(target, ignore_errors=True)
        self._folder.rename(target)
        return target

    def _fetch_all(self, files: list[FetchedFile]) -> None:
        with ThreadPoolExecutor(self._options.connections, thread_name_prefix="weights") as pool:
            local = threading.local()
            # Both are found out before the first thread starts: from then on blocks come.
            work = [(self._block, file, index) for file in files for index in file.missing]
            work += [(self._found, file, index) for file in files for index in file.held]
            under_way = _UnderWay(len(work))
            waiting: list[Future[None]] = []
            try:
                for each, file, index in work:
                    waiting.append(pool.submit(each, local, file, index))
                    waiting[-1].add_done_callback(under_way.ended)
                while not under_way.over.wait(_STOP_POLL_S):
                    if self._options.stop.is_set():
                        raise _Stopped
                if under_way.error is not None:
                    raise under_way.error
            finally:
                self._failed.set()
                for future in waiting:
                    future.cancel()
                self._hang_up()
        wrong = [file for file in files if not file.is_right()]
        for file in wrong:
            file.forget()
        if wrong:
            raise ModelStoreError(f"{wrong[0].entry.path} is not what its checksum says: it is fetched anew.")

    @property
    def _over(self) -> bool:
        return self._options.stop.is_set() or self._failed.is_set()

    def _hang_up(self) -> None:
        """Threads that wait for a storage that says nothing need not wait longer."""
        for each in list(self._asked.values()):
            with contextlib.suppress(OSError):
                # Of TLS too only the connection below: its thread is in the midst of it.
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def _block(self, local: threading.local, file: FetchedFile, index: int) -> None:
        pause_s = self._options.pause_s
        for attempt in range(1, _ATTEMPTS + 1):
            if self._over:
                raise _Stopped
            url = self._addresses.of(file.entry)
            try:
                digest = self._get(local, url, file, index)
                break
            except _RefusedError:
                self._addresses.renew(url, file.entry)
                reason = "its address is refused"
            except (OSError, HTTPException) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            _drop(local)
            if attempt == _ATTEMPTS:
                raise ModelStoreError(f"{file.entry.path} cannot be fetched: {reason}.")
            if self._options.stop.wait(pause_s):
                raise _Stopped
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        file.note(index)
        file.came(index, digest, _buffer(local))

    def _found(self, local: threading.local, file: FetchedFile, index: int) -> None:
        if self._over:
            raise _Stopped
        file.found(index, _buffer(local))

    def _get(self, local: threading.local, url: str, file: FetchedFile, index: int) -> PartDigest | None:
        start, size = file.span(index)
        connection, path = self._connection(local, url)
        connection.request("GET", path, headers={"Range": f"bytes={start}-{start + size - 1}"})
        self._asked[threading.get_ident()] = connection.sock
        if self._over:
            raise _Stopped
        with connection.getresponse() as answer:
            if answer.status in _REFUSED:
                raise _RefusedError
            if answer.status != _PARTIAL and not (answer.status == _OK and size == file.entry.size_bytes):
                raise HTTPException(f"the storage answers {answer.status}")
            file.allocate(index)
            digest, got = file.begin(), 0
            try:
                while got < size:
                    piece = _buffer(local)[: size - got]
                    self._fill(answer, piece)
                    if digest is not None:
                        digest.update(piece)
                    file.write(start + got, piece)
                    got += len(piece)
                    self._count(len(piece))
            except BaseException:
                # They come again.
                self._count(-got)
                raise
        return digest

    def _fill(self, answer: HTTPResponse, piece: memoryview) -> None:
        got = 0
        while got < len(piece):
            if self._over:
                raise _Stopped
            count = answer.readinto(piece[got:])
            if not count:
                raise HTTPException("the storage broke off")
            got += count

    def _connection(self, local: threading.local, url: str) -> tuple[HTTPConnection, str]:
        """This thread's connection to the address's host, kept alive from block to block; and the path to ask for."""
        parts = urlsplit(url)
        place = (parts.scheme, parts.netloc)
        if getattr(local, "place", None) != place:
            _drop(local)
            kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            local.connection, local.place = kind(parts.netloc, timeout=_TIMEOUT_S), place
            self._opened.append(local.connection)
        connection: HTTPConnection = local.connection
        return connection, f"{parts.path}?{parts.query}"

    def _count(self, count: int) -> None:
        with self._counting:
            self._done_bytes = min(self._done_bytes + count, self._manifest.size_bytes)
            done = self._done_bytes
        self._options.on_progress(done, self._manifest.size_bytes)

    def _check_disk(self, missing_bytes: int) -> None:
        needed = missing_bytes + SPARE_BYTES
        if shutil.disk_usage(self._root).free < needed:
            self._options.make_room(needed)
        free = shutil.disk_usage(self._root).free
        if free < needed:
            raise ModelStoreError(
                f"The disk is too small: {missing_bytes:,} bytes of weights are to come, {SPARE_BYTES:,} are to stay "
                f"free, and {free:,} are free."
            )


class _UnderWay:
    """Blocks that come, in several threads."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()
        self.over = threading.Event()
        """All have come, or one of them cannot."""
        self.error: BaseException | None = None
        """Why it cannot."""
        if not count:
            self.over.set()

    def ended(self, block: "Future[None]") -> None:
        """One has come, or cannot, or is not waited for any more."""
        error = None if block.cancelled() else block.exception()
        with self._lock:
            self._left -= 1
            if self.error is None:
                self.error = error
            if error is not None or not self._left:
                self.over.set()


class _RefusedError(Exception):
    """The address is no longer good."""


class _Addresses:
    """Where files are, as long as that is good."""

    def __init__(self, urls: Callable[[], Urls]) -> None:
        self._urls = urls
        self._lock = threading.Lock()
        self._known: Urls = {}

    def of(self, file: FileEntry) -> str:
        with self._lock:
            if file.sha256 not in self._known:
                self._known = self._urls()
            if file.sha256 not in self._known:
                raise ModelStoreError(f"No address was given for {file.path}.")
            return self._known[file.sha256]

    def renew(self, refused: str, file: FileEntry) -> None:
        """Asks for new addresses, unless another thread has done so since."""
        with self._lock:
            if self._known.get(file.sha256) == refused:
                self._known = {}


def _drop(local: threading.local) -> None:
    connection = getattr(local, "connection", None)
    if connection is not None:
        connection.close()
    local.place = None


def _buffer(local: threading.local) -> memoryview:
    buffer: memoryview | None = getattr(local, "buffer", None)
    if buffer is None:
        local.buffer = buffer = memoryview(bytearray(PIECE_BYTES))
    return buffer


@contextlib.contextmanager
def _only_one(lock_file: Path, stop: threading.Event) -> Iterator[None]:
    with lock_file.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.is_set():
                    raise ModelStoreError("The fetching was stopped.") from None
                time.sleep(_LOCK_POLL_S)
        yield
