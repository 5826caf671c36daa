"""Structured logs: one JSON object a line on stderr, with the request's id where there is one."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, cast

import structlog

# What must never stand in a log, wherever it came from: keys and join tokens, credentials of HTTP, passwords in URLs.
_SECRETS = re.compile(
    r"clsk_[a-z]+_[0-9A-Za-z]{8,}"
    r"|cljt_[A-Za-z0-9_-]{4,}"
    r"|(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"
    # A header as curl, a dict or a list of pairs shows it, its scheme included.
    r"|(?i:(?:authorization|x-admin-token|x-api-key)['\"]?\s*[:=,]\s*(?:b?['\"])?(?:(?:bearer|basic|token)\s+)?)"
    r"[^\s'\",)}\]]+"
)
_SECRET_NAMES = frozenset(
    {"authorization", "x-admin-token", "x-api-key", "api_key", "password", "admin_token", "join_token"}
)
_REDACTED = "(secret)"


def configure_logging(service: str, level: str = "INFO") -> None:
    """Sends this process's logs, the standard library's too, to stderr as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Named(service),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; its first argument is what happened, its keywords are the facts."""
    return cast("structlog.stdlib.BoundLogger", structlog.get_logger(name))


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces keys, join tokens, credentials and passwords in every value, however deep."""
    for name, value in event.items():
        if name.startswith("_"):
            continue  # structlog's own, taken out before the line is written
        event[name] = _REDACTED if name.lower() in _SECRET_NAMES else _clean(value)
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRETS.sub(_REDACTED, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    # Containers, bytes, exceptions, messages: as text where that text holds a secret, and untouched otherwise.
    text = repr(value)
    cleaned = _SECRETS.sub(_REDACTED, text)
    if isinstance(value, Mapping) and any(str(name).lower() in _SECRET_NAMES for name in value):
        return {
            str(name): _REDACTED if str(name).lower() in _SECRET_NAMES else _clean(item) for name, item in value.items()
        }
    return value if cleaned == text else cleaned


class _Named:
    """Adds the service's name."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = self._service
        return event
