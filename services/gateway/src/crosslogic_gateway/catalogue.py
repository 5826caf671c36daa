"""The models on offer, pushed by the registry. Kept while the registry is away."""

from collections.abc import Iterable

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.domain import Model, Principal

_PREVIEWS = ("@development", "@staging")
"""What ends the names of models that are not in production: offered to keys that name them, and to no others."""


class Catalogue:
    """This worker's copy of the catalogue."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self.loaded = False
        """Whether the catalogue was ever received."""

    def replace(self, models: Iterable[registry_pb.Model]) -> None:
        """Takes the whole catalogue as it is now."""
        self._models = {
            model.name: Model(
                name=model.name,
                family=model.family,
                context_length=model.context_length,
                prompt_price_picodollars=model.prompt_price_picodollars,
                completion_price_picodollars=model.completion_price_picodollars,
                regions=frozenset(model.regions),
                created_unix_s=model.create_time.seconds,
                prefix_affinity=any(
                    deployment.strategy == registry_pb.PICK_STRATEGY_PREFIX_AFFINITY for deployment in model.deployments
                ),
            )
            for model in models
        }
        self.loaded = True

    def for_principal(self, principal: Principal) -> list[Model]:
        """The models that a key may use, by name."""
        self._require_loaded()
        return [model for name, model in sorted(self._models.items()) if _may_use(principal, name)]

    def require(self, name: str, principal: Principal) -> Model:
        """The model a request names.

        Raises MODEL_NOT_FOUND when it is not on offer or not for this key: the answer does not say which, so that
        nobody learns of models that are not theirs.
        """
        self._require_loaded()
        model = self._models.get(name)
        if model is None or not _may_use(principal, name):
            raise CodedError(
                ErrorCode.MODEL_NOT_FOUND,
                f"The model `{name[:200]}` does not exist or you do not have access to it. "
                "GET /v1/models lists those you can use.",
                param="model",
            )
        return model

    def _require_loaded(self) -> None:
        if not self.loaded:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the catalogue was never received", retry_after_s=1.0)


def _may_use(principal: Principal, name: str) -> bool:
    return principal.may_use(name) and (principal.allowed_models is not None or not name.endswith(_PREVIEWS))
