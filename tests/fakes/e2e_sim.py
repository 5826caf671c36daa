"""What the simulated engines of a suite know, and what they are told."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from crosslogic_dev.suite import Suite


class Sims:
    """All engines of one suite."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite

    def request(self, request_id: str, *, timeout_s: float = 5.0) -> Mapping[str, Any]:
        """What an engine generated for a request; waits until one knows it."""
        until = time.monotonic() + timeout_s
        while True:
            for number in range(1, self._suite.nodes + 1):
                found = self._ask(number, f"/sim/requests/{request_id}")
                if found is not None:
                    return found
            assert time.monotonic() < until, f"no engine knows {request_id}"
            time.sleep(0.01)

    def each(self, request_id: str) -> list[Mapping[str, Any]]:
        """What each engine that was asked generated for a request: several, where one failed over."""
        found = [self._ask(number, f"/sim/requests/{request_id}") for number in range(1, self._suite.nodes + 1)]
        return [record for record in found if record is not None]

    def knows(self, request_id: str) -> bool:
        """Whether any engine was asked."""
        return any(
            self._ask(number, f"/sim/requests/{request_id}") is not None for number in range(1, self._suite.nodes + 1)
        )

    def aborted(self, request_id: str, *, timeout_s: float = 5.0) -> Mapping[str, Any]:
        """The same, once the engine has been told to stop."""
        until = time.monotonic() + timeout_s
        while True:
            found = self.request(request_id)
            if found["aborted_at"] is not None:
                return found
            assert time.monotonic() < until, f"{request_id} was not aborted: {found}"
            time.sleep(0.01)

    def running(self) -> int:
        """Requests that the engines work on."""
        return self._sum("running")

    def aborted_count(self) -> int:
        """Requests that the engines were told to stop."""
        return self._sum("aborted")

    def _sum(self, field: str) -> int:
        states = [self._ask(number, "/sim/state") for number in range(1, self._suite.nodes + 1)]
        return sum(int(state[field]) for state in states if state is not None)

    def _ask(self, number: int, path: str) -> Mapping[str, Any] | None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self._suite.target(f'engine-{number}')}{path}", timeout=5) as answer:
                value: Mapping[str, Any] = json.loads(answer.read())
                return value
        except urllib.error.HTTPError as error:
            with error:
                return None
        except OSError:
            return None
