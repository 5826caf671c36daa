"""Serves bytes by range over HTTP, as an object storage does, and misbehaves when it is told to."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class RangeServer:
    """What is served, and how."""

    bodies: dict[str, bytes]
    address: str = ""
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, first byte and number of bytes of each question."""
    refused_query: str = ""
    """Questions whose address holds this text get `refused_status`."""
    refused_status: int = 403
    cut: int = 0
    """So many answers more are cut in the middle."""
    fail: int = 0
    """So many answers more are 500."""
    silent: threading.Event = field(default_factory=threading.Event)
    """Once it is set, answers come to a halt in the middle."""
    keep_alive: bool = True


@contextmanager
def range_server(bodies: dict[str, bytes]) -> Iterator[RangeServer]:
    """A server on a free port for as long as the block lasts."""
    served = RangeServer(bodies)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            served.asked.append((path, first, last - first + 1))
            if served.refused_query and served.refused_query in self.path:
                self._answer(served.refused_status, b"expired")
            elif served.fail > 0:
                served.fail -= 1
                self._answer(500, b"no")
            else:
                self._answer(206, served.bodies[path][first : last + 1])

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if not served.keep_alive:
                self.send_header("Connection", "close")
            self.end_headers()
            if status == 206 and served.silent.is_set():
                self.wfile.write(body[: len(body) // 2])
                over.wait()
            elif status == 206 and served.cut > 0:
                served.cut -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            # A client that gave up is no news.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = Server(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
