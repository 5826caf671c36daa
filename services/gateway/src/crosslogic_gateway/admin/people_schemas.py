"""What the admin API takes and gives about plans, users and the audit log."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from crosslogic_gateway.admin.schemas import Asked, NextPageToken, PageQuery, Time
from crosslogic_gateway.admin.tenant_schemas import Cap, Limits, PlanName, Settable

Priority = Literal["high", "normal", "low"]
BillingMode = Literal["serverless", "reserved"]
OveragePolicy = Literal["shed", "bill"]
Role = Literal["admin", "developer", "read_only"]
Description = Annotated[str, Meta(max_length=1000)]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1, description="Tokens. null: no limit.")] | None
PersonName = Annotated[str, Meta(max_length=200)]
Email = Annotated[str, Meta(min_length=3, max_length=320, pattern=r"^[^@\s]+@[^@\s]+\Z")]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="SHA-256 in hexadecimal.")]


class NewPlan(Asked):
    """A new plan."""

    name: PlanName
    description: Description = ""
    key_limits: Limits = Limits()
    environment_limits: Limits = Limits()
    org_limits: Limits = Limits()
    priority: Priority = "normal"
    billing_mode: BillingMode = "serverless"
    overage_policy: OveragePolicy = "shed"
    monthly_cap_picodollars: Cap = None
    max_prompt_tokens: Tokens = None
    max_output_tokens: Tokens = None


class PlanPatch(Asked):
    """Changes to a plan, for every organisation on it. Fields that are left out stay as they are."""

    description: Description | UnsetType = UNSET
    key_limits: Limits | UnsetType = UNSET
    environment_limits: Limits | UnsetType = UNSET
    org_limits: Limits | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    billing_mode: BillingMode | UnsetType = UNSET
    overage_policy: OveragePolicy | UnsetType = UNSET
    monthly_cap_picodollars: Cap | UnsetType = UNSET
    max_prompt_tokens: Tokens | UnsetType = UNSET
    max_output_tokens: Tokens | UnsetType = UNSET


class Plan(Struct, kw_only=True):
    """A named set of limits and rules that organisations are on."""

    name: str
    description: str
    key_limits: Limits
    environment_limits: Limits
    org_limits: Limits
    priority: Priority
    billing_mode: BillingMode
    overage_policy: Annotated[OveragePolicy, Meta(description="What happens beyond reserved capacity.")]
    monthly_cap_picodollars: int | None
    max_prompt_tokens: int | None
    max_output_tokens: int | None
    create_time: Time
    update_time: Time


class PlanList(Struct, kw_only=True):
    """A page of plans, by name."""

    data: list[Plan]
    next_page_token: NextPageToken


class NewUser(Asked):
    """A person who is let in."""

    email: Email
    role: Role
    name: PersonName = ""


class UserPatch(Asked):
    """Changes to a user. Fields that are left out stay as they are."""

    name: PersonName | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    status: Settable | UnsetType = UNSET


class User(Struct, kw_only=True):
    """A person's place in an organisation or on the platform."""

    id: str
    org_id: Annotated[str | None, Meta(description="null: the platform, with all organisations.")]
    email: str
    name: str
    role: Role
    status: Settable
    issuer: Annotated[str | None, Meta(description="The OpenID issuer signed in with. null: never signed in.")]
    create_time: Time
    update_time: Time


class UserList(Struct, kw_only=True):
    """A page of users, oldest first."""

    data: list[User]
    next_page_token: NextPageToken


class OwnPlace(Struct, kw_only=True):
    """What you may do somewhere."""

    org_id: Annotated[str | None, Meta(description="null: the platform, with all organisations.")]
    role: Role


class Me(Struct, kw_only=True):
    """Who you are here."""

    kind: Literal["token", "user"]
    name: str
    places: list[OwnPlace]


class AuditQuery(PageQuery):
    """Which audit records are listed."""

    org_id: str = ""
    object_id: Annotated[str, Meta(max_length=200)] = ""
    action: Annotated[str, Meta(max_length=100)] = ""


class AuditActor(Struct, kw_only=True):
    """Who did it, from where."""

    kind: Literal["token", "user", "system", "service", "unspecified"]
    user_id: str | None
    name: str
    org_id: Annotated[str | None, Meta(description="The organisation that the user acted for. null: the platform.")]
    address: str
    request_id: str


class AuditRecord(Struct, kw_only=True):
    """One action of an administrator. Records are never changed; each holds the hash of the one before it."""

    seq: Annotated[int, Meta(ge=1, description="1, 2, 3 and so on without a gap.")]
    time: Time
    actor: AuditActor
    action: str
    outcome: Literal["done", "started", "succeeded", "failed"]
    org_id: str | None
    object_kind: str
    object_id: str
    before: Annotated[Raw | None, Meta(description="The thing before, without secrets. null: it was not there.")]
    after: Annotated[Raw | None, Meta(description="The thing after, without secrets. null: it is gone.")]
    reason: str
    previous_hash: str
    hash: str


class AuditList(Struct, kw_only=True):
    """A page of audit records, newest first."""

    data: list[AuditRecord]
    next_page_token: NextPageToken


class VerifyQuery(Asked):
    """Which part of the audit log is verified, and a record that was seen before."""

    from_seq: Annotated[int, Meta(ge=0, le=2**53)] = 0
    known_seq: Annotated[int, Meta(ge=0, le=2**53)] = 0
    known_hash: Hash | UnsetType = UNSET


class AuditVerdict(Struct, kw_only=True):
    """Whether the audit log is whole. Keep `head_seq` and `head_hash` elsewhere for the next time."""

    intact: bool
    broken_seq: Annotated[int | None, Meta(description="The first record that is missing or altered.")]
    problem: Annotated[
        str, Meta(description="`missing`, `altered`, `not linked`, `head` (the newest are missing) or `known hash`.")
    ]
    records: Annotated[int, Meta(ge=0, description="How many were looked at, 100,000 at most.")]
    next_seq: Annotated[int | None, Meta(description="Where to go on from. null: that was the end.")]
    head_seq: int
    head_hash: str
