"""The gateway over HTTP: its admin API, and whether it is ready."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from crosslogic_dev.failure import DevError

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and decoded JSON body (empty when there was none)."""

    status: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The gateway at `base_url`, with the admin's token."""

    base_url: str
    token: str = field(repr=False)

    def ready(self) -> bool:
        """Whether the gateway takes requests."""
        try:
            return self._ask("GET", "/ready", {}).status == 200
        except OSError:
            return False

    def key_works(self, key: str) -> bool:
        """Whether an API key is accepted."""
        return self._ask("GET", "/v1/models", {"Authorization": f"Bearer {key}"}).status == 200

    def models_of(self, key: str) -> list[str]:
        """The models that a key may use."""
        answer = self._ask("GET", "/v1/models", {"Authorization": f"Bearer {key}"})
        return [model["id"] for model in answer.body.get("data", ())]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HttpAnswer:
        """One call under /admin."""
        return self._ask(method, path, {"X-Admin-Token": self.token}, body)

    def must(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One call under /admin that has to succeed."""
        answer = self.ask(method, path, body)
        if not 200 <= answer.status < 300:
            raise DevError(f"The gateway refused {method} {path} with {answer.status}: {json.dumps(answer.body)}")
        return answer.body

    def all_of(self, path: str, **query: str | int) -> Iterator[Mapping[str, Any]]:
        """Every row of a paged list; `query` is sent for each page."""
        asked = dict(query)
        while True:
            page = self.must("GET", f"{path}?{urlencode(asked)}" if asked else path)
            yield from page["data"]
            asked["page_token"] = page.get("next_page_token") or ""
            if not asked["page_token"]:
                return

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> HttpAnswer:
        request = urllib.request.Request(  # noqa: S310  # our own gateway, always http
            self.base_url + path,
            method=method,
            headers={**headers, **({} if body is None else {"Content-Type": "application/json"})},
            data=None if body is None else json.dumps(body).encode(),
        )
        # Our own machine is never reached through a proxy, whatever the environment says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as answer:
                return HttpAnswer(answer.status, _decoded(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return HttpAnswer(error.code, _decoded(error.read()))
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error


def _decoded(raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
