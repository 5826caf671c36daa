"""The scheduler's settings."""

from dataclasses import dataclass

from crosslogic_common.regions import RegionTable, regions_file
from crosslogic_common.settings import address, number, setting
from crosslogic_common.standard_settings import StandardSettings


@dataclass(frozen=True, kw_only=True)
class SchedulerSettings(StandardSettings):
    """Read from the environment once, at start."""

    registry_target: str = setting("CROSSLOGIC_REGISTRY_TARGET", parse=address, doc="host:port of the registry")
    regions: RegionTable = setting(
        "CROSSLOGIC_REGIONS_FILE",
        default="",
        parse=regions_file,
        doc="the region table, TOML; empty: the one in crosslogic_common/regions/default.toml",
    )
    region_failover_share: float = setting(
        "CROSSLOGIC_REGION_FAILOVER_SHARE",
        default="0.2",
        parse=number(0, 1),
        doc="share of its traffic that a region that is down sends to each next one, 0 to 1",
    )
