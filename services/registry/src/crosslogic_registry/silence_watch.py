"""Who is silent, and what is made of it: heartbeats, gateways and probes are heard before anybody is given up."""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator

from crosslogic_common.clock import Clock
from crosslogic_common.logs import get_logger
from crosslogic_registry import policy, testimony
from crosslogic_registry.domain import Silence, Status, silence_reason
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.members import Member
from crosslogic_registry.observations import Observations
from crosslogic_registry.testimony import Probe, Testimony

LOOK_EVERY_S = 0.5
SCORE_EVERY_S = 5.0
"""Of a silent node; one that speaks is scored when it says how it is."""


class SilenceWatch:
    """Looks for silent nodes, takes what gateways and probes say of them, and decides."""

    def __init__(self, *, fleet: Fleet, clock: Clock, silence: Silence, observations: Observations) -> None:
        self._fleet = fleet
        self._clock = clock
        self._silence = silence
        self._observations = observations
        self._log = get_logger(__name__)
        self.mass_silence = False
        """So much of the fleet is silent, with nothing to prove it gone, that this replica doubts itself."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks for silent nodes for as long as the block lasts."""
        task = asyncio.create_task(self._look_forever(), name="silence")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def observed(self, node_id: str, heard_s: float | None, succeeded: int, failed: int) -> None:
        """A gateway worker used the node: it was heard `heard_s` ago, or not at all since the worker's last word."""
        member = self._fleet.known(node_id)
        if member is None:
            return
        now = self._clock.monotonic()
        if heard_s is not None:
            member.gateways_heard_at = max(member.gateways_heard_at or -math.inf, now - heard_s)
        elif member.gateways_heard_at is None:
            # It uses the node and hears nothing: it may not be left out of the count of witnesses.
            member.gateways_heard_at = -math.inf
        member.calls.add(succeeded, failed, now)

    def probe_due(self, every_s: float) -> list[Member]:
        """Nodes that are not heard of and were not knocked at for `every_s`."""
        now = self._clock.monotonic()
        due = [
            member
            for member in self._fleet.members()
            if member.status not in ("dead", "registering")
            and now - member.heard_at >= (0.0 if member.link == "broken" else self._silence.unhealthy_s / 2)
            and now - member.probed_at >= every_s
            and member.node.facts.address
        ]
        for member in due:
            member.probed_at = now
        return due

    def probed(self, member: Member, found: Probe) -> None:
        """What a knock found. A node that spoke meanwhile needs no such witness."""
        if member.heard_at <= member.probed_at:
            member.probe = found

    def look(self) -> None:
        """Marks nodes that have been silent for too long unreachable, then dead; forgets the long dead."""
        now = self._clock.monotonic()
        counts: Counter[Status] = Counter()
        silent: list[Member] = []
        forgotten: list[str] = []
        doubtful_s = self._silence.unhealthy_s / 2
        for member in self._fleet.members():
            silent_s = now - member.heard_at
            if member.status == "dead":
                if policy.is_forgotten(member.status, silent_s, self._silence) and member.session is None:
                    forgotten.append(member.node.id)
                    continue
            elif silent_s >= (self._silence.suspect_s if member.link == "broken" else doubtful_s):
                silent.append(member)
            counts[member.status] += 1
        self._judge(silent, now, alive=counts.total() - counts["dead"] - counts["registering"], counts=counts)
        for node_id in forgotten:
            self._fleet.forget(node_id)
        unreachable = sum(member.status == "active" and not member.node.reachable for member in silent)
        self._observations.fleet(counts, unreachable)
        self._observations.watchers.set(len(self._fleet.watchers))

    def _judge(self, silent: list[Member], now: float, *, alive: int, counts: "Counter[Status]") -> None:
        """Decides on nodes that the registry has not heard of for a while, all at once."""
        heard = [(member, member.testimony(now)) for member in silent]
        # Those that never came do not count: a batch of machines that failed to start is no sign of ours.
        missing = sum(
            said.status != "registering" and said.probe is not Probe.REFUSED
            for _, said in heard
            if testimony.is_missing(said, self._silence)
        )
        mass = testimony.is_mass_silence(missing, alive)
        if mass != self.mass_silence:
            self.mass_silence = mass
            self._log.warning("mass silence" if mass else "mass silence is over", missing=missing, alive=alive)
            self._observations.mass_silence.set(mass)
        for member, said in heard:
            blind = self._fleet.blind and member.link == "elsewhere"
            if testimony.is_dead(said, self._silence, blind=blind, mass=mass):
                counts[member.status] -= 1
                counts["dead"] += 1
                self._fleet.change(member, "dead", f"{silence_reason(said.silent_s)}; {testimony.cause(said)}")
            else:
                self._judge_alive(member, said, now)

    def _judge_alive(self, member: Member, said: Testimony, now: float) -> None:
        node = member.node
        reachable = not testimony.is_missing(said, self._silence)
        # Scores of a fleet that is silent as a whole must not keep the registry from hearing it.
        due = reachable != node.reachable or now - member.scored_at >= SCORE_EVERY_S
        score = member.score(now, self._silence) if due else node.health_score
        if reachable == node.reachable and score == node.health_score:
            return
        if reachable != node.reachable:
            self._log.info(
                "node reachable again" if reachable else "node not reachable",
                node_id=node.id,
                silent_s=round(said.silent_s, 1),
                link=member.link,
                cause=testimony.cause(said),
            )
        urgent, node.reachable, node.health_score = reachable != node.reachable, reachable, score
        self._fleet.watchers.tell(node, urgent=urgent)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()
