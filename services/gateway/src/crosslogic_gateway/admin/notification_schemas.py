"""What the admin API takes and gives about notifications."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crosslogic_gateway.admin.schemas import Asked, Count, NextPageToken, PageQuery, Time

ChannelName = Literal["slack", "discord", "email", "webhook"]
SeverityName = Literal["info", "warning", "critical"]
StateName = Literal["pending", "sent", "dead", "dropped"]
RouteName = Annotated[str, Meta(min_length=1, max_length=100)]
Target = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=2048,
        description="An URL, or an address of mail; not shown again. An organisation's URL is HTTPS at port 443 and "
        "leads to a public address.",
    ),
]
Kinds = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=50)]],
    Meta(
        max_length=50,
        description="Which events: node_lost, launch_failed, fleet_silent, machine_not_ended, machine_abandoned, "
        "scale_held, replacement_requested, scale_up, scale_down, budget_threshold, budget_exhausted, payment_failed, "
        "org_suspended, org_resumed, notification_dead. Empty: all.",
    ),
]
SigningSecret = Annotated[
    str, Meta(pattern=r"^(whsec_[A-Za-z0-9+/]{32,86}={0,2})?\Z", description="For a webhook. Empty: one is made.")
]
Gather = Annotated[
    int,
    Meta(
        ge=0,
        le=86_400,
        description="What happens within so many seconds after a message comes as one message, for each kind.",
    ),
]
Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]


class QuietHours(Asked):
    """When nothing is told: it comes when they are over."""

    start: Clock
    end: Annotated[Clock, Meta(description="Earlier than `start`: the next day.")]
    time_zone: Annotated[str, Meta(max_length=64, description="IANA's name, such as `Asia/Kolkata`.")] = "UTC"
    breaks_through: Annotated[SeverityName, Meta(description="What is at least this severe is told at once.")] = (
        "critical"
    )


class NewNotificationRoute(Asked):
    """Where some events are told."""

    name: RouteName
    channel: ChannelName
    target: Target
    org_id: Annotated[str, Meta(description="Whose events. Empty: everybody's, for operators.")] = ""
    secret: SigningSecret = ""
    kinds: Kinds = field(default_factory=list)
    min_severity: SeverityName = "info"
    quiet_hours: QuietHours | None = None
    gather_s: Gather = 60
    enabled: bool = True


class NotificationRoutePatch(Asked):
    """What is to be changed."""

    name: RouteName | UnsetType = UNSET
    target: Target | UnsetType = UNSET
    kinds: Kinds | UnsetType = UNSET
    min_severity: SeverityName | UnsetType = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
    gather_s: Gather | UnsetType = UNSET
    enabled: Annotated[bool | UnsetType, Meta(description="false: what waits is dropped.")] = UNSET
    rotate_secret: Annotated[bool, Meta(description="A new secret; for a day the old one signs as well.")] = False
    secret: SigningSecret = ""
    revision: Annotated[int, Meta(ge=0, le=2**53, description="That is to be replaced. 0: whichever it is.")] = 0


class NotificationRoute(Struct, kw_only=True, frozen=True):
    """A route, without what is secret of it."""

    id: str
    org_id: str | None
    name: str
    channel: ChannelName
    shown_target: Annotated[str, Meta(description="An address of mail, or an URL's host.")]
    kinds: list[str]
    min_severity: SeverityName
    quiet_hours: QuietHours | None
    gather_s: int
    enabled: bool
    revision: int
    create_time: Time
    update_time: Time


class SecretNotificationRoute(NotificationRoute, kw_only=True, frozen=True):
    """A route with what signs its webhooks, which is shown this once."""

    secret: Annotated[str | None, Meta(description="null: there is none, or none that is new.")]


class NotificationRouteList(Struct, kw_only=True, frozen=True):
    """A page of routes, oldest first."""

    data: list[NotificationRoute]
    next_page_token: NextPageToken


class NotificationRoutesQuery(PageQuery):
    """Whose routes."""

    org_id: Annotated[str, Meta(description="Empty: everybody's, for operators.")] = ""


class TriedNotification(Struct, kw_only=True, frozen=True):
    """What came of a test."""

    sent: bool
    error: Annotated[str | None, Meta(description="Why not, in words.")]


class NotificationDeliveriesQuery(NotificationRoutesQuery):
    """Which deliveries."""

    route_id: str = ""
    state: StateName | UnsetType = UNSET


class NotificationDelivery(Struct, kw_only=True, frozen=True):
    """A message for a route, and what became of it."""

    id: Annotated[str, Meta(description="Receivers see it with every attempt.")]
    route_id: str
    org_id: str | None
    kind: str
    severity: SeverityName
    count: Annotated[Count, Meta(description="Of the events that it tells.")]
    state: StateName
    attempts: Count
    last_error: str | None
    create_time: Time
    due_time: Time
    end_time: Time | None


class NotificationDeliveryList(Struct, kw_only=True, frozen=True):
    """A page of deliveries, newest first."""

    data: list[NotificationDelivery]
    next_page_token: NextPageToken
