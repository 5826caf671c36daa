"""Settings of the clouds, which SkyPilot speaks to."""

import json
import re
from dataclasses import dataclass

from crosslogic_common.regions import RegionTable, regions_file
from crosslogic_common.settings import json_strings, setting
from crosslogic_common.standard_settings import StandardSettings

_INSTALLATION = re.compile(r"[a-z0-9]{1,16}")
_CLOUD = re.compile(r"[a-z0-9]{1,32}")


def texts(text: str) -> dict[str, str]:
    """A JSON object of texts."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        raise ValueError("must be a JSON object of texts") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("must be a JSON object of texts")
    return found


def _installation(text: str) -> str:
    if not _INSTALLATION.fullmatch(text):
        raise ValueError("must be 1 to 16 of a-z and 0-9")
    return text


def _clouds(text: str) -> tuple[str, ...]:
    found = tuple(filter(None, (word.strip() for word in text.split(","))))
    if not all(_CLOUD.fullmatch(word) for word in found) or len(set(found)) < len(found):
        raise ValueError("must name clouds between commas, each once")
    return found


@dataclass(frozen=True, kw_only=True)
class CloudSettings(StandardSettings):
    """How SkyPilot is reached and what it is asked for."""

    skypilot_worker: tuple[str, ...] = setting(
        "CROSSLOGIC_SKYPILOT_WORKER",
        default="",
        parse=json_strings,
        doc="JSON array: the command of the worker in SkyPilot's environment; empty: there are no clouds",
    )
    skypilot_api: str = setting(
        "CROSSLOGIC_SKYPILOT_API",
        default="http://127.0.0.1:46580",
        doc="SkyPilot's API server; on 127.0.0.1 it must be a process of the same machine or pod namespace",
    )
    skypilot_clouds: tuple[str, ...] = setting(
        "CROSSLOGIC_SKYPILOT_CLOUDS",
        default="aws",
        parse=_clouds,
        doc="clouds that may be launched on, in SkyPilot's words, between commas; each is a provider, and `sky` is all",
    )
    skypilot_installation: str = setting(
        "CROSSLOGIC_SKYPILOT_INSTALLATION",
        default="main",
        parse=_installation,
        doc="tells this suite's machines from another's in the same account: the sweep ends what has this name",
    )
    skypilot_accelerators: str = setting(
        "CROSSLOGIC_SKYPILOT_ACCELERATORS",
        default="",
        doc="what is launched when nothing is asked for, for example `A10G:1`; empty: it must be asked for",
    )
    skypilot_agent_environ: dict[str, str] = setting(
        "CROSSLOGIC_SKYPILOT_AGENT_ENV",
        default="{}",
        parse=texts,
        doc="JSON object: variables of the machine's setup; never secrets",
    )
    skypilot_files: dict[str, str] = setting(
        "CROSSLOGIC_SKYPILOT_FILES",
        default="{}",
        parse=texts,
        doc="JSON object: what is copied to each machine, path there to path here: the agent's install.sh, ca.pem",
    )
    skypilot_secret_files: dict[str, str] = setting(
        "CROSSLOGIC_SKYPILOT_SECRET_FILES",
        default="{}",
        parse=texts,
        doc="JSON object: variables of the machine's setup to files here that hold their values",
    )
    skypilot_environ: dict[str, str] = setting(
        "CROSSLOGIC_SKYPILOT_WORKER_ENV",
        default="{}",
        parse=texts,
        doc="JSON object: more variables of the worker",
    )
    regions: RegionTable = setting(
        "CROSSLOGIC_REGIONS_FILE",
        default="",
        parse=regions_file,
        doc="the region table, TOML; empty: the one in crosslogic_common/regions/default.toml",
    )
