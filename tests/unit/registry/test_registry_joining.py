"""Join tokens and node certificates."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.grpc_server import StartError
from crosslogic_common.ids import Uuid7Source
from crosslogic_registry.certificates import NodeCertificates
from crosslogic_registry.joining import Joining
from tests.fakes.registry_ca import make_csr, make_node_certificates
from tests.fakes.registry_world import World


@pytest.fixture
def certificates(tmp_path: Path) -> NodeCertificates:
    return make_node_certificates(tmp_path)


def joining_of(world: World, certificates: NodeCertificates) -> Joining:
    return Joining(
        store=world.store,
        fleet=world.fleet,
        certificates=certificates,
        clock=world.clock,
        ids=Uuid7Source(),
        origin="this",
    )


def uris(chain: bytes) -> list[str]:
    names = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


async def test_a_nodes_identity_is_written_by_us_whatever_it_asks_for(certificates: NodeCertificates) -> None:
    world = World()
    joining = joining_of(world, certificates)
    org_id = str(uuid4())
    token, _ = await joining.create_token(org_id, 0)
    node, chain = await joining.join(token, make_csr(names=("spiffe://crosslogic/service/gateway",)))
    assert uris(chain) == [f"spiffe://crosslogic/org/{org_id}/node/{node.id}"]
    certificate = x509.load_pem_x509_certificate(chain)
    assert certificate.subject.rfc4514_string() == f"CN={node.id}"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    renewed = await joining.renew(node.id, make_csr(names=("spiffe://crosslogic/org/shared/node/other",)))
    assert uris(renewed) == uris(chain)


async def test_a_node_without_an_org_is_shared(certificates: NodeCertificates) -> None:
    joining = joining_of(World(), certificates)
    token, _ = await joining.create_token("", 0)
    node, chain = await joining.join(token, make_csr())
    assert uris(chain) == [f"spiffe://crosslogic/org/shared/node/{node.id}"]


async def test_a_certificate_ends_within_the_hour(certificates: NodeCertificates) -> None:
    certificate = x509.load_pem_x509_certificate(certificates.issue(make_csr(), str(uuid4()), ""))
    assert certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(hours=1)


async def test_a_token_works_once_and_only_in_its_time(certificates: NodeCertificates) -> None:
    world = World()
    joining = joining_of(world, certificates)
    used, _ = await joining.create_token("", 10)
    await joining.join(used, make_csr())
    late, ends = await joining.create_token("", 10)
    assert (ends - world.clock.now()).total_seconds() == 10
    world.clock.pass_s(10)
    said = set()
    for token in (used, late, "cljt_" + "A" * 43, "", "x" * 100_000):
        with pytest.raises(CodedError) as refused:
            await joining.join(token, make_csr())
        said.add((refused.value.code, refused.value.public))
    assert len(said) == 1
    assert said.pop()[0] == ErrorCode.JOIN_TOKEN_INVALID


async def test_a_node_that_asks_again_with_its_key_is_the_same_and_stays_what_it_became(
    certificates: NodeCertificates,
) -> None:
    world = World()
    joining = joining_of(world, certificates)
    token, _ = await joining.create_token("", 10)
    csr_der = make_csr(key := ec.generate_private_key(ec.SECP256R1()))
    first, first_chain = await joining.join(token, csr_der)
    await world.speak(first.id)
    # Another request for the same key: signatures differ each time.
    again, chain = await joining.join(token, make_csr(key))
    assert (again.id, uris(chain)) == (first.id, uris(first_chain))
    assert x509.load_pem_x509_certificate(chain).public_key() == key.public_key()
    assert world.node(first.id).status == pb.NODE_STATUS_ACTIVE
    with pytest.raises(CodedError) as refused:
        await joining.join(token, make_csr())
    assert refused.value.code == ErrorCode.JOIN_TOKEN_INVALID


async def test_a_bad_certificate_request_does_not_use_the_token_up(certificates: NodeCertificates) -> None:
    joining = joining_of(World(), certificates)
    token, _ = await joining.create_token("", 0)
    with pytest.raises(CodedError) as refused:
        await joining.join(token, b"nonsense")
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT
    await joining.join(token, make_csr())


def broken_signature() -> bytes:
    request = bytearray(make_csr())
    request[-1] ^= 1
    return bytes(request)


@pytest.mark.parametrize(
    "csr_der",
    [
        b"",
        b"\x30",
        make_csr() + b"\x00",
        make_csr()[:-10],
        b"\x30" * 9000,
        make_csr(ec.generate_private_key(ec.SECP384R1())),
        make_csr(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        make_csr(names=("https://" + "a" * 9000,)),
        broken_signature(),
    ],
    ids=["empty", "cut", "tail", "shorter", "nest", "p384", "rsa", "large", "forged"],
)
def test_a_certificate_request_that_is_not_what_we_sign_is_refused(
    certificates: NodeCertificates, csr_der: bytes
) -> None:
    with pytest.raises(CodedError) as refused:
        certificates.key_sha256(csr_der)
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


@given(st.binary(max_size=300), st.integers(0, 200))
def test_no_bytes_make_the_join_port_fail_in_another_way(tail: bytes, start: int) -> None:
    sound = make_csr()
    for csr_der in (tail, sound[:start] + tail + sound[start + len(tail) :]):
        with contextlib.suppress(CodedError):
            NodeCertificates.key_sha256(csr_der)


@pytest.mark.parametrize(("org_id", "ttl_s"), [("acme", 10), ("", 86_401)])
async def test_a_token_that_makes_no_sense_is_not_made(certificates: NodeCertificates, org_id: str, ttl_s: int) -> None:
    with pytest.raises(CodedError) as refused:
        await joining_of(World(), certificates).create_token(org_id, ttl_s)
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


def test_a_ca_whose_key_is_anothers_is_found_out_at_start(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make_node_certificates(tmp_path / "a")
    make_node_certificates(tmp_path / "b")
    with pytest.raises(StartError):
        NodeCertificates(
            ca_cert_file=tmp_path / "a" / "ca.pem",
            ca_key_file=tmp_path / "b" / "ca.key",
            trust_file=tmp_path / "a" / "ca.pem",
        )
