"""What the admin API takes and gives about machines and their jobs."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from crosslogic_gateway.admin.schemas import ModelName, NextPageToken, Time

JobState = Literal["running", "succeeded", "failed"]
StepName = Literal[
    "validated",
    "task_written",
    "requested",
    "provisioning",
    "agent_registered",
    "weights_loading",
    "warm_up",
    "benchmark",
    "active",
    "draining",
    "deleting",
    "terminated",
]
InstanceStateName = Literal["launching", "active", "terminating", "terminated", "lost"]
Provider = Annotated[
    str, Meta(min_length=1, max_length=50, description="`local`, `static`, or a cloud: `aws`, `gcp`, `azure`, `oci`, …")
]
LaunchRegion = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(,[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?){0,19}\Z",
        max_length=200,
        description="For example `us-east`. Of a cloud up to 20 between commas: the cheapest is taken.",
    ),
]


class NewInstance(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A machine to launch."""

    model_name: ModelName
    provider: Provider
    region: LaunchRegion
    instance_type: Annotated[str, Meta(max_length=200, description="Empty: the provider chooses.")] = ""
    use_spot: Annotated[bool, Meta(description="Cheaper, and may be taken away at any time.")] = False
    org_id: Annotated[str, Meta(max_length=64, description="The organisation that alone may use it. Empty: all.")] = ""


class InstanceEnd(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How a machine ends."""

    drain_timeout_s: Annotated[
        float, Meta(ge=0, le=3600, description="Seconds that its running requests have before they go on elsewhere.")
    ] = 120.0
    abandon: Annotated[
        bool,
        Meta(
            description="Give it up where its provider is not configured any more: it counts as ended although nobody "
            "has ended it there. Its job fails and says so. 409 where the provider is configured."
        ),
    ] = False


class InstancesQuery(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which page."""

    page_size: Annotated[int, Meta(ge=0, le=1000)] = 0
    page_token: Annotated[str, Meta(max_length=512)] = ""
    include_ended: Annotated[bool, Meta(description="Those that are gone too.")] = False


class JobStepProgress(Struct, kw_only=True, frozen=True):
    """One step of a job."""

    step: StepName
    start_time: Time
    end_time: Time | None
    detail: Annotated[str, Meta(description="In words, for people.")]
    bytes_done: int
    bytes_total: Annotated[int, Meta(description="0: the step cannot tell.")]


class JobLogLine(Struct, kw_only=True, frozen=True):
    """A line of a job's log."""

    time: Time
    source: Annotated[
        str, Meta(description="`orchestrator` (also the provider's words), or of the machine `agent` or `engine`.")
    ]
    text: str


class InstanceJob(Struct, kw_only=True, frozen=True):
    """A job that sees to a machine."""

    id: str
    kind: Literal["launch", "terminate"]
    instance_id: str
    status: JobState
    steps: Annotated[list[JobStepProgress], Meta(description="So far, in order; the last is the current one.")]
    error: Annotated[str, Meta(description="Why it failed, and what to do. Empty unless it failed.")]
    logs: Annotated[list[JobLogLine], Meta(description="The last 100 lines of what was said, oldest first.")]
    create_time: Time
    update_time: Time


class Instance(Struct, kw_only=True, frozen=True):
    """A machine."""

    id: str
    model_name: str
    provider: str
    region: str
    instance_type: str
    use_spot: bool
    org_id: str | None
    state: InstanceStateName
    node_id: Annotated[str, Meta(description="Its node, once it has joined.")]
    hourly_price_usd: Annotated[str, Meta(description="Dollars an hour, a decimal number; `0` where it is not known.")]
    job_id: Annotated[str, Meta(description="Its newest job.")]
    create_time: Time
    end_time: Time | None


class InstanceList(Struct, kw_only=True, frozen=True):
    """A page of machines, newest first."""

    data: list[Instance]
    next_page_token: NextPageToken
