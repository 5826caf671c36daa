"""Who goes where while a region is down. Pure: time is handed in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

_KEYS = 2.0**64
_MARGIN = 0.1
WINDOW_S = 10.0
BURST = 10
"""Requests that go over above the share, so that it can be kept at all while few come."""


def next_region(client_key: int, fallback: Sequence[str], share: float) -> str | None:
    """The region that takes a client over: each of `fallback` takes `share` of all clients, always the same ones.

    None: the client belongs to those who wait. `client_key` is a hash of 64 bits, `share` 0 to 1. A little less than
    `share` is dealt, since clients are not alike: else `Shares` would have to turn some away every now and then.
    """
    width = share * (1.0 - _MARGIN * (1.0 - share))
    slot = int(client_key / _KEYS / width) if width > 0 else len(fallback)
    return fallback[slot] if slot < len(fallback) else None


def key_of_org(org_id: str) -> int:
    """Stands for the client where none was told."""
    return int.from_bytes(blake2b(org_id.encode(), digest_size=8).digest(), "little")


@dataclass(slots=True)
class _Window:
    since: float
    offered: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    offered_before: int = 0
    sent_before: dict[str, int] = field(default_factory=dict)


class Shares:
    """Keeps what regions take over to their share of requests, also where one client sends most of them.

    Clients are dealt by hash, which is fair for many that are alike; a region must not be flooded by one that is not.
    Counts over the last 10 to 20 seconds. Holds at most one window for each region of the table.
    """

    def __init__(self, *, share: float) -> None:
        """`share` is what each next region takes at most, 0 to 1, of a region's requests."""
        self.share = share
        self._windows: dict[str, _Window] = {}

    def offer(self, region: str, now: float) -> None:
        """A request for `region` came while it is down."""
        self._window(region, now).offered += 1

    def take(self, region: str, target: str, now: float) -> bool:
        """Whether `target` may take it over; if so it is counted."""
        window = self._window(region, now)
        sent = window.sent.get(target, 0)
        offered = window.offered + window.offered_before
        if sent + window.sent_before.get(target, 0) + 1 > self.share * offered + BURST:
            return False
        window.sent[target] = sent + 1
        return True

    def _window(self, region: str, now: float) -> _Window:
        window = self._windows.get(region)
        if window is None:
            window = self._windows[region] = _Window(now)
        age_s = now - window.since
        if age_s >= WINDOW_S:
            recent = age_s < 2 * WINDOW_S
            window.offered_before, window.sent_before = (window.offered, window.sent) if recent else (0, {})
            window.offered, window.sent, window.since = 0, {}, now
        return window
