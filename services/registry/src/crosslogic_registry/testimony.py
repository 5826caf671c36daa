"""Whether a node that the registry does not hear is gone: three witnesses, and what they say together. Pure.

The witnesses are the node's heartbeats, the gateways that use it, and a probe that the registry makes itself. A cut
between the registry and a node silences the first and the third, and the second still hears the node: it is not dead.
When most of a fleet is silent at once the registry is cut off, not the fleet dead (Kubernetes' node controller stops
evicting at 55 % of a zone for the same reason): then only those are given up whose death is proven. A node that is
missing but not given up keeps its route, and is picked where no other node is, or where all others are full.
"""

import math
from dataclasses import dataclass
from enum import Enum

from crosslogic_registry.domain import Link, Silence, Status

MASS_SHARE = 0.55
MASS_NODES = 5
"""Fewer silent nodes than this are no sign of the registry's own illness."""
SINCE_S = 1.0
"""Bytes that were on their way when a heartbeat stream broke do not show that a node lived on."""
FRESH_S = 5.0
"""Gateways report every second; news older than this tells how a node was, not how it is."""


class Probe(Enum):
    """What a knock at a node's own port found."""

    NONE = "not probed"
    """It cannot be probed (it only dials out), or has not been yet."""
    ALIVE = "alive"
    SILENT = "silent"
    """Nothing came back: the node is gone, or the way to it."""
    REFUSED = "refused"
    """The machine is there and nobody listens: the agent is gone."""


@dataclass(frozen=True, slots=True)
class Testimony:
    """What the witnesses say of one node."""

    status: Status
    link: Link
    silent_s: float
    """Since its last heartbeat, or since its stream broke."""
    heard_by_gateways_s: float | None = None
    """Since a gateway last heard it. None: no gateway uses it."""
    probe: Probe = Probe.NONE

    @property
    def refuted(self) -> bool:
        """A gateway has heard the node after the registry last did, and lately: it lives."""
        heard_s = self.heard_by_gateways_s
        return heard_s is not None and heard_s < FRESH_S and heard_s < self.silent_s - SINCE_S


def is_missing(said: Testimony, silence: Silence) -> bool:
    """Whether its heartbeats do not come and nobody else hears it.

    A broken stream is a strong sign (a killed process closes its socket at once), so it needs only `suspect_s`, which
    leaves an agent time to reconnect. An open stream that says nothing may be a slow machine: `unhealthy_s`.
    """
    if said.status == "dead" or said.refuted or said.probe is Probe.ALIVE:
        return False
    return said.silent_s >= (silence.suspect_s if said.link == "broken" else silence.unhealthy_s)


def is_mass_silence(missing_unproven: int, alive: int) -> bool:
    """Whether so much of the fleet is missing, with nothing to prove it gone, that the registry must doubt itself."""
    return missing_unproven >= MASS_NODES and missing_unproven >= MASS_SHARE * alive


def is_dead(said: Testimony, silence: Silence, *, blind: bool, mass: bool) -> bool:
    """Whether a node is given up: all three witnesses say so, or have nothing to say against it.

    `blind`: its heartbeats may arrive at another replica, and there is no way to ask. Nobody is given up for that.
    """
    if said.status == "dead" or blind or said.silent_s < silence.dead_s:
        return False
    heard_s = said.heard_by_gateways_s
    if said.refuted or (heard_s is not None and heard_s < silence.unhealthy_s) or said.probe is Probe.ALIVE:
        return False
    return said.probe is Probe.REFUSED or not mass


def cause(said: Testimony) -> str:
    """What each witness said, for a node's history."""
    heard_s = said.heard_by_gateways_s
    gateways = "no gateway uses it" if heard_s is None else "no gateway hears it"
    if heard_s is not None and heard_s < math.inf:
        gateways = f"gateways heard it {heard_s:.0f} s ago"
    return f"{gateways}; probe: {said.probe.value}"
