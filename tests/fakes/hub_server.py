"""A hub of models as `huggingface_hub` speaks with one: listings, small files from it, large ones from another address.

It misbehaves as real ones do: it breaks off, it wants a token, it compresses what is not asked for as it is.
"""

import gzip
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE_BYTES = 10_000


@dataclass
class FakeHub:
    """One model at one commit, and what was asked."""

    name: str
    files: dict[str, bytes]
    address: str = ""
    cdn: str = ""
    """Where large files come from: another host, as far as a client can tell."""
    token: str = ""
    """Whoever asks the hub without it is refused. Empty: anybody may ask."""
    cut: int = 0
    """So many answers of large files more break off in the middle."""
    busy: int = 0
    """So many answers more say that the hub is asked too often."""
    listing: bytes | None = None
    """In place of the model's listing."""
    flipped: str = ""
    """The file whose last byte comes wrong."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Of each question `hub` or `cdn`, the path, and the headers by their names in lower case."""

    def paths(self, host: str) -> list[str]:
        """What a host was asked for."""
        return [path for where, path, _ in self.asked if where == host]

    def describe(self) -> bytes:
        """The listing of the model."""
        siblings: list[dict[str, object]] = []
        for path, body in self.files.items():
            row: dict[str, object] = {
                "rfilename": path,
                "size": len(body),
                "blobId": hashlib.sha256(body).hexdigest()[:40],
            }
            if len(body) > _LARGE_BYTES:
                row["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
            siblings.append(row)
        return json.dumps({"id": self.name, "sha": COMMIT, "private": False, "siblings": siblings}).encode()

    def body(self, path: str) -> bytes:
        """What is sent of a file."""
        body = self.files[path]
        return body[:-1] + bytes([body[-1] ^ 1]) if path == self.flipped else body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    where: str

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.where, path, {name.lower(): value for name, value in self.headers.items()}))
        if self.hub.busy > 0:
            self.hub.busy -= 1
            self._answer(429, b"", {"Retry-After": "7"})
        elif self.where == "cdn":
            self._send_file(path.removeprefix("/"), large=True)
        elif self.hub.token and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self._answer(401, b'{"error":"Access to this model is restricted."}', {"X-Error-Code": "GatedRepo"})
        elif path in (f"/api/models/{self.hub.name}/revision/{word}" for word in ("main", COMMIT)):
            assert parse_qs(urlsplit(self.path).query) == {"blobs": ["true"]}
            listing = self.hub.describe() if self.hub.listing is None else self.hub.listing
            self._answer(200, listing, {"Content-Type": "application/json"})
        elif path.startswith(begin := f"/{self.hub.name}/resolve/{COMMIT}/"):
            self._resolve(path.removeprefix(begin))
        else:
            self._answer(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def log_message(self, *_: object) -> None:
        pass

    def _resolve(self, path: str) -> None:
        if path not in self.hub.files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif len(self.hub.files[path]) > _LARGE_BYTES:
            self._answer(302, b"", {"Location": f"{self.hub.cdn}/{path}?Signature=s", "X-Repo-Commit": COMMIT})
        else:
            self._send_file(path, large=False)

    def _send_file(self, path: str, *, large: bool) -> None:
        body = self.hub.body(path)
        asked = self.headers["Range"]
        if asked is not None:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            else:
                span = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self._answer(206, body[start:], {"Content-Range": span}, large=large)
        elif not large and "gzip" in (self.headers["Accept-Encoding"] or ""):
            self._answer(200, gzip.compress(body), {"Content-Encoding": "gzip"})
        else:
            self._answer(200, body, {"X-Repo-Commit": COMMIT}, large=large)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, large: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if large and self.hub.cut > 0:
            self.hub.cut -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        # A client that gave up is no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def hub_server(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub and the other address on free ports, for as long as the block lasts."""
    with _serving(hub, "hub") as hub.address, _serving(hub, "cdn") as hub.cdn:
        yield hub


@contextmanager
def _serving(hub: FakeHub, where: str) -> Iterator[str]:
    handler = type(f"{where}Handler", (_Handler,), {"hub": hub, "where": where})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    # Another name of this machine: clients must take the two for different hosts.
    name = "127.0.0.1" if where == "hub" else "localhost"
    try:
        yield f"http://{name}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
