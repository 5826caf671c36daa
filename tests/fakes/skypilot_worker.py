"""SkyPilot's worker without SkyPilot: `python tests/fakes/skypilot_worker.py FOLDER`, a cloud that is a folder.

It speaks the protocol of services/orchestrator/skypilot_worker. Each cluster is a file whose lines say what became of
it; that of a machine that a test wants gone by itself ends with `taken away`, of one left half made with `left off`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

GPUS = ("A10G:1", "H100:8")
TYPES = ("g5.xlarge",)


class Cloud:
    """Clusters as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """What the worker would say. Raises ValueError with words for people."""
        if method == "prepare":
            return self._prepare(params)
        if method == "list":
            return {"names": sorted(self._names(params["prefix"]))}
        said = self._said(params["name"])
        if method == "find":
            return self._find(said)
        if method == "launch" and (not said or said[-1] == "left off"):
            self._say(params["name"], "launched with " + " ".join(sorted(params["secrets"])))
        elif method == "delete" and said and said[-1] not in ("ended", "taken away"):
            self._say(params["name"], "ended")
        return {}

    def _prepare(self, params: dict[str, Any]) -> dict[str, Any]:
        if (params["accelerators"] or GPUS[0]) not in GPUS or (params["instance_type"] or TYPES[0]) not in TYPES:
            raise ValueError("Catalog does not contain any instances satisfying the request.")
        place = f"{params['places'][0]} {'spot' if params['spot'] else 'on demand'}"
        return {"task": json.dumps(params), "place": place, "price_usd": 0.4}

    def _find(self, said: list[str]) -> dict[str, Any]:
        if not said:
            return {"state": "absent", "detail": "", "price_usd": 0.0}
        if said[-1].startswith("launched"):
            return {"state": "running", "detail": "it is up", "price_usd": 0.4}
        if said[-1] == "left off":
            return {"state": "stalled", "detail": "it was left off", "price_usd": 0.4}
        return {"state": "gone", "detail": f"it was {said[-1]}", "price_usd": 0.0}

    def _names(self, prefix: str) -> list[str]:
        return [
            file.name
            for file in self._folder.iterdir()
            if file.name.startswith(prefix) and self._said(file.name)[-1].startswith(("launched", "left off"))
        ]

    def _said(self, name: str) -> list[str]:
        file = self._folder / name
        return file.read_text().splitlines() if file.exists() else []

    def _say(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(line + "\n")


def main(folder: Path) -> None:
    """Answers until its input ends. A file `.hang` in the folder makes it hang, `.die` makes it end."""
    cloud = Cloud(folder)
    print(json.dumps({"protocol": 1, "skypilot": "none"}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if (folder / ".die").exists():
            return
        while (folder / ".hang").exists():
            time.sleep(0.02)
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["result"] = cloud.answer(request["method"], request["params"])
        except ValueError as error:
            answer["error"] = {"message": str(error), "temporary": False}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
