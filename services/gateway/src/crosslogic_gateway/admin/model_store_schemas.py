"""Bodies and answers of the admin API about versions of models and the environments that serve them."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crosslogic_gateway.admin.schemas import (
    Asked,
    Count,
    ModelName,
    NextPageToken,
    PageQuery,
    Price,
    Region,
    Time,
    UsdPerMillion,
)

EnvironmentName = Literal["development", "staging", "production"]
StatusName = Literal["serving", "other_version", "no_nodes", "disabled"]
Version = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z", description="Empty: machines bring their own weights.")]
_MAX_MANIFEST_CHARS = 2_000_000


class NewModelVersion(Asked):
    """A version whose objects are all in the store."""

    manifest: Annotated[str, Meta(max_length=_MAX_MANIFEST_CHARS, description="As it lies in the store, JSON.")]


class ModelVersion(Struct, kw_only=True):
    """A version of a model in object storage."""

    model: str
    version: str
    size_bytes: Count
    weights_bytes: Count
    parameters: Annotated[int, Meta(ge=0, description="As stored.")]
    dtype: str
    context_length: Count
    vram_required_bytes: Annotated[int, Meta(ge=0, description="At least; one short request. 0: not known.")]
    licence: str
    chat_template: bool
    source: str
    create_time: Time


class ModelVersionList(Struct, kw_only=True):
    """A page of versions, newest first."""

    data: list[ModelVersion]
    next_page_token: NextPageToken


class VersionQuery(PageQuery):
    """Which versions."""

    model: Annotated[str, Meta(max_length=200, description="The model's name in the store. Empty: all.")] = ""


class NewRegisteredModel(Asked):
    """A model that an environment is to serve. Each price is given in one of its two units."""

    model: ModelName
    environment: EnvironmentName = "production"
    version: Version = ""
    endpoint: Annotated[
        str, Meta(max_length=500, description="Where somebody else serves it. Empty: engines here.")
    ] = ""
    context_length: Annotated[int, Meta(ge=0, le=10_000_000, description="0: the version's.")] = 0
    family: Annotated[str, Meta(max_length=200)] = ""
    prompt_price_picodollars: Price | UnsetType = UNSET
    completion_price_picodollars: Price | UnsetType = UNSET
    input_usd_per_million: UsdPerMillion | UnsetType = UNSET
    output_usd_per_million: UsdPerMillion | UnsetType = UNSET
    regions: Annotated[list[Region], Meta(max_length=64, description="Empty: all.")] = field(default_factory=list)


class RegisteredModel(Struct, kw_only=True):
    """A model in an environment."""

    name: Annotated[str, Meta(description="As clients name it: the model, or `model@environment`.")]
    model: str
    environment: EnvironmentName
    version: Annotated[str, Meta(description="Empty: machines bring their own weights.")]
    enabled: bool
    status: StatusName
    health_time: Annotated[Time | None, Meta(description="When one of its nodes was last heard of.")]
    endpoint: str
    serving_nodes: Count
    version_nodes: Count
    licence: str
    change_time: Time


class RegisteredModelList(Struct, kw_only=True):
    """A page of registered models, by name."""

    data: list[RegisteredModel]
    next_page_token: NextPageToken


class ModelNamed(Asked):
    """A registered model."""

    name: Annotated[str, Meta(min_length=1, max_length=220, description="As clients name it.")]


class NewPromotion(Asked):
    """A version that is to go from one environment to another."""

    model: ModelName
    from_environment: EnvironmentName
    to_environment: EnvironmentName
    dry_run: Annotated[bool, Meta(description="Look at the gates and change nothing.")] = False


class Gate(Struct, kw_only=True):
    """A condition of a promotion."""

    name: str
    passed: bool
    detail: str


class Promotion(Struct, kw_only=True):
    """What came of a promotion."""

    model: Annotated[RegisteredModel | None, Meta(description="Where it was brought. Null: it is not there yet.")]
    gates: list[Gate]


class Gone(Struct, kw_only=True):
    """What is no longer registered."""

    name: str
