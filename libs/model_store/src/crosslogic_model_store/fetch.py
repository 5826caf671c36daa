"""From signed addresses to a folder on this machine: in parallel, verified, and gone on with after a kill.

A version is fetched into `.fetch-<folder>`, block by block; a journal of whole blocks lies beside each file.
The checksum of a file is reckoned while its later blocks are still on their way. Once all are right the folder gets its
name in one step, so a folder with a version's name is always whole. Other agents of the machine wait, and find it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.manifest import FileEntry, Manifest, folder_name, parse_manifest
from crosslogic_model_store.selection import MANIFEST_NAME

BLOCK_BYTES: Final = 16 * 2**20
CONNECTIONS: Final = 8
SPARE_BYTES: Final = 512 * 2**20
"""Of the disk, left to everybody else."""
_TIMEOUT_S: Final = 30.0
_ATTEMPTS: Final = 6
_LONGEST_PAUSE_S: Final = 8.0
_LOCK_POLL_S: Final = 0.1
_OK, _PARTIAL, _FORBIDDEN = 200, 206, 403

Urls = Mapping[str, str]
"""Addresses by SHA-256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How a version is fetched."""

    connections: int = CONNECTIONS
    block_bytes: int = BLOCK_BYTES
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

    `urls` gives addresses; it is asked again once those that it gave are refused. Raises ModelStoreError: the disk is
    too small, the storage does not answer, or what it sent is not what the manifest says.
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
        self._folder = root / f".fetch-{folder_name(manifest.model, manifest.revision)}"
        self._options = options
        self._addresses = _Addresses(urls)
        self._counting = threading.Lock()
        self._done_bytes = 0
        self._failed = threading.Event()
        self._opened: list[HTTPConnection] = []

    def run(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        # Whoever cleans the disk leaves what is marked so.
        (self._folder / ".in-use").touch()
        files = [_FileInParts(self._folder, file, self._options.block_bytes) for file in self._manifest.files]
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
        (self._folder / ".in-use").unlink()
        target = self._root / folder_name(self._manifest.model, self._manifest.revision)
        shutil.rmtree(target, ignore_errors=True)
        self._folder.rename(target)
        return target

    def _fetch_all(self, files: "list[_FileInParts]") -> None:
        with ThreadPoolExecutor(self._options.connections, thread_name_prefix="weights") as pool:
            local = threading.local()
            blocks = [(file, index) for file in files for index in file.missing]
            waiting: list[Future[None]] = [pool.submit(self._block, local, file, index) for file, index in blocks]
            waiting += [pool.submit(file.advance) for file in files if not file.missing]
            try:
                done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                self._failed.set()
                for future in waiting:
                    future.cancel()
        wrong = [file for file in files if not file.is_right()]
        for file in wrong:
            file.forget()
        if wrong:
            raise ModelStoreError(f"{wrong[0].entry.path} is not what its checksum says: it is fetched anew.")

    def _block(self, local: threading.local, file: "_FileInParts", index: int) -> None:
        start, size = file.span(index)
        pause_s = self._options.pause_s
        for attempt in range(1, _ATTEMPTS + 1):
            url = self._addresses.of(file.entry)
            try:
                self._get(local, url, file, start, size)
                break
            except _RefusedError:
                self._addresses.renew(url, file.entry)
                reason = "its address is refused"
            except (OSError, HTTPException) as error:
                reason = str(error) or type(error).__name__
            _drop(local)
            if attempt == _ATTEMPTS:
                raise ModelStoreError(f"{file.entry.path} cannot be fetched: {reason}.")
            if self._options.stop.wait(pause_s):
                raise _Stopped
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        file.note(index)
        file.advance()

    def _get(self, local: threading.local, url: str, file: "_FileInParts", start: int, size: int) -> None:
        connection, path = self._connection(local, url)
        connection.request("GET", path, headers={"Range": f"bytes={start}-{start + size - 1}"})
        with connection.getresponse() as answer:
            if answer.status == _FORBIDDEN:
                raise _RefusedError
            if answer.status != _PARTIAL and not (answer.status == _OK and size == file.entry.size_bytes):
                raise HTTPException(f"the storage answers {answer.status}")
            block = memoryview(_buffer(local, self._options.block_bytes))[:size]
            self._read(answer, block)
            file.write(start, block)

    def _read(self, answer: HTTPResponse, block: memoryview) -> None:
        got = 0
        try:
            for count in self._pieces(answer, block):
                got += count
                self._count(count)
        except BaseException:
            # They come again.
            self._count(-got)
            raise

    def _pieces(self, answer: HTTPResponse, block: memoryview) -> Iterator[int]:
        """Fills the block; yields how many bytes came each time."""
        got = 0
        while got < len(block):
            if self._options.stop.is_set() or self._failed.is_set():
                raise _Stopped
            count = answer.readinto(block[got:])
            if not count:
                raise HTTPException("the storage broke off")
            got += count
            yield count

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


class _FileInParts:
    """A file that is being fetched."""

    def __init__(self, folder: Path, entry: FileEntry, block_bytes: int) -> None:
        self.entry = entry
        self._block_bytes = block_bytes
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The length of blocks is in the name: with another one the numbers mean something else.
        self._journal = path.with_name(f"{path.name}.{block_bytes}.blocks")
        self._count = -(-entry.size_bytes // block_bytes)
        held = self._read_journal() if path.exists() else set()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._file, entry.size_bytes)
        self._notes = self._journal.open("a" if held else "w")
        self._held = held
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._hashing = threading.Lock()

    @property
    def missing(self) -> list[int]:
        """Blocks that are not there."""
        return [index for index in range(self._count) if index not in self._held]

    @property
    def missing_bytes(self) -> int:
        return self.entry.size_bytes - self.held_bytes

    @property
    def held_bytes(self) -> int:
        return sum(self.span(index)[1] for index in self._held)

    def span(self, index: int) -> tuple[int, int]:
        """Where a block begins and how long it is."""
        start = index * self._block_bytes
        return start, min(self._block_bytes, self.entry.size_bytes - start)

    def write(self, start: int, block: memoryview) -> None:
        """Writes a whole block."""
        done = 0
        while done < len(block):
            done += os.pwrite(self._file, block[done:], start + done)

    def note(self, index: int) -> None:
        """The block is there."""
        self._notes.write(f"{index}\n")
        self._notes.flush()
        self._held.add(index)

    def advance(self) -> None:
        """Reckons the checksum as far as blocks follow each other. One thread does, the others go on."""
        while self._hashed < self._count and self._hashed in self._held:
            if not self._hashing.acquire(blocking=False):
                return
            try:
                while self._hashed < self._count and self._hashed in self._held:
                    start, size = self.span(self._hashed)
                    self._digest.update(os.pread(self._file, size, start))
                    self._hashed += 1
            finally:
                self._hashing.release()

    def is_right(self) -> bool:
        """Whether all of it is there and is what the manifest says."""
        return self._hashed == self._count and self._digest.hexdigest() == self.entry.sha256

    def forget(self) -> None:
        """What is there is of no use."""
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        self._notes.close()
        os.close(self._file)

    def clean_up(self) -> None:
        """The file is whole."""
        self._journal.unlink(missing_ok=True)

    def _read_journal(self) -> set[int]:
        try:
            words = self._journal.read_text().split("\n")[:-1]
        except OSError:
            return set()
        return {int(word) for word in words if word.isdecimal() and int(word) < self._count}


def _drop(local: threading.local) -> None:
    connection = getattr(local, "connection", None)
    if connection is not None:
        connection.close()
    local.place = None


def _buffer(local: threading.local, size: int) -> bytearray:
    buffer: bytearray | None = getattr(local, "buffer", None)
    if buffer is None:
        local.buffer = buffer = bytearray(size)
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
