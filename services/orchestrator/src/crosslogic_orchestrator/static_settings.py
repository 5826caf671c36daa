"""Settings of the pool of machines that are always there."""

import json
from dataclasses import dataclass

from crosslogic_common.settings import json_strings, setting
from crosslogic_orchestrator.cloud_settings import CloudSettings, texts
from crosslogic_orchestrator.providers.static import PoolMachine, pool_file

_OPTIONS = (
    "BatchMode=yes",
    # A machine that nobody vouched for gets no join token.
    "StrictHostKeyChecking=yes",
    "ConnectTimeout=10",
    # One that stands still in the middle is given up after 20 s.
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
)


def default_ssh() -> list[str]:
    """The command that reaches machines unless the operator names another."""
    return ["ssh", *(word for option in _OPTIONS for word in ("-o", option))]


@dataclass(frozen=True, kw_only=True)
class PoolSettings(CloudSettings):
    """Which machines there are, and how they are reached."""

    static_machines: tuple[PoolMachine, ...] = setting(
        "CROSSLOGIC_STATIC_MACHINES_FILE",
        default="",
        parse=pool_file,
        doc="TOML file of machines that are always there, read at start; empty: there is no provider `static`",
    )
    static_ssh: tuple[str, ...] = setting(
        "CROSSLOGIC_STATIC_SSH",
        default=json.dumps(default_ssh()),
        parse=json_strings,
        doc="JSON array: the command that reaches them; the destination and `sh -s` follow",
    )
    static_agent_file: str = setting(
        "CROSSLOGIC_STATIC_AGENT_FILE",
        default="",
        doc="shell functions that start, stop and look at an agent there; empty: systemd, with the agent's installer",
    )
    static_agent_environ: dict[str, str] = setting(
        "CROSSLOGIC_STATIC_AGENT_ENV",
        default="{}",
        parse=texts,
        doc="JSON object: variables of these functions; never secrets",
    )
