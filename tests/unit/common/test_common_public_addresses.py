"""Which addresses a process may connect to where somebody else names the host."""

import pytest

from crosslogic_common.public_addresses import AddressRules, networks

PRIVATE = (
    *("127.0.0.1", "10.1.1.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.0.2.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "168.63.129.16"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "ff0e::1", "2001:db8::1"),
)
DISGUISED = (
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::a00:1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2001:0:1::1"),
)


@pytest.mark.parametrize("address", [*PRIVATE, *DISGUISED])
def test_no_inner_address_is_reached_in_any_disguise(address: str) -> None:
    assert not AddressRules().allow(address)


@pytest.mark.parametrize("text", ["localhost", "2130706433", "0x7f.1", "127.1", "", "8.8.8.8/32", "8.8.8"])
def test_what_is_no_numeric_address_is_none(text: str) -> None:
    rules = AddressRules(networks("0.0.0.0/0,::/0"))
    assert not rules.allow(text)
    assert not rules.names(text)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_public_addresses_are_reached_unless_none_are_to_be(address: str) -> None:
    assert AddressRules().allow(address)
    assert not AddressRules(public=False).allow(address)


def test_an_operator_allows_a_network_of_his_own_and_no_more_with_it() -> None:
    rules = AddressRules(networks("10.0.0.0/8, fd00::/8,127.0.0.1"))
    assert all(map(rules.allow, ("10.9.9.9", "fd00::1", "127.0.0.1", "8.8.8.8")))
    assert not any(map(rules.allow, ("11.0.0.256", "127.0.0.2", "192.168.0.1", "::ffff:10.9.9.9", "fe80::1")))
    assert rules.names("10.9.9.9")
    assert not rules.names("8.8.8.8")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "ten", "10.0.0.0/8;fd00::/8"])
def test_a_network_that_is_none_is_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match="must be networks"):
        networks(text)
