"""Stripe's form encoding, and its request and response shapes as the installed `stripe` package states them."""

import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl

import typing_extensions as te
from stripe._stripe_context import StripeContext
from stripe._stripe_object import StripeObject, UntypedStripeObject

# The SDK imports these for type checkers only.
_NAMES = {"StripeContext": StripeContext, "Mapping": Mapping}
_PART = re.compile(r"\[([^\]]*)\]")


class ShapeError(Exception):
    """A request that Stripe's types do not allow: which parameter, and why."""

    def __init__(self, param: str, text: str) -> None:
        super().__init__(f"{param}: {text}")
        self.param = param


def decoded(form: str) -> dict[str, Any]:
    """`a[b][0][c]=d` as nested dictionaries and lists."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True, strict_parsing=bool(form)):
        head, _, rest = name.partition("[")
        path = [head, *_PART.findall("[" + rest)] if rest else [head]
        at = root
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = value
    result = _lists(root)
    assert isinstance(result, dict)
    return result


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {key: _lists(part) for key, part in value.items()}
    if items and all(key.isdigit() or not key for key in items):
        return list(items.values())
    return items


def check(params: Mapping[str, Any], shape: type) -> None:
    """Raises ShapeError for parameters that are unknown, missing or of another type than the SDK's TypedDict says."""
    hints = _hints(shape)
    for name in params:
        if name not in hints:
            raise ShapeError(name, "unknown parameter")
    for name, hint in hints.items():
        optional = get_origin(hint) is te.NotRequired
        if name not in params:
            if not optional:
                raise ShapeError(name, "missing required param")
            continue
        _check_value(name, params[name], get_args(hint)[0] if optional else hint)


def _hints(shape: type) -> dict[str, Any]:
    own = dict(te.get_type_hints(shape, localns=_NAMES, include_extras=True))
    base = te.get_type_hints(__import__("stripe").RequestOptions, localns=_NAMES, include_extras=True)
    # Options of the call and not parameters of the request.
    return {name: hint for name, hint in own.items() if name not in base}


def _check_value(name: str, value: Any, hint: Any) -> None:
    problems = []
    for one in _alternatives(hint):
        try:
            return _check_one(name, value, one)
        except ShapeError as error:
            problems.append(error)
    raise problems[0]


def _alternatives(hint: Any) -> list[Any]:
    if isinstance(hint, typing.ForwardRef | str):
        text = hint if isinstance(hint, str) else hint.__forward_arg__
        raise TypeError(f"unresolved type {text}")
    if get_origin(hint) in (typing.Union, types.UnionType):
        return [part for one in get_args(hint) for part in _alternatives(one)]
    return [hint]


def _check_one(name: str, value: Any, hint: Any) -> None:
    origin = get_origin(hint)
    if te.is_typeddict(hint):
        if not isinstance(value, dict):
            raise ShapeError(name, "must be a hash")
        for part in value:
            if part not in _hints(hint):
                raise ShapeError(f"{name}[{part}]", "unknown parameter")
        check(value, hint)
    elif origin is Literal:
        if value not in [str(choice) for choice in get_args(hint)]:
            raise ShapeError(name, f"must be one of {get_args(hint)}")
    elif origin is list:
        if not isinstance(value, list):
            raise ShapeError(name, "must be an array")
        for number, item in enumerate(value):
            _check_value(f"{name}[{number}]", item, get_args(hint)[0])
    elif origin in (dict, UntypedStripeObject) or hint is UntypedStripeObject:
        if not isinstance(value, dict):
            raise ShapeError(name, "must be a hash")
    else:
        _check_scalar(name, value, hint)


def _check_scalar(name: str, value: Any, hint: Any) -> None:
    if not isinstance(value, str):
        raise ShapeError(name, "must be a scalar")
    if hint is int and not re.fullmatch(r"-?[0-9]+", value):
        raise ShapeError(name, "invalid integer")
    if hint is bool and value not in ("true", "false"):
        raise ShapeError(name, "invalid boolean")
    if getattr(hint, "__name__", "") == "Decimal" and not re.fullmatch(r"-?[0-9]+(\.[0-9]{1,12})?", value):
        raise ShapeError(name, "invalid decimal")


def response_problems(body: Mapping[str, Any], resource: type[StripeObject]) -> list[str]:
    """Fields of an answer that the SDK's class does not know."""
    # Names alone: some classes name types of others that only a type checker imports.
    known = {name for one in resource.__mro__ for name in inspect.get_annotations(one)} | {"object", "id"}
    return [name for name in body if name not in known]
