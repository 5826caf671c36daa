"""The gateway's admin API and its OpenAI API, as the commands use them."""

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from crosslogic_admin import AdminClient, AdminError, UnreachableError
from crosslogic_cli.config import Config
from crosslogic_cli.failure import CliError, ExitCode

Json = dict[str, Any]
_CODES = {401: ExitCode.NOT_ALLOWED, 403: ExitCode.NOT_ALLOWED, 404: ExitCode.NOT_FOUND, 503: ExitCode.UNREACHABLE}


class Client:
    """One gateway. A context manager."""

    def __init__(self, config: Config, *, timeout_s: float = 30.0) -> None:
        """`timeout_s` bounds a single answer, not a stream."""
        self._config = config
        try:
            self._admin = AdminClient(config.base_url, config.admin_token, timeout_s=timeout_s)
        except ValueError as error:
            raise CliError(f"{error}.", ExitCode.USAGE) from None
        self._http = httpx.Client(base_url=config.base_url, timeout=timeout_s, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        if isinstance(error, AdminError):
            where = f" (`{error.param}`)" if error.param else ""
            asked = f" [request {error.request_id}]" if error.request_id else ""
            raise CliError(f"{error.message}{where}{asked}", _code(error.status)) from None
        if isinstance(error, UnreachableError):
            raise CliError(str(error), ExitCode.UNREACHABLE) from None

    @property
    def admin(self) -> AdminClient:
        """The admin API. Raises CliError without a token; the refusals of its methods become one at the block's end."""
        if not self._config.admin_token:
            raise CliError(
                "No admin token: set CROSSLOGIC_ADMIN_TOKEN, or admin_token_file in the configuration.", ExitCode.USAGE
            )
        return self._admin

    def infer(self, path: str, body: Mapping[str, Any]) -> Iterator[Json]:
        """A streamed answer of the OpenAI API, an event at a time."""
        if not self._config.api_key:
            raise CliError("No API key: set CROSSLOGIC_API_KEY, or api_key in the configuration.", ExitCode.USAGE)
        headers = {"Authorization": f"Bearer {self._config.api_key}"}
        try:
            with self._http.stream("POST", path, json=body, headers=headers, timeout=120.0) as answer:
                if answer.is_error:
                    answer.read()
                    raise _refused(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield json.loads(line[6:])
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def get(self, path: str, *, key: bool = False) -> httpx.Response:
        """A plain GET: without a token, or with the API `key`. Raises CliError when nobody answers."""
        headers = {"Authorization": f"Bearer {self._config.api_key}"} if key else {}
        return self._send("GET", path, headers=headers)

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> CliError:
        reason = str(error) or type(error).__name__
        return CliError(f"{self._config.base_url} does not answer: {reason}", ExitCode.UNREACHABLE)


def _code(status: int) -> ExitCode:
    return _CODES.get(status, ExitCode.FAILED)


def _refused(answer: httpx.Response) -> CliError:
    """What the OpenAI API refuses."""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The answer ({answer.status_code}) is not JSON: is this the gateway's address?"
    return CliError(message, _code(answer.status_code))
