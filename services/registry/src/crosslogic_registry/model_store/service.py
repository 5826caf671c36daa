"""The use cases of the model store."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_model_store.errors import ModelStoreError
from crosslogic_model_store.fit import Demand, Fit, fit, has_geometry, least_bytes, usual_concurrency
from crosslogic_model_store.gpus import accelerators_of
from crosslogic_model_store.manifest import check_name, check_revision, parse_manifest
from crosslogic_model_store.place import Place
from crosslogic_model_store.presign import presigned_get
from crosslogic_registry.model_store import policy
from crosslogic_registry.model_store.domain import Environment, Gate, Health, Registration, Smoke, Target, Version
from crosslogic_registry.model_store.ports import ModelStoreStore, Nodes, SmokeTest
from crosslogic_registry.policy import check_model


class ModelStore:
    """Versions of models, which of them environments serve, and who may read them."""

    def __init__(
        self,
        *,
        store: ModelStoreStore,
        nodes: Nodes,
        smoke: SmokeTest,
        clock: Clock,
        place: Place | None,
        url_valid_s: int,
    ) -> None:
        """`place` None: no object storage is set up. Addresses are good for `url_valid_s` seconds."""
        self._store = store
        self._nodes = nodes
        self._smoke = smoke
        self._clock = clock
        self._place = place
        self._url_valid_s = url_valid_s

    async def add_version(self, manifest: bytes) -> Version:
        """Keeps a version. Raises INVALID_ARGUMENT."""
        try:
            return await self._store.add_version(parse_manifest(manifest))
        except ModelStoreError as error:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, str(error), param="manifest") from None

    async def versions(self, model: str, *, before: int, limit: int) -> list[Version]:
        """A page, newest first."""
        return await self._store.versions(model, before=before, limit=limit)

    async def grant(self, node_id: str, name: str, version: str) -> str:
        """Lets a node read a version; which. Empty: the model has none. Raises NOT_FOUND, INVALID_ARGUMENT."""
        try:
            UUID(node_id)
        except ValueError:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`node_id` must be a UUID.", param="node_id") from None
        model, _ = policy.parts_of(name)
        if not version:
            registration = await self._store.registration(name)
            version = registration.version if registration else ""
        if not version:
            return ""
        await self._require(model, version)
        await self._store.grant(node_id, model, version)
        return version

    async def weights(self, node_id: str) -> tuple[Version, dict[str, str], datetime]:
        """What a node was granted, an address for each object by SHA-256, and when these end."""
        version = await self._store.granted(node_id)
        if version is None:
            raise CodedError(ErrorCode.NOT_FOUND, "This node was granted no weights.")
        if self._place is None:
            raise CodedError(ErrorCode.UNAVAILABLE, "The registry has no object storage set up.", retry_after_s=30.0)
        now = self._clock.now()
        urls = {
            sha256: presigned_get(self._place, key, now=now, valid_s=self._url_valid_s)
            for sha256, key in version.manifest.objects.items()
        }
        return version, urls, now + timedelta(seconds=self._url_valid_s)

    async def register(
        self, entry: registry_pb2.Model, environment: Environment, *, version: str, endpoint: str
    ) -> Registration:
        """Puts a model into an environment. Raises INVALID_ARGUMENT, NOT_FOUND."""
        model = policy.check_model_name(entry.name)
        named = registry_pb2.Model()
        named.CopyFrom(entry)
        named.name = policy.client_name(model, environment)
        if version:
            facts = (await self._require(model, version)).manifest.facts
            named.context_length = entry.context_length or facts.context_length
            named.vram_required_bytes = entry.vram_required_bytes or least_bytes(facts)
        return await self._store.register(
            check_model(named),
            model=model,
            environment=environment,
            version=version,
            endpoint=policy.check_endpoint(endpoint),
        )

    async def deregister(self, name: str) -> None:
        """Takes a model out of its environment. Raises NOT_FOUND."""
        if not await self._store.deregister(name):
            raise _not_registered(name)

    async def enable(self, name: str, *, enabled: bool) -> Registration:
        """Offers a model or no longer. Raises NOT_FOUND."""
        found = await self._store.enable(name, enabled=enabled)
        if found is None:
            raise _not_registered(name)
        return found

    async def promote(
        self, model: str, source: Environment, target: Environment, *, dry_run: bool, request_id: str = ""
    ) -> tuple[Registration | None, Sequence[Gate]]:
        """Brings a version, or an endpoint, to another environment. Raises NOT_FOUND, CONFLICT, INVALID_ARGUMENT.

        Prices and regions of the target stay what they are; a model that is new there takes those of the source. Under
        a `request_id` that is known nothing is done again, and the gates are as they are now.
        """
        policy.check_model_name(model)
        if source == target:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "Both environments are the same.", param="to_environment")
        request_id = _request_id(request_id)
        found = await self._store.registration(policy.client_name(model, source))
        if found is None:
            raise _not_registered(policy.client_name(model, source))
        there = policy.client_name(model, target)
        before = await self._store.registration(there)
        done = await self._store.carried_out(request_id) if request_id else None
        if done is not None:
            policy.check_same(done, there)
        version = await self._store.version(model, found.version) if found.version else None
        gates = policy.gates(found, version, self.health(found), await self._try(found))
        if dry_run or done is not None:
            return before, gates
        policy.require(gates)
        return await self._store.promote(found, Target(there, target, before), request_id=request_id), gates

    async def roll_back(self, name: str, *, request_id: str = "") -> Registration:
        """Brings back the version before; as it is now under a `request_id` that is known.

        Raises NOT_FOUND, CONFLICT, INVALID_ARGUMENT.
        """
        return await self._store.roll_back(name, request_id=_request_id(request_id))

    async def page(self, after: str, limit: int) -> list[Registration]:
        """Registered models by name, after a name."""
        return await self._store.registrations(after, limit)

    def health(self, model: Registration) -> Health:
        """How a registered model is, by its nodes."""
        serving = [
            member.node
            for member in self._nodes.members()
            if member.status == "active" and member.node.reachable and model.name in member.node.facts.models
        ]
        if not serving:
            return Health()
        heard_at = max(node.last_heartbeat_time.ToDatetime(tzinfo=self._clock.now().tzinfo) for node in serving)
        same = sum(bool(model.version) and node.facts.model_version == model.version for node in serving)
        return Health(len(serving), same, heard_at)

    async def check_fit(self, name: str, instance_type: str, *, context_tokens: int, concurrency: int) -> Fit | str:
        """Whether a model's version fits on a machine; or why that cannot be told. Raises INVALID_ARGUMENT.

        0 tokens are the catalogue's context, 0 at once what is usual.
        """
        gpus = accelerators_of(instance_type)
        if gpus is None:
            return f"The accelerators of {instance_type or 'the machine'} are not known here."
        registration = await self._store.registration(name)
        entry = await self._store.entry(name)
        if registration is None or entry is None or not registration.version:
            return f"{name} has no version in the store."
        version = await self._require(registration.model, registration.version)
        context_tokens = context_tokens or entry.context_length
        demand = Demand(context_tokens=context_tokens, concurrency=concurrency or usual_concurrency(context_tokens))
        if not has_geometry(version.manifest.facts):
            return f"The files of {name} do not tell its layers and heads."
        try:
            return fit(version.manifest.facts, gpus, demand)
        except ValueError as error:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"{error}.", param="context_length") from None

    async def _try(self, model: Registration) -> Smoke | None:
        """A generation on a node of the model's version, or on one that relays to its endpoint.

        None: there is no such node that can be dialled.
        """
        nodes = [
            member.node
            for member in self._nodes.members()
            if member.status == "active"
            and member.node.reachable
            and member.node.facts.address
            and model.name in member.node.facts.models
            and (policy.is_external(model) or (model.version and member.node.facts.model_version == model.version))
        ]
        if not nodes:
            return None
        return await self._smoke.generate(nodes[0], model.name)

    async def _require(self, model: str, version: str) -> Version:
        try:
            found = await self._store.version(check_name(model), check_revision(version))
        except ModelStoreError as error:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, str(error), param="version") from None
        if found is None:
            raise CodedError(
                ErrorCode.NOT_FOUND, f"The store has no version {version} of {model}: upload it first.", param="version"
            )
        return found


def _request_id(text: str) -> str:
    """A UUID as the database writes it, or nothing. Raises INVALID_ARGUMENT."""
    try:
        return str(UUID(text)) if text else ""
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` must be a UUID.", param="request_id") from None


def _not_registered(name: str) -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, f"{name} is not registered.", param="name")
