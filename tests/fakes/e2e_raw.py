"""Bytes on a socket: what no well-behaved client sends, and answers timed without a client's own cost."""

import http.client
import json
import re
import socket
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crosslogic_dev.suite import Suite

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """All that came back until the server closed, or had answered."""

    data: bytes

    @property
    def statuses(self) -> list[int]:
        """The status of each answer in it."""
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.data)]

    @property
    def body(self) -> Mapping[str, Any]:
        """The JSON body of the first answer."""
        value: Mapping[str, Any] = json.loads(self.data.split(b"\r\n\r\n", 1)[1])
        return value


def _address(suite: Suite) -> tuple[str, int]:
    host, _, port = suite.target("gateway").rpartition(":")
    return host, int(port)


def send_raw(suite: Suite, parts: Iterable[bytes], *, timeout_s: float = TIMEOUT_S, quiet_s: float = 0.5) -> RawAnswer:
    """Sends the parts; returns what came back until the server closed, or said nothing more for `quiet_s`."""
    received = b""
    with socket.create_connection(_address(suite), timeout=timeout_s) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while piece := connection.recv(65536):
                received += piece
                connection.settimeout(quiet_s)
        except (TimeoutError, ConnectionResetError):
            pass
    return RawAnswer(received)


def median_ms(
    suite: Suite, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, times: int = 5
) -> tuple[float, set[int]]:
    """Half of the answers on a warm connection came within this; and their statuses."""
    connection = http.client.HTTPConnection(*_address(suite), timeout=TIMEOUT_S)
    took, statuses = [], set()
    try:
        connection.request("GET", "/health")
        connection.getresponse().read()
        for _ in range(times):
            began = time.perf_counter()
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            answer.read()
            took.append((time.perf_counter() - began) * 1000)
            statuses.add(answer.status)
    finally:
        connection.close()
    return statistics.median(took), statuses
