"""The decisions about models and their environments. Pure."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_model_store.facts import ModelFacts
from crosslogic_model_store.fit import least_bytes
from crosslogic_registry.model_store.domain import Environment, Gate, Health, Registration, Smoke, Terms, Version

_MARK = "@"
_PREVIEWS: tuple[Environment, ...] = ("development", "staging")
_MAX_ENDPOINT_CHARS = 500


def client_name(model: str, environment: Environment) -> str:
    """As clients name a model in an environment."""
    return model if environment == "production" else f"{model}{_MARK}{environment}"


def parts_of(name: str) -> tuple[str, Environment]:
    """The model and the environment of what clients name."""
    for environment in _PREVIEWS:
        if name.endswith(f"{_MARK}{environment}"):
            return name.removesuffix(f"{_MARK}{environment}"), environment
    return name, "production"


def check_model_name(model: str) -> str:
    """A model's name, without an environment. Raises INVALID_ARGUMENT."""
    if parts_of(model)[1] != "production":
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`model` must be named without an environment.", param="model")
    return model


def check_endpoint(endpoint: str) -> str:
    """Where somebody else serves a model. Raises INVALID_ARGUMENT."""
    parts = urlsplit(endpoint)
    sound = parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.query)
    if endpoint and (not sound or len(endpoint) > _MAX_ENDPOINT_CHARS or not endpoint.isprintable()):
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            "`endpoint` must be https://host/path or http://host/path, without a key in it.",
            param="endpoint",
        )
    return endpoint


def check_same(known: str, name: str) -> None:
    """Raises CONFLICT where a request's id was used for another model."""
    if known != name:
        raise CodedError(ErrorCode.CONFLICT, "`request_id` was used for another model.", param="request_id")


def terms_after(told: Terms, old: ModelFacts | None, new: ModelFacts) -> Terms:
    """What the catalogue tells once a model's version is another one.

    What it told is an operator's own word only where it was not the old version's; and no word makes a model take
    more tokens than it can.
    """
    context = told.context_length
    if not context or (old is not None and context == old.context_length):
        context = new.context_length or context
    memory = told.vram_required_bytes
    if not memory or (old is not None and memory == least_bytes(old)):
        memory = least_bytes(new) or memory
    return Terms(min(context, new.context_length or context), memory)


def is_external(model: Registration) -> bool:
    """Whether somebody else serves a model: there are no weights of it here to prove."""
    return bool(model.endpoint) and not model.version


def status_of(model: Registration, health: Health) -> "pb.ModelStatus.ValueType":
    """How a registered model is."""
    if not model.enabled:
        return pb.MODEL_STATUS_DISABLED
    if health.version_nodes or (health.serving_nodes and not model.version):
        return pb.MODEL_STATUS_SERVING
    return pb.MODEL_STATUS_OTHER_VERSION if health.serving_nodes else pb.MODEL_STATUS_NO_NODES


def gates(source: Registration, version: Version | None, health: Health, smoke: Smoke | None) -> list[Gate]:
    """The conditions of a promotion. `smoke` None: there was no node to try."""
    generated = Gate(
        "smoke", smoke is not None and smoke.passed, smoke.detail if smoke else "there is no live node to try"
    )
    if is_external(source):
        serving = f"{health.serving_nodes} nodes relay to {source.endpoint}"
        return [Gate("serving", health.serving_nodes > 0, serving), generated]
    known = version is not None
    licence = version.manifest.facts.licence if version else ""
    return [
        Gate(
            "version",
            known,
            f"{source.version} is in the store" if known else f"{source.name} has no version in the store",
        ),
        Gate("licence", bool(licence), licence or "no licence is known: upload it with --licence"),
        Gate(
            "weights_verified",
            health.version_nodes > 0,
            f"{health.version_nodes} nodes have read and verified every byte"
            if health.version_nodes
            else f"no live node of {source.name} has loaded {source.version or 'a version'}",
        ),
        generated,
    ]


def require(found: Sequence[Gate]) -> None:
    """Raises CONFLICT that names each gate that is not passed."""
    failed = [gate for gate in found if not gate.passed]
    if failed:
        words = "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
        raise CodedError(ErrorCode.CONFLICT, f"Not promoted. {words}.")
