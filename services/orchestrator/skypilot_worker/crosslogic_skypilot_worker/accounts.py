"""Keeps the clouds' accounts away from machines.

Unless it is told otherwise, SkyPilot copies the credentials of every cloud that is set up to every machine that it
launches. A machine of ours runs what others send it, and needs none of them.
"""

import contextlib
from typing import Any

from sky import skypilot_config
from sky.utils import registry, schemas

_KEY = "remote_identity"
_NOWHERE = "NO_UPLOAD"


def kept_from_machines() -> contextlib.AbstractContextManager[None]:
    """While the block lasts, what is asked of the API server goes with the word that no credentials are copied."""
    known: dict[str, Any] = schemas.get_config_schema()["properties"]
    able = [cloud for cloud in registry.CLOUD_REGISTRY if _KEY in known.get(cloud, {}).get("properties", {})]
    keeping: contextlib.AbstractContextManager[None] = skypilot_config.override_skypilot_config(
        {cloud: {_KEY: _NOWHERE} for cloud in able}
    )
    return keeping
