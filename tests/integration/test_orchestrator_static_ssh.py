"""A pool's machines over the real SSH client and a real SSH server: plain words, and nothing begun by halves."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import uvloop

from crosslogic_common.postgres import Pool as Connections
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers.static_reach import reach as reach_machine
from tests.contract.orchestrator_provider_suite import TOKEN, end, launched, names, state
from tests.fakes.ssh_server import SshMachines
from tests.fakes.static_pool import AGENT, StaticPool, no_claims
from tests.fakes.tcp_proxy import TcpProxy

WAIT_S = 60.0
# Its start takes until somebody lets it.
SLOW_AGENT = AGENT.replace(
    "agent_start() {",
    'agent_start() {\n  until [ -e "$HOME/go" ]; do touch "$HOME/waiting"; sleep 0.05; done',
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshMachines]:
    with SshMachines(tmp_path_factory.mktemp("ssh"), ["gpu0", "gpu1"]) as running:
        yield running


@pytest.fixture
async def connections(pg_url: str) -> AsyncIterator[Connections]:
    async with no_claims(pg_url) as pool:
        yield pool


Make = Callable[..., StaticPool]


@pytest.fixture
def make(server: SshMachines, connections: Connections) -> Iterator[Make]:
    """A pool of the server's machines, reached as the operator says."""
    server.empty()

    def made(*, agent: str = AGENT, **how: object) -> StaticPool:
        ssh = server.ssh(**how)  # type: ignore[arg-type]  # as ssh() says
        return StaticPool(server.folder, connections, machines=2, ssh=ssh, host="@127.0.0.1", agent=agent)

    yield made
    made().end_all()


@pytest.fixture
async def proxy(server: SshMachines) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", server.port) as between:
        yield between


async def refusal(pool: StaticPool) -> str:
    """What a launch is refused with."""
    name = str(uuid4())
    task = await pool.provider.task_for(pool.spec, name)
    with pytest.raises(ProviderError) as refused:
        await pool.provider.launch(name=name, task=task, join_token=TOKEN)
    assert not refused.value.temporary, "the next launch gets another machine"
    return str(refused.value)


async def appears(file: Path) -> None:
    async with asyncio.timeout(WAIT_S):
        while not file.exists():
            await asyncio.sleep(0.02)


async def test_agent_is_started_looked_at_and_ended_over_ssh(server: SshMachines, make: Make) -> None:
    pool = make()
    first, second = await launched(pool), await launched(pool)
    assert (pool.begun(first), pool.begun(second)) == (1, 1)
    assert "Every machine of the pool" in await refusal(pool)
    assert (server.root("gpu0") / f"static/token-of-{first}").read_text() == TOKEN
    assert [file for file in server.folder.rglob("join-token") if file.is_file()] == []
    assert await names(pool) == {first, second}
    await end(pool, second)
    assert (await names(pool), pool.begun(second)) == ({first}, 0)


async def test_machine_whose_host_key_is_another_or_unknown_gets_no_token(server: SshMachines, make: Make) -> None:
    try:
        server.trust("other_key")
        assert "host key is not the one that is known" in await refusal(make())
        server.trust("")
        assert "host key is not known" in await refusal(make())
    finally:
        server.trust("host_key")
    assert TOKEN.encode() not in b"".join(each.read_bytes() for each in server.folder.rglob("*") if each.is_file())


async def test_operator_reads_which_of_user_key_name_and_server_is_wrong(make: Make, proxy: TcpProxy) -> None:
    assert "rack-0 cannot be reached over SSH: it refuses the user or the key" in await refusal(make(key="other_key"))
    pool = make()
    for ssh, words in (
        ("nobody@127.0.0.1", "it refuses the user or the key"),
        ("gpu0@no-such-machine.invalid", "nobody knows its name"),
    ):
        with pytest.raises(ProviderError, match=words):
            await reach_machine(pool.ssh, ssh, "echo none", machine="rack-0", limit_s=WAIT_S)
    proxy.refuse()
    assert "no SSH server listens there" in await refusal(make(port=proxy.port))


async def test_silent_machine_is_given_up_before_and_after_it_let_us_in(
    server: SshMachines, make: Make, proxy: TcpProxy
) -> None:
    proxy.silence()
    assert "it does not answer" in await refusal(make(port=proxy.port, options=["ConnectTimeout=1"]))

    # ssh takes the first that it is given: these are ahead of our own.
    pool = make(agent=SLOW_AGENT, options=["ServerAliveInterval=1", "ServerAliveCountMax=1"])
    launching = asyncio.create_task(refusal(pool))
    await appears(server.root("gpu1") / "waiting")
    try:
        server.stop_still()
        assert "it stopped answering in the middle" in await launching
    finally:
        server.go_on()
    (server.root("gpu1") / "go").touch()
    await appears(server.root("gpu1") / "static/started")
    ((name, _),) = pool.started()
    assert await state(pool, name) == "running", "whoever wakes up late is found"
    assert "Every machine of the pool" in await refusal(pool)
    await end(pool, name)
    assert pool.begun(name) == 0


async def test_assignment_that_is_cut_in_the_middle_is_found_and_its_machine_given_to_nobody_else(
    server: SshMachines, make: Make, proxy: TcpProxy
) -> None:
    pool = make(agent=SLOW_AGENT, port=proxy.port)
    name = str(uuid4())
    task = await pool.provider.task_for(pool.spec, name)
    launching = asyncio.create_task(pool.provider.launch(name=name, task=task, join_token=TOKEN))
    await appears(server.root("gpu0") / "waiting")
    await proxy.cut()
    with pytest.raises(ProviderError, match="the connection was cut") as refused:
        await launching
    assert not refused.value.temporary
    (server.root("gpu0") / "go").touch()
    (server.root("gpu1") / "go").touch()
    assert await state(pool, name) == "running"
    other = await launched(pool)
    assert {owner for owner, _ in pool.started()} == {name, other}
    # An hour later it is the sweep's, unless its job ended it before.
    pool.clock.time += timedelta(hours=1)
    assert await names(pool) == {other}
    assert (pool.begun(name), pool.begun(other)) == (0, 1)


async def test_script_of_which_only_a_part_arrives_does_nothing(tmp_path: Path, connections: Connections) -> None:
    copy = tmp_path / "script"
    pool = StaticPool(tmp_path, connections, machines=1, ssh=["sh", "-c", f"cat > {copy}; echo none"])
    task = await pool.provider.task_for(pool.spec, "any")
    await pool.provider.launch(name=str(uuid4()), task=task, join_token=TOKEN)
    script = copy.read_bytes()
    for length in range(0, len(script) - 2, 97):
        environ = {"PATH": "/usr/bin:/bin", "CROSSLOGIC_STATIC_ROOT": str(tmp_path / "static")}
        subprocess.run(["sh", "-s"], input=script[:length], env=environ, check=False, capture_output=True, timeout=60)
        assert not (tmp_path / "static").exists(), f"{length} of {len(script)} bytes did something"


async def test_machine_that_never_stops_talking_or_says_nothing_of_its_agent_is_told_so() -> None:
    async def asked(script: str) -> str:
        return await reach_machine(["sh", "-c", script], "m", "", machine="rack-0", limit_s=1.0)

    with pytest.raises(ProviderError, match="did not answer within 1 s"):
        await asked("exec cat /dev/zero")
    with pytest.raises(ProviderError, match="what was to be done there ended with 3"):
        await asked("exit 3")
    with pytest.raises(ProviderError, match="does not say why") as refused:
        await asked(f"echo {TOKEN} >&2; exit 255")
    assert TOKEN not in str(refused.value)


def test_ssh_that_ends_before_it_reads_stops_no_orchestrator() -> None:
    async def asked() -> None:
        for _ in range(20):
            with pytest.raises(ProviderError, match="ended with 3"):
                await reach_machine(["sh", "-c", "exit 3"], "m", "", machine="rack-0", limit_s=WAIT_S)
            said = await reach_machine(["sh", "-c", "echo none"], "m", "", machine="rack-0", limit_s=WAIT_S)
            assert said == "none\n"

    # As the orchestrator runs, where writing to a process that is gone fails in another way.
    uvloop.run(asked())
