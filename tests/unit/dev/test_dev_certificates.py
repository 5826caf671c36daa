"""The development CA: names, renewal, and what a node's authority cannot do."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from crosslogic_dev.certificates import DevelopmentCa

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_a_service_is_named_as_its_callers_check_it(tmp_path: Path) -> None:
    files = DevelopmentCa(tmp_path / "tls", now=NOW).service("node_agent")
    names = certificate(files.cert_file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://crosslogic/service/node_agent"]
    assert names.get_values_for_type(x509.DNSName) == ["node-agent.service.crosslogic.internal"]


def test_nobody_else_on_the_machine_reads_a_key(tmp_path: Path) -> None:
    ca = DevelopmentCa(tmp_path / "tls", now=NOW)
    ca.service("gateway")
    ca.node_ca()
    keys = list((tmp_path / "tls").glob("*.key"))
    assert len(keys) == 3
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_second_make_up_keeps_every_certificate(tmp_path: Path) -> None:
    before = DevelopmentCa(tmp_path / "tls", now=NOW).service("gateway").read()
    after = DevelopmentCa(tmp_path / "tls", now=NOW + timedelta(days=30)).service("gateway").read()
    assert after == before


def test_a_suite_that_was_left_for_months_starts_again(tmp_path: Path) -> None:
    DevelopmentCa(tmp_path / "tls", now=NOW).service("gateway")
    later = NOW + timedelta(days=61)
    renewed = DevelopmentCa(tmp_path / "tls", now=later).service("gateway")
    assert certificate(renewed.cert_file).not_valid_after_utc > later + timedelta(days=80)


def test_a_new_root_replaces_what_the_old_one_signed(tmp_path: Path) -> None:
    DevelopmentCa(tmp_path / "tls", now=NOW).service("gateway")
    (tmp_path / "tls" / "ca.pem").unlink()
    ca = DevelopmentCa(tmp_path / "tls", now=NOW)
    certificate(ca.service("gateway").cert_file).verify_directly_issued_by(certificate(ca.root_file))


def test_the_authority_that_names_nodes_can_name_nothing_else(tmp_path: Path) -> None:
    node_ca = certificate(DevelopmentCa(tmp_path / "tls", now=NOW).node_ca().cert_file)
    constraint = node_ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraint.critical
    assert constraint.value.permitted_subtrees == [x509.DNSName("node.crosslogic.internal")]
    assert node_ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize("broken", ["", "no certificate"])
def test_a_file_that_was_cut_off_is_made_again(tmp_path: Path, broken: str) -> None:
    files = DevelopmentCa(tmp_path / "tls", now=NOW).service("gateway")
    files.cert_file.write_text(broken)
    again = DevelopmentCa(tmp_path / "tls", now=NOW).service("gateway")
    assert certificate(again.cert_file).subject.rfc4514_string() == "CN=gateway"
