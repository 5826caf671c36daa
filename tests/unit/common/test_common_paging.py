"""Lists: an admin who follows the tokens sees every row once, and a made-up token is told so."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, page_start, page_token


@given(st.sets(st.uuids(), max_size=30), st.integers(1, 10))
def test_following_the_tokens_sees_every_row_once(rows: set[UUID], page_size: int) -> None:
    stored = sorted(map(str, rows))
    seen: list[str] = []
    token = ""
    for _ in range(len(stored) + 1):
        limit = page_limit(page_size)
        found = [row for row in stored if row > page_start(token)][: limit + 1]
        seen += found[:limit]
        token = page_token(found, limit)
        if not token:
            break
    assert seen == [row for row in stored if row != str(UUID(int=0))]


@given(st.text(max_size=60))
def test_made_up_token_is_refused_and_never_an_internal_error(token: str) -> None:
    try:
        UUID(page_start(token))
    except CodedError as error:
        assert error.code is ErrorCode.INVALID_ARGUMENT  # noqa: PT017  # a valid token is as good


@pytest.mark.parametrize("size", [-1, 1001])
def test_page_size_out_of_range_names_its_field(size: int) -> None:
    with pytest.raises(CodedError) as caught:
        page_limit(size)
    assert caught.value.param == "page_size"
