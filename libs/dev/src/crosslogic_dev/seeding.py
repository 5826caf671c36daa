"""What a new suite is given through the gateway's admin API: an organisation, a key, and the model's catalogue row."""

import time
from dataclasses import dataclass, replace

from crosslogic_dev.admin_api import AdminApi
from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import Plan

ORG_NAME = "Development"
ENVIRONMENT_NAME = "default"
# Prices like those of a small hosted model, so that costs are not zero: $0.05 and $0.10 per million tokens.
_INPUT_USD_PER_MILLION = "0.05"
_OUTPUT_USD_PER_MILLION = "0.10"
# Tests and load generators use the seeded key: the limits of a new key would stop them.
_LIMITS = {"requests_per_minute": 10_000_000}

_JUST_UP_S = 20.0
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Seeded:
    """The plan with the ids of what was made, and a key that works."""

    plan: Plan
    api_key: str


def seed(api: AdminApi, plan: Plan, *, model: str, context_length: int, api_key: str) -> Seeded:
    """Makes what is missing; `api_key` of before is kept while it works."""
    seed_model(api, model=model, context_length=context_length)
    if api_key and plan.environment_id and api.key_works(api_key):
        return Seeded(plan, api_key)
    org_id = plan.org_id
    if not org_id or api.ask("GET", f"/admin/orgs/{org_id}").status != 200:
        org_id = api.must("POST", "/admin/orgs", {"name": ORG_NAME, "limits": _LIMITS})["id"]
    environment_id = next(
        (row["id"] for row in api.all_of(f"/admin/orgs/{org_id}/environments") if row["name"] == ENVIRONMENT_NAME),
        "",
    ) or str(
        api.must("POST", f"/admin/orgs/{org_id}/environments", {"name": ENVIRONMENT_NAME, "limits": _LIMITS})["id"]
    )
    key = api.must("POST", f"/admin/environments/{environment_id}/keys", {"name": "make up", "limits": _LIMITS})["key"]
    return Seeded(replace(plan, org_id=str(org_id), environment_id=environment_id), str(key))


def seed_model(api: AdminApi, *, model: str, context_length: int) -> None:
    """Adds a model to the catalogue, unless it is there."""
    body = {
        "name": model,
        "context_length": context_length,
        "input_usd_per_million": _INPUT_USD_PER_MILLION,
        "output_usd_per_million": _OUTPUT_USD_PER_MILLION,
    }
    until = time.monotonic() + _JUST_UP_S
    # The first call to services that are only just up: the gateway may not have found them again yet.
    while (answer := api.ask("POST", "/admin/models", body)).status == _UNAVAILABLE and time.monotonic() < until:
        time.sleep(0.1)
    if answer.status not in (201, 409):
        raise DevError(f"The model {model!r} cannot be added to the catalogue: {answer.status} {answer.body}")
