"""The relay in front of an endpoint of somebody else's, over real TLS."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.public_addresses import AddressRules, networks
from crosslogic_common.settings import Secret
from crosslogic_node_agent.domain import EngineLoad
from crosslogic_node_agent.engine_api import EngineFailureError
from crosslogic_node_agent.engine_connection import EnginePool
from crosslogic_node_agent.external.api import ExternalApi
from crosslogic_node_agent.external.credential import Credential, KeyHeader
from crosslogic_node_agent.external.dialect import ExternalDialect, Standing
from crosslogic_node_agent.external.dialing import ExternalDialer, client_tls
from crosslogic_node_agent.external.refusals import read_refusal
from crosslogic_node_agent.external.terms import EndpointUrl, ExternalTerms, StreamUsage
from tests.fakes.node_agent_bench import MODEL, Bench, Received, bench
from tests.fakes.strict_openai import HOST, KEY, PROMPT_TOKENS, StrictOpenAi
from tests.fakes.strict_openai import MODEL as UPSTREAM
from tests.fakes.test_ca import CertificateMaker

LOOPBACK = AddressRules(networks("127.0.0.0/8"))
CHAT = pb.ENGINE_API_CHAT_COMPLETIONS
FINAL, NONE = common_pb.COUNT_SOURCE_ENGINE_FINAL, common_pb.COUNT_SOURCE_NONE
SUCCEEDED, FAILED = common_pb.OUTCOME_SUCCEEDED, common_pb.OUTCOME_FAILED
SAFE = ("id", "object", "created", "model", "choices", "usage")


class Names:
    """A name service that says what a test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses or ("127.0.0.1",)
        self.asked = 0

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        self.asked += 1
        return self.addresses


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[StrictOpenAi]:
    async with StrictOpenAi(tmp_path) as server:
        yield server


def terms_of(server: StrictOpenAi, **more: Any) -> ExternalTerms:
    url = EndpointUrl.parse(f"https://{HOST}:{server.port}/v1")
    return replace(ExternalTerms(url=url, model=UPSTREAM, key=Credential(Secret(KEY))), **more)


def dialer_of(server: StrictOpenAi, names: Names | None = None, **more: Any) -> ExternalDialer:
    tls = None if server.plain else client_tls(server.ca_file)
    given: dict[str, Any] = {"rules": LOOPBACK, "tls": tls, "look_up": names or Names()}
    return ExternalDialer(more.pop("url", terms_of(server).url), **(given | more))


@contextlib.asynccontextmanager
async def relaying(server: StrictOpenAi, **terms: Any) -> AsyncIterator[Bench]:
    dialect = ExternalDialect(terms_of(server, **terms), Standing())
    async with bench(dialer=dialer_of(server), dialect=dialect) as made:
        yield made


@pytest.fixture
async def relayed(endpoint: StrictOpenAi) -> AsyncIterator[Bench]:
    async with relaying(endpoint) as made:
        yield made


def chat(more: dict[str, Any] | None = None, **steer: Any) -> dict[str, Any]:
    content = msgspec.json.encode(steer).decode()
    return {"model": MODEL, "messages": [{"role": "user", "content": content}]} | (more or {})


async def answered(made: Bench, body: dict[str, Any], **fields: Any) -> Received:
    _, answer = made.gateway.open(body, **({"api": CHAT} | fields))
    async with asyncio.timeout(20):
        await answer.ended.wait()
    return answer


async def test_strict_endpoint_serves_a_stream_and_is_told_nothing_of_its_tenant(
    endpoint: StrictOpenAi, relayed: Bench
) -> None:
    vllms = {"priority": 1, "cache_salt": "x", "request_id": "y", "return_token_ids": True, "kv_transfer_params": {}}
    tenants = {"user": "alice@acme.example", "metadata": {"org": "acme"}, "store": True, "safety_identifier": "a"}
    asked = {"temperature": 0.5, "stop": None, "service_tier": "priority", "prompt_cache_key": "acme"}
    answer = await answered(
        relayed,
        chat(vllms | tenants | asked | {"stream_options": {"continuous_usage_stats": True}}, tokens=3),
        stream=True,
        return_token_ids=True,
        continuous_usage=True,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        org_id="11111111-1111-4111-8111-111111111111",
    )
    assert answer.end.outcome == SUCCEEDED, answer.data
    [asked_of_it] = endpoint.answered
    assert asked_of_it.path == "/v1/chat/completions"
    assert asked_of_it.body == chat({"temperature": 0.5}, tokens=3) | {
        "model": UPSTREAM,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert set(asked_of_it.headers) == {
        *("host", "user-agent", "accept-encoding", "authorization", "content-type", "content-length")
    }
    assert asked_of_it.headers["host"] == f"{HOST}:{endpoint.port}"
    assert [event["choices"][0]["delta"]["content"] for event in answer.events()] == ["y", "y", "y"]
    assert {event["model"] for event in answer.events()} == {MODEL}
    assert all(set(event) <= set(SAFE) - {"usage"} for event in answer.events())
    assert answer.data.endswith(b"data: [DONE]\n\n")
    assert not answer.head.stream_opening
    assert answer.end.usage == common_pb.TokenUsage(
        prompt_tokens=PROMPT_TOKENS, cached_prompt_tokens=4, completion_tokens=3, source=FINAL
    )


@pytest.mark.parametrize("usage", ["final", "last_choice", "each"])
async def test_client_gets_usage_as_openai_sends_it_wherever_the_endpoint_told_it(tmp_path: Path, usage: str) -> None:
    async with StrictOpenAi(tmp_path, usage=usage) as endpoint, relaying(endpoint) as made:
        answer = await answered(made, chat(tokens=2), stream=True, include_usage=True)
        assert (answer.end.outcome, answer.end.usage.source) == (SUCCEEDED, FINAL)
        *chunks, last = answer.events()
        assert [chunk["usage"] for chunk in chunks] == [None, None]
        assert last["choices"] == []
        assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (PROMPT_TOKENS, 2)
        assert "cost" not in last["usage"], "what the operator pays is told to nobody"
        assert last["model"] == MODEL


@pytest.mark.parametrize("stream", [True, False])
async def test_endpoint_that_tells_no_usage_is_not_counted_by_guess(tmp_path: Path, stream: bool) -> None:
    async with StrictOpenAi(tmp_path, usage="none") as endpoint, relaying(endpoint) as made:
        answer = await answered(made, chat(tokens=3), stream=stream, include_usage=stream)
        assert answer.end.outcome == SUCCEEDED
        assert answer.end.usage == common_pb.TokenUsage(source=NONE)
        assert b'"usage":{' not in answer.data


async def test_endpoint_that_refuses_the_option_serves_when_it_is_not_asked_for(tmp_path: Path) -> None:
    async with StrictOpenAi(tmp_path, usage="refuses") as endpoint:
        async with relaying(endpoint) as made:
            assert (await answered(made, chat(), stream=True)).head.status == 400
        async with relaying(endpoint, usage=StreamUsage.OFF) as made:
            answer = await answered(made, chat(), stream=True)
            assert (answer.end.outcome, answer.end.usage.source) == (SUCCEEDED, NONE)


async def test_whole_answers_and_embeddings_are_counted_and_renamed(endpoint: StrictOpenAi, relayed: Bench) -> None:
    answer = await answered(relayed, chat(tokens=5))
    said = msgspec.json.decode(answer.data)
    assert set(said) <= set(SAFE)
    assert (said["model"], said["choices"][0]["message"]["content"]) == (MODEL, "yyyyy")
    assert "cost" not in said["usage"]
    assert (answer.end.usage.prompt_tokens, answer.end.usage.completion_tokens) == (PROMPT_TOKENS, 5)
    answer = await answered(relayed, {"model": MODEL, "prompt": '{"tokens": 2}'}, api=pb.ENGINE_API_COMPLETIONS)
    assert msgspec.json.decode(answer.data)["choices"][0]["text"] == "yy"
    answer = await answered(relayed, {"model": MODEL, "input": "a", "user": "b"}, api=pb.ENGINE_API_EMBEDDINGS)
    assert msgspec.json.decode(answer.data)["data"][0]["embedding"] == [0.5, -0.25]
    assert answer.end.usage == common_pb.TokenUsage(prompt_tokens=PROMPT_TOKENS, source=FINAL)
    assert endpoint.answered[-1].body == {"model": UPSTREAM, "input": "a"}
    assert endpoint.connections == 1, "connections are kept"


async def test_limits_of_a_budget_reach_the_endpoint_under_its_own_name(endpoint: StrictOpenAi) -> None:
    async with relaying(endpoint, limit_field="max_completion_tokens") as made:
        await answered(made, chat(), max_tokens=2)
        await answered(made, chat({"max_tokens": 3}), max_tokens=9)
    assert [each.body.get("max_completion_tokens") for each in endpoint.answered] == [2, 3]
    assert all("max_tokens" not in each.body for each in endpoint.answered)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat({"top_k": 3}), "top_k"),
        (chat({"web_search_options": {}}), "web_search_options"),
        (chat({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}), "messages"),
    ],
)
async def test_what_the_endpoint_does_not_offer_is_refused_here(
    endpoint: StrictOpenAi, relayed: Bench, body: dict[str, Any], param: str
) -> None:
    answer = await answered(relayed, body)
    assert (answer.end.error.code, answer.end.error.param) == ("INVALID_ARGUMENT", param)
    assert endpoint.asked == []


async def test_fields_that_the_operator_allows_are_sent(endpoint: StrictOpenAi) -> None:
    async with relaying(endpoint, more_fields=frozenset({"top_k"})) as made:
        answer = await answered(made, chat({"top_k": 3}))
    assert answer.head.status == 400
    assert endpoint.answered[0].body["top_k"] == 3


@pytest.mark.parametrize("api", [pb.ENGINE_API_RESPONSES, pb.ENGINE_API_MESSAGES])
async def test_apis_that_keep_state_at_the_endpoint_are_not_offered(
    endpoint: StrictOpenAi, relayed: Bench, api: int
) -> None:
    answer = await answered(relayed, {"model": MODEL, "input": "a", "messages": []}, api=api)
    # As an engine's own 404: final, and no mark against the node.
    assert answer.head.status == 404
    assert answer.end.error.code == "NOT_SUPPORTED"
    assert endpoint.asked == []


async def test_stream_of_another_node_is_not_gone_on_with_and_may_be_elsewhere(relayed: Bench) -> None:
    resume = pb.RelayResume(stream_opening=b"{}", prompt_ids=b"\1\0\0\0", context_length=10)
    answer = await answered(relayed, chat(), stream=True, resume=resume)
    assert answer.end.error.code == "OVERLOADED"


@pytest.mark.parametrize("fault", ["cut", "garbage", "error_event", "quiet_end", "error_finish"])
async def test_stream_that_breaks_never_ends_as_a_success_and_cannot_be_resumed(relayed: Bench, fault: str) -> None:
    answer = await answered(relayed, chat(tokens=4, after=2, fault=fault), stream=True)
    assert (answer.end.outcome, answer.end.error.code) == (FAILED, "ENGINE_ERROR")
    assert b"[DONE]" not in answer.data
    assert len(answer.events()) <= 3
    assert not answer.head.stream_opening
    assert KEY not in str(answer.end)
    assert KEY.encode() not in answer.data


@pytest.mark.parametrize("fault", ["cut", "error_event"])
@pytest.mark.parametrize("stream", [True, False])
async def test_answer_that_breaks_before_its_first_byte_leaves_the_gateway_free_to_ask_elsewhere(
    relayed: Bench, fault: str, stream: bool
) -> None:
    answer = await answered(relayed, chat(fault=fault), stream=stream)
    assert (answer.end.outcome, answer.end.error.code) == (FAILED, "ENGINE_ERROR")
    assert not any(frame.HasField("head") for frame in answer.frames)
    assert KEY not in str(answer.end)


async def test_endpoint_that_hangs_in_mid_stream_is_given_up(endpoint: StrictOpenAi, relayed: Bench) -> None:
    answer = await answered(relayed, chat(tokens=4, after=2, fault="hang"), stream=True, idle_timeout_ms=300)
    assert (answer.end.outcome, answer.end.error.code) == (common_pb.OUTCOME_TIMED_OUT, "TIMEOUT")
    async with asyncio.timeout(10):
        while not endpoint.answered[0].gone:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [429, 503])
async def test_busy_endpoint_says_when_to_come_back(relayed: Bench, status: int, stream: bool) -> None:
    answer = await answered(relayed, chat(status=status, retry_after="17"), stream=stream)
    assert answer.end.error.code == "OVERLOADED"
    assert answer.end.error.retry_after_ms == 17_000
    assert not any(frame.HasField("head") for frame in answer.frames)


@pytest.mark.parametrize("status", [301, 401, 402, 409, 500, 502, 504])
async def test_faults_that_are_not_the_clients_are_told_without_a_word_of_the_endpoints(
    endpoint: StrictOpenAi, relayed: Bench, status: int
) -> None:
    answer = await answered(relayed, chat(status=status, message=f"key {KEY} of org-123456789"), stream=True)
    assert (answer.end.outcome, answer.end.error.code, answer.data) == (FAILED, "ENGINE_ERROR", b"")
    assert not any(frame.HasField("head") for frame in answer.frames)
    assert KEY not in str(answer.end)
    assert len(endpoint.answered) == 1, "no redirect is followed"


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_clients_own_fault_is_told_in_the_endpoints_words_without_its_names(relayed: Bench, status: int) -> None:
    message = f"`{UPSTREAM}` at {HOST} takes 10 tokens, says org-abcdefgh1234 with {KEY}."
    answer = await answered(relayed, chat(status=status, message=message))
    assert (answer.head.status, answer.end.error.code) == (status, "INVALID_ARGUMENT")
    shown = msgspec.json.decode(answer.data)["error"]["message"]
    assert shown == f"`{MODEL}` at (hidden) takes 10 tokens, says (hidden) with (hidden)."


@pytest.mark.parametrize(
    ("steer", "status", "code"),
    [
        ({"status": 403, "message": "no"}, 403, "ENGINE_ERROR"),
        ({"status": 403, "message": "The input was flagged by moderation"}, 400, "INVALID_ARGUMENT"),
        ({"status": 400, "message": "API key not valid. Please pass a valid API key."}, 403, "ENGINE_ERROR"),
        ({"status": 404, "message": "The model `x` does not exist"}, 403, "ENGINE_ERROR"),
        ({"status": 404, "message": "not here"}, 404, "NOT_SUPPORTED"),
        ({"status": 400, "message": ["odd"]}, 400, "INVALID_ARGUMENT"),
    ],
)
async def test_refusals_that_a_client_could_provoke_are_final_and_count_against_no_node(
    relayed: Bench, steer: dict[str, Any], status: int, code: str
) -> None:
    # A head is what makes a gateway stop and blame nobody; 403 is an error of the engine's there.
    answer = await answered(relayed, chat(**steer))
    assert (answer.head.status, answer.end.error.code) == (status, code)


async def test_client_that_leaves_a_stream_pays_what_the_endpoint_counted_at_its_end(
    endpoint: StrictOpenAi, relayed: Bench
) -> None:
    call_id, answer = relayed.gateway.open(chat(tokens=40, delay_ms=10), api=CHAT, stream=True)
    await answer.first.wait()
    relayed.gateway.cancel(call_id)
    async with asyncio.timeout(20):
        await answer.ended.wait()
    assert answer.end.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
    assert (answer.end.usage.completion_tokens, answer.end.usage.source) == (40, FINAL)
    assert not endpoint.answered[0].gone


async def test_client_that_leaves_an_answer_too_long_to_wait_for_is_not_counted_and_stops_it(
    endpoint: StrictOpenAi,
) -> None:
    dialect = ExternalDialect(terms_of(endpoint), Standing())
    dialect.reads_on_s = 0.2
    async with bench(dialer=dialer_of(endpoint), dialect=dialect) as made:
        call_id, answer = made.gateway.open(chat(tokens=900, delay_ms=100), api=CHAT, stream=True)
        await answer.first.wait()
        made.gateway.cancel(call_id)
        async with asyncio.timeout(20):
            await answer.ended.wait()
            while not endpoint.answered[0].gone:
                await asyncio.sleep(0.01)
    assert answer.end.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
    assert answer.end.usage == common_pb.TokenUsage(source=NONE)


async def test_client_that_leaves_an_endpoint_with_running_usage_stops_it_and_pays_what_was_told(
    tmp_path: Path,
) -> None:
    async with (
        StrictOpenAi(tmp_path, usage="continuous") as endpoint,
        relaying(endpoint, usage=StreamUsage.CONTINUOUS) as made,
    ):
        call_id, answer = made.gateway.open(chat(tokens=900, delay_ms=20), api=CHAT, stream=True)
        async with asyncio.timeout(20):
            await answer.first.wait()
            made.gateway.cancel(call_id)
            await answer.ended.wait()
            while not endpoint.answered[0].gone:
                await asyncio.sleep(0.01)
    assert answer.end.outcome == common_pb.OUTCOME_CLIENT_DISCONNECTED
    assert answer.end.usage.source == common_pb.COUNT_SOURCE_ENGINE_RUNNING
    assert 1 <= answer.end.usage.completion_tokens < 900
    assert "usage" not in answer.events()[0]


# Where it connects.


async def connects(dialer: ExternalDialer) -> None:
    pool = EnginePool(dialer)
    try:
        (await pool.connect(shared=False)).abort()
    finally:
        pool.close()


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("169.254.169.254", "10.0.0.1"), ("::ffff:127.0.0.1",), ("::1", "localhost")]
)
async def test_name_that_leads_to_inner_addresses_is_not_connected_to(
    endpoint: StrictOpenAi, addresses: tuple[str, ...]
) -> None:
    with pytest.raises(OSError, match="no address that may be connected to"):
        await connects(dialer_of(endpoint, Names(*addresses), rules=AddressRules()))
    assert endpoint.connections == 0


async def test_checked_address_is_the_one_connected_to(endpoint: StrictOpenAi) -> None:
    names = Names("10.0.0.1", "127.0.0.1")
    await connects(dialer_of(endpoint, names))
    assert names.asked == 1, "a name asked for again could lead elsewhere"


async def test_plain_http_is_spoken_in_named_networks_alone(tmp_path: Path) -> None:
    async with StrictOpenAi(tmp_path, plain=True) as server:
        url = EndpointUrl.parse(f"http://{HOST}:{server.port}/v1")
        await connects(dialer_of(server, url=url))
        with pytest.raises(OSError, match="no address that may be connected to"):
            await connects(dialer_of(server, Names("8.8.8.8"), url=url))


async def test_certificate_of_another_name_or_another_authority_is_refused(
    endpoint: StrictOpenAi, tmp_path: Path
) -> None:
    other = EndpointUrl.parse(f"https://other.example:{endpoint.port}/v1")
    with pytest.raises(OSError, match=r"other\.example"):
        await connects(dialer_of(endpoint, url=other))
    stranger = CertificateMaker(tmp_path / "stranger", name="stranger").ca_file
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await connects(dialer_of(endpoint, tls=client_tls(stranger)))


async def test_name_service_that_hangs_is_asked_once_however_many_wait(endpoint: StrictOpenAi) -> None:
    asked: list[str] = []

    async def hang(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        await asyncio.Event().wait()
        return ()

    dialer = dialer_of(endpoint, look_up=hang)
    dialer.timeout_s = 0.1
    results = await asyncio.gather(*(connects(dialer) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    assert len(asked) == 1
    dialer.close()


# How it is.


@contextlib.asynccontextmanager
async def api_of(server: StrictOpenAi, standing: Standing, **terms: Any) -> AsyncIterator[ExternalApi]:
    pool = EnginePool(dialer_of(server))
    try:
        yield ExternalApi(pool, terms=terms_of(server, **terms), standing=standing, load=EngineLoad)
    finally:
        pool.close()


async def test_endpoint_is_well_when_it_answers_and_takes_our_key(endpoint: StrictOpenAi) -> None:
    standing = Standing()
    async with api_of(endpoint, standing) as api:
        await api.healthy(timeout_s=10.0)
        endpoint.models_status = 404
        await api.healthy(timeout_s=10.0)
        for status in (302, 500):
            endpoint.models_status = status
            with pytest.raises(EngineFailureError, match=str(status)):
                await api.healthy(timeout_s=10.0)
        endpoint.models_status = 200
        endpoint.takes_key = False
        with pytest.raises(EngineFailureError, match="does not take our key") as refused:
            await api.healthy(timeout_s=10.0)
        assert KEY not in str(refused.value)
        endpoint.takes_key = True
        # A list of models may be for all: what a request was told holds for a while.
        assert not api.doubt.is_set()
        standing.take(read_refusal(401, b"", terms=terms_of(endpoint), model=MODEL))
        assert api.doubt.is_set(), "it is looked at now"
        with pytest.raises(EngineFailureError, match="does not take our key"):
            await api.healthy(timeout_s=10.0)
        facts = await api.facts()
        assert (facts.name, facts.served_models) == ("external", (UPSTREAM,))
        assert {each.method for each in endpoint.asked} == {"GET"}, "nothing that is paid for"


async def test_request_that_is_refused_for_our_key_marks_the_endpoint(endpoint: StrictOpenAi) -> None:
    standing = Standing()
    dialect = ExternalDialect(terms_of(endpoint), standing)
    async with bench(dialer=dialer_of(endpoint), dialect=dialect) as made:
        await answered(made, chat(status=403))
        assert not standing.refused
        await answered(made, chat(status=402))
        assert standing.refused


@pytest.mark.parametrize("header", ["api-key", "x-api-key"])
async def test_endpoint_that_wants_its_key_elsewhere_gets_it_there_and_only_there(
    endpoint: StrictOpenAi, header: str
) -> None:
    endpoint.key_header = header
    async with relaying(endpoint, key=Credential(Secret(KEY), header=KeyHeader(header))) as made:
        answer = await answered(made, chat())
    assert answer.end.outcome == SUCCEEDED, answer.data
    assert "authorization" not in endpoint.answered[0].headers


async def test_new_key_in_the_file_is_used_without_a_restart_and_nonsense_there_is_not(
    endpoint: StrictOpenAi, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    key = Credential(Secret("an-old-key", file))
    standing = Standing()
    async with api_of(endpoint, standing, key=key) as api:
        for wrong in (b"two words\n", b"\xff", b"", b"an-old-key\n"):
            file.write_bytes(wrong)
            with pytest.raises(EngineFailureError, match="does not take our key"):
                await api.healthy(timeout_s=10.0)
        file.unlink()
        with pytest.raises(EngineFailureError, match="does not take our key"):
            await api.healthy(timeout_s=10.0)
        standing.take(read_refusal(401, b"", terms=terms_of(endpoint), model=MODEL))
        file.write_text(f"{KEY}\n")
        await api.healthy(timeout_s=10.0)
        assert not standing.refused
        file.unlink()
        await api.healthy(timeout_s=10.0)


async def test_endpoint_that_never_shakes_hands_leaves_the_gateway_free_to_ask_elsewhere(tmp_path: Path) -> None:
    # The kernel takes the connection; nobody ever looks at it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = StrictOpenAi(tmp_path, plain=True, port=1)
        url = EndpointUrl.parse(f"https://{HOST}:{silent.getsockname()[1]}/v1")
        dialer = dialer_of(endpoint, url=url, tls=client_tls(None))
        dialer.timeout_s = 0.2
        dialect = ExternalDialect(terms_of(endpoint), Standing())
        async with bench(dialer=dialer, dialect=dialect) as made:
            answer = await answered(made, chat(), stream=True)
            assert (answer.end.outcome, answer.end.error.code) == (FAILED, "ENGINE_UNAVAILABLE")
            assert not any(frame.HasField("head") for frame in answer.frames)


async def test_reader_that_is_slow_stops_its_own_answer_alone(relayed: Bench) -> None:
    call_id, slow = relayed.gateway.open(chat(tokens=4000), api=CHAT, stream=True)
    quick = await answered(relayed, chat(tokens=2), stream=True)
    assert quick.end.outcome == SUCCEEDED
    assert not slow.ended.is_set()
    relayed.gateway.credit(call_id, 4_000_000)
    async with asyncio.timeout(20):
        await slow.ended.wait()
    assert (slow.end.outcome, len(slow.events())) == (SUCCEEDED, 4000)
