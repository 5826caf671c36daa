"""The gateway workers: where their tunnels are, and which nodes they hear."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry import policy
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.silence_watch import SilenceWatch

MAX_WORKERS = 4_096
MAX_OBSERVATIONS = 4_096
REPORT_EVERY_MS = 1_000


class Gateways:
    """The workers whose streams end here, and the tunnels of those at other replicas."""

    def __init__(self, *, fleet: Fleet, silence: SilenceWatch) -> None:
        """`silence` hears what gateways say of nodes."""
        self._fleet = fleet
        self._silence = silence
        self.also: Callable[[pb.NodeObservation], None] | None = None
        """Who else hears it."""
        self._workers: dict[object, str] = {}
        self._elsewhere: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Workers whose streams end here."""
        return len(self._workers)

    @property
    def own_tunnels(self) -> tuple[str, ...]:
        """Tunnels of workers whose streams end here."""
        return tuple(sorted({address for address in self._workers.values() if address}))

    @contextlib.contextmanager
    def worker(self, tunnel_address: str) -> Iterator[None]:
        """One more worker for as long as the block lasts. Raises INVALID_ARGUMENT, OVERLOADED."""
        if tunnel_address:
            policy.check_address(tunnel_address, "tunnel_address")
        if len(self._workers) >= MAX_WORKERS:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{len(self._workers)} workers")
        key = object()
        self._workers[key] = tunnel_address
        self._tell()
        try:
            yield
        finally:
            del self._workers[key]
            self._tell()

    def tunnels_elsewhere(self, addresses: Iterable[str]) -> None:
        """The tunnels of workers whose streams end at other replicas."""
        self._elsewhere = tuple(sorted(addresses))
        self._tell()

    def observe(self, observations: Iterable[pb.NodeObservation]) -> None:
        """What a worker saw of nodes."""
        for seen in list(observations)[:MAX_OBSERVATIONS]:
            heard_s = (seen.heard_ms_ago_plus_one - 1) / 1000 if seen.heard_ms_ago_plus_one else None
            self._silence.observed(seen.node_id, heard_s, seen.succeeded, seen.failed)
            if self.also is not None:
                self.also(seen)

    def _tell(self) -> None:
        addresses = tuple(sorted({*self.own_tunnels, *self._elsewhere}))[:MAX_WORKERS]
        self._fleet.set_tunnels(addresses)
