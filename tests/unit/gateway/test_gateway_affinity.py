"""Which session and which prompt a request says it is of."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.prefix_blocks import BLOCK_ENDS
from crosslogic_gateway.affinity import Hinter, PickHints, key_of, prefix_hashes, session_key
from crosslogic_gateway.domain import Model, Principal

SYSTEM = {"role": "system", "content": "You answer in verse. " * 400}


def body(*turns: str, **rest: object) -> bytes:
    messages = [SYSTEM, *({"role": "user", "content": turn} for turn in turns)]
    return json.dumps({"model": "m", **rest, "messages": messages}).encode()


def common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    return sum(1 for a, b in zip(left, right, strict=False) if a == b)


def test_conversations_share_the_blocks_of_their_common_beginning_and_no_more() -> None:
    one = prefix_hashes(body("How are you? " * 300), "m", "salt")
    other = prefix_hashes(body("What is rain? " * 300), "m", "salt")
    shared_bytes = len(json.dumps([SYSTEM]).encode())
    whole_blocks = sum(1 for end in BLOCK_ENDS if end <= shared_bytes)
    assert common(one, other) == whole_blocks
    assert len(one) > whole_blocks


def test_the_next_turn_of_a_conversation_begins_with_all_blocks_of_the_one_before() -> None:
    first = prefix_hashes(body("One. " * 500), "m", "salt")
    second = prefix_hashes(body("One. " * 500, "Two. " * 500), "m", "salt")
    assert first
    assert second[: len(first)] == first


def test_other_fields_do_not_hide_a_shared_prompt() -> None:
    assert prefix_hashes(body("Hello"), "m", "s") == prefix_hashes(
        body("Hello", temperature=0.3, stream=True), "m", "s"
    )


def test_two_tenants_with_one_prompt_share_no_hash() -> None:
    one = prefix_hashes(body("Hello"), "m", "salt of one")
    other = prefix_hashes(body("Hello"), "m", "salt of another")
    assert common(one, other) == 0
    assert common(one, prefix_hashes(body("Hello"), "other model", "salt of one")) == 0


def test_a_short_prompt_has_no_blocks_and_the_longest_few() -> None:
    assert prefix_hashes(b'{"model": "m", "prompt": "Hi"}', "m", "s") == ()
    longest = prefix_hashes(json.dumps({"prompt": "x" * 1_000_000}).encode(), "m", "s")
    assert len(longest) == len(BLOCK_ENDS) <= 64


@given(st.binary(max_size=200))
def test_no_body_breaks_it(raw: bytes) -> None:
    assert prefix_hashes(raw, "m", "s") == ()


def test_a_session_is_the_organisations_own() -> None:
    named = {"X-Session-ID": "abc"}
    assert session_key(named, "salt") == session_key(named, "salt") != 0
    assert session_key(named, "salt") != session_key(named, "other salt")
    assert session_key({}, "salt") == 0
    assert session_key({"X-Session-ID": ""}, "salt") == 0


def test_hashes_are_the_same_in_every_worker() -> None:
    # The scheduler compares what different processes made.
    assert key_of("a", "b") == 11797832347080049151
    assert 0 < key_of("") < 2**64


def principal(api_key_id: str = "key", **more: object) -> Principal:
    return Principal("org", "env", api_key_id, "eu", None, "salt", None, **more)  # type: ignore[arg-type]


MODEL = Model("m", "", 4096, 1, 1, frozenset(), 0)


def test_requests_of_one_key_are_one_client_unless_they_name_their_session() -> None:
    hinter = Hinter()
    plain = hinter.hints({}, principal(), MODEL, b"")
    assert plain.client_key == hinter.hints({}, principal(), MODEL, b"").client_key
    assert plain.client_key != hinter.hints({}, principal("other"), MODEL, b"").client_key
    session = hinter.hints({"X-Session-ID": "a"}, principal(), MODEL, b"")
    assert session.client_key == session.session_key != plain.client_key


def test_a_prompt_is_hashed_only_where_the_scheduler_wants_it() -> None:
    hinter = Hinter()
    assert hinter.hints({}, principal(), MODEL, body("Hello")).prefix_hashes == ()
    wanted = replace(MODEL, prefix_affinity=True)
    assert hinter.hints({}, principal(), wanted, body("Hello")).prefix_hashes


def test_data_that_must_stay_in_its_region_may_go_to_that_one_alone() -> None:
    hinter = Hinter()
    pinned = principal(residency_pinned=True, allowed_regions=())
    assert hinter.hints({}, pinned, MODEL, b"").allowed_regions == ("eu",)
    chosen = principal(allowed_regions=("eu", "us"))
    assert hinter.hints({}, chosen, MODEL, b"").allowed_regions == ("eu", "us")


def test_only_a_pick_made_for_nobody_in_particular_may_be_kept_ready() -> None:
    assert PickHints(session_key=1).personal
    assert PickHints(prefix_hashes=(1,)).personal
    assert PickHints(reserved=True).personal
    assert not PickHints(client_key=7, allowed_regions=("eu",)).personal
