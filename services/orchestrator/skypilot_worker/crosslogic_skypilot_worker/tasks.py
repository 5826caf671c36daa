"""What SkyPilot is asked for: a task, built and judged by SkyPilot itself."""

from collections.abc import Mapping
from typing import Any

import sky
from sky.client import sdk
from sky.utils import yaml_utils

from crosslogic_skypilot_worker.failures import told
from crosslogic_skypilot_worker.wire import RefusedError

_HOUR_S = 3_600


def prepare(params: Mapping[str, Any]) -> dict[str, Any]:
    """A task for a machine: `{name, places, accelerators, instance_type, spot, labels, envs, files, setup}`.

    `places` are SkyPilot's words for where it may be (`aws/us-east-1`, `gcp`). The answer has the task as SkyPilot
    writes it, the cheapest place that its catalogue has and the price there, in dollars an hour; it holds no secret.
    """
    with told():
        task = sky.Task(name=params["name"], setup=params["setup"], envs=dict(params["envs"]), num_nodes=1)
        task.set_file_mounts(dict(params["files"]))
        task.set_resources(_resources(params))
        dag = sky.Dag()
        dag.add(task)
        sdk.validate(dag)
        # Refused here, in its own words, when no cloud that is set up has such a machine.
        sdk.get(sdk.optimize(dag))
        offers = sorted(_offers(task), key=lambda offer: offer.get_cost(_HOUR_S))
        if not offers:
            raise RefusedError("SkyPilot finds no such machine.", temporary=False)
        return {
            "task": yaml_utils.dump_yaml_str(task.to_yaml_config()),
            "place": _place(offers[0]),
            "price_usd": offers[0].get_cost(_HOUR_S),
        }


def loaded(text: str, secrets: Mapping[str, str]) -> "sky.Task":
    """The task of a text that `prepare` returned, with its secrets."""
    with told():
        task = sky.Task.from_yaml_str(text)
        task.update_secrets(dict(secrets))
        return task


def _resources(params: Mapping[str, Any]) -> set["sky.Resources"]:
    """Every place, and with spot each place at both prices: the cheapest that can be had is taken."""
    return {
        sky.Resources(
            infra=place,
            instance_type=params["instance_type"] or None,
            accelerators=params["accelerators"] or None,
            use_spot=spot,
            labels=dict(params["labels"]),
        )
        for place in params["places"]
        for spot in ((True, False) if params["spot"] else (False,))
    }


def _offers(task: "sky.Task") -> list["sky.Resources"]:
    """What the catalogue has of what is asked for."""
    return [
        offer
        for asked in task.resources
        for offer in asked.cloud.get_feasible_launchable_resources(asked).resources_list
    ]


def _place(resources: "sky.Resources") -> str:
    words = [str(resources.cloud).lower(), resources.region, resources.instance_type]
    return " ".join(filter(None, [*words, "spot" if resources.use_spot else "on demand"]))
