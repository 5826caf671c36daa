"""Answers that many operations share."""

from typing import Any

from crosslogic_gateway.affinity import MAX_SESSION_CHARS, SESSION_HEADER
from crosslogic_gateway.idempotency.domain import IDEMPOTENCY_HEADER, MAX_KEY_CHARS
from crosslogic_gateway.shedding.domain import MAX_QUEUE_TIMEOUT_MS, PRIORITY_HEADER, QUEUE_TIMEOUT_HEADER

_MEANINGS = {
    400: "The request is not valid; `param` names the field.",
    401: "The credentials are missing or wrong.",
    402: "The budget does not cover the request.",
    403: "The account is suspended, the quota is used up, or the key may not do this.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    409: "It exists already, its state does not allow this, or the `Idempotency-Key` stands for another request.",
    413: "The body is larger than 10 MB.",
    415: "The body is not `application/json`.",
    429: "Too many requests; see `Retry-After`.",
    500: "Something went wrong on our side.",
    502: "The model failed to answer.",
    503: "Not available right now; see `Retry-After`.",
    504: "The answer did not come in time.",
}


def idempotency_parameter() -> dict[str, Any]:
    """The header that makes a repeat safe."""
    return {
        "name": IDEMPOTENCY_HEADER,
        "in": "header",
        "description": "Makes a repeat within 24 hours safe: the same key gives the first answer again, with "
        "`Idempotent-Replayed: true`, and nothing is done or charged twice.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
    }


def queue_parameters() -> list[dict[str, Any]]:
    """The headers that say how a request stands when there is no room."""
    return [
        {
            "name": PRIORITY_HEADER,
            "in": "header",
            "description": "Lowers the priority that the plan gives this request.",
            "schema": {"type": "string", "enum": ["high", "normal", "low"]},
        },
        {
            "name": QUEUE_TIMEOUT_HEADER,
            "in": "header",
            "description": "Milliseconds that this request may wait for its turn when there is no room.",
            "schema": {"type": "integer", "minimum": 0, "maximum": MAX_QUEUE_TIMEOUT_MS},
        },
    ]


def session_parameter() -> dict[str, Any]:
    """The header that keeps a session's requests on one node."""
    return {
        "name": SESSION_HEADER,
        "in": "header",
        "description": "Names a session, such as a conversation: its requests go to one node while that has room, "
        "where the beginning of the prompt is likely still in memory.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_SESSION_CHARS},
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
