"""Who is who: an id reads as one identity or none, and torn files are found out before they are used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.tls import (
    Channels,
    Identity,
    TlsMaterial,
    node_dns_name,
    node_spiffe_id,
    parse_spiffe,
    peer_identity,
    service_dns_name,
    service_spiffe_id,
)
from tests.fakes.test_ca import CertificateMaker

NODE = "0197f0c0-0000-7000-8000-000000000001"
ORG = "0197f0c0-0000-7000-8000-0000000000aa"


def context(**auth: list[bytes]) -> Any:
    return SimpleNamespace(auth_context=lambda: auth)


def test_ids_read_as_they_are_written() -> None:
    assert parse_spiffe(service_spiffe_id("node_agent")) == Identity("service", "node_agent")
    assert parse_spiffe(node_spiffe_id(NODE, "")) == Identity("node", NODE)
    assert parse_spiffe(node_spiffe_id(NODE, ORG)) == Identity("node", NODE, ORG)


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "",
        "spiffe://other/service/gateway",
        "spiffe://crosslogic/service/",
        "spiffe://crosslogic/service/gateway/",
        "spiffe://crosslogic/service/gateway\n",
        "spiffe://crosslogic/service/Gateway",
        "spiffe://crosslogic/service/*",
        "spiffe://crosslogic.evil/service/gateway",
        "SPIFFE://crosslogic/service/gateway",
        f"spiffe://crosslogic/org/shared/node/{NODE}/service/gateway",
        f"spiffe://crosslogic/org//node/{NODE}",
        "spiffe://crosslogic/org/shared/node/gateway",
    ],
)
def test_id_that_only_looks_like_ours_is_nobodys(spiffe_id: str) -> None:
    assert parse_spiffe(spiffe_id) is None


@given(st.text(max_size=80))
def test_no_text_names_a_service_by_accident(text: str) -> None:
    found = parse_spiffe("spiffe://crosslogic/org/" + text)
    assert found is None or found.kind == "node"


def test_node_names_and_service_names_never_meet() -> None:
    assert not service_dns_name("x").endswith(".node.crosslogic.internal")
    assert not node_dns_name(NODE).endswith(".service.crosslogic.internal")
    assert "_" not in service_dns_name("node_agent")


def test_caller_is_known_by_its_only_uri() -> None:
    gateway = b"spiffe://crosslogic/service/gateway"
    assert peer_identity(context(peer_uri=[gateway])) == Identity("service", "gateway")
    assert peer_identity(context()) is None
    assert peer_identity(context(peer_uri=[gateway, gateway])) is None
    assert peer_identity(context(peer_uri=[b"\xff\xfe"])) is None
    assert peer_identity(context(x509_subject_alternative_name=[gateway], peer_dns=[gateway])) is None


def test_torn_files_are_described_and_whole_ones_are_not(tmp_path: Path) -> None:
    ca = CertificateMaker(tmp_path / "one")
    whole = ca.service("gateway").read()
    other = ca.service("gateway").read()
    assert whole.problem() == ""
    assert TlsMaterial(whole.cert_chain, other.key, whole.ca).problem() == "the key does not belong to the certificate"
    assert TlsMaterial(whole.cert_chain[:50], whole.key, whole.ca).problem() == "a certificate is not PEM"
    assert TlsMaterial(whole.cert_chain, whole.key, b"").problem() == "a certificate is not PEM"
    assert TlsMaterial(whole.cert_chain, b"", whole.ca).problem() == "the key is not an unencrypted PEM key"


async def test_channel_is_shared_until_the_certificate_changes(tmp_path: Path) -> None:
    ca = CertificateMaker(tmp_path)
    channels = Channels(ca.service("gateway"))
    first = channels.service("registry", "127.0.0.1:1")
    assert channels.service("registry", "127.0.0.1:1") is first
    assert channels.service("identity", "127.0.0.1:1") is not first
    ca.service("gateway")
    assert channels.service("registry", "127.0.0.1:1") is not first
    await channels.close()


async def test_files_that_are_being_replaced_leave_the_channel_in_use(tmp_path: Path) -> None:
    files = CertificateMaker(tmp_path).service("gateway")
    channels = Channels(files)
    first = channels.service("registry", "127.0.0.1:1")
    files.cert_file.write_bytes(b"half a cert")
    assert channels.service("registry", "127.0.0.1:1") is first
    files.cert_file.unlink()
    assert channels.service("registry", "127.0.0.1:1") is first
    with pytest.raises(CodedError) as caught:
        channels.service("identity", "127.0.0.1:1")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    await channels.close()


async def test_fleet_that_changes_for_ever_opens_no_more_channels_than_the_bound(tmp_path: Path) -> None:
    channels = Channels(CertificateMaker(tmp_path).service("gateway"), max_channels=3)
    kept = channels.node("a", "127.0.0.1:1")
    for name in "bcdefgh":
        channels.node(name, "127.0.0.1:1")
        assert channels.node("a", "127.0.0.1:1") is kept
    assert len(cast("Any", channels)._channels) == 3
    await channels.close()
