"""Lists the fleet's nodes over mutual TLS. Needs nothing but the wheel crosslogic-protos.

python list_nodes.py 127.0.0.1:7102 .run/tls [operator]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc


def credentials(tls: Path, caller: str) -> grpc.ChannelCredentials:
    """Whom we trust, and who we are."""
    return grpc.ssl_channel_credentials(
        root_certificates=(tls / "ca.pem").read_bytes(),
        private_key=(tls / f"{caller}.key").read_bytes(),
        certificate_chain=(tls / f"{caller}.pem").read_bytes(),
    )


def nodes(registry: rpc.RegistryServiceStub) -> Iterator[pb.Node]:
    """Every node, page after page."""
    request = pb.ListNodesRequest(page_size=100)
    while True:
        page = registry.ListNodes(request, timeout=5)
        yield from page.nodes
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def main() -> None:
    """The command."""
    target, tls, caller = (*sys.argv[1:], "operator")[:3]
    # The service's name is expected, whatever address it has.
    options = [("grpc.ssl_target_name_override", "registry.service.crosslogic.internal")]
    with grpc.secure_channel(target, credentials(Path(tls), caller), options=options) as channel:
        try:
            for node in nodes(rpc.RegistryServiceStub(channel)):
                print(node.id, pb.NodeStatus.Name(node.status), *node.facts.models)
        except grpc.RpcError as error:
            # Our own code, which says more than gRPC's status (docs/errors.md).
            codes = [each.value for each in error.trailing_metadata() or () if each.key == "crosslogic-code"]
            sys.exit(f"{error.code().name} {''.join(map(str, codes))}")


if __name__ == "__main__":
    main()
