"""Answers that many operations share."""

from typing import Any

_MEANINGS = {
    400: "The request is not valid; `param` names the field.",
    401: "The credentials are missing or wrong.",
    403: "The account is suspended, or the key may not do this.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    409: "It exists already, or its present state does not allow this.",
    413: "The body is larger than 10 MB.",
    415: "The body is not `application/json`.",
    429: "Too many requests; see `Retry-After`.",
    500: "Something went wrong on our side.",
    502: "The model failed to answer.",
    503: "Not available right now; see `Retry-After`.",
    504: "The answer did not come in time.",
}


def error_answer(status: int) -> dict[str, Any]:
    """An error, as OpenAI's clients read it."""
    answer: dict[str, Any] = {
        "description": _MEANINGS[status],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
    return answer
