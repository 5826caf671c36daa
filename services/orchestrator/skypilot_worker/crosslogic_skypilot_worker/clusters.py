"""Clusters of one machine each: launched, looked at and ended through SkyPilot's API server.

A launch and an end take minutes there, and are requests that the server keeps until it is restarted. What a cluster is
follows from both its record and the newest requests that name it, so that nothing needs to be remembered here. A server
that was restarted has forgotten every request and does not go on with any: then its history of clusters tells one that
was ended from one that was never made.
"""

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from sky.client import sdk
from sky.server import common as api
from sky.server.requests import payloads
from sky.utils.common import StatusRefreshMode

from crosslogic_skypilot_worker.failures import told
from crosslogic_skypilot_worker.tasks import loaded
from crosslogic_skypilot_worker.wire import RefusedError, plain

_HOUR_S = 3_600
_RETRY_S = 10.0
_LAUNCH = "sky.launch"
_DOWN = "sky.down"
_LIVE = ("PENDING", "RUNNING", "WAITING")
_NEWEST = 50
_TO_ASK_FOR = ("absent", "stalled")
_GONE_ON_WITH = ("INIT", "UP")
# How the events begin by which SkyPilot notes in its history that a cluster was ended, and that it could not be made.
_ENDED = ("Cluster was terminated", "Cluster was autodowned")
_NOT_MADE = "Provision failed"


class Clusters:
    """Clusters by name."""

    def __init__(self) -> None:
        # Two that look and then ask at once would ask twice.
        self._asking = threading.Lock()

    def launch(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Asks for `{name, task, secrets}`, unless the cluster is there, or was, or is asked for.

        One that was left half made is the same cluster: SkyPilot finds its record and its machine, and goes on.
        """
        name = params["name"]
        task = loaded(params["task"], params["secrets"])
        with self._asking, told():
            if _state(name, _record(name), _requests(name))["state"] in _TO_ASK_FOR:
                sdk.launch(task, cluster_name=name)
        return {}

    def find(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A cluster `{name}`: its state as the orchestrator names them, in words, and its price."""
        name = params["name"]
        with told():
            return _state(name, _record(name), _requests(name))

    def delete(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Asks for a cluster's end `{name}`. Returns before it is gone."""
        name = params["name"]
        with self._asking, told():
            requests = _requests(name)
            launches = [each.request_id for each in requests if _is(each, _LAUNCH) and each.status in _LIVE]
            if launches:
                sdk.get(sdk.api_cancel(launches, all_users=True, silent=True))
            downs = [each for each in requests if _is(each, _DOWN)]
            if _record(name) is None or any(each.status in _LIVE for each in downs):
                return {}
            if downs and downs[0].status == "FAILED" and time.time() - (downs[0].finished_at or 0) < _RETRY_S:
                raise RefusedError(f"SkyPilot could not end it: {_why(downs[0].request_id)}", temporary=True)
            sdk.down(name)
        return {}

    def listed(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Clusters whose names begin with `{prefix}`: those there, and those asked for."""
        prefix = params["prefix"]
        with told():
            records = sdk.get(sdk.status(refresh=StatusRefreshMode.AUTO, all_users=True))
            asked = [each for each in sdk.api_status(limit=None, fields=_FIELDS) if _is(each, _LAUNCH)]
        names = {str(record["name"]) for record in records} | {each.cluster_name or "" for each in asked}
        return {"names": sorted(name for name in names if name.startswith(prefix))}


_FIELDS = ["request_id", "name", "status", "created_at", "cluster_name", "status_msg", "finished_at"]


def _record(name: str) -> Any | None:
    found = sdk.get(sdk.status([name], refresh=StatusRefreshMode.NONE, all_users=True))
    return found[0] if found else None


def _requests(name: str) -> list[Any]:
    """Requests that name the cluster, newest first."""
    found = sdk.api_status(all_status=True, limit=_NEWEST, fields=_FIELDS, cluster_name=name)
    mine = [each for each in found if each.cluster_name == name and (_is(each, _LAUNCH) or _is(each, _DOWN))]
    return sorted(mine, key=lambda each: float(each.created_at), reverse=True)


def _is(request: Any, name: str) -> bool:
    return bool(request.name == name)


def _state(name: str, record: Any | None, requests: list[Any]) -> dict[str, Any]:
    if not requests:
        return _forgotten(name) if record is None else _left(record)
    newest = requests[0]
    launching = _is(newest, _LAUNCH)
    if launching and newest.status in _LIVE:
        return _machine("pending", newest.status_msg or "SkyPilot is at it", record)
    if record is None:
        return _machine("gone", _why(newest.request_id) if launching else "it was ended", None)
    if not launching and newest.status in _LIVE:
        return _machine("pending", "SkyPilot is ending it", record)
    status = _status(record)
    if status == "UP":
        return _machine("running", f"{name} is up", record)
    why = _why(newest.request_id) if newest.status == "FAILED" else f"SkyPilot calls it {status}"
    return _machine("failed", why, record)


def _status(record: Any) -> str:
    return str(getattr(record["status"], "value", record["status"]))


def _forgotten(name: str) -> dict[str, Any]:
    """A cluster of which there is neither a record nor a request: never asked for, forgotten, or ended before."""
    last = [str(each["last_event"] or "") for each in _history(name)]
    for words in last:
        if words.startswith(_ENDED):
            return _machine("gone", words, None)
    if last and last[0].startswith(_NOT_MADE):
        return _machine("gone", last[0], None)
    return _machine("absent", "", None)


def _left(record: Any) -> dict[str, Any]:
    """A cluster that no request which the server knows of is about: it was restarted while it was at it, or since.

    One that is UP may lack its setup: whoever knows that its agent has joined knows better.
    """
    last, status = str(record["last_event"] or ""), _status(record)
    if last.startswith(_ENDED):
        return _machine("failed", f"its end was begun and left off: {last}", record)
    if status not in _GONE_ON_WITH:
        return _machine("failed", f"SkyPilot calls it {status}", record)
    return _machine("stalled", f"SkyPilot calls it {status} and is not at it", record)


def _history(name: str) -> list[Any]:
    """What SkyPilot keeps of clusters of that name, also of those that are gone, newest first."""
    # As sdk.cost_report does it, which cannot be asked for one name.
    body = payloads.CostReportBody(cluster_names=[name])
    answer = api.make_authenticated_request("POST", "/cost_report", json=json.loads(body.model_dump_json()))
    return list(sdk.get(api.get_request_id(answer)))


def _machine(state: str, detail: str, record: Any | None) -> dict[str, Any]:
    resources = getattr(record["handle"], "launched_resources", None) if record is not None else None
    price_usd = 0.0
    if resources is not None and resources.instance_type is not None:
        price_usd = float(resources.get_cost(_HOUR_S))
    return {"state": state, "detail": plain(detail), "price_usd": price_usd}


def _why(request_id: str) -> str:
    """Why a request failed, in SkyPilot's words. Empty: it did not."""
    try:
        sdk.get(request_id)
    except Exception as error:  # noqa: BLE001  # the exception is what is asked for
        return plain(error) or type(error).__name__
    return ""
