"""What stands behind a key on this worker: a run of its own, an answer in Redis, or another worker's run."""

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_gateway.http import RATE_LIMITS, REQUEST_ID
from crosslogic_gateway.idempotency.domain import Head, Names, Progress, Stage, not_kept, other_body
from crosslogic_gateway.idempotency.ports import AnswerStore, Run
from crosslogic_gateway.idempotency.recording import Recording
from crosslogic_gateway.idempotency.replica import replica_of, run_into
from crosslogic_gateway.idempotency.store import BLOCK_BYTES, block_count

POLL_S = 0.05
"""How often another worker's answer is looked at."""
PUBLISH_S = 0.1
"""How often an answer is written to Redis while another worker waits for it."""
RENEW_S = 1.0
_FINISH_TRIES = 3
_READ_TRIES = 10
_RETRY_S = 1.1


@dataclass(slots=True, eq=False)
class Source:
    """Where a recording comes from."""

    names: Names
    scope: str
    recording: Recording
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    origin: Literal["", "first", "joined", "replayed"] = ""
    """Carried out here; another worker is at it; an answer that was there. Empty: not known yet."""
    degraded: bool = False
    """Redis was away when it began."""
    kept_in_redis: bool = False
    rate_limits: str = ""
    """Header lines of a refusal."""
    written: int = 0
    """Parts that are in Redis."""
    published: int = 0
    """Parts of the recording that are in them."""
    uncertain: bool = False
    """A write of parts failed, and may have been done or not."""
    lost: bool = False
    """Another worker took the claim over, or Redis forgot it."""


class Runs:
    """Fills recordings."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._log = get_logger(__name__)

    async def fill(self, source: Source, request: web.Request, body: bytes, run: Run) -> None:
        """Fills the source's recording from wherever its answer is. Never raises but when cancelled."""
        try:
            await self._fill(source, request, body, run)
        except asyncio.CancelledError:
            source.recording.fail(_stopping())
            raise
        except (CodedError, web.HTTPException) as error:
            source.recording.fail(error)
        except Exception as error:  # noqa: BLE001  # the readers raise it, each to its own client
            self._log.exception("keyed request failed", request_id=request[REQUEST_ID])
            source.recording.fail(error)

    async def _fill(self, source: Source, request: web.Request, body: bytes, run: Run) -> None:
        while True:
            request_id = request[REQUEST_ID]
            try:
                claim = await self._store.claim(source.names, owner=source.owner, request_id=request_id)
            except CodedError:
                # Redis is away. The request goes on: this worker still recognises its own repeats (ADR 16).
                source.degraded = True
                replica = replica_of(request, body, request_id=request_id, recording=source.recording)
                await self._carry_out(source, replica, run)
                return
            if claim.stage is Stage.CONFLICT:
                raise other_body()
            if claim.stage is Stage.DROPPED:
                raise not_kept()
            if claim.stage is Stage.CLAIMED:
                replica = replica_of(request, body, request_id=claim.request_id, recording=source.recording)
                await self._run_claimed(source, replica, run)
                return
            source.origin = "replayed" if claim.stage is Stage.DONE else "joined"
            if await self._follow(source):
                return

    # --- another worker's answer

    async def _follow(self, source: Source) -> bool:
        """Copies what Redis has, as it comes. False: the worker behind it died before anything was passed on."""
        recording, owner, next_part = source.recording, "", 0
        while True:
            progress = await self._read(source, next_part)
            owner = owner or progress.owner
            if progress.stage is Stage.DROPPED and recording.head is None:
                raise not_kept()
            if progress.stage in (Stage.ABSENT, Stage.DROPPED) or progress.owner != owner:
                if recording.head is None:
                    return False
                raise CodedError(ErrorCode.ENGINE_UNAVAILABLE, private="the worker that answered is gone")
            if progress.head is not None and recording.head is None:
                recording.begin(progress.head)
            for part in progress.parts:
                recording.write(part)
            next_part = progress.next_part
            await recording.room(BLOCK_BYTES)
            if not progress.parts:
                if progress.stage is Stage.DONE:
                    recording.end(complete=True)
                    return True
                await asyncio.sleep(POLL_S)

    async def _read(self, source: Source, first_part: int) -> Progress:
        """What Redis has. The request is carried out elsewhere: a moment without Redis is no reason to give it up."""
        for _ in range(_READ_TRIES - 1):
            try:
                return await self._store.read(source.names, first_part=first_part)
            except CodedError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_RETRY_S)
        return await self._store.read(source.names, first_part=first_part)

    # --- a run of our own

    async def _run_claimed(self, source: Source, replica: web.Request, run: Run) -> None:
        ended = asyncio.Event()
        renewing = asyncio.create_task(self._keep_claim(source, ended), name="idempotency claim")
        try:
            await self._carry_out(source, replica, run)
        finally:
            # Not cancelled: a write cut off half-way would leave parts that nobody counted.
            ended.set()
            await renewing
            source.kept_in_redis = await self._settle(source, replica[REQUEST_ID])

    async def _carry_out(self, source: Source, replica: web.Request, run: Run) -> None:
        source.origin = "first"
        try:
            await run_into(source.recording, replica, run)
        except asyncio.CancelledError:
            source.recording.fail(_stopping())
            raise
        except BaseException as error:
            source.rate_limits = replica.get(RATE_LIMITS, "")
            # Told before Redis is: the clients need not wait for it.
            source.recording.fail(error)
            raise

    async def _keep_claim(self, source: Source, ended: asyncio.Event) -> None:
        """Renews the lease, and publishes the answer as it comes once another worker waits for it."""
        wanted = False
        while not source.lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_S if wanted else RENEW_S):
                    await ended.wait()
                return
            with contextlib.suppress(CodedError):
                fresh = source.recording.head is not None and source.recording.kept and not source.uncertain
                wanted = await self._extend(source, all_of_it=wanted and fresh)

    async def _extend(self, source: Source, *, all_of_it: bool) -> bool:
        """Renews the claim, and writes what is new of the answer; says whether somebody waits for more."""
        recording = source.recording
        parts = recording.whole[source.published :] if all_of_it else []
        source.uncertain = source.uncertain or bool(parts)
        answer = await self._store.extend(
            source.names, owner=source.owner, written=source.written, head=recording.head, parts=parts
        )
        if answer is None:
            source.lost = True
            return False
        if parts:
            source.uncertain = False
            source.published += len(parts)
            source.written += block_count(parts)
        return answer

    async def _settle(self, source: Source, request_id: str) -> bool:
        """Tells Redis how it ended. False: Redis does not know."""
        for attempt in range(_FINISH_TRIES):
            if attempt:
                await asyncio.sleep(_RETRY_S)
            try:
                await self._tell(source, request_id)
            except CodedError as error:
                self._log.warning("an answer could not be kept", request_id=request_id, reason=error.private)
            else:
                return not source.lost
        return False

    async def _tell(self, source: Source, request_id: str) -> None:
        recording, store, names = source.recording, self._store, source.names
        if source.lost:
            return
        if not recording.complete:
            await store.release(names, owner=source.owner)
            return
        if not recording.kept or not await store.spend(source.scope, recording.size):
            await store.drop(names, owner=source.owner, request_id=request_id)
            return
        if source.uncertain:
            new_owner = f"{source.owner}+"
            source.lost = not await store.restart(names, owner=source.owner, new_owner=new_owner)
            source.owner, source.written, source.published = new_owner, 0, 0
        source.uncertain = True
        last = await self._all_but_the_last_block(source)
        if not source.lost:
            source.lost = not await store.finish(
                names,
                owner=source.owner,
                request_id=request_id,
                written=source.written,
                head=recording.head or Head(500, ()),
                parts=last,
            )

    async def _all_but_the_last_block(self, source: Source) -> list[bytes]:
        """Writes a large answer block by block, since one large write would hold Redis up; returns the last one."""
        recording = source.recording
        rest = b"".join(recording.whole[source.published :])
        while len(rest) > BLOCK_BYTES and not source.lost:
            block, rest = rest[:BLOCK_BYTES], rest[BLOCK_BYTES:]
            answer = await self._store.extend(
                source.names, owner=source.owner, written=source.written, head=recording.head, parts=[block]
            )
            source.lost = answer is None
            source.written += 1
        return [rest] if rest else []


def _stopping() -> CodedError:
    return CodedError(ErrorCode.UNAVAILABLE, private="the gateway stops", retry_after_s=1.0)
