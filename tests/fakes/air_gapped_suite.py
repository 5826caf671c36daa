"""A whole suite on a machine whose only network is itself. Run as a script; prints one JSON object.

    air_gapped_suite.py cut|whole

`cut`: in a network namespace of its own, where whatever is sent elsewhere has no way there; the kernel counts it.
"""

import fcntl
import json
import socket
import struct
import sys
import urllib.request
from pathlib import Path

from crosslogic_dev.suite import Suite
from crosslogic_dev.waiting import wait_until

_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1
REQUESTS = 5


def bring_up_loopback() -> None:
    """`ip link set lo up`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh", b"lo", 0)
        name, flags = struct.unpack("16sh", fcntl.ioctl(any_socket, _GET_FLAGS, asked))
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", name, flags | _UP))


def sent_nowhere() -> int:
    """What this namespace tried to send and had no way for, since it was made."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    v6 = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(values[names.index("OutNoRoutes")]) + int(v6.get("Ip6OutNoRoutes", "0"))


def ask(suite: Suite, number: int) -> int:
    body = {"model": suite.model_name, "messages": [{"role": "user", "content": str(number)}], "max_tokens": 4}
    request = urllib.request.Request(  # noqa: S310  # the suite's own address
        f"{suite.base_url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {suite.api_key}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        answer.read()
        return int(answer.status)


def records(suite: Suite) -> int:
    return len(list(suite.admin.all_of("/admin/usage/records")))


def main() -> None:
    cut = sys.argv[1] == "cut"
    if cut:
        bring_up_loopback()
    agent = {"CROSSLOGIC_AIR_GAPPED": "1", "CROSSLOGIC_CLOUD": "on_prem", "CROSSLOGIC_NODE_METRICS_S": "1"}
    root = Path(__file__).parents[2]
    with Suite(engine="sim", nodes=1, root=root, durable=False, settings={"node_agent": agent}) as suite:
        statuses = [ask(suite, number) for number in range(REQUESTS)]
        wait_until(lambda: records(suite) >= REQUESTS, timeout_s=20)
        usage = records(suite)
    print("result:", json.dumps({"statuses": statuses, "records": usage, "sent": sent_nowhere() if cut else 0}))


if __name__ == "__main__":
    main()
