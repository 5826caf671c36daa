"""Which addresses may be connected to where somebody else names the host (server-side request forgery). Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network
_NAT64: Final = IPv6Network("64:ff9b::/96")
# What looks public and is not: the address at which every machine of Azure reaches its host's agent, with its secrets.
_OF_HOSTS: Final = frozenset({IPv4Address("168.63.129.16")})


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Public addresses, unless `public` is false, and those in `networks`."""

    networks: tuple[Network, ...] = ()
    public: bool = True

    def allow(self, address: str) -> bool:
        """Whether a numeric address may be connected to. False for what is none."""
        found = _numeric(address)
        return found is not None and (self._names(found) or (self.public and is_public(found)))

    def names(self, address: str) -> bool:
        """Whether a numeric address is in one of `networks`. False for what is none."""
        found = _numeric(address)
        return found is not None and self._names(found)

    def _names(self, found: IPv4Address | IPv6Address) -> bool:
        return any(found.version == network.version and found in network for network in self.networks)


def _numeric(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of the Internet at large, also where it only stands for one that is not.

    Not public: what IANA's registries of special addresses say is not global, multicast, IPv6 addresses that stand for
    IPv4 ones (mapped, 6to4, Teredo), and those that clouds give to machines' hosts. One that a NAT64 translates is as
    public as the IPv4 address in it.
    """
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None or address.sixtofour is not None or address.teredo is not None:
            return False
        if address.is_site_local:
            return False
    if address in _OF_HOSTS:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def networks(text: str) -> tuple[Network, ...]:
    """Networks as `10.0.0.0/8,fd00::/8`. Raises ValueError with the end of a sentence that begins with their name."""
    found: list[Network] = []
    for part in text.split(","):
        if not (word := part.strip()):
            continue
        try:
            found.append(ip_network(word))
        except ValueError:
            raise ValueError(f"must be networks such as 10.0.0.0/8 between commas, not {word!r}") from None
    return tuple(found)
