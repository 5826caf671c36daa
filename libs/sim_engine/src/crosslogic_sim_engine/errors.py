"""Error answers with vLLM's statuses and bodies."""

import msgspec


class ApiError(Exception):
    """An answer that is an error. `kind` is vLLM's word in the body's `type`."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """The OpenAI error body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})

    def messages_body(self) -> bytes:
        """The error body of /v1/messages, which has its own shape except where the body could not be read."""
        if self.kind == "Bad Request":
            return self.body()
        return msgspec.json.encode({"type": "error", "error": {"type": self.kind, "message": self.message}})


def bad_value(message: str, name: str, value: object) -> ApiError:
    """A parameter out of its range."""
    return ApiError(f"{message} (parameter={name}, value={value})", param=name)


def bad_type(kind: str, name: str, wanted: str, value: object) -> ApiError:
    """A parameter of the wrong type; `kind` as pydantic calls it, for example list_type."""
    place = f"body.{name}" if name else "body"
    line = f"{{'type': '{kind}', 'loc': '{place}', 'msg': '{wanted}', 'input': {_shown(value)}}}"
    return ApiError(f"1 validation error:\n  {line}", kind="Bad Request", param=place)


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return f"'<{type(value).__name__} of {len(value)} items>'"
    return f"'{value}'"


def unknown_model(name: str, *, served: str) -> ApiError:
    """The model is not the one served."""
    message = f"The model `{name}` does not exist. Valid aliases: {served}."
    return ApiError(message, status=404, kind="NotFoundError", param="model")


def too_long(prompt_tokens: int, *, limit: int) -> ApiError:
    """The prompt leaves no room for an answer."""
    del prompt_tokens  # the engine counts no further than one past its limit
    return ApiError(
        f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {limit + 1} "
        "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
        f"prompt. (parameter=input_tokens, value={limit + 1})",
        param="input_tokens",
    )


ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
