"""Admission's script on a real Redis, under a clock that the test sets."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import redis

from crosslogic_gateway.admission.limits import LEASE_MS, Spec, kinds, make_spec
from crosslogic_gateway.admission.pipe import ADMIT, RENEW, SEED, SETTLE, script_text
from crosslogic_gateway.domain import NO_LIMITS, HardBudget, Limits, Principal

NOW_KEY = "test:now_us"
START_US = 1_790_000_000_000_000
KINDS = kinds()
_REAL = "local time = call('TIME')"
_TESTED = f"local set = tonumber(call('GET', '{NOW_KEY}'))\nlocal time = {{math.floor(set / 1000000), set % 1000000}}"


def script_under_test() -> str:
    """The script, with the test's clock in the place of Redis' own."""
    text = script_text()
    assert text.count(_REAL) == 1
    return text.replace(_REAL, _TESTED)


def principal(
    *,
    key: Limits = NO_LIMITS,
    environment: Limits = NO_LIMITS,
    org: Limits = NO_LIMITS,
    budgets: tuple[HardBudget, ...] = (),
    org_id: str = "org-1",
    key_id: str = "key-1",
) -> Principal:
    return Principal(
        org_id,
        "env-1",
        key_id,
        "",
        None,
        "",
        None,
        key_limits=key,
        environment_limits=environment,
        org_limits=org,
        hard_budgets=budgets,
    )


class AdmissionScript:
    """Calls the script as several workers."""

    def __init__(self, url: str, *, tag: str = "org-1") -> None:
        self.redis = redis.Redis.from_url(url)
        self.redis.flushdb()
        self._script = self.redis.register_script(script_under_test())
        self._tag = tag
        self.now_us = START_US
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)
        self.redis.set(NOW_KEY, self.now_us)

    def run(self, worker: str, specs: Sequence[Spec], operations: Sequence[tuple[Any, ...]]) -> list[Any]:
        config = (
            worker,
            LEASE_MS,
            [(kind.prefix, kind.unit, kind.window_us, kind.buckets, int(kind.counted == "tokens")) for kind in KINDS],
        )
        encode = msgspec.msgpack.encode
        packed = self._script(
            keys=[f"admission:{{{self._tag}}}"],
            args=[encode(config), encode([spec.packed for spec in specs]), encode(operations)],
        )
        results, totals = msgspec.msgpack.decode(cast("bytes", packed))
        return [totals[-1 - result] if isinstance(result, int) and result < 0 else result for result in results]

    def seed(self, budgets: Mapping[str, int] | None = None, entries: Sequence[tuple[Any, ...]] = ()) -> Any:
        return self.run("seeder", (), [(SEED, list(entries), list((budgets or {}).items()))])[0]

    def admit(
        self, spec: Spec, ticket: str, *, prompt: int = 0, completion: int = 0, cost: int = 0, worker: str = "w1"
    ) -> list[Any]:
        return cast("list[Any]", self.run(worker, [spec], [(ADMIT, ticket, 0, prompt, completion, cost, False)])[0])

    def settle(self, ticket: str, *, prompt: int = 0, completion: int = 0, cost: int = 0, worker: str = "w1") -> int:
        return cast("int", self.run(worker, (), [(SETTLE, ticket, prompt, completion, cost)])[0])

    def renew(self, worker: str) -> list[str]:
        return cast("list[str]", self.run(worker, (), [(RENEW,)])[0])

    def totals(self) -> dict[str, int]:
        """Every counter that is not zero, by its key."""
        found: dict[str, int] = {}
        for raw in self.redis.scan_iter():
            name = raw.decode()
            if name.startswith(("ratelimit:", "tokens:")):
                found[name] = int(cast("bytes", self.redis.hget(name, "t") or b"0"))
            elif name.startswith(("concurrency:", "budget:", "held:")):
                found[name] = int(cast("bytes", self.redis.get(name) or b"0"))
            elif name.startswith("tickets:"):
                found[name] = self.redis.hlen(name)
        return {name: value for name, value in found.items() if value}

    def window_problem(self) -> str:
        """What is wrong with a window's own books, if anything is."""
        for raw in self.redis.scan_iter():
            name = raw.decode()
            if not name.startswith(("ratelimit:", "tokens:")):
                continue
            fields = {
                key.decode(): value for key, value in cast("dict[bytes, bytes]", self.redis.hgetall(name)).items()
            }
            buckets = [int(value) for key, value in fields.items() if key.isdecimal()]
            if any(value < 0 for value in buckets) or sum(buckets) != int(fields.get("t", b"0")):
                return f"{name}: {fields}"
        return ""


__all__ = ["KINDS", "AdmissionScript", "make_spec", "principal", "script_under_test"]
