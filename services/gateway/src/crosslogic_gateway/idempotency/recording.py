"""An answer as it comes: one run writes it, any number of clients read it from the start."""

import asyncio
from collections.abc import Sequence

from crosslogic_common.errors import CodedError
from crosslogic_gateway.idempotency.domain import Head, not_kept


class MemoryBudget:
    """What all recordings of a worker may hold together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used = 0

    def take(self, byte_count: int) -> bool:
        """Counts bytes. False: there is no room for them."""
        if self.used + byte_count > self._max_bytes:
            return False
        self.used += byte_count
        return True

    def give_back(self, byte_count: int) -> None:
        """These bytes are gone."""
        self.used -= byte_count


class Recording:
    """One answer.

    It is kept whole up to a size. Beyond it, or when the worker's memory is used up, only what some reader has yet to
    read is held, and whoever comes later cannot have it.
    """

    def __init__(self, *, max_bytes: int, memory: MemoryBudget) -> None:
        self.head: Head | None = None
        self.ended = False
        self.complete = False
        """It ended well: it may be given again."""
        self.error: BaseException | None = None
        """Why there is no answer, or no more of it."""
        self.kept = True
        self._max_bytes = max_bytes
        self._memory = memory
        self._parts: list[bytes] = []
        self._first = 0
        """Number of the first part that is still here."""
        self._size = 0
        self._readers: dict[int, int] = {}
        """The next part of each reader."""
        self._next_reader = 0
        self._room: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False

    # --- the writer's side

    def begin(self, head: Head) -> None:
        """Status and headers are known."""
        self.head = head
        self._wake()

    def write(self, data: bytes) -> None:
        """More of the body."""
        if not data:
            return
        if self.kept and (self._size + len(data) > self._max_bytes or not self._memory.take(len(data))):
            self.kept = False
            self._memory.give_back(self._size)
        self._parts.append(data)
        self._size += len(data)
        if not self.kept:
            self._forget_read()
        self._wake()

    def end(self, *, complete: bool) -> None:
        """Nothing more comes."""
        if not self.ended:
            self.ended = True
            self.complete = complete
            self._wake()

    def fail(self, error: BaseException) -> None:
        """There is no answer, or no more of it."""
        if not self.ended:
            self.error = error
            self.end(complete=False)

    @property
    def unread(self) -> int:
        """Bytes that hold the writer up: 0 as long as all is kept anyway."""
        return 0 if self.kept else self._size

    async def room(self, below: int) -> None:
        """Returns once less than `below` bytes hold the writer up."""
        while self.unread >= below:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    # --- the readers' side

    def join(self) -> int:
        """A new reader, from the start. Raises CONFLICT when the start is gone."""
        if self._first:
            raise not_kept()
        self._next_reader += 1
        self._readers[self._next_reader] = 0
        return self._next_reader

    def leave(self, reader: int) -> None:
        """A reader is gone."""
        self._readers.pop(reader, None)
        self._forget_read()
        self._give_back()

    def take(self, reader: int) -> Sequence[bytes]:
        """What has come since the reader last took."""
        parts = self._parts[self._readers[reader] - self._first :]
        self._readers[reader] = self._first + len(self._parts)
        self._forget_read()
        return parts

    async def changed(self, reader: int) -> None:
        """Returns once there is something new for the reader, the head included."""
        if self.ended or self._readers[reader] < self._first + len(self._parts):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    @property
    def whole(self) -> Sequence[bytes]:
        """Everything, while it is kept."""
        return self._parts

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def close(self) -> None:
        """Nobody new may join. Its memory is free once the last reader has left."""
        self._closed = True
        self._give_back()

    def _give_back(self) -> None:
        if self._closed and not self._readers and self.kept:
            self.kept = False
            self._memory.give_back(self._size)
            self._forget_read()

    def _forget_read(self) -> None:
        if self.kept:
            return
        end = self._first + len(self._parts)
        read = min(self._readers.values(), default=end) - self._first
        if read:
            self._size -= sum(map(len, self._parts[:read]))
            del self._parts[:read]
            self._first += read
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def error_of(recording: Recording) -> CodedError | None:
    """The failure in our words, where it is one of ours."""
    return recording.error if isinstance(recording.error, CodedError) else None
