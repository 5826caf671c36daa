"""The protocol: one JSON object a line, over stdin and stdout.

The worker speaks first: {"protocol": 1, "skypilot": "0.14.1"}. Then each request {"id": 7, "method": "find", "params":
{...}} is answered by {"id": 7, "result": {...}} or {"id": 7, "error": {"message": "...", "temporary": false}}, in any
order. Secrets come this way and no other: never in an argument, a file or the environment. The end of
its input ends it.
"""

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

PROTOCOL = 1
MAX_LINE_CHARS = 1_000_000
MAX_MESSAGE_CHARS = 2_000
_THREADS = 8
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# A table's frame says nothing to whoever reads one line.
_FRAME = re.compile(r"[\u2500-\u257f]+")

Method = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class RefusedError(Exception):
    """A request that fails; the message is for people."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        """`temporary`: the same request may succeed later."""
        super().__init__(message)
        self.temporary = temporary


def plain(text: object) -> str:
    """SkyPilot's words without colours and tables, on one line."""
    bare = _FRAME.sub(" ", _ANSI.sub("", str(text)))
    return " ".join(bare.split())[:MAX_MESSAGE_CHARS]


class Line:
    """Answers requests, several at a time."""

    def __init__(self, incoming: TextIO, outgoing: TextIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._writing = threading.Lock()

    @classmethod
    def take_stdout(cls) -> "Line":
        """Keeps stdout for answers alone: SkyPilot prints to it, and that goes to stderr from now on."""
        outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(sys.stdin, outgoing)

    def serve(self, methods: Mapping[str, Method], *, skypilot: str) -> None:
        """Answers until the input ends."""
        self._say({"protocol": PROTOCOL, "skypilot": skypilot})
        with ThreadPoolExecutor(_THREADS) as pool:
            while line := self._incoming.readline(MAX_LINE_CHARS):
                pool.submit(self._answer, line, methods)
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, line: str, methods: Mapping[str, Method]) -> None:
        request_id: Any = None
        try:
            request = json.loads(line)
            request_id = request["id"]
            result = methods[request["method"]](request["params"])
        except RefusedError as refusal:
            self._say({"id": request_id, "error": {"message": plain(refusal), "temporary": refusal.temporary}})
        except Exception as error:  # noqa: BLE001  # whatever SkyPilot raises is an answer
            # Its class, not its text, where the text may repeat the request.
            self._say({"id": request_id, "error": {"message": f"{type(error).__name__}", "temporary": True}})
        else:
            self._say({"id": request_id, "result": result})

    def _say(self, message: Mapping[str, Any]) -> None:
        with self._writing:
            self._outgoing.write(json.dumps(message) + "\n")
            self._outgoing.flush()
