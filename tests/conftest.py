"""What every test may use."""

import os

# Tests fork children that change their user while gRPC's threads run in this process. With its fork handlers on, such a
# child dies of a segmentation fault before it becomes what it was started for. Read when gRPC is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# By name: nothing of it is imported before the line above.
pytest_plugins = ["tests.fakes.one_vllm"]
