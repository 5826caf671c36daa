"""The agent's own installation: by the installer, by a signed update, and back again."""

import asyncio
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_node_agent.commands import CommandError
from crosslogic_node_agent.launcher import MAX_STARTS, prepare, switch
from crosslogic_node_agent.report import AGENT_VERSION
from crosslogic_node_agent.updates import Updates, run_command, signed_text

INSTALLER = Path(__file__).parents[3] / "services/node_agent/install.sh"


WHEEL = "wheels/crosslogic_node_agent-0.2.0-py3-none-any.whl"


def bundle(folder: Path, *more: str) -> Path:
    file = folder / "agent.tar"
    with tarfile.open(file, "w") as archive:
        for member in (WHEEL, *more):
            info = tarfile.TarInfo(member)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return file


class Installation:
    """A directory as the installer leaves it, a key to sign with, and updates that build nothing."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "agent"
        (self.directory / "versions" / AGENT_VERSION / "bin").mkdir(parents=True)
        switch(self.directory, "current", f"versions/{AGENT_VERSION}")
        self.key = Ed25519PrivateKey.generate()
        self.key_file = folder / "update.pub"
        self.key_file.write_bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.ran: list[list[str]] = []
        self.wheels: list[str] = []
        self.fails = ""
        self.installed = 0
        self.updates = Updates(
            directory=self.directory, key_file=self.key_file, on_installed=self._installed, run=self._run
        )

    def _installed(self) -> None:
        self.installed += 1

    async def _run(self, arguments: list[str]) -> None:
        self.ran.append(arguments)
        if "--find-links" in arguments:
            self.wheels = sorted(path.name for path in Path(arguments[arguments.index("--find-links") + 1]).iterdir())
        if self.fails and self.fails in arguments:
            raise CommandError("pip failed: no such wheel")
        if "venv" in arguments:
            (Path(arguments[-1]) / "bin").mkdir(parents=True)

    def command(self, file: Path, version: str = "0.2.0", *, location: str = "") -> pb.NodeCommand:
        sha256 = hashlib.sha256(file.read_bytes()).digest()
        signature = self.key.sign(signed_text(version, sha256))
        return pb.NodeCommand(
            update_agent=pb.UpdateAgent(
                version=version, location=location or str(file), sha256=sha256, signature=signature
            )
        )

    @property
    def current(self) -> str:
        return (self.directory / "current").readlink().name


def tried(installation: Installation) -> bool:
    return installation.updates.on_trial


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


async def test_signed_update_is_installed_beside_the_old_version_and_tried(
    installation: Installation, tmp_path: Path
) -> None:
    file = bundle(tmp_path, "wheels/../../escaped.whl", "wheels/run.sh")
    done = await installation.updates.carry(installation.command(file))
    assert done.detail.startswith("0.2.0 is installed")
    assert installation.current == "0.2.0"
    assert (installation.directory / "previous").readlink().name == AGENT_VERSION
    assert installation.wheels == ["crosslogic_node_agent-0.2.0-py3-none-any.whl"], "nothing but wheels is taken out"
    assert not (tmp_path / "escaped.whl").exists()
    assert all("--no-index" in command for command in installation.ran if "pip" in command)
    assert installation.installed == 1
    assert tried(installation)
    assert [path.name for path in installation.directory.iterdir() if path.name.startswith(".")] == []
    installation.updates.confirm()
    assert not tried(installation)
    assert prepare(installation.directory) == "the installed version"
    assert installation.current == "0.2.0"


async def test_version_that_does_not_get_well_is_left_for_the_one_before(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.updates.carry(installation.command(bundle(tmp_path)))
    for number in range(1, MAX_STARTS + 1):
        assert prepare(installation.directory) == f"on trial, start {number} of {MAX_STARTS}"
        assert installation.current == "0.2.0"
    assert prepare(installation.directory).startswith(f"back to {AGENT_VERSION}")
    assert installation.current == AGENT_VERSION
    assert (installation.directory / "rolled-back").read_text() == "0.2.0\n"
    assert prepare(installation.directory) == "the installed version"


async def test_update_on_trial_stays_once_the_agent_is_well_and_is_restarted_when_it_is_not(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.updates.carry(installation.command(bundle(tmp_path)))
    async with installation.updates.running(lambda: False, trial_s=0.05), asyncio.timeout(10):
        while installation.installed < 2:
            await asyncio.sleep(0.01)
    assert installation.updates.on_trial
    async with installation.updates.running(lambda: True, trial_s=60), asyncio.timeout(10):
        while installation.updates.on_trial:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wrong", ["signature", "version", "bundle", "key", "no key", "location", "name"])
async def test_update_that_is_not_exactly_what_was_signed_changes_nothing(
    installation: Installation, tmp_path: Path, wrong: str
) -> None:
    file = bundle(tmp_path)
    command = installation.command(file)
    if wrong == "signature":
        command.update_agent.signature = bytes(64)
    elif wrong == "version":
        command.update_agent.version = "0.3.0"
    elif wrong == "bundle":
        file.write_bytes(file.read_bytes() + b"x")
    elif wrong == "key":
        command.update_agent.signature = Ed25519PrivateKey.generate().sign(b"x")
    elif wrong == "no key":
        installation.key_file.unlink()
    elif wrong == "location":
        command = installation.command(file, location="http://127.0.0.1:1/agent.tar")
    else:
        command = installation.command(file, "../../etc")
    with pytest.raises(CommandError):
        await installation.updates.carry(command)
    assert installation.current == AGENT_VERSION
    assert not installation.updates.on_trial
    assert installation.installed == 0
    assert installation.ran == []


@pytest.mark.parametrize("fails", ["pip", "-c", "venv"])
async def test_update_that_cannot_be_installed_leaves_the_agent_as_it_was(
    installation: Installation, tmp_path: Path, fails: str
) -> None:
    installation.fails = fails
    with pytest.raises(CommandError, match="no such wheel"):
        await installation.updates.carry(installation.command(bundle(tmp_path)))
    assert installation.current == AGENT_VERSION
    assert not (installation.directory / "versions" / "0.2.0").exists()
    assert installation.installed == 0


async def test_second_update_waits_for_the_trial_of_the_first(installation: Installation, tmp_path: Path) -> None:
    file = bundle(tmp_path)
    await installation.updates.carry(installation.command(file))
    with pytest.raises(CommandError, match="on trial"):
        await installation.updates.carry(installation.command(file, "0.3.0"))
    done = await installation.updates.carry(installation.command(file, AGENT_VERSION))
    assert done.detail == "this version runs already"


async def test_air_gapped_node_downloads_nothing(installation: Installation, tmp_path: Path) -> None:
    updates = Updates(
        directory=installation.directory, key_file=installation.key_file, on_installed=lambda: None, downloads=False
    )
    with pytest.raises(CommandError, match="downloads nothing"):
        await updates.carry(installation.command(bundle(tmp_path), location="https://127.0.0.1:1/agent.tar"))


async def test_commands_last_words_are_told() -> None:
    await run_command(["true"])
    with pytest.raises(CommandError, match="sh failed: no wheel"):
        await run_command(["sh", "-c", "echo no wheel >&2; exit 3"])


@pytest.mark.parametrize("garbage", ["", "[]", "{", '{"starts": "many"}', "\x00"])
def test_unreadable_record_of_a_trial_stops_no_agent(installation: Installation, garbage: str) -> None:
    (installation.directory / "update.json").write_text(garbage)
    assert "unreadable" in prepare(installation.directory)
    assert installation.current == AGENT_VERSION
    assert not (installation.directory / "update.json").exists()


FAKE_PYTHON = """#!/bin/sh
# Stands for python3: makes what a virtual environment has, and remembers what it was asked for.
echo "$@" >> "$FAKE_PYTHON_LOG"
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-c "*) cp "$FAKE_LAUNCHER" "$3" ;;
esac
"""


def install(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    python = tmp_path / "python3"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    for name, text in (("token", "cljt_secret\n"), ("ca.pem", "CA\n")):
        (tmp_path / name).write_text(text)
    return subprocess.run(
        [
            *(str(INSTALLER), "--root", str(tmp_path / "root"), "--bundle", str(bundle(tmp_path))),
            *("--registry", "registry:7101", "--join", "registry:7102", "--token-file", str(tmp_path / "token")),
            *("--ca", str(tmp_path / "ca.pem"), "--model", "llama-3-8b", "--region", "us-east"),
            *("--engine-url", "unix:/run/vllm.sock", "--engine-command", '["vllm", "serve"]', *more),
        ],
        env={
            **os.environ,
            "CROSSLOGIC_INSTALL_PYTHON": str(python),
            "FAKE_PYTHON_LOG": str(tmp_path / "python.log"),
            "FAKE_LAUNCHER": str(INSTALLER.parent / "src/crosslogic_node_agent/launcher.py"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_one_command_makes_a_machine_a_node(tmp_path: Path) -> None:
    for _ in range(2):
        result = install(tmp_path, "--tunnel", "--set", "CROSSLOGIC_SPOT_SOURCES=aws")
        assert result.returncode == 0, result.stderr
    root = tmp_path / "root"
    home, etc = root / "opt/crosslogic-agent", root / "etc/crosslogic-agent"
    assert (home / "current").readlink() == Path("versions/0.2.0")
    assert prepare(home) == "the installed version"
    settings = dict(line.split("=", 1) for line in (etc / "agent.env").read_text().splitlines())
    assert settings["CROSSLOGIC_TUNNEL"] == "1"
    assert "CROSSLOGIC_LISTEN" not in settings
    assert json.loads(settings["CROSSLOGIC_ENGINE_COMMAND"].strip("'")) == ["vllm", "serve"]
    assert settings["CROSSLOGIC_SPOT_SOURCES"] == "aws"
    assert "cljt_secret" not in (etc / "agent.env").read_text()
    for name in ("agent.env", "join-token"):
        assert oct((etc / name).stat().st_mode & 0o777) == "0o600"
    unit = (root / "etc/systemd/system/crosslogic-agent.service").read_text()
    assert "ExecStart=/usr/bin/env python3 /opt/crosslogic-agent/launcher.py /opt/crosslogic-agent" in unit
    assert "RestartForceExitStatus=75" in unit
    assert "--no-index" in (tmp_path / "python.log").read_text(), "with a bundle nothing is fetched"
    assert "cljt_secret" not in result.stdout + result.stderr


def test_machine_may_relay_to_an_endpoint_in_place_of_an_engine(tmp_path: Path) -> None:
    no_engine = ("--engine-url", "", "--engine-command", "")
    result = install(tmp_path, "--tunnel", *no_engine, "--external-url", "https://api.example.com/v1")
    assert result.returncode == 0, result.stderr
    settings = (tmp_path / "root/etc/crosslogic-agent/agent.env").read_text().splitlines()
    assert "CROSSLOGIC_EXTERNAL_URL=https://api.example.com/v1" in settings
    assert [line for line in settings if "ENGINE" in line] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "--listen host:port or --tunnel is missing"),
        (("--tunnel", "--engine-url", ""), "--engine-url or --external-url is missing"),
        (("--tunnel", "--nonsense", "x"), "unknown option --nonsense"),
        (("--tunnel", "--update-key", "/nowhere"), "/nowhere cannot be read"),
        (("--tunnel", "--model"), "--model needs a value"),
    ],
)
def test_installer_that_cannot_finish_says_why_and_writes_nothing(
    tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    result = install(tmp_path, *more)
    assert result.returncode == 1
    assert says in result.stderr
    assert not (tmp_path / "root").exists()
