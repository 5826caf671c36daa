"""A real Prometheus beside a suite: Debian's, unpacked for the tests."""

import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from crosslogic_dev.ports import free_port


class Prometheus:
    """`with Prometheus(binary, folder, targets, rules) as prometheus:` scrapes them every two seconds."""

    def __init__(
        self, binary: Path, folder: Path, targets: Mapping[str, Sequence[str]], rules: Mapping[str, Any]
    ) -> None:
        """`targets` are host:port by job; `rules` are a PrometheusRule's spec."""
        self._folder = folder
        self._binary = binary
        self._targets = targets
        self._rules = rules
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self._folder / "rules.yaml").write_text(yaml.safe_dump(dict(self._rules)))
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in self._targets.items()
            ],
        }
        (self._folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(self._binary),
                    "--config.file=prometheus.yaml",
                    "--storage.tsdb.path=data",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--enable-feature=exemplar-storage",
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 60
        while not self._ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2_000:]
            assert time.monotonic() < until, "Prometheus does not start"
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The query's series now, those without a number left out. Raises ValueError for one that is wrong."""
        answer = self._get("query", query=promql)
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return [each for each in answer["data"]["result"] if not math.isnan(float(each["value"][1]))]

    def value(self, promql: str) -> float:
        """The sum of its series."""
        return sum(float(each["value"][1]) for each in self.query(promql))

    def labels_of(self, metric: str) -> set[str]:
        """The names of the labels that any of the metric's series has had."""
        return set(self._get("labels", **{"match[]": metric})["data"])

    def values_of(self, label: str, metric: str) -> list[str]:
        """The label's values on the metric's series."""
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": metric})["data"]
        return found

    def exemplars(self, promql: str, since_s: float) -> list[dict[str, Any]]:
        """Exemplars of the last `since_s` seconds."""
        now = time.time()
        found: list[dict[str, Any]] = self._get(
            "query_exemplars", query=promql, start=str(now - since_s), end=str(now + 1)
        )["data"]
        return found

    def _ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                value: dict[str, Any] = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                value = json.loads(error.read())
        return value
