"""Which settings go together."""

from crosslogic_common.process import StartError
from crosslogic_node_agent.engine_split import DATA_PARALLEL_WORD, TENSOR_PARALLEL_WORD
from crosslogic_node_agent.external.credential import sound_key
from crosslogic_node_agent.external.terms import EndpointUrl
from crosslogic_node_agent.settings import NodeAgentSettings
from crosslogic_node_agent.stored_weights import WEIGHTS_WORD

_WORDS = (WEIGHTS_WORD, TENSOR_PARALLEL_WORD, DATA_PARALLEL_WORD)


def check_together(settings: NodeAgentSettings) -> None:
    """Raises StartError for settings that do not go together."""
    if not settings.tunnel and not settings.listen:
        raise StartError("CROSSLOGIC_LISTEN is missing: say where gateways are served, or set CROSSLOGIC_TUNNEL=1.")
    if (settings.engine_url is None) == (settings.external_url is None):
        raise StartError("Set one of CROSSLOGIC_ENGINE_URL (an engine) and CROSSLOGIC_EXTERNAL_URL (an endpoint).")
    if settings.external_url is not None:
        _check_external(settings, settings.external_url)
    words = [word for word in _WORDS if any(word in argument for argument in settings.engine_command)]
    if words and not settings.weights_source:
        raise StartError(f"ENGINE_COMMAND has {words[0]}, which only CROSSLOGIC_WEIGHTS_SOURCE=store can fill in.")
    asked = [name for name in settings.spot_sources if name in ("aws", "gcp", "azure")]
    if settings.air_gapped and asked:
        raise StartError(
            f"CROSSLOGIC_AIR_GAPPED=1 asks no metadata service, and CROSSLOGIC_SPOT_SOURCES names {asked[0]}."
        )


def _check_external(settings: NodeAgentSettings, url: EndpointUrl) -> None:
    """Raises StartError for an endpoint with settings of an engine, or without what it takes to reach it."""
    if settings.engine_command or settings.weights_source:
        raise StartError("CROSSLOGIC_EXTERNAL_URL starts no engine: leave ENGINE_COMMAND and WEIGHTS_SOURCE out.")
    if not sound_key(settings.external_key):
        raise StartError("CROSSLOGIC_EXTERNAL_KEY must be one word of visible ASCII characters.")
    if not url.tls and not settings.external_networks:
        raise StartError(
            "CROSSLOGIC_EXTERNAL_URL must be https:// unless CROSSLOGIC_EXTERNAL_NETWORKS names the endpoint's network."
        )
    if settings.air_gapped and not settings.external_networks:
        raise StartError(
            "CROSSLOGIC_AIR_GAPPED=1 asks nothing outside the site: name its part in CROSSLOGIC_EXTERNAL_NETWORKS."
        )
