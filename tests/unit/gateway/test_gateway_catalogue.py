"""Who may use which model: what is not in production yet is for keys that name it."""

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.catalogue import Catalogue
from crosslogic_gateway.domain import Principal

NAMES = ("llama", "llama@development", "llama@staging", "team/llama@v2", "staging")


def key(*allowed: str) -> Principal:
    """A key of which these are all models it may use; none: every model."""
    return Principal(
        org_id="o",
        environment_id="e",
        api_key_id="k",
        region="",
        allowed_models=frozenset(allowed) or None,
        cache_salt="s",
        expires_at=None,
    )


@pytest.fixture
def catalogue() -> Catalogue:
    found = Catalogue()
    found.replace(pb.Model(name=name) for name in NAMES)
    return found


def test_keys_for_every_model_neither_see_nor_use_what_is_not_in_production(catalogue: Catalogue) -> None:
    offered = [model.name for model in catalogue.for_principal(key())]
    assert offered == ["llama", "staging", "team/llama@v2"]
    for name in offered:
        assert catalogue.require(name, key()).name == name
    for name in ("llama@development", "llama@staging"):
        with pytest.raises(CodedError) as refused:
            catalogue.require(name, key())
        assert refused.value.code == ErrorCode.MODEL_NOT_FOUND


def test_a_preview_is_for_keys_that_name_it_and_for_that_environment_alone(catalogue: Catalogue) -> None:
    tester = key("llama@staging")
    assert [model.name for model in catalogue.for_principal(tester)] == ["llama@staging"]
    assert catalogue.require("llama@staging", tester).name == "llama@staging"
    for name in ("llama", "llama@development"):
        with pytest.raises(CodedError):
            catalogue.require(name, tester)


def test_whether_a_preview_is_there_is_not_told_to_whom_it_is_not_for(catalogue: Catalogue) -> None:
    told = []
    for name in ("llama@staging", "other@staging"):
        with pytest.raises(CodedError) as refused:
            catalogue.require(name, key("llama"))
        told.append(refused.value.public.replace(name, "it"))
    assert told[0] == told[1]


def test_models_of_another_spelling_are_no_way_around_the_rule(catalogue: Catalogue) -> None:
    for name in ("LLAMA@STAGING", "llama@staging ", " llama@staging", "llama@Staging", "llama@staging\x00", "@staging"):
        with pytest.raises(CodedError):
            catalogue.require(name, key())
