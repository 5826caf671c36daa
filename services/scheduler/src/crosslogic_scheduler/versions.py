"""Which versions of a model may serve a request: by the catalogue's shares, or by the stream that it goes on with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_scheduler.domain import NodeState, Question

_WHOLE = 1_000
_KEYS = 2.0**64


@dataclass(frozen=True, slots=True)
class Wanted:
    """Versions for one request."""

    versions: tuple[str, ...]
    """In the order in which they are tried. At least one."""
    pinned: bool = False
    """It goes on with a stream: an organisation's own nodes must have the version too."""

    def takes(self, node: NodeState) -> bool:
        """Whether a node is of the first choice."""
        return node.version == self.versions[0] or (bool(node.org_id) and not self.pinned)


@dataclass(frozen=True, slots=True)
class _Shares:
    ends: tuple[int, ...]
    """Of 1,000: where the part of each version ends."""
    orders: tuple[Wanted, ...]
    """What a request is tried with whose part that is: its version, then the others as the catalogue has them."""
    proven: Wanted
    """The same for a request that failed somewhere: the catalogue's order."""


class Versions:
    """The shares of models of which versions matter. Kept while the registry is away."""

    def __init__(self) -> None:
        self._shares: dict[str, _Shares] = {}

    def replace(self, models: Iterable[registry_pb.Model]) -> None:
        """Takes the whole catalogue."""
        self._shares = {model.name: _shares(model.version_shares) for model in models if model.version_shares}

    def wanted(self, question: Question, pinned: str | None, draw: Callable[[], float]) -> Wanted | None:
        """The versions for a request; `pinned` is the one of the stream that it goes on with. None: any.

        A session's version is its key's: it moves once while shares shift, and back once.
        """
        if pinned is not None:
            return Wanted((pinned,), pinned=True)
        shares = self._shares.get(question.model) if self._shares else None
        if shares is None:
            return None
        if question.excluded_node_ids:
            return shares.proven
        key = question.session_key
        point = (key / _KEYS if key else draw()) * _WHOLE
        for end, order in zip(shares.ends, shares.orders, strict=True):
            if point < end:
                return order
        return shares.proven


def _shares(told: Iterable[registry_pb.VersionShare]) -> _Shares:
    ends: list[int] = []
    names = tuple(share.version for share in told)
    for share in told:
        ends.append((ends[-1] if ends else 0) + share.per_mille)
    orders = tuple(Wanted((name, *(other for other in names if other != name))) for name in names)
    return _Shares(tuple(ends), orders, Wanted(names))
