"""Whether a key may be used from where its request comes. Pure."""

import ipaddress

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.domain import Network


def check_network(address: str, allowed: tuple[Network, ...]) -> None:
    """Raises PERMISSION_DENIED for an address in none of the networks, and for what is no address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise _denied() from None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        # How a socket for both families writes an IPv4 client.
        found = found.ipv4_mapped
    if not any(found in network for network in allowed):
        raise _denied()


def _denied() -> CodedError:
    return CodedError(ErrorCode.PERMISSION_DENIED, "This API key may not be used from your network address.")
