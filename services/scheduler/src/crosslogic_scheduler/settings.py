"""The scheduler's settings."""

from dataclasses import dataclass

from crosslogic_common.settings import address, setting
from crosslogic_common.standard_settings import StandardSettings


@dataclass(frozen=True, kw_only=True)
class SchedulerSettings(StandardSettings):
    """Read from the environment once, at start."""

    registry_target: str = setting("CROSSLOGIC_REGISTRY_TARGET", parse=address, doc="host:port of the registry")
