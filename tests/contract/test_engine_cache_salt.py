"""Tenants that share an engine share no prefix cache: asked of real vLLM, for each API that the gateway relays."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.engine_fixtures import Caller
from tests.fakes.engine_server import RunningEngine

PROMPT = "a river runs through the old town and nobody counts its bridges " * 40
CHAT = [{"role": "user", "content": PROMPT}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 1},
    "/v1/chat/completions": {"messages": CHAT, "max_tokens": 1},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 1},
    "/v1/messages": {"messages": CHAT, "max_tokens": 1},
}


@pytest.fixture
def caller(real_vllm: RunningEngine) -> Iterator[Caller]:
    made = Caller(real_vllm)
    yield made
    made.http.close()


@pytest.mark.parametrize("path", REQUESTS)
def test_cached_prefix_is_found_by_its_own_tenant_only(caller: Caller, path: str) -> None:
    body = REQUESTS[path]

    def hits_of(salt: str) -> float:
        salt = f"{salt} of {path}".replace("/", " ")  # the engine takes no slash in it
        before = caller.engine.metrics()["prefix_cache_hits_total"]
        caller.post(path, {**body, "cache_salt": salt})
        return caller.engine.metrics()["prefix_cache_hits_total"] - before

    assert hits_of("first tenant") == 0
    assert hits_of("first tenant") > 0, "the prefix cache is off: this test would show nothing"
    assert hits_of("second tenant") == 0, "a tenant could time another's prompts"
