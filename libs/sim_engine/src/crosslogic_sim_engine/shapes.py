"""The answers of /v1/completions and /v1/chat/completions, in vLLM's words."""

import msgspec

from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.errors import ENGINE_DEAD
from crosslogic_sim_engine.job import Job

FINGERPRINT = "vllm-sim"
DONE = b"data: [DONE]\n\n"
_NULL_DETAILS = ',"completion_tokens_details":null'


def usage_json(prompt: int, completion: int, more: str = "") -> str:
    """The usage object."""
    return f'{{"prompt_tokens":{prompt},"total_tokens":{prompt + completion},"completion_tokens":{completion}{more}}}'


def json_text(text: str) -> str:
    """A JSON string. Generated text needs no escapes, so it is only quoted."""
    return f'"{text}"' if text.isascii() and text.replace(" ", "").isalnum() else msgspec.json.encode(text).decode()


def finish_json(choice: Choice) -> str:
    """The finish_reason and stop_reason members."""
    if choice.finish_reason is None:
        return '"finish_reason":null,"stop_reason":null'
    return f'"finish_reason":"{choice.finish_reason}","stop_reason":{msgspec.json.encode(choice.stop_reason).decode()}'


def _ids_json(ids: list[int]) -> str:
    return f"[{','.join(map(str, ids))}]"


class CompletionsShape:
    """/v1/completions."""

    def opening(self, job: Job) -> bytes:
        """Nothing: the first chunk is the first token's."""
        del job
        return b""

    def chunk(self, job: Job, choice: Choice, text: str, ids: list[int]) -> bytes:
        """One or several tokens of one choice."""
        request = job.request
        shown_ids = _ids_json(ids) if request.return_ids else "null"
        prompt_ids = _ids_json(choice.prompt_ids) if request.return_ids and not choice.opened else "null"
        usage = last = ""
        if request.continuous_usage:
            usage = f',"usage":{usage_json(len(choice.prompt_ids), choice.generated)}'
        if choice.finish_reason is not None and not request.include_usage and job.left == 1:
            last = f',"system_fingerprint":"{FINGERPRINT}"'
        return (
            f'data: {{"id":"{job.id}","object":"text_completion","created":{job.created},"model":"{job.model}",'
            f'"choices":[{{"index":{choice.index},"text":{json_text(text)},"logprobs":null,{finish_json(choice)},'
            f'"prompt_token_ids":{prompt_ids},"token_ids":{shown_ids}}}]{usage}{last}}}\n\n'
        ).encode()

    def closing(self, job: Job) -> bytes:
        """The usage chunk where it was asked for, and the end mark."""
        return closing(job, "text_completion")

    def failure(self, job: Job) -> bytes:
        """The error event, and the end mark."""
        del job
        return failure_event()

    def whole(self, job: Job) -> bytes:
        """The whole answer."""
        choices = []
        for choice in job.choices:
            text, ids = choice.take()
            shown = job.request.return_ids
            choices.append(
                {
                    "index": choice.index,
                    "text": text,
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stop_reason,
                    "token_ids": ids if shown else None,
                    "prompt_logprobs": None,
                    "prompt_token_ids": choice.prompt_ids if shown else None,
                    "routed_experts": None,
                }
            )
        return whole_answer(job, "text_completion", choices, {})


class ChatShape:
    """/v1/chat/completions."""

    def opening(self, job: Job) -> bytes:
        """The role chunk of each choice, which carries the prompt's ids."""
        request = job.request
        ids = _ids_json(request.prompts[0]) if request.return_ids else "null"
        usage = ""
        if request.continuous_usage:
            usage = f',"usage":{usage_json(len(request.prompts[0]), 0, _NULL_DETAILS)}'
        return "".join(
            f'{self._head(job, choice)}"delta":{{"role":"assistant","content":""}},"logprobs":null,'
            f'"finish_reason":null}}]{usage},"prompt_token_ids":{ids},"prompt_text":null}}\n\n'
            for choice in job.choices
        ).encode()

    def chunk(self, job: Job, choice: Choice, text: str, ids: list[int]) -> bytes:
        """One or several tokens of one choice."""
        request = job.request
        token_ids = _ids_json(ids) if request.return_ids else "null"
        finish = '"finish_reason":null' if choice.finish_reason is None else finish_json(choice)
        usage = last = ""
        if request.continuous_usage:
            usage = f',"usage":{usage_json(len(choice.prompt_ids), choice.generated, _NULL_DETAILS)}'
        if choice.finish_reason is not None and not request.include_usage and job.left == 1:
            last = f',"system_fingerprint":"{FINGERPRINT}"'
        return (
            f'{self._head(job, choice)}"delta":{{"content":{json_text(text)}}},"logprobs":null,{finish},'
            f'"token_ids":{token_ids}}}]{usage}{last}}}\n\n'
        ).encode()

    def closing(self, job: Job) -> bytes:
        """The usage chunk where it was asked for, and the end mark."""
        return closing(job, "chat.completion.chunk")

    def failure(self, job: Job) -> bytes:
        """The error event, and the end mark."""
        del job
        return failure_event()

    def whole(self, job: Job) -> bytes:
        """The whole answer."""
        choices = []
        for choice in job.choices:
            text, ids = choice.take()
            choices.append(
                {
                    "index": choice.index,
                    "message": {
                        "role": "assistant",
                        "content": text,
                        "refusal": None,
                        "annotations": None,
                        "audio": None,
                        "function_call": None,
                        "reasoning": None,
                    },
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stop_reason,
                    "token_ids": ids if job.request.return_ids else None,
                    "routed_experts": None,
                }
            )
        prompt_ids = job.request.prompts[0] if job.request.return_ids else None
        more: dict[str, object] = {"prompt_logprobs": None, "prompt_token_ids": prompt_ids, "prompt_text": None}
        return whole_answer(job, "chat.completion", choices, more)

    def _head(self, job: Job, choice: Choice) -> str:
        return (
            f'data: {{"id":"{job.id}","object":"chat.completion.chunk","created":{job.created},"model":"{job.model}",'
            f'"choices":[{{"index":{choice.index},'
        )


def closing(job: Job, kind: str) -> bytes:
    """The usage chunk where it was asked for, and the end mark."""
    if not job.request.include_usage:
        return DONE
    return (
        f'data: {{"id":"{job.id}","object":"{kind}","created":{job.created},"model":"{job.model}","choices":[],'
        f'"usage":{usage_json(job.prompt_tokens, job.completion_tokens)},"system_fingerprint":"{FINGERPRINT}"}}\n\n'
    ).encode() + DONE


def failure_event() -> bytes:
    """How both streams end when the engine's core dies."""
    error = {"message": ENGINE_DEAD, "type": "InternalServerError", "param": None, "code": 500}
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n" + DONE


def whole_answer(job: Job, kind: str, choices: list[dict[str, object]], more: dict[str, object]) -> bytes:
    """The body of an answer that is not streamed."""
    prompt, completion = job.prompt_tokens, job.completion_tokens
    return msgspec.json.encode(
        {
            "id": job.id,
            "object": kind,
            "created": job.created,
            "model": job.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {
                "prompt_tokens": prompt,
                "total_tokens": prompt + completion,
                "completion_tokens": completion,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
            **more,
            "kv_transfer_params": None,
        }
    )
