"""A service as a process: its metrics, its signals, its last words."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from crosslogic_common import metrics as metrics_module
from crosslogic_common.metrics import Metrics
from crosslogic_common.process import StartError
from crosslogic_dev.ports import free_port

ROOT = Path(__file__).parents[2]


async def started(code: str) -> asyncio.subprocess.Process:
    """A service whose `main(stop)` is `code`, once it has printed a line."""
    body = "\n".join(f"    {line}" for line in code.splitlines())
    script = (
        "import asyncio, sys\n"
        "from crosslogic_common.errors import CodedError, ErrorCode\n"
        "from crosslogic_common.process import StartError, run_service\n"
        f"async def main(stop):\n    print('up', flush=True)\n{body}\n"
        "run_service(main)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_the_service_end_by_itself(number: int) -> None:
    process = await started("await stop.wait()\nprint('stopped clean', flush=True)")
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out, err) == (0, b"stopped clean\n", b"")


async def test_second_signal_ends_a_service_that_does_not_want_to() -> None:
    process = await started("await stop.wait()\nprint('stopping', flush=True)\nawait asyncio.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 10) == b"stopping\n"
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 5)
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("raise StartError('cannot listen on :80')", b"cannot listen on :80\n"),
        (
            "raise CodedError(ErrorCode.UNAVAILABLE, private='database: connection refused')",
            (
                b"The service ended: UNAVAILABLE: The service is not available right now: try again shortly. "
                b"(database: connection refused)\n"
            ),
        ),
    ],
)
async def test_service_that_cannot_start_says_so_in_one_line(code: str, line: bytes) -> None:
    process = await started(code)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (1, line)


async def test_metrics_show_the_process_and_its_event_loop(tmp_path: Path) -> None:
    metrics = Metrics()
    listen = f"127.0.0.1:{free_port()}"
    with metrics.served(listen):
        async with metrics.loop_watched():
            await asyncio.sleep(0.05)
            time.sleep(0.5)
            await asyncio.sleep(0.05)
            answer = await asyncio.to_thread(urllib.request.urlopen, f"http://{listen}/metrics")
            with contextlib.closing(answer):
                text = answer.read().decode()
    lag_s = float(text.split("\ncrosslogic_event_loop_lag_seconds ")[1].split()[0])
    assert 0.2 < lag_s < 20
    assert "process_resident_memory_bytes" in text


def _asked(url: str) -> tuple[int, str]:
    try:
        with contextlib.closing(urllib.request.urlopen(url)) as answer:  # noqa: S310  # this test's own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_kubelet_is_told_when_a_process_takes_requests_and_when_it_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_module, "_STUCK_S", 0.4)
    metrics = Metrics()
    listen = f"127.0.0.1:{free_port()}"
    with metrics.served(listen):
        assert _asked(f"http://{listen}/ready") == (503, "not serving\n")
        assert _asked(f"http://{listen}/live") == (200, "live\n")
        async with metrics.loop_watched():
            metrics.serving = True
            await asyncio.sleep(0.3)
            assert await asyncio.to_thread(_asked, f"http://{listen}/ready") == (200, "ready\n")
            # The loop stands still while it is asked.
            time.sleep(0.6)
            assert _asked(f"http://{listen}/live") == (503, "the event loop is stuck\n")
        assert _asked(f"http://{listen}/else")[0] == 404


def test_taken_metrics_port_is_one_clear_line() -> None:
    listen = f"127.0.0.1:{free_port()}"
    with (
        Metrics().served(listen),
        pytest.raises(StartError, match=f"cannot serve metrics on {listen}: Address already in use"),
        Metrics().served(listen),
    ):
        pass
