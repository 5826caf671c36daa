"""Stands between the agent and the engine so that neither outlives the other. Run as a script, standard library only.

    guard.py <status fd> <pid file> <command...>

Standard input is a pipe from the agent: when it ends, the agent is gone, and the engine's process group is stopped. The
guard leads that group and tells the agent on `status fd`, one JSON object a line, the engine's pid and how it ended. An
engine whose guard is killed gets SIGKILL from the kernel.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_STOP_S = 5.0


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(status_fd: int, **facts: int) -> None:
    try:
        os.write(status_fd, json.dumps(facts).encode() + b"\n")
    except OSError:
        # The agent is gone; the end of standard input says so too.
        return


def guard(status_fd: int, pid_file: str, command: list[str]) -> int:
    """Runs the command until it ends or the agent does; returns its exit code, negative for a signal."""
    os.set_inheritable(status_fd, False)
    # Sent to the whole group: the engine's to obey, not ours.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    try:
        engine = subprocess.Popen(  # noqa: S603  # the operator's own command
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  # this process has one thread
        )
    except OSError as error:
        print(f"the engine cannot be started: {error}", file=sys.stderr, flush=True)  # noqa: T201  # the engine's log
        _say(status_fd, exit_code=127)
        return 127
    if pid_file:
        temporary = f"{pid_file}.{os.getpid()}"
        with open(temporary, "w", encoding="ascii") as file:  # noqa: PTH123  # pathlib costs a third of the start
            file.write(f"{engine.pid}\n")
        os.replace(temporary, pid_file)  # noqa: PTH105  # as above
    _say(status_fd, pid=engine.pid)
    while engine.poll() is None:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 512)
        if 0 in readable and not os.read(0, 512):
            _stop(engine)
            break
    code = engine.wait()
    _say(status_fd, exit_code=code)
    return code


def _stop(engine: "subprocess.Popen[bytes]") -> None:
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while engine.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if engine.poll() is None:
        engine.kill()


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    # Whatever the engine left behind in its group goes with it; so does this process.
    os.killpg(0, signal.SIGKILL)
