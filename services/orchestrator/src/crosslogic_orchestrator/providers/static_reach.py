"""Runs a script on a machine of the pool over SSH, and says in plain words why that could not be.

What ssh itself prints tells one cause from another and is not passed on: somebody else's machine could have written it.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Sequence

from crosslogic_orchestrator.ports import ProviderError

_MOST_BYTES = 16_384
"""Kept of what a machine says: its last words. A machine that never stops is cut off by the time it has."""
_SSH_FAILED = 255
_STDERR_S = 1.0
_CAUSES = (
    (r"IDENTIFICATION HAS CHANGED", "its host key is not the one that is known for it, so it may be another machine"),
    (r"Host key verification failed|host key is known", "its host key is not known: add it to ssh's known hosts"),
    (r"UNPROTECTED PRIVATE KEY|bad permissions|Load key|Identity file", "our key cannot be used: look at its file"),
    (r"Permission denied|Too many authentication failures", "it refuses the user or the key"),
    (r"Could not resolve hostname", "nobody knows its name"),
    (r"Connection refused", "no SSH server listens there"),
    (r"timed out|No route to host|is unreachable", "it does not answer"),
    (r"not responding", "it stopped answering in the middle"),
    (r"closed by|reset by|Broken pipe|kex_exchange_identification|disconnect", "the connection was cut"),
)


async def reach(command: Sequence[str], destination: str, script: str, *, machine: str, limit_s: float) -> str:
    """What the script said on the machine, which is called `machine`. Raises ProviderError, always temporary.

    The script goes over standard input, where no other user of the machine sees it. The shell there reads all of it
    before it does any of it, so that a connection that is cut in the middle starts nothing.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            destination,
            "sh -s",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # With whatever ssh starts to get there.
            start_new_session=True,
        )
    except OSError as error:
        raise ProviderError(f"ssh cannot be started: {error.strerror}.", temporary=True) from None
    try:
        async with asyncio.timeout(limit_s):
            # What goes wrong there may repeat the script: it is not to come back.
            said, why = await _exchange(process, f"exec 2>/dev/null\n{{\n{script}\n}}\n".encode())
    except TimeoutError:
        raise ProviderError(f"Machine {machine} did not answer within {limit_s:g} s.", temporary=True) from None
    finally:
        if process.returncode is None:
            await _kill(process)
    if process.returncode:
        raise ProviderError(_in_words(machine, process.returncode, why), temporary=True)
    return said


async def _exchange(process: asyncio.subprocess.Process, script: bytes) -> tuple[str, str]:
    """What came on stdout and on stderr. Leaves when ssh has ended."""
    assert process.stdin is not None  # noqa: S101  # they were asked for
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    complaining = asyncio.create_task(_tail(process.stderr))
    try:
        # Where ssh has ended already (RuntimeError is uvloop's word for it), its status says why.
        with contextlib.suppress(OSError, RuntimeError):
            process.stdin.write(script)
            process.stdin.close()
        said = await _tail(process.stdout)
        await process.wait()
        # A connection that ssh leaves open for others keeps stderr open too.
        await asyncio.wait((complaining,), timeout=_STDERR_S)
        return said, complaining.result() if complaining.done() else ""
    finally:
        complaining.cancel()
        await asyncio.wait((complaining,))


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None  # noqa: S101  # they were asked for
    assert process.stderr is not None  # noqa: S101
    # Nobody hears of a process's end before what it had said is read.
    await asyncio.gather(_tail(process.stdout), _tail(process.stderr), process.wait())


async def _tail(stream: asyncio.StreamReader) -> str:
    kept = b""
    while piece := await stream.read(_MOST_BYTES):
        kept = (kept + piece)[-_MOST_BYTES:]
    return kept.decode(errors="replace")


def _in_words(machine: str, code: int, why: str) -> str:
    if code != _SSH_FAILED:
        return f"Machine {machine} refuses: what was to be done there ended with {code}. Look at start.log there."
    for pattern, cause in _CAUSES:
        if re.search(pattern, why):
            return f"Machine {machine} cannot be reached over SSH: {cause}."
    return f"Machine {machine} cannot be reached over SSH, and ssh does not say why."
