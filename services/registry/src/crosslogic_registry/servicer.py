"""Protobuf to domain and back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from typing import Any

import grpc
import grpc.aio

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.batched import serve_batches
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, page_start, page_token, unwrap, wrap
from crosslogic_common.tls import Identity, peer_identity
from crosslogic_registry.catalogue import Catalogue
from crosslogic_registry.commands import NodeCommands
from crosslogic_registry.domain import STATUS_TO_PB
from crosslogic_registry.fleet import Fleet, batches
from crosslogic_registry.gateways import REPORT_EVERY_MS, Gateways
from crosslogic_registry.joining import Joining
from crosslogic_registry.lives import PostgresLives
from crosslogic_registry.node_logs import NodeLogs
from crosslogic_registry.session import HeartbeatSession
from crosslogic_registry.stopping import unless_stopping
from crosslogic_registry.watchers import MAX_NODES_A_MESSAGE, Watcher
from crosslogic_registry.witnesses import AccountantAwayError, WitnessForwarder

MAX_WITNESSES_IN_FLIGHT = 1_024
"""Of one node."""

Context = grpc.aio.ServicerContext[Any, Any]


class NodeJoinServicer(rpc.NodeJoinServiceServicer):
    """NodeJoinService."""

    def __init__(self, joining: Joining) -> None:
        self._joining = joining

    async def JoinNode(self, request: pb.JoinNodeRequest, context: Context) -> pb.JoinNodeResponse:
        node, chain = await self._joining.join(request.join_token, request.csr_der)
        return pb.JoinNodeResponse(
            node_id=node.id, org_id=node.org_id, certificate_chain_pem=chain, ca_pem=self._joining.trust_pem()
        )


class RegistryServicer(rpc.RegistryServiceServicer):
    """RegistryService."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        joining: Joining,
        catalogue: Catalogue,
        witnesses: WitnessForwarder,
        commands: NodeCommands,
        gateways: Gateways,
        logs: NodeLogs,
        lives: PostgresLives,
        stopping: asyncio.Event,
        heartbeat_interval_ms: int,
    ) -> None:
        self._fleet = fleet
        self._joining = joining
        self._catalogue = catalogue
        self._witnesses = witnesses
        self._commands = commands
        self._gateways = gateways
        self._logs = logs
        self._lives = lives
        self._stopping = stopping
        self._heartbeat_interval_ms = heartbeat_interval_ms

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Context) -> pb.CreateJoinTokenResponse:
        token, expires_at = await self._joining.create_token(request.org_id, request.ttl_s, node_id=request.node_id)
        return pb.CreateJoinTokenResponse(join_token=token, expire_time=timestamp(expires_at))

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        chain = await self._joining.renew(_caller_node(context), request.csr_der)
        return pb.RenewCertificateResponse(certificate_chain_pem=chain, ca_pem=self._joining.trust_pem())

    async def HeartbeatStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.HeartbeatStreamRequest], context: Context
    ) -> None:
        caller = _caller(context)
        node_id = caller.name
        session = HeartbeatSession(write=context.write, next_heartbeat_ms=self._heartbeat_interval_ms)
        await self._fleet.connect(node_id, session, org_id=caller.org_id)
        try:
            while (heartbeat := await session.next(request_iterator)) is not None:
                drain = self._fleet.hear(node_id, session, heartbeat)
                if heartbeat.outcomes:
                    self._commands.take(node_id, heartbeat.outcomes)
                if heartbeat.HasField("logs"):
                    self._logs.take(node_id, heartbeat.logs)
                await session.answer(drain=drain)
        finally:
            session.end()
            self._fleet.disconnect(node_id, session)

    async def WatchNodes(self, request: pb.WatchNodesRequest, context: Context) -> AsyncIterator[pb.WatchNodesResponse]:
        with self._fleet.watchers.watching() as watcher:
            while True:
                yield pb.WatchNodesResponse(snapshot_start=True)
                for batch in batches(self._fleet.nodes(), MAX_NODES_A_MESSAGE):
                    yield pb.WatchNodesResponse(nodes=batch)
                yield pb.WatchNodesResponse(snapshot_complete=True)
                async for message in self._news(watcher):
                    yield message

    async def _news(self, watcher: Watcher) -> AsyncIterator[pb.WatchNodesResponse]:
        """Changes until the watcher needs a new snapshot. Raises UNAVAILABLE once the server stops."""
        while True:
            news = await unless_stopping(watcher.next(), self._stopping)
            if news is None:
                raise CodedError(ErrorCode.UNAVAILABLE, private="stopping")
            if news.start_again:
                return
            yield pb.WatchNodesResponse(nodes=news.nodes, removed_node_ids=news.removed_node_ids)

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        limit = page_limit(request.page_size)
        found = self._fleet.page(page_start(request.page_token), limit + 1)
        return pb.ListNodesResponse(nodes=found[:limit], next_page_token=page_token([node.id for node in found], limit))

    async def ListNodeLives(self, request: pb.ListNodeLivesRequest, context: Context) -> pb.ListNodeLivesResponse:
        limit = page_limit(request.page_size)
        since = request.since_time.ToDatetime(tzinfo=UTC) if request.HasField("since_time") else None
        found = await self._lives.page(after=page_start(request.page_token), since=since, limit=limit + 1)
        return pb.ListNodeLivesResponse(
            lives=[
                pb.NodeLife(
                    node_id=node.node_id,
                    facts=node.facts,
                    start_time=timestamp(life.begins),
                    end_time=None if life.ends is None else timestamp(life.ends),
                )
                for node in found[:limit]
                for life in node.lives
            ],
            next_page_token=page_token([node.node_id for node in found], limit),
        )

    async def DrainNode(self, request: pb.DrainNodeRequest, context: Context) -> pb.DrainNodeResponse:
        return pb.DrainNodeResponse(node=await self._fleet.drain(request.node_id))

    async def ResumeNode(self, request: pb.ResumeNodeRequest, context: Context) -> pb.ResumeNodeResponse:
        return pb.ResumeNodeResponse(node=await self._fleet.resume(request.node_id))

    async def CommandNode(self, request: pb.CommandNodeRequest, context: Context) -> pb.CommandNodeResponse:
        outcome = await self._commands.command(request.node_id, request.command, request.timeout_s)
        return pb.CommandNodeResponse(outcome=outcome)

    async def ListNodeEvents(self, request: pb.ListNodeEventsRequest, context: Context) -> pb.ListNodeEventsResponse:
        limit = page_limit(request.page_size)
        before = unwrap(request.page_token)
        if before and not before.isdecimal():
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`page_token` is none of ours.", param="page_token")
        found = await self._fleet.events(request.node_id, before=int(before or "0"), limit=limit + 1)
        return pb.ListNodeEventsResponse(
            events=[
                pb.NodeEvent(status=STATUS_TO_PB[event.status], reason=event.reason, time=timestamp(event.at))
                for event in found[:limit]
            ],
            next_page_token=wrap(str(found[limit - 1].number)) if len(found) > limit else "",
        )

    async def ListNodeLogs(self, request: pb.ListNodeLogsRequest, context: Context) -> pb.ListNodeLogsResponse:
        await self._fleet.member(request.node_id)
        return await self._logs.read(
            request.node_id, cursor=request.cursor, least_level=request.least_level, source=request.source
        )

    async def GatewayStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.GatewayStreamRequest], context: Context
    ) -> None:
        first = await unless_stopping(_next(request_iterator), self._stopping)
        if first is None:
            return
        with self._gateways.worker(first.tunnel_address):
            said: pb.GatewayStreamRequest | None = first
            while said is not None:
                self._gateways.observe(said.observations)
                await context.write(pb.GatewayStreamResponse(next_report_ms=REPORT_EVERY_MS))
                said = await unless_stopping(_next(request_iterator), self._stopping)

    async def WitnessStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.WitnessStreamRequest], context: Context
    ) -> None:
        node_id = _caller_node(context)

        async def handle(witnesses: Sequence[accountant_pb.Witness]) -> Sequence[str | CodedError]:
            return await self._witnesses.forward(node_id, witnesses)

        try:
            await serve_batches(
                request_iterator,
                context.write,
                calls=lambda message: [(call.id, call.witness) for call in message.calls],
                handle=handle,
                encode=_witness_results,
                stopping=self._stopping,
                max_in_flight=MAX_WITNESSES_IN_FLIGHT,
            )
        except* AccountantAwayError:
            # Not an answer to the calls: an answer is final, and these witnesses must come again.
            raise CodedError(ErrorCode.UNAVAILABLE, private="the accountant is away", retry_after_s=5.0) from None

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.CreateModelResponse:
        return pb.CreateModelResponse(model=await self._catalogue.add(request.model))

    async def ReplaceDeployments(
        self, request: pb.ReplaceDeploymentsRequest, context: Context
    ) -> pb.ReplaceDeploymentsResponse:
        model = await self._catalogue.replace_deployments(request.model, request.deployments)
        return pb.ReplaceDeploymentsResponse(model=model)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        limit = page_limit(request.page_size)
        found = await self._catalogue.page(unwrap(request.page_token), limit + 1)
        token = wrap(found[limit - 1].name) if len(found) > limit else ""
        return pb.ListModelsResponse(models=found[:limit], next_page_token=token)

    async def WatchModels(
        self, request: pb.WatchModelsRequest, context: Context
    ) -> AsyncIterator[pb.WatchModelsResponse]:
        version = 0
        while True:
            fresh = await unless_stopping(self._catalogue.next(version), self._stopping)
            if fresh is None:
                raise CodedError(ErrorCode.UNAVAILABLE, private="stopping")
            version, models = fresh
            yield pb.WatchModelsResponse(models=models)


def _witness_results(results: Sequence[tuple[int, str | CodedError]]) -> pb.WitnessStreamResponse:
    return pb.WitnessStreamResponse(
        results=[
            pb.WitnessStreamResult(
                id=call_id, refused_reason=refused if isinstance(refused, str) else str(refused.code)
            )
            for call_id, refused in results
        ]
    )


def _caller_node(context: Context) -> str:
    return _caller(context).name


def _caller(context: Context) -> Identity:
    """The node that calls, from its certificate: no request says whom it speaks for."""
    caller = peer_identity(context)
    if caller is None or caller.kind != "node":
        raise CodedError(ErrorCode.PERMISSION_DENIED, private=f"{caller} is no node")
    return caller


async def _next(requests: AsyncIterator[pb.GatewayStreamRequest]) -> pb.GatewayStreamRequest | None:
    return await anext(requests, None)
