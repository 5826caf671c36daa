"""The gateway's admin API and its OpenAI API, as the commands use them."""

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from crosslogic_cli.config import Config
from crosslogic_cli.failure import CliError, ExitCode

Json = dict[str, Any]
_CODES = {401: ExitCode.NOT_ALLOWED, 403: ExitCode.NOT_ALLOWED, 404: ExitCode.NOT_FOUND, 503: ExitCode.UNREACHABLE}


class Client:
    """One gateway. A context manager."""

    def __init__(self, config: Config, *, timeout_s: float = 30.0) -> None:
        """`timeout_s` bounds a single answer, not a stream."""
        self._config = config
        self._http = httpx.Client(base_url=config.base_url, timeout=timeout_s, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> Json:
        """One call of the admin API. Raises CliError with the gateway's own words."""
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        answer = self._send(method, path, headers=self._admin(), params=given, json=body)
        return _checked(answer)

    def pages(self, path: str, *, query: Mapping[str, Any] | None = None, most: int = 10_000) -> Iterator[Json]:
        """Every row of a list, up to `most`."""
        token = ""
        sent = 0
        while True:
            page = self.call("GET", path, query={**(query or {}), "page_token": token})
            for row in page["data"]:
                yield row
                sent += 1
                if sent >= most:
                    return
            token = page.get("next_page_token") or ""
            if not token:
                return

    def events(self, path: str) -> Iterator[Json]:
        """Server-sent events until the gateway ends them."""
        try:
            with self._http.stream("GET", path, headers=self._admin(), timeout=httpx.Timeout(30, read=None)) as answer:
                if answer.is_error:
                    answer.read()
                    _checked(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line[6:])
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def infer(self, path: str, body: Mapping[str, Any]) -> Iterator[Json]:
        """A streamed answer of the OpenAI API, an event at a time."""
        if not self._config.api_key:
            raise CliError("No API key: set CROSSLOGIC_API_KEY, or api_key in the configuration.", ExitCode.USAGE)
        headers = {"Authorization": f"Bearer {self._config.api_key}"}
        try:
            with self._http.stream("POST", path, json=body, headers=headers, timeout=120.0) as answer:
                if answer.is_error:
                    answer.read()
                    _checked(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield json.loads(line[6:])
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def get(self, path: str, *, key: bool = False) -> httpx.Response:
        """A plain GET: without a token, or with the API `key`. Raises CliError when nobody answers."""
        headers = {"Authorization": f"Bearer {self._config.api_key}"} if key else {}
        return self._send("GET", path, headers=headers)

    def _admin(self) -> dict[str, str]:
        if not self._config.admin_token:
            raise CliError(
                "No admin token: set CROSSLOGIC_ADMIN_TOKEN, or admin_token_file in the configuration.", ExitCode.USAGE
            )
        return {"X-Admin-Token": self._config.admin_token}

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except httpx.InvalidURL as error:
            raise CliError(f"{self._config.base_url} is no address: {error}", ExitCode.USAGE) from None

    def _unreachable(self, error: Exception) -> CliError:
        reason = str(error) or type(error).__name__
        return CliError(f"{self._config.base_url} does not answer: {reason}", ExitCode.UNREACHABLE)


def _checked(answer: httpx.Response) -> Json:
    try:
        body: Json = answer.json() if answer.content else {}
    except ValueError:
        raise CliError(f"The answer ({answer.status_code}) is not JSON: is this the gateway's address?") from None
    if not answer.is_error:
        return body
    error = body.get("error") or {}
    where = f" (`{error['param']}`)" if error.get("param") else ""
    asked = f" [request {error['request_id']}]" if error.get("request_id") else ""
    message = f"{error.get('message', answer.reason_phrase)}{where}{asked}"
    raise CliError(message, _CODES.get(answer.status_code, ExitCode.FAILED))
