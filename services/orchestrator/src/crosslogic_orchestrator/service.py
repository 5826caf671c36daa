"""What callers ask of the orchestrator."""

from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.paging import page_limit, unwrap, wrap
from crosslogic_orchestrator.domain import Instance, Job, Spec
from crosslogic_orchestrator.jobs import end_job, launch_job
from crosslogic_orchestrator.ports import Ends, Fleet, Store

MAX_DRAIN_S = 3_600.0
MAX_TEXT = 200


class OrchestratorService:
    """Takes requests; the workers carry them out."""

    def __init__(
        self, *, store: Store, ends: Ends, fleet: Fleet, providers: Collection[str], clock: Clock, ids: Uuid7Source
    ) -> None:
        """`providers` are the names that a spec may give."""
        self._store = store
        self._ends = ends
        self._fleet = fleet
        self._providers = providers
        self._clock = clock
        self._ids = ids

    async def launch(self, spec: Spec, *, request_id: str) -> Job:
        """A job that sees to the machine. Raises INVALID_ARGUMENT, NOT_FOUND, CONFLICT."""
        self._check(spec)
        if spec.org_id:
            spec = replace(spec, org_id=_uuid(spec.org_id, "org_id"))
        if request_id:
            request_id = _uuid(request_id, "request_id")
            known = await self._store.requested(request_id, spec)
            if known is not None:
                # Before anything else is asked: a retry finds its machine, whatever has become of the model since.
                return known
        if not await self._fleet.has_model(spec.model):
            raise CodedError(
                ErrorCode.NOT_FOUND,
                f"The catalogue has no model {spec.model}: register it first, or enable it if it is disabled.",
                param="model_name",
            )
        refusal = await self._fleet.refusal_for_size(model=spec.model, instance_type=spec.instance_type)
        if refusal:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT,
                f"{spec.model} does not fit on {spec.instance_type}.\n{refusal}",
                param="instance_type",
            )
        job = launch_job(spec, ids=self._ids, now=self._clock.now())
        return await self._store.add_launch(job, request_id=request_id)

    async def terminate(self, instance_id: str, *, drain_timeout_s: float) -> Job:
        """A job that sees to the machine's end. Raises INVALID_ARGUMENT, NOT_FOUND."""
        if not 0 <= drain_timeout_s <= MAX_DRAIN_S:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`drain_timeout` must be 0 to {MAX_DRAIN_S:g} s.", param="drain_timeout"
            )
        instance = await self.instance(instance_id)
        job = end_job(instance, ids=self._ids, now=self._clock.now(), drain_timeout_s=drain_timeout_s)
        return await self._store.add_terminate(job)

    async def abandon(self, instance_id: str) -> Job:
        """Gives up a machine whose provider is not configured: nobody ends it. The job of its end.

        Twice: the same job. One that ended before keeps the job of its end as it is. Raises NOT_FOUND, CONFLICT.
        """
        instance = await self.instance(instance_id)
        end_id = await self._ends.end_of(instance.id)
        end = await self.job(end_id) if end_id else None
        if end is not None and end.status != "running":
            return end
        provider = instance.spec.provider
        if end is None and instance.ended_at is not None:
            raise CodedError(
                ErrorCode.CONFLICT, f"The machine is {instance.state} already: there is nothing to give up."
            )
        if provider in self._providers:
            raise CodedError(
                ErrorCode.CONFLICT,
                f"The provider {provider} is configured, and can end the machine: terminate it without `abandon`. That "
                "is tried until it is gone; the job says what stands in its way.",
                param="abandon",
            )
        job = end_job(instance, ids=self._ids, now=self._clock.now(), drain_timeout_s=0.0)
        return await self.job(await self._ends.abandon(job, _abandoned(instance), now=job.created_at))

    async def job(self, job_id: str) -> Job:
        """A job with its steps. Raises NOT_FOUND."""
        job = await self._store.job(job_id)
        if job is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such job.")
        return job

    async def instance(self, instance_id: str) -> Instance:
        """A machine. Raises NOT_FOUND."""
        instance = await self._store.instance(instance_id)
        if instance is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such machine.")
        return instance

    async def instances(self, *, page_size: int, page_token: str, include_ended: bool) -> tuple[list[Instance], str]:
        """A page of machines, newest first, and the next page's token."""
        limit = page_limit(page_size)
        after = unwrap(page_token) if page_token else ""
        if after:
            _uuid(after, "page_token")
        found = await self._store.instances(after=after, limit=limit + 1, include_ended=include_ended)
        return found[:limit], wrap(found[limit - 1].id) if len(found) > limit else ""

    def _check(self, spec: Spec) -> None:
        if spec.provider not in self._providers:
            known = ", ".join(f"`{name}`" for name in sorted(self._providers))
            words = f"`provider` must be one of {known}." if known else "No `provider` is set up at the orchestrator."
            raise CodedError(ErrorCode.INVALID_ARGUMENT, words, param="provider")
        for name, value in (("model_name", spec.model), ("region", spec.region)):
            if not value or len(value) > MAX_TEXT or not value.isprintable():
                raise CodedError(
                    ErrorCode.INVALID_ARGUMENT, f"`{name}` must have 1 to {MAX_TEXT} printable characters.", param=name
                )
        if len(spec.instance_type) > MAX_TEXT or not spec.instance_type.isprintable():
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT,
                f"`instance_type` must have at most {MAX_TEXT} printable characters.",
                param="instance_type",
            )


def _abandoned(instance: Instance) -> str:
    spec = instance.spec
    return (
        f"It was given up on request: nobody has ended it at {spec.provider}, which is not configured. Look there, in "
        f"{spec.region}, for what has {instance.id} in its name, and delete it: it may be paid for until then. Its "
        f"node, while it runs, goes on serving: `crosslogic nodes drain {instance.id}`."
    )


def _uuid(text: str, name: str) -> str:
    """As the database writes it: the same one in capitals is no other. Raises INVALID_ARGUMENT."""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be a UUID.", param=name) from None
