"""How a call fails, from the agent's point of view."""

from crosslogic_common.errors import CodedError, ErrorCode


def unreachable(private: str) -> CodedError:
    """The engine did not take the request: it is safe to ask another node."""
    return CodedError(ErrorCode.ENGINE_UNAVAILABLE, private=private, retry_after_s=1.0)


def broken(private: str) -> CodedError:
    """The engine took the request and failed to answer it whole."""
    return CodedError(ErrorCode.ENGINE_ERROR, private=private)


def refused(status: int) -> CodedError:
    """The engine answered with an error status, 400 to 599; its body goes to the gateway as it is."""
    private = f"the engine answered {status}"
    if status in (429, 503):
        return CodedError(ErrorCode.OVERLOADED, private=private, retry_after_s=1.0)
    if status < 500:  # noqa: PLR2004  # HTTP's own boundary
        return CodedError(ErrorCode.INVALID_ARGUMENT, private=private)
    return CodedError(ErrorCode.ENGINE_ERROR, private=private)
