"""The official client, aimed at a suite; and one whose bytes are exchanged on their way."""

from collections.abc import Mapping

import httpx2 as httpx
import openai

from crosslogic_dev.suite import Suite

TIMEOUT_S = 30.0


def client(suite: Suite, *, key: str = "", base_url: str = "") -> openai.OpenAI:
    """The synchronous client, with no retries, that never goes through a proxy."""
    return openai.OpenAI(
        base_url=f"{base_url or suite.base_url}/v1",
        api_key=key or suite.api_key,
        max_retries=0,
        timeout=TIMEOUT_S,
        http_client=httpx.Client(trust_env=False, timeout=TIMEOUT_S),
    )


def async_client(suite: Suite, *, key: str = "") -> openai.AsyncOpenAI:
    """The asynchronous one."""
    return openai.AsyncOpenAI(
        base_url=f"{suite.base_url}/v1",
        api_key=key or suite.api_key,
        max_retries=0,
        timeout=TIMEOUT_S,
        http_client=httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S),
    )


class _Exchanged(httpx.BaseTransport):
    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._body = body
        self._headers = headers
        self._inner = httpx.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("content-length", "content-type")}
        sent = httpx.Request(
            request.method,
            request.url,
            headers={**headers, "Content-Type": "application/json", **self._headers},
            content=self._body,
            extensions=request.extensions,
        )
        return self._inner.handle_request(sent)

    def close(self) -> None:
        self._inner.close()


def client_sending(suite: Suite, body: bytes, headers: Mapping[str, str] | None = None) -> openai.OpenAI:
    """A client that sends these bytes, whatever it is asked to send."""
    return openai.OpenAI(
        base_url=f"{suite.base_url}/v1",
        api_key=suite.api_key,
        max_retries=0,
        timeout=TIMEOUT_S,
        http_client=httpx.Client(transport=_Exchanged(body, headers or {}), timeout=TIMEOUT_S),
    )
