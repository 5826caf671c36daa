"""A model of a hub, fetched into a folder before it is uploaded.

The hub is HF_ENDPOINT or the default, the token HF_TOKEN. Only files of a model are asked for. A file that
was begun is gone on with, one that is whole is left as it is; the commit is found out first, so that all are of one.
Each commit has a folder of its own: two of them may have weights of the same name and length, and differ.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.selection import is_wanted, without_second_layout

DEFAULT_HUB: Final = "https://huggingface.co"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CARD: Final = "README.md"
_ATTEMPTS: Final = 5
_LONGEST_PAUSE_S: Final = 60.0
_TOO_MANY: Final = 429


class _BusyError(Exception):
    """The hub says that it would answer later."""

    def __init__(self, status: int, after_s: float) -> None:
        super().__init__(f"it answers {status}")
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model as the hub lists it."""

    name: str
    commit: str
    sizes: Mapping[str, int]
    """Bytes by path; of the files that are fetched."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by path, as lower-case hex, where the hub lists it: of large files."""

    @property
    def source(self) -> str:
        """For the manifest."""
        return f"{self.name}@{self.commit}"

    @property
    def folder_name(self) -> str:
        """Where files of this model and commit are kept."""
        return f"{self.name.replace('/', '--')}@{self.commit[:12]}"


def is_hub_id(text: str) -> bool:
    """Whether it reads as `owner/name`."""
    return _ID.fullmatch(text) is not None


class Hub:
    """A hub of models. A context manager would be too much: `close` when done."""

    def __init__(
        self,
        *,
        endpoint: str = "",
        token: str = "",
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`endpoint` is the hub's address; empty: the default. `sleep` waits before a busy hub is asked again."""
        self._sleep = sleep
        self._endpoint = (endpoint or DEFAULT_HUB).rstrip("/")
        # What is not asked for as it is comes compressed, and would be written so. A redirection to another host is
        # followed without the token.
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})}
        self._http = httpx.Client(headers=headers, follow_redirects=True, timeout=60.0, transport=transport)

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def look_up(self, name: str, *, revision: str = "main") -> HubModel:
        """A model's files. Raises ModelStoreError."""
        if not is_hub_id(name):
            raise ModelStoreError(f"{name!r} is neither a folder nor a hub id (`owner/name`).")
        address = f"{self._endpoint}/api/models/{name}/revision/{quote(revision, safe='')}"
        said = self._json(address, {"blobs": "true"})
        commit = said.get("sha")
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise ModelStoreError(f"The hub names no commit of {name}.")
        sizes, checksums = _listed(said.get("siblings"))
        return HubModel(name, commit, sizes, checksums)

    def fetch(self, model: HubModel, folder: Path, *, on_bytes: Callable[[int], None] = lambda _bytes: None) -> None:
        """Brings all files into `folder`. Raises ModelStoreError."""
        _check_disk(model, folder)
        for path in model.sizes:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if _is_there(model, path, target):
                on_bytes(target.stat().st_size)
                continue
            self._fetch_one(model, path, target, on_bytes)

    def _fetch_one(self, model: HubModel, path: str, target: Path, on_bytes: Callable[[int], None]) -> None:
        # The commit is in the name: half of another commit's file must not be gone on with.
        part = target.with_name(f"{target.name}.{model.commit[:12]}.part")
        address = f"{self._endpoint}/{model.name}/resolve/{model.commit}/{quote(path)}"
        on_bytes(part.stat().st_size if part.exists() else 0)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._append(address, part, on_bytes)
                break
            except (httpx.TransportError, _BusyError) as error:
                if attempt == _ATTEMPTS:
                    raise ModelStoreError(f"The hub broke off while it sent {path}: {error}. Run it again.") from None
                self._pause(error, attempt)
        size = model.sizes[path]
        if size and part.stat().st_size != size:
            part.unlink()
            raise ModelStoreError(f"The hub sent another length of {path} than it lists: run it again.")
        checksum = model.checksums.get(path)
        if checksum and _sha256(part) != checksum:
            part.unlink()
            raise ModelStoreError(f"The hub sent another {path} than it lists: run it again.")
        part.replace(target)

    def _append(self, address: str, part: Path, on_bytes: Callable[[int], None]) -> None:
        begun = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        with self._http.stream("GET", address, headers=headers) as answer:
            if begun and answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            _check(answer)
            whole = begun and answer.status_code != httpx.codes.PARTIAL_CONTENT
            if whole:
                on_bytes(-begun)
            with part.open("wb" if whole else "ab") as opened:
                # As it comes: what came before a break is kept.
                for block in answer.iter_raw():
                    opened.write(block)
                    on_bytes(len(block))

    def _pause(self, error: Exception, attempt: int) -> None:
        """Before what failed is asked for again. What broke off is gone on with at once."""
        if isinstance(error, _BusyError):
            self._sleep(min(error.after_s or 2.0**attempt, _LONGEST_PAUSE_S))

    def _json(self, address: str, query: Mapping[str, str]) -> dict[str, Any]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = self._http.get(address, params=query)
                _check(answer)
                break
            except httpx.TransportError as error:
                raise ModelStoreError(f"The hub does not answer: {error}") from None
            except _BusyError as error:
                if attempt == _ATTEMPTS:
                    raise ModelStoreError(f"The hub does not answer: {error}.") from None
                self._pause(error, attempt)
        try:
            found = answer.json()
        except ValueError:
            raise ModelStoreError("The hub's answer is not JSON: is HF_ENDPOINT a hub's address?") from None
        return found if isinstance(found, dict) else {}


def _listed(siblings: object) -> tuple[dict[str, int], dict[str, str]]:
    """Sizes and checksums of the files that are fetched, by path. What cannot be a file's row is passed over."""
    sizes: dict[str, int] = {}
    checksums: dict[str, str] = {}
    for row in siblings if isinstance(siblings, list) else ():
        path = row.get("rfilename") if isinstance(row, dict) else None
        if not isinstance(path, str) or not (is_wanted(path) or path == _CARD):
            continue
        size, large = row.get("size"), row.get("lfs")
        sizes[path] = size if isinstance(size, int) and size > 0 else 0
        checksum = large.get("sha256") if isinstance(large, dict) else None
        if isinstance(checksum, str) and _SHA256.fullmatch(checksum):
            checksums[path] = checksum
    return {path: sizes[path] for path in without_second_layout(sizes)}, checksums


def _is_there(model: HubModel, path: str, target: Path) -> bool:
    """Whether an earlier run has brought a file. Weights are read again: a disk that was full may have cut them."""
    if not target.is_file():
        return False
    size, checksum = model.sizes[path], model.checksums.get(path)
    return (not size or target.stat().st_size == size) and (not checksum or _sha256(target) == checksum)


def _check_disk(model: HubModel, folder: Path) -> None:
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    missing, free = sum(model.sizes.values()) - there, shutil.disk_usage(folder).free
    if missing > free:
        raise ModelStoreError(
            f"{folder} has too little room: {missing:,} bytes of {model.name} are to come, {free:,} are free. "
            "Name a folder on a larger disk (--cache)."
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check(answer: httpx.Response) -> None:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise ModelStoreError("The hub does not let you: set HF_TOKEN, and accept the model's terms on its page.")
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise ModelStoreError("The hub has no such model or revision, or hides it: set HF_TOKEN.")
    if answer.status_code == _TOO_MANY or answer.is_server_error:
        after = answer.headers.get("retry-after", "")
        raise _BusyError(answer.status_code, float(after) if after.isascii() and after.isdecimal() else 0.0)
    if answer.is_error:
        raise ModelStoreError(f"The hub answers {answer.status_code}.")
