"""HTTP to one gateway, with nothing but Python's own library."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

_BLOCK_BYTES = 64 * 1024
_SILENCE_S = 3_600.0
"""So long a stream of events may be silent: an engine with large weights takes minutes to start."""
_PAUSES_S = (0.2, 1.0, 2.0, 4.0)
"""Before what a broken connection left unanswered is asked again: where a gateway is replaced, another one is there."""
_NOBODY_THERE = 2
"""So many of them where nothing can have been done: most often the address is wrong."""
_BROKEN = (ConnectionError, HTTPException)


class AdminError(Exception):
    """The gateway refused.

    `status` is HTTP's; `code` is ours (docs/errors.md); `param` is the field that was wrong, or empty; `request_id`
    finds the request in the gateway's log.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str = "", request_id: str = "") -> None:
        super().__init__(f"{status} {code}: {message}" + (f" ({param})" if param else ""))
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.request_id = request_id


class UnreachableError(OSError):
    """Nobody answered, not in time, or not to the end. What was asked for may have been done."""


class Transport:
    """One gateway. Calls raise AdminError when it refuses, and UnreachableError when it does not answer."""

    def __init__(self, base_url: str, token: str, *, timeout_s: float = 30.0) -> None:
        """`base_url` is http or https, without a path; `token` goes into X-Admin-Token.

        `timeout_s` bounds each wait for bytes, but for those between two events, which may be an hour. Redirects are
        not followed: the token is for this gateway alone. Raises ValueError for what is no address.
        """
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url!r} is no address: http://host:port or https://host")
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler,
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
        ):
            self._opener.add_handler(handler())

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: object,
        key: str | None,
        *,
        timeout_s: float,
    ) -> Any:
        wanted = {name: _text(value) for name, value in query.items() if value is not None}
        url = self._base_url + path + ("?" + urllib.parse.urlencode(wanted, doseq=True) if wanted else "")
        headers = {"X-Admin-Token": self._token, "Accept": "application/json, text/event-stream"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        # The opener knows http and https and nothing else, so that no address opens a file.
        request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                refusal = refused(error.code, error.read())
            raise refusal from None

    def _call(self, method: str, path: str, query: Mapping[str, object], body: object, key: str | None) -> Any:
        """Asks again after a broken connection: what only reads, and what is done once for its key."""
        if method == "POST":
            key = key or str(uuid.uuid4())
        asked, perhaps_done = 0, False
        while True:
            try:
                return self._once(method, path, query, body, key)
            except UnreachableError as error:
                cause = error.__cause__
                if isinstance(cause, (*_BROKEN, TimeoutError)) and not isinstance(cause, ConnectionRefusedError):
                    perhaps_done = method != "GET"
                again = method in ("GET", "POST") and isinstance(cause, _BROKEN)
                if not again or asked == (len(_PAUSES_S) if perhaps_done else _NOBODY_THERE):
                    if not perhaps_done:
                        raise
                    raise UnreachableError(f"{error}. It may have been done: look before you ask again.") from cause
            time.sleep(_PAUSES_S[asked])
            asked += 1

    def _once(self, method: str, path: str, query: Mapping[str, object], body: object, key: str | None) -> Any:
        with self._reached(), self._open(method, path, query, body, key, timeout_s=self._timeout_s) as answer:
            raw = answer.read()
            status = answer.status
        try:
            return json.loads(raw) if raw else None
        except ValueError:
            raise refused(status, raw) from None

    def _events(
        self, method: str, path: str, query: Mapping[str, object], body: object, key: str | None
    ) -> Iterator[Any]:
        with self._reached(), self._open(method, path, query, body, key, timeout_s=_SILENCE_S) as answer:
            rest = b""
            # Not line by line: http.client ends a chunked body that broke off as if it were whole.
            while block := answer.read1(_BLOCK_BYTES):
                *lines, rest = (rest + block).split(b"\n")
                yield from (json.loads(line[5:]) for line in lines if line.startswith(b"data:"))
            if answer.length:
                raise ConnectionError("the answer broke off")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            cause = reason if isinstance(reason, Exception) else error
            raise UnreachableError(f"{self._base_url} does not answer: {reason or type(error).__name__}") from cause


def rows(page: Callable[..., Any], *arguments: str, **query: Any) -> Iterator[Any]:
    """Every row of a list, page after page: `rows(client.list_keys, environment_id)`."""
    token = ""
    while True:
        found = page(*arguments, page_token=token, **query)
        yield from found["data"]
        token = found.get("next_page_token") or ""
        if not token:
            return


def refused(status: int, raw: bytes) -> AdminError:
    """An answer that is no success as an error, whoever made it."""
    try:
        error = json.loads(raw)["error"]
        told = {name: str(error.get(name) or "") for name in ("code", "message", "param", "request_id")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return AdminError(status, "unknown", f"the answer is not the gateway's: {raw[:200].decode(errors='replace')}")
    return AdminError(status, told["code"], told["message"], param=told["param"], request_id=told["request_id"])


def part(value: str) -> str:
    """A value as one segment of a path. Raises AdminError for one that would lead elsewhere: nothing is called so."""
    if value in ("", ".", ".."):
        raise AdminError(404, "not_found", f"{value!r} names nothing")
    return urllib.parse.quote(value, safe="")


def _text(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
