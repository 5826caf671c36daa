"""A machine with real vLLM, launched through the suite, serves within a minute."""

import asyncio
import time
from pathlib import Path

import openai

from crosslogic_dev.suite import Suite
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import Manifest
from crosslogic_model_store.place import Place
from crosslogic_model_store.upload import Uploader

FIRST_TOKEN_S = 60.0
"""On a machine with nothing else to do; the launch of vLLM alone takes over half of it."""
SLACK_S = 120.0
ROOT = Path(__file__).parents[2]


def store_model(vllm: Suite, weights: Place) -> Manifest:
    """Brings the tiny model to the store, and into production."""
    local = read_model(ROOT / ".run/models/tiny", vllm.model_name, licence="mit")
    Uploader(weights).upload(local)
    vllm.admin.must("POST", "/admin/model-versions", {"manifest": local.manifest.to_json().decode()})
    place = {"model": vllm.model_name, "environment": "production", "version": local.manifest.revision}
    prices = {"input_usd_per_million": "0.05", "output_usd_per_million": "0.10", "context_length": 4096}
    vllm.admin.must("POST", "/admin/registered-models", {**place, **prices})
    return local.manifest


async def test_launch_to_first_token_on_real_vllm_with_weights_from_the_store(vllm: Suite, weights: Place) -> None:
    manifest = store_model(vllm, weights)
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
    steps = {step["step"]: step for step in job["steps"]}
    loading = steps["weights_loading"]
    assert (loading["bytes_done"], loading["bytes_total"]) == (manifest.size_bytes, manifest.size_bytes)
    assert took_s < FIRST_TOKEN_S + SLACK_S, f"{took_s:.1f} s"

    # The node has verified what it serves, and answers: the same version may go on.
    asked = {"model": vllm.model_name, "from_environment": "production", "to_environment": "staging"}
    gates = vllm.admin.must("POST", "/admin/registered-models/promote", {**asked, "dry_run": True})["gates"]
    assert {gate["name"]: gate["passed"] for gate in gates} == {
        "version": True,
        "licence": True,
        "weights_verified": True,
        "smoke": True,
    }, gates

    end = dict(vllm.admin.must("POST", f"/admin/instances/{job['instance_id']}/terminate", {"drain_timeout_s": 5}))
    async with asyncio.timeout(60):
        while end["status"] == "running":
            await asyncio.sleep(0.25)
            end = dict(vllm.admin.must("GET", f"/admin/instances/{end['id']}"))
    assert end["status"] == "succeeded"
    print(f"launch to first token: {took_s:.1f} s")  # the figure that the issue asks for
