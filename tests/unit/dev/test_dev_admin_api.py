"""The admin API as `make up` and the tests call it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from crosslogic_dev.admin_api import AdminApi, HttpAnswer


class Pages(AdminApi):
    """Two pages, the second of which is behind a token; any other question is refused."""

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HttpAnswer:
        assert (method, body) == ("GET", None)
        asked = parse_qs(urlsplit(path).query)
        if asked == {"org_id": ["a&b"]}:
            return HttpAnswer(200, {"data": [{"id": 1}], "next_page_token": "more="})
        if asked == {"org_id": ["a&b"], "page_token": ["more="]}:
            return HttpAnswer(200, {"data": [{"id": 2}], "next_page_token": None})
        return HttpAnswer(400, {})


def test_a_list_that_is_asked_for_in_part_is_read_to_its_last_page() -> None:
    rows = Pages("http://gateway", "token").all_of("/admin/usage/records", org_id="a&b")
    assert [row["id"] for row in rows] == [1, 2]
