"""The engine is told over how many accelerators the model is split, so that it fits and none is idle."""

import pytest

from crosslogic_model_store.facts import ModelFacts
from crosslogic_model_store.fit import GIB, Accelerators
from crosslogic_node_agent.engine_split import split_of
from crosslogic_node_agent.machine import accelerators
from crosslogic_node_agent.nvml import Gpus
from tests.unit.node_agent.test_node_agent_machine import FakeNvml

LLAMA_70B = ModelFacts(
    parameters=70_553_706_496,
    weights_bytes=141_107_412_992,
    context_length=131_072,
    layers=80,
    attention_heads=64,
    kv_heads=8,
    head_size=128,
    hidden_size=8192,
    intermediate_size=28672,
    vocabulary=128_256,
)
H100 = Accelerators("H100", 79 * GIB, 8)


@pytest.mark.parametrize(
    ("gpus", "command", "tensor_parallel", "data_parallel"),
    [
        (H100, ("vllm", "--max-model-len", "65536", "--max-num-seqs=16"), 4, 2),
        (H100, ("vllm", "--max-model-len=8192", "--max-num-seqs", "1"), 2, 4),
        (H100, ("vllm",), 4, 2),
        (Accelerators("H200", 139 * GIB, 8), ("vllm", "--max-model-len", "8192"), 2, 4),
        (Accelerators("L4", 22 * GIB, 6), ("vllm", "--max-model-len", "8192"), 4, 1),
        (None, ("vllm",), 1, 1),
    ],
)
def test_a_model_is_split_over_no_more_accelerators_than_it_needs_and_the_rest_run_copies(
    gpus: Accelerators | None, command: tuple[str, ...], tensor_parallel: int, data_parallel: int
) -> None:
    found = split_of(LLAMA_70B, gpus, command)
    assert (found.tensor_parallel, found.data_parallel) == (tensor_parallel, data_parallel), found.why


def test_a_model_that_does_not_tell_its_heads_gets_all_accelerators() -> None:
    assert split_of(ModelFacts(weights_bytes=100), H100, ()).tensor_parallel == 8


def test_accelerators_are_the_drivers_unless_the_settings_say_otherwise() -> None:
    assert accelerators(None, name="", count=0, total_bytes=0) is None
    assert accelerators(None, name="H100", count=2, total_bytes=160 * GIB) == Accelerators("H100", 80 * GIB, 2)
    found = Gpus(FakeNvml()).read()
    driver = accelerators(Gpus(FakeNvml()), name="", count=0, total_bytes=0)
    assert driver is not None
    assert (driver.count, driver.memory_bytes) == (len(found), min(gpu.total_bytes for gpu in found))
    assert driver.name == found[0].name
