"""What the orchestrator needs of the world."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from crosslogic_orchestrator.domain import Instance, Job, LateEnd, Loaded, LogLine, Machine, NodeView, Spec, Step


class Provider(Protocol):
    """Makes and deletes machines. A machine's name is its instance's id; every call may be repeated.

    Each raises ProviderError with words for people; `temporary` says whether to try again.
    """

    async def task_for(self, spec: Spec, name: str) -> str:
        """What will be asked for, as text for people and for `launch`. Never holds a secret."""

    async def launch(self, *, name: str, task: str, join_token: str) -> None:
        """Asks for the machine, unless it is there, or was and is deleted. One that is `stalled` is gone on with."""

    async def find(self, name: str) -> Machine:
        """The machine; `absent` when it was never asked for, or the provider forgot that it was.

        One that was deleted, by whomever, is `gone`: what is absent may be asked for again.
        """

    async def delete(self, name: str) -> None:
        """Asks for the machine's end. Returns before it is gone; deleting what is gone does nothing."""

    async def machines(self) -> list[Machine]:
        """Every machine that this orchestrator has made and that is not gone, also those it has forgotten."""


class ProviderError(Exception):
    """The provider refused or failed; the message is for people, without secrets."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        """`temporary`: the same call may succeed later."""
        super().__init__(message)
        self.temporary = temporary


class Fleet(Protocol):
    """The registry. Raises CodedError UNAVAILABLE while it is away."""

    def node(self, node_id: str) -> NodeView | None:
        """A node as last heard of. None: it is not there. Raises UNAVAILABLE while nothing was heard yet."""

    @property
    def followed(self) -> bool:
        """Whether what `node` says is so now. False: the registry is away, or has not told of all nodes yet."""

    async def join_token(self, *, node_id: str, org_id: str) -> str:
        """A token that lets one machine in as that node."""

    async def grant_weights(self, *, node_id: str, model: str) -> None:
        """Lets the machine read the weights of the model's version, if it has one in the store."""

    async def refusal_for_size(self, *, model: str, instance_type: str) -> str:
        """Why the model does not fit on the machine, with the arithmetic. Empty: it fits, or that cannot be told."""

    async def log_lines(self, node_id: str, *, cursor: str) -> tuple[Sequence[LogLine], str]:
        """What a node logged after `cursor` (empty: all that is kept), oldest first, and where that leaves it."""

    async def drain(self, node_id: str) -> None:
        """Takes a node out of picking."""

    async def has_model(self, name: str) -> bool:
        """Whether the catalogue has the model."""


class Store(Protocol):
    """Jobs and machines. Every method raises UNAVAILABLE while the store is away.

    Leases, rests and the age of a step go by the store's own clock; `now` is only written down, for people.
    """

    async def add_launch(self, job: Job, *, request_id: str) -> Job:
        """Keeps a new launch and its instance. With a `request_id` that is known: the job of then."""

    async def requested(self, request_id: str, spec: Spec) -> Job | None:
        """The launch that was asked for so, if there is one. Raises CONFLICT where it was for another machine."""

    async def add_terminate(self, job: Job) -> Job:
        """Keeps the end of a machine, unless it has one: then that. A launch under way ends as failed."""

    async def claim(self, *, lease_s: float, passing_over: Collection[str] = ()) -> Job | None:
        """The job that waits longest and that nobody holds, for `lease_s`. None: there is none to do now.

        Jobs of the providers in `passing_over` stay where they are.
        """

    async def renew(self, job: Job, *, lease_s: float) -> bool:
        """Keeps holding a job. False: somebody else has it."""

    async def reach(
        self, job: Job, step: Step, *, detail: str, task: str | None, loaded: Loaded | None, now: datetime
    ) -> bool:
        """Notes that the job is at `step` now, and what is `loaded` if that is known.

        False: somebody else has the job.
        """

    async def wait(self, job: Job, *, detail: str, loaded: Loaded | None, now: datetime, rest_s: float) -> bool:
        """Lets the job rest for `rest_s`. False: somebody else has it."""

    async def asked_again(self, job: Job, *, detail: str, now: datetime, rest_s: float) -> bool:
        """Notes that the provider was asked again, and lets the job rest for `rest_s`. Its step goes on.

        False: somebody else has the job.
        """

    async def give_up(self, job: Job, error: str, *, now: datetime) -> bool:
        """Notes why the launch fails; its machine is still to be deleted. False: somebody else has the job."""

    async def end(self, job: Job, *, price_picodollars: int, now: datetime) -> bool:
        """Ends the job, and moves its machine to where that leaves it. False: somebody else has the job."""

    async def job(self, job_id: str) -> Job | None:
        """A job with its steps and its log."""

    async def instance(self, instance_id: str) -> Instance | None:
        """A machine."""

    async def instances(self, *, after: str, limit: int, include_ended: bool) -> list[Instance]:
        """Machines, newest first, older than `after` (empty: all)."""

    async def alive(self, provider: str = "") -> list[Instance]:
        """The provider's machines that are not ended. Empty: of every provider, configured or not."""

    async def lose(self, instance_id: str, *, now: datetime) -> bool:
        """Notes that an active machine is gone by itself. False: it was not active."""

    async def end_dead(self, job: Job, words: str) -> bool:
        """Keeps the end of an active machine whose node is dead, and an event that says so in `words`.

        False: the machine is not active any more.
        """

    def changes(self) -> AsyncIterator[str | None]:
        """Ids of jobs that changed, for ever. None: some may have been missed."""


class Ends(Protocol):
    """Ends that do not come about, of whichever provider. Every method raises UNAVAILABLE while the store is away."""

    async def alive(self) -> Mapping[str, int]:
        """How many machines are not ended, by provider."""

    async def late(self, *, late_s: float) -> Mapping[str, int]:
        """How many machines' ends have not come about for `late_s`, by provider."""

    async def untold(self, *, late_s: float) -> list[LateEnd]:
        """Some of these that nobody was told of yet, oldest first."""

    async def tell(self, end: LateEnd, text: str, *, now: datetime) -> bool:
        """Notes an event, the only one of its kind for the machine. False: there is one already."""

    async def end_of(self, instance_id: str) -> str:
        """The job of a machine's end. Empty: nobody has asked for it."""

    async def abandon(self, job: Job, words: str, *, now: datetime) -> str:
        """Counts a machine as ended whom nobody ends, with an event that says so in `words`. The job of its end.

        That is `job`, or the one that is there already, which fails with `words`; one that is over stays as it is.
        """
