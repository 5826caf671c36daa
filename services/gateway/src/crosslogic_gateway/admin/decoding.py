"""Bodies and queries of the admin API as structs: strictly, and with errors that name the field."""

import re
from typing import TypeVar

import msgspec
from aiohttp import web

from crosslogic_common.errors import CodedError, ErrorCode

Decoded = TypeVar("Decoded", bound=msgspec.Struct)

_AT_PATH = re.compile(r"(?P<problem>.*) - at `(?:key in )?\$\.?(?P<path>.*)`", re.DOTALL)
_ABOUT_FIELD = re.compile(r"Object (?P<problem>contains unknown|missing required) field `(?P<field>.*)`", re.DOTALL)
_MAX_SHOWN = 100


async def decoded_body(request: web.Request, kind: type[Decoded], *, optional: bool) -> Decoded:
    """The JSON body. Without a body an `optional` one is an empty object.

    Raises INVALID_ARGUMENT (not JSON, an unknown field, a wrong type; the field is named), UNSUPPORTED_MEDIA_TYPE.
    """
    body = await request.read()
    if not body and optional:
        body = b"{}"
    elif request.content_type != "application/json":
        raise CodedError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error), "The body") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "The body is not valid JSON.") from None


async def no_body(request: web.Request) -> None:
    """Refuses a body where none is taken: somebody expects it to do something. Raises INVALID_ARGUMENT."""
    if await request.read() not in (b"", b"{}"):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "This request takes no body.")


def decoded_query(request: web.Request, kind: type[Decoded]) -> Decoded:
    """The query. Raises INVALID_ARGUMENT that names the parameter: unknown, twice, or of a wrong type."""
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`{_shown(name)}` is given more than once.", param=_shown(name)
            )
        values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(str(error), "The query") from None


def no_query(request: web.Request) -> None:
    """Refuses a query where none is taken. Raises INVALID_ARGUMENT that names the parameter."""
    for name in request.query:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"Unknown field `{_shown(name)}`.", param=_shown(name))


def invalid(problem: str, whole: str) -> CodedError:
    """What msgspec found wrong, as an error that names the field. `whole` is what a problem without one is about."""
    about = _ABOUT_FIELD.match(problem)
    place = _AT_PATH.fullmatch(problem)
    if about is not None:
        inside = f"{place['path']}." if place is not None and place["path"] else ""
        name = _shown(inside + about["field"])
        text = f"Unknown field `{name}`." if "unknown" in about["problem"] else f"`{name}` is missing."
        return CodedError(ErrorCode.INVALID_ARGUMENT, text, param=name)
    if place is not None and place["path"]:
        name = _shown(place["path"])
        return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}`: {_lowered(place['problem'])}.", param=name)
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"{whole}: {_lowered(problem)}.")


def field_error(field: str, problem: str) -> CodedError:
    """INVALID_ARGUMENT about one field, in the same form."""
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}`: {problem}.", param=field)


def _shown(name: str) -> str:
    """A name that a client sent, as far as it is fit to be sent back, in a header too."""
    return "".join(char for char in name[:_MAX_SHOWN] if char.isascii() and char.isprintable())


def _lowered(problem: str) -> str:
    return problem[:1].lower() + problem[1:]
