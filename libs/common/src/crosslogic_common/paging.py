"""Pages of a list ordered by id: a page token is the last id seen, wrapped so that nobody builds one by hand."""

import base64
import binascii
from collections.abc import Sequence
from uuid import UUID

from crosslogic_common.errors import CodedError, ErrorCode

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
LEAST_ID = str(UUID(int=0))


def page_limit(page_size: int, *, default: int = DEFAULT_PAGE_SIZE, largest: int = MAX_PAGE_SIZE) -> int:
    """How many rows a page has. Raises INVALID_ARGUMENT outside 0 to `largest`; 0 means `default`."""
    if not 0 <= page_size <= largest:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`page_size` must be 1 to {largest}.", param="page_size")
    return page_size or default


def page_token(ids: Sequence[str], limit: int) -> str:
    """The token of the page after `ids[:limit]`; empty when `ids`, read with one row more, holds no further row."""
    return wrap(ids[limit - 1]) if len(ids) > limit else ""


def page_start(token: str) -> str:
    """The id after which a page starts. Raises INVALID_ARGUMENT for a token that is none of ours."""
    if not token:
        return LEAST_ID
    try:
        return str(UUID(unwrap(token)))
    except ValueError:
        raise bad_token() from None


def wrap(text: str) -> str:
    """A token that holds `text`."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def unwrap(token: str) -> str:
    """What a token holds. Raises INVALID_ARGUMENT."""
    try:
        return base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise bad_token() from None


def bad_token() -> CodedError:
    """The error for a page token that is none of ours."""
    return CodedError(
        ErrorCode.INVALID_ARGUMENT, "`page_token` is not one that a list gave: start without it.", param="page_token"
    )
