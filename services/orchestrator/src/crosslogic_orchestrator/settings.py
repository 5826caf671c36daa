"""The orchestrator's settings."""

from dataclasses import dataclass
from pathlib import Path

from crosslogic_common.settings import Secret, integer, number, secret_setting, setting
from crosslogic_orchestrator.cloud_settings import texts
from crosslogic_orchestrator.notify_settings import NotifySettings


@dataclass(frozen=True, kw_only=True)
class OrchestratorSettings(NotifySettings):
    """Read from the environment once, at start."""

    database_url: Secret = secret_setting("DATABASE_URL", doc="PostgreSQL, as a libpq address")
    pool_size: int = setting(
        "CROSSLOGIC_POOL_SIZE", default="10", parse=integer(2, 200), doc="most database connections, 2 to 200"
    )
    registry_target: str = setting("CROSSLOGIC_REGISTRY_TARGET", doc="host:port of the registry")
    workers: int = setting(
        "CROSSLOGIC_JOB_WORKERS",
        default="4",
        parse=integer(1, 64),
        doc="jobs of one provider that are worked on at a time, 1 to 64",
    )
    sweep_s: float = setting(
        "CROSSLOGIC_SWEEP_S",
        default="30",
        parse=number(1, 3600),
        doc="seconds between two looks for machines that nobody knows of",
    )
    provision_s: float = setting(
        "CROSSLOGIC_PROVISION_TIMEOUT_S",
        default="1800",
        parse=number(1, 86_400),
        doc="seconds from the request for a machine until its agent must have joined",
    )
    load_s: float = setting(
        "CROSSLOGIC_LOAD_TIMEOUT_S",
        default="3600",
        parse=number(1, 86_400),
        doc="seconds that a step of the engine's start may take",
    )
    dead_s: float = setting(
        "CROSSLOGIC_DEAD_NODE_S",
        default="300",
        parse=number(1, 86_400),
        doc="seconds that the registry calls a node dead until its machine is ended",
    )
    local_folder: str = setting(
        "CROSSLOGIC_LOCAL_DIR", default="", doc="folder of the machines of provider `local`; empty: there is none"
    )
    local_environ: dict[str, str] = setting(
        "CROSSLOGIC_LOCAL_AGENT_ENV",
        default="{}",
        parse=texts,
        doc="JSON object: settings of every agent that `local` starts; `{port}` in them is its engine's port",
    )
    local_max: int = setting(
        "CROSSLOGIC_LOCAL_MAX_MACHINES", default="16", parse=integer(1, 1_000), doc="most machines of `local`"
    )

    identity_target: str = setting(
        "CROSSLOGIC_IDENTITY_TARGET",
        default="",
        doc="host:port of identity, which knows the capacity that was sold; empty: none is kept for it",
    )
    accountant_target: str = setting(
        "CROSSLOGIC_ACCOUNTANT_TARGET",
        default="",
        doc="host:port of the accountant, which knows the usual load of each hour; empty: none is foreseen",
    )
    scale_s: float = setting(
        "CROSSLOGIC_SCALE_S",
        default="5",
        parse=number(0.5, 60),
        doc="seconds between two looks at the deployments; notices of machines' ends are acted on at once",
    )
    price_folder: str = setting(
        "CROSSLOGIC_PRICE_CATALOGUE_DIR",
        default="",
        doc="folder with SkyPilot's price catalogue, `<cloud>/vms.csv` or `<cloud>.csv`; empty: none",
    )

    @property
    def local_path(self) -> Path | None:
        """Where machines of `local` are kept. None: there is no such provider."""
        return Path(self.local_folder) if self.local_folder else None
