"""One call on its own, gathered whole."""

import asyncio

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.answer_readers import MAX_ANSWER_BYTES
from crosslogic_node_agent.relay import Relay
from crosslogic_node_agent.relay_call import RelayCall

_TICK_S = 0.05


async def infer(relay: Relay, request: pb.RelayOpen) -> pb.InferResponse:
    """Runs one call to its end. A caller that goes away cancels it. Raises what Relay.call raises."""
    done = asyncio.Event()

    def ready(call: RelayCall) -> None:
        if call.ended:
            done.set()

    call = relay.call(0, request, on_ready=ready, on_ended=relay.ended)
    call.add_credit(2 * MAX_ANSWER_BYTES)
    call.start()
    loop = asyncio.get_running_loop()
    try:
        while not done.is_set():
            try:
                async with asyncio.timeout(_TICK_S):
                    await done.wait()
            except TimeoutError:
                call.check_time(loop.time())
    finally:
        call.cancel()
    frame = call.output.take_frame()
    return pb.InferResponse(head=frame.head if frame.HasField("head") else None, data=frame.data, end=frame.end)
