"""Who administers: the operators' token, or a person with a place in organisations or on the platform."""

from dataclasses import dataclass
from typing import Literal

from crosslogic.identity.v1 import identity_pb2 as pb

Role = Literal["admin", "developer", "read_only"]
_RANK: dict[Role, int] = {"read_only": 0, "developer": 1, "admin": 2}
PLATFORM = ""
"""In place of an organisation's id: the platform, with all organisations."""


@dataclass(frozen=True, slots=True)
class Place:
    """What somebody may do in one organisation, or on the platform."""

    org_id: str
    role: Role
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class Administrator:
    """Somebody who was let in."""

    kind: Literal["token", "user"]
    id: str
    """Tells one from another: the same for every request of one."""
    name: str
    """For the audit log: a person's email."""
    places: tuple[Place, ...]
    address: str = ""
    """The client's, as the edge sees it."""

    @property
    def on_platform(self) -> bool:
        """Whether it sees all organisations."""
        return any(place.org_id == PLATFORM for place in self.places)

    @property
    def org_ids(self) -> frozenset[str]:
        """The organisations with a place in them."""
        return frozenset(place.org_id for place in self.places) - {PLATFORM}

    def place(self, role: Role, org_id: str) -> Place | None:
        """The place that allows what needs `role` in that organisation. None: there is none."""
        for place in self.places:
            if place.org_id == org_id and _RANK[place.role] >= _RANK[role]:
                return place
        return None

    def actor(self, place: Place | None, request_id: str) -> pb.Actor:
        """Who acts, for the audit log."""
        return pb.Actor(
            kind=pb.ACTOR_KIND_TOKEN if self.kind == "token" else pb.ACTOR_KIND_USER,
            user_id=place.user_id if place is not None else "",
            name=self.name,
            org_id=place.org_id if place is not None else "",
            address=self.address,
            request_id=request_id,
        )


def with_token(address: str) -> Administrator:
    """Whoever knows the operators' token may do everything."""
    return Administrator("token", "token", "operators' token", (Place(PLATFORM, "admin"),), address)
