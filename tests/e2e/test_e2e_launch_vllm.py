"""A machine with real vLLM, launched through the suite, serves within a minute."""

import asyncio
import time

import openai

from crosslogic_dev.suite import Suite

FIRST_TOKEN_S = 60.0
"""On a machine with nothing else to do; the launch of vLLM alone takes over half of it."""
SLACK_S = 120.0


async def test_launch_to_first_token_on_real_vllm(vllm: Suite) -> None:
    begin = time.monotonic()
    asked = {"model_name": vllm.model_name, "provider": "local", "region": "local"}
    job = dict(vllm.admin.must("POST", "/admin/instances/launch", asked))
    async with asyncio.timeout(FIRST_TOKEN_S + SLACK_S):
        while job["status"] == "running":
            await asyncio.sleep(0.25)
            job = dict(vllm.admin.must("GET", f"/admin/instances/{job['id']}"))
    assert job["status"] == "succeeded", job["error"]

    async with openai.AsyncOpenAI(base_url=f"{vllm.base_url}/v1", api_key=vllm.api_key) as client:
        stream = await client.completions.create(model=vllm.model_name, prompt="Hello", max_tokens=2, stream=True)
        async for _ in stream:
            break
    took_s = time.monotonic() - begin
    steps = {step["step"]: step["detail"] for step in job["steps"]}
    assert steps["weights_loading"] == "the engine is starting"
    assert took_s < FIRST_TOKEN_S + SLACK_S, f"{took_s:.1f} s"

    end = dict(vllm.admin.must("POST", f"/admin/instances/{job['instance_id']}/terminate", {"drain_timeout_s": 5}))
    async with asyncio.timeout(60):
        while end["status"] == "running":
            await asyncio.sleep(0.25)
            end = dict(vllm.admin.must("GET", f"/admin/instances/{end['id']}"))
    assert end["status"] == "succeeded"
    print(f"launch to first token: {took_s:.1f} s")  # the figure that the issue asks for
