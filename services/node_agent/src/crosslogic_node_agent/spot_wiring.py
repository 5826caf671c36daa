"""Makes the sources of spot notices that the settings name."""

from types import MappingProxyType
from typing import Final

from crosslogic_common.clock import Clock
from crosslogic_common.process import StartError
from crosslogic_node_agent.node_life import NodeLife
from crosslogic_node_agent.settings import NodeAgentSettings
from crosslogic_node_agent.spot import aws, azure, gcp
from crosslogic_node_agent.spot.local import FileSpot, SignalSpot
from crosslogic_node_agent.spot.metadata import MetadataClient
from crosslogic_node_agent.spot.notice import SpotSource
from crosslogic_node_agent.spot.watch import SpotWatch

_URLS: Final = MappingProxyType({"aws": aws.URL, "gcp": gcp.URL, "azure": azure.URL})


def watch(settings: NodeAgentSettings, clock: Clock, life: NodeLife) -> SpotWatch:
    """The watch over all of them, which tells `life`. Raises StartError for a metadata address that is none."""
    sources = {name: _source(name, settings) for name in settings.spot_sources}
    return SpotWatch(sources=sources, clock=clock, on_change=life.spot)


def _source(name: str, settings: NodeAgentSettings) -> SpotSource:
    if name == "file":
        return FileSpot(settings.spot_file or settings.state_dir / "spot-notice")
    if name == "signal":
        return SignalSpot()
    try:
        client = MetadataClient(settings.spot_metadata_url or _URLS[name])
    except ValueError as error:
        raise StartError(f"CROSSLOGIC_SPOT_METADATA_URL {error}") from None
    if name == "aws":
        return aws.AwsSpot(client)
    return gcp.GcpSpot(client) if name == "gcp" else azure.AzureSpot(client)
