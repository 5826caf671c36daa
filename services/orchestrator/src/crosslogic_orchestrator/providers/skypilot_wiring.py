"""Makes the clouds' providers from the settings."""

from collections.abc import Mapping
from importlib.resources import files

from crosslogic_orchestrator.cloud_settings import CloudSettings
from crosslogic_orchestrator.ports import Provider
from crosslogic_orchestrator.providers.skypilot import ANY_CLOUD, SkyPilotProvider, SkyPilotSettings
from crosslogic_orchestrator.providers.skypilot_link import WorkerLink

_PASSED_ON = ("PATH", "HOME", "LANG")


def clouds(settings: CloudSettings, link: WorkerLink) -> dict[str, Provider]:
    """A provider for each cloud, and one that chooses among them."""
    asked = SkyPilotSettings(
        installation=settings.skypilot_installation,
        clouds=settings.skypilot_clouds,
        regions=settings.regions,
        accelerators=settings.skypilot_accelerators,
        setup=files("crosslogic_orchestrator.providers").joinpath("skypilot_setup.sh").read_text(encoding="utf-8"),
        agent_environ=settings.skypilot_agent_environ,
        files=settings.skypilot_files,
        secret_files=settings.skypilot_secret_files,
    )
    return {name: SkyPilotProvider(name, asked, ask=link.ask) for name in (*settings.skypilot_clouds, ANY_CLOUD)}


def worker_environ(settings: CloudSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: nothing of the orchestrator's own settings, of which some are secret."""
    return {
        **{name: environ[name] for name in _PASSED_ON if name in environ},
        "PYTHONUNBUFFERED": "1",
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        # It never starts an API server of its own beside the one that keeps what is known of the machines.
        "SKYPILOT_DISABLE_LOCAL_API_SERVER": "1",
        "SKYPILOT_API_SERVER_ENDPOINT": settings.skypilot_api,
        **settings.skypilot_environ,
    }
