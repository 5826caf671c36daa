"""What an endpoint's error status comes to: the client's fault, the endpoint's, or ours. Pure.

Nothing that the endpoint said goes on but the message of a fault of the client's, without the names that only this
suite's operator knows it by.
"""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_node_agent.external.terms import ExternalTerms

MAX_MESSAGE_CHARS = 1000
MAX_READ_BYTES = 64 * 1024
RETRY_AFTER_S = 1.0
OUR_FAULT_S = 60.0
"""For so long an endpoint that does not know us is not asked by clients."""

_CLIENTS: Final = frozenset({400, 413, 422})
_ABSENT: Final = frozenset({404, 405, 501})
_BUSY: Final = frozenset({429, 503, 529})
_OUR_STANDING: Final = frozenset({401, 402})
_FORBIDDEN: Final = 403
_OF_OUR_KEY = re.compile(
    r"(?:invalid|incorrect|missing|expired) api[ _-]?key|api[ _-]?key (?:not valid|expired)", re.IGNORECASE
)
_OF_THE_PROMPT = re.compile(r"moderat|flagged|content[ _-]?(?:polic|filter|management)|safety", re.IGNORECASE)
_NO_SUCH_MODEL = re.compile(r"\bmodel\b.{0,220}(?:not exist|not found|decommission|no access)", re.IGNORECASE)
_OUR_CODES: Final = frozenset({"invalid_api_key", "API_KEY_INVALID", "model_not_found", "model_not_active"})
_OUR_NAMES = re.compile(r"\b(?:sk|org|proj|user|acct|key|req)[-_][A-Za-z0-9_*.-]{6,}")


class _Fault(msgspec.Struct):
    message: object = None
    code: object = None
    param: object = None


class _Body(msgspec.Struct):
    error: object = None
    message: object = None
    detail: object = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What becomes of it."""

    error: CodedError
    status: int = 0
    """What the gateway is told that the engine answered, with `body`: final, and no mark against this node (403 is an
    error of the engine's there). 0: nothing; the error says all, and another node may be asked."""
    body: bytes = b""
    our_fault: bool = False
    """The endpoint does not know this relay's key, or is not paid: no request would do better."""


def read_refusal(status: int, body: bytes, *, terms: ExternalTerms, model: str) -> Refusal:
    """What `status`, 300 or more, comes to. `model` is the client's name of the model."""
    if status in _BUSY:
        return Refusal(_error(ErrorCode.OVERLOADED, status, retry_after_s=RETRY_AFTER_S))
    if status in _OUR_STANDING:
        error = _error(ErrorCode.ENGINE_ERROR, status, "it does not take our key, or is not paid")
        return Refusal(error, our_fault=True)
    if status in _CLIENTS | _ABSENT | {_FORBIDDEN}:
        return _final(status, _fault(body), terms, model)
    return Refusal(_error(ErrorCode.ENGINE_ERROR, status))


def _final(status: int, fault: _Fault, terms: ExternalTerms, model: str) -> Refusal:
    """A refusal that a client can bring about by what it sends: it must count against no node."""
    said = str(fault.message or "")
    if str(fault.code) in _OUR_CODES or _OF_OUR_KEY.search(said) or _NO_SUCH_MODEL.search(said):
        return Refusal(_error(ErrorCode.ENGINE_ERROR, status, "our key or model is not right there"), 403, b"{}")
    if status in _CLIENTS or _OF_THE_PROMPT.search(said):
        shown = {
            "message": clean(said, terms=terms, model=model) or "The model refused the request.",
            "param": fault.param if isinstance(fault.param, str) else None,
        }
        kept = status if status in _CLIENTS else 400
        return Refusal(_error(ErrorCode.INVALID_ARGUMENT, status), kept, msgspec.json.encode({"error": shown}))
    if status in _ABSENT:
        return Refusal(_error(ErrorCode.NOT_SUPPORTED, status), 404, b"{}")
    return Refusal(_error(ErrorCode.ENGINE_ERROR, status), 403, b"{}")


def clean(text: str, *, terms: ExternalTerms, model: str) -> str:
    """`text` without our key, our names in the endpoint's books, or the endpoint's names."""
    key = terms.key.reveal()
    if key:
        text = text.replace(key, "(hidden)")
    text = _OUR_NAMES.sub("(hidden)", text).replace(terms.url.host, "(hidden)")
    if terms.model != model:
        text = text.replace(terms.model, model)
    return text[:MAX_MESSAGE_CHARS]


def _error(code: ErrorCode, status: int, why: str = "", *, retry_after_s: float | None = None) -> CodedError:
    private = f"the endpoint answered {status}" + (f": {why}" if why else "")
    return CodedError(code, private=private, retry_after_s=retry_after_s)


def _fault(body: bytes) -> _Fault:
    try:
        found = msgspec.json.decode(body, type=_Body)
        if isinstance(found.error, dict):
            return msgspec.convert(found.error, type=_Fault)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Fault()
    return _Fault(message=found.error or found.message or found.detail)
