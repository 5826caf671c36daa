"""Makes the pool's settings from the process's."""

from pathlib import Path

from crosslogic_orchestrator.providers.static import StaticSettings, default_agent_script
from crosslogic_orchestrator.static_settings import PoolSettings


def static_settings(settings: PoolSettings) -> StaticSettings:
    """The pool and how its machines are reached."""
    own = settings.static_agent_file
    return StaticSettings(
        machines=settings.static_machines,
        ssh=settings.static_ssh,
        agent_script=Path(own).read_text(encoding="utf-8") if own else default_agent_script(),
        agent_environ=settings.static_agent_environ,
    )
